"""Region features of one's own pictures: what `python -m tools.extract` is made of."""
