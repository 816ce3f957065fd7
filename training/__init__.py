"""The loop all methods share."""
