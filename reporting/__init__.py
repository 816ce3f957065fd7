"""Sections of the report of one or several runs; report.py puts them on a page."""
