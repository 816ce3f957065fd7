"""Similarities by name: SGR and SAF (SGRAF, AAAI 2021), SCAN (ECCV 2018), VSE (VSE++, BMVC 2018), GPO (VSE-infinity,
CVPR 2021)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from models.gpo import GPO
from models.scan import SCAN
from models.sgraf import SAF, SGR
from models.sides import EncodedCaptions, EncodedImages, Similarity
from models.vse import VSE

__all__ = ["SIMILARITIES", "VSE", "EncodedCaptions", "EncodedImages", "Similarity", "SimilaritySizes"]


class SimilaritySizes(Protocol):
    """The sizes and settings a similarity is made from."""

    @property
    def embed_size(self) -> int: ...
    @property
    def sim_dim(self) -> int: ...
    @property
    def sgr_step(self) -> int: ...
    @property
    def dropout(self) -> float: ...
    @property
    def scan_pooling(self) -> str: ...
    @property
    def scan_softmax(self) -> float | None: ...
    @property
    def scan_lse(self) -> float | None: ...


def _scan(c: SimilaritySizes, direction: str) -> SCAN:
    return SCAN(c.embed_size, direction, pooling=c.scan_pooling, softmax_factor=c.scan_softmax, lse_factor=c.scan_lse)


SIMILARITIES: dict[str, Callable[[SimilaritySizes, int], Similarity]] = {
    "SGR": lambda c, num_regions: SGR(c.embed_size, c.sim_dim, num_regions, c.dropout, c.sgr_step),
    "SAF": lambda c, num_regions: SAF(c.embed_size, c.sim_dim, num_regions, c.dropout),
    "SCAN_t2i": lambda c, num_regions: _scan(c, "t2i"),
    "SCAN_i2t": lambda c, num_regions: _scan(c, "i2t"),
    "VSE": lambda c, num_regions: VSE(),
    "GPO": lambda c, num_regions: GPO(),
}
"""`--module_name`: name -> similarity, made from the matcher's sizes and the number of regions of an image."""
