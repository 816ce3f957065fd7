"""Two-stage retrieval: candidates by their keys, then those in the order of their real scores.

Where keys are exact (VSE, GPO) the first stage is all there is.
Legend: Q queries, P pairs of a query and a candidate, k results.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from data_utils.precomputed import PrecomputedSplit
from models.encoded_split import Split
from models.keys import KeyedMatcher, caption_keys, image_keys
from models.listed import Captions, EncodedFile, ImagesOf, images_from, score_listed
from tools.search.index_folder import Side
from tools.search.vectors import Found


class TextQuerySplit:
    """Text queries in the shape of a split without images."""

    num_images = 0

    def __init__(self, queries: Captions) -> None:
        self.lengths, self.tokens = queries.lengths, queries.tokens

    def read_images(self, images: np.ndarray) -> torch.Tensor:
        """There are none."""
        raise AssertionError("text queries have no images")


def images_for_texts(
    networks: Sequence[KeyedMatcher],
    gallery: PrecomputedSplit,
    side: Side,
    queries: Captions,
    device: torch.device,
    *,
    top_k: int,
    shortlist: int,
) -> Found:
    """Return the best images of text queries.

    Args:
        networks: with the keys that the index was made with.
        gallery: its images.
        side: the images' side of the index.
        queries: Q of them.
        device: where the networks are.
        top_k: results a query.
        shortlist: candidates a query whose real scores are computed.
    """
    keys = np.empty((len(queries.lengths), side.keys.shape[1]), dtype=np.float32)
    for numbers, block in caption_keys(networks, TextQuerySplit(queries), device):
        keys[numbers] = block
    if all(network.keys.are_exact for network in networks):
        return side.search(keys, top_k)
    candidates = side.search(keys, max(shortlist, top_k)).numbers
    query, image = _pairs(candidates)
    matchers = [network.matcher for network in networks]
    with tempfile.TemporaryDirectory() as scratch:
        images: list[ImagesOf]
        if len(image) > gallery.num_images:  # then encoding every image once is less than candidate by candidate
            images = [EncodedFile(Path(scratch), str(k), m, gallery, device) for k, m in enumerate(matchers)]
        else:
            images = [images_from(m, gallery, device) for m in matchers]
        scores = score_listed(matchers, images, queries, device, (image, query))
    return _reordered(candidates, scores, top_k)


def captions_for_images(
    networks: Sequence[KeyedMatcher],
    gallery: PrecomputedSplit,
    side: Side,
    queries: Split,
    device: torch.device,
    *,
    top_k: int,
    shortlist: int,
) -> Found:
    """Return the best captions of the images `queries`: as `images_for_texts`, by the captions' side of the index."""
    keys = np.concatenate([block for _, block in image_keys(networks, queries, device)])
    if all(network.keys.are_exact for network in networks):
        return side.search(keys, top_k)
    candidates = side.search(keys, max(shortlist, top_k)).numbers
    query, caption = _pairs(candidates)
    matchers = [network.matcher for network in networks]
    images = [images_from(matcher, queries, device) for matcher in matchers]
    scores = score_listed(matchers, images, gallery, device, (query, caption))
    return _reordered(candidates, scores, top_k)


def _pairs(candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return query numbers and candidates (P,) of a table (Q, n) of candidates, less what is missing."""
    query, place = np.nonzero(candidates >= 0)
    return query, candidates[query, place]


def _reordered(candidates: np.ndarray, scores: np.ndarray, top_k: int) -> Found:
    """Return the `top_k` candidates of every query by their real scores."""
    table = np.full(candidates.shape, -np.inf, dtype=np.float32)
    table[candidates >= 0] = scores
    best = np.argsort(-table, axis=1, kind="stable")[:, :top_k]
    return Found(np.take_along_axis(candidates, best, axis=1), np.take_along_axis(table, best, axis=1))
