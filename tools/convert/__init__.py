"""Region features in other forms: what `python -m tools.convert` is made of."""
