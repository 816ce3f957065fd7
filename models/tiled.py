"""A similarity that looks at every image beside every caption, a tile at a time (models/tiles.py): SGR, SAF, SCAN.

Legend: I images, C captions, R regions, W words, D embed size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.sides import EncodedCaptions, EncodedImages, Similarity
from models.tiles import TileInputs, fits_one_graph, score_in_one_graph, score_tiles, score_tiles_with_gradient


class TiledSimilarity(Similarity):
    """Base: subclasses score a tile, and say from which parameters."""

    def __init__(self, embed_size: int) -> None:
        super().__init__()
        self.embed_size = embed_size

    def forward(
        self,
        images: EncodedImages,
        captions: EncodedCaptions,
        wanted: Tensor | None = None,
        *,
        exact: bool = False,
        sparse: bool = False,
        known: Tensor | None = None,
    ) -> Tensor:
        sides = TileInputs(images.regions, images.pooled, captions.words, captions.pooled)
        if torch.is_grad_enabled():
            if wanted is None and known is None and fits_one_graph(self, sides, captions.lengths, sparse=sparse):
                return score_in_one_graph(self, sides, captions.lengths)
            return score_tiles_with_gradient(self, self.tile_parameters(), sides, captions.lengths, wanted, known)
        return score_tiles(self, sides, captions.lengths, wanted, None if exact else self.scoring_dtype)

    def tile_parameters(self) -> list[Tensor]:
        """Return the parameters that `tile_weights` is made from."""
        raise NotImplementedError

    def tile_weights(self, dtype: torch.dtype) -> list[Tensor]:
        """Return everything that tiles need of the parameters, large maps in `dtype`."""
        raise NotImplementedError

    def score_tile(self, weights: list[Tensor], share: list[Tensor], mask: Tensor | None = None) -> Tensor:
        """Return the scores of a tile, as `models.tiles.TileScorer` says."""
        raise NotImplementedError
