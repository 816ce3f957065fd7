"""A gallery that is searched by text or by image: what `python search.py` is made of."""
