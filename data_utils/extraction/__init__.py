"""Region features of one's own pictures: what `python -m data_utils.extract` is made of."""
