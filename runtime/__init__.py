"""Leaves that training and evaluation both stand on: flags, errors, files, logs, seeds, devices."""
