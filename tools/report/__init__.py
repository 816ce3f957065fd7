"""Sections of the report of one or several runs; tools.report puts them on a page."""
