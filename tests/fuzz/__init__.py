"""Fuzzing of everything that reads a file of the user's: mutated valid files must be read, or refused in one line."""
