"""A gallery that is searched by text or by image: what `python -m tools.search` is made of."""
