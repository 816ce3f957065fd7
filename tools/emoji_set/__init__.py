"""Builder of the embedded emoji set in `data/emoji_precomp`; users never need it: the set is in the repository.

It fetches five artists' icon packages and a package of emoji names at pinned versions, renders the drawings, computes
region features, and writes features, captions, splits and thumbnails. The same packages give the same files.
"""
