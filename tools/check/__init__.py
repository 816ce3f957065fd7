"""Whether a data set can be used: what `python -m tools.check` is made of."""
