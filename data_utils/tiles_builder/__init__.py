"""Builder of a second small set of real pictures: the pixel-art tilesets of a game with the game's own sentences.

The pictures and texts are CC-BY-SA-3.0, so the finished set is not part of the repository. It fetches one Debian
package at a pinned version, cuts the drawings out of the tilesets, and does the rest as for the emoji set. The same
package gives the same files.
"""
