"""A split's pictures and captions as embeddings.

Legend: I pictures, C captions, D embed size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tools.clip_tuning.model import Clip
from tools.clip_tuning.pairs import Pairs
from tools.clip_tuning.preprocess import PreparedPictures
from tools.clip_tuning.tokens import Tokens


@dataclass(frozen=True)
class PreparedPairs:
    """Pairs made ready for a model: its picture size, its token ids."""

    pairs: Pairs
    pictures: PreparedPictures
    tokens: Tokens

    @classmethod
    def of(cls, pairs: Pairs, model: Clip, *, cache_bytes: int, workers: int) -> PreparedPairs:
        """Prepare pairs; see `PreparedPictures` for the arguments."""
        pictures = PreparedPictures(pairs.pictures, model.preprocessing, cache_bytes=cache_bytes, workers=workers)
        return cls(pairs, pictures, model.tokens(pairs.captions))


@dataclass(frozen=True)
class Embeddings:
    """Unit embeddings in float32 on the CPU: pictures (I, D), captions (C, D)."""

    pictures: Tensor
    captions: Tensor


def _parts(count: int, size: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]


@torch.no_grad()
def embed(model: Clip, data: PreparedPairs, *, chunk: int = 256) -> Embeddings:
    """Embed every picture and every caption in evaluation mode, `chunk` at a time; the model's mode is restored."""
    was_training = model.training
    model.eval()
    pictures = [
        model.embed_pictures(model.preprocessing.normalise(prepared.to(model.device))).cpu()
        for _, prepared in data.pictures.batches(_parts(data.pairs.num_images, chunk))
    ]
    captions = [
        model.embed_captions(data.tokens.rows(part).ids.to(model.device)).cpu()
        for part in _parts(len(data.tokens), chunk)
    ]
    model.train(was_training)
    return Embeddings(torch.cat(pictures), torch.cat(captions))
