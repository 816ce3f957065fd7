"""The division of one network's training pairs into a clean and a noisy side, and how good it was.

Legend: N training pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from data_utils.batch import Batch
from data_utils.loaders import covering_batches, load
from data_utils.precomputed import PrecomputedSplit
from methods.blocks.method import Bank, Findings, Method, Scored
from models.matcher import Matcher
from runtime.distributed import ALONE, Processes
from runtime.errors import InputError

ENCODED_PAIRS = 512
"""Without gradient about so many pairs are encoded at a time."""


DIAGNOSTIC = "diagnostic_"
"""Prefix of the diagnostics in a division's file; they are kept in half precision, to be looked at."""


@dataclass(frozen=True)
class Division:
    """What one network thinks of the training pairs.

    Attributes:
        signal: (N,) the method's per-pair signal, low for clean pairs.
        probability: (N,) clean probability.
        is_clean: (N,) bool.
        diagnostics: named (N,) values, high for clean pairs.
        modality_gap: |mean f - mean g|, distance between the mean pooled image and caption vectors.
        findings: what else the method found.
    """

    signal: np.ndarray
    probability: np.ndarray
    is_clean: np.ndarray
    diagnostics: dict[str, np.ndarray] = field(default_factory=dict)
    modality_gap: float = 0.0
    findings: Findings = field(default_factory=Findings)

    def as_state(self) -> dict[str, Any]:
        """Return what training needs of it, as tensors."""
        return {"probability": torch.from_numpy(self.probability), "is_clean": torch.from_numpy(self.is_clean)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Division:
        """Return the division of `as_state`, without its signal."""
        probability = state["probability"].numpy()
        return cls(np.full(len(probability), np.nan), probability, state["is_clean"].numpy())


def as_arrays(division: Division, is_matched: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return a division as named arrays for a file: signal, probability, is_clean, is_matched (N,) where it is known,
    every diagnostic as `diagnostic_NAME`, and the fitted components, if any (methods/blocks/mixture.py)."""
    fitted = division.findings.fitted
    return {
        "signal": division.signal.astype(np.float32),
        "probability": division.probability.astype(np.float32),
        "is_clean": division.is_clean,
        **({} if is_matched is None else {"is_matched": is_matched}),
        **{f"{DIAGNOSTIC}{name}": values.astype(np.float16) for name, values in division.diagnostics.items()},
        **({} if fitted is None else fitted.as_arrays()),
    }


def _auc(is_matched: np.ndarray, values: np.ndarray) -> float | None:
    """Return the area under the ROC curve, None where one class is missing."""
    return float(roc_auc_score(is_matched, values)) if 0 < is_matched.sum() < len(is_matched) else None


def division_metrics(division: Division, is_matched: np.ndarray | None) -> dict[str, float | None]:
    """Return the share of clean pairs and, where the truth (N,) is known, how well it was found.

    Precision and recall are of the clean side; residual noise is the share of mismatched pairs in it.
    """
    metrics: dict[str, float | None] = {
        "share_clean": float(division.is_clean.mean()),
        "modality_gap": division.modality_gap,
        **division.findings.figures,
    }
    if is_matched is None:
        return metrics
    hits = float((division.is_clean & is_matched).sum())
    metrics["precision"] = hits / division.is_clean.sum() if division.is_clean.any() else None
    metrics["recall"] = hits / is_matched.sum() if is_matched.any() else None
    metrics["residual_noise"] = None if metrics["precision"] is None else 1 - metrics["precision"]
    metrics["auc"] = _auc(is_matched, division.probability)
    metrics["auc_signal"] = _auc(is_matched, -division.signal)
    for name, values in division.diagnostics.items():
        metrics[f"auc_{name}"] = _auc(is_matched, values)
    return metrics


@torch.no_grad()
def collect_bank(
    matcher: Matcher,
    split: PrecomputedSplit,
    batch_size: int,
    device: torch.device,
    processes: Processes = ALONE,
) -> Bank:
    """Encode the training set and keep one row an image: f, and f minus the mean g of the captions it was given.

    Every image is encoded once, whatever its number of captions, and captions of similar length together. Of several
    processes each encodes some of the blocks.
    """
    size = matcher.region_encoder.fc.out_features
    image, caption = torch.zeros(2, split.num_images, size, device=device)
    count = torch.zeros(len(image), device=device)
    blocks = np.array_split(np.arange(split.num_images), -(-split.num_images // batch_size))
    for numbers in processes.mine(blocks):
        image[torch.from_numpy(numbers).to(device)] = matcher.image_means(split.read_images(numbers).to(device))
    by_length = np.argsort(split.lengths, kind="stable")
    for numbers in processes.mine(np.array_split(by_length, -(-len(by_length) // batch_size))):
        tokens, lengths = split.tokens(numbers)
        where = torch.from_numpy(split.image_of_pair[numbers]).to(device)
        caption.index_add_(0, where, matcher.caption_means(tokens.to(device), lengths))
        count.index_add_(0, where, torch.ones(len(where), device=device))
    for values in (image, caption, count):
        processes.summed(values)
    used = torch.nonzero(count).flatten()  # under caption noise an image may be left without a caption
    return Bank(image[used], image[used] - caption[used] / count[used][:, None], used)


def divide_pairs(
    matcher: Matcher,
    method: Method,
    split: PrecomputedSplit,
    *,
    batch_size: int,
    generator: torch.Generator,
    device: torch.device,
    workers: int = 0,
    advance: Callable[[int], None] = lambda pairs: None,
    processes: Processes = ALONE,
) -> Division:
    """Score every training pair among the pairs of its batch, fit the mixture, divide.

    Batches come from one fixed permutation, so that a pair's signal does not depend on the epoch's shuffle; not file
    order, which would put an image's captions into one batch.

    Of several processes each scores some of the batches, and all return the same.

    Raises:
        InputError: the signal is not finite: the network has diverged.
    """
    was_training = matcher.training
    matcher.eval()
    batches = covering_batches(np.arange(len(split)), batch_size, generator)
    if method.needs_bank:
        method.remember(collect_bank(matcher, split, max(batch_size, ENCODED_PAIRS), device, processes))
    together = max(1, ENCODED_PAIRS // max(len(b) for b in batches))
    groups = [batches[k : k + together] for k in range(0, len(batches), together)]
    if len(groups) < processes.count:
        processes = ALONE  # too little to share: every process does it all
    signal = np.zeros(len(split))
    diagnostics: dict[str, np.ndarray] = {}
    image_sum: Tensor | float = 0.0
    caption_sum: Tensor | float = 0.0
    for scored in _scored_batches(matcher, method, split, list(processes.mine(groups)), device, workers):
        where = scored.batch.index.cpu().numpy()
        signal[where] = _per_pair(scored.batch, method.pair_signal(scored))
        for name, values in method.diagnostics(scored).items():
            diagnostics.setdefault(name, np.zeros(len(split)))[where] = _per_pair(scored.batch, values)
        image_sum = image_sum + scored.embeddings.image_global.sum(dim=0)
        caption_sum = caption_sum + scored.embeddings.caption_global.sum(dim=0)
        advance(len(scored.batch))
    assert isinstance(image_sum, Tensor) and isinstance(caption_sum, Tensor)
    for found in (signal, *diagnostics.values()):
        processes.summed_array(found)
    gap = float(torch.linalg.vector_norm(processes.summed(image_sum - caption_sum)) / len(split))
    matcher.train(was_training)
    if not np.isfinite(signal).all():
        raise InputError("the division signal is not finite: the network has diverged; lower --learning_rate")
    probability = method.clean_probability(signal)
    return Division(signal, probability, method.divide(probability), diagnostics, gap, method.findings())


def _scored_batches(
    matcher: Matcher,
    method: Method,
    split: PrecomputedSplit,
    groups: list[list[Tensor]],
    device: torch.device,
    workers: int,
) -> Iterator[Scored]:
    """Yield the batches, each to be scored by itself; those of a group are encoded at once, which costs less."""
    loaded = load(split, [torch.cat(group) for group in groups], workers, device=device)
    for group, pairs in zip(groups, loaded, strict=True):
        pairs = pairs.to(device)
        with torch.no_grad():
            embeddings = matcher.embed(pairs)
        ends = np.cumsum([len(b) for b in group]).tolist()
        for start, end in zip([0, *ends], ends, strict=False):
            yield Scored(matcher, method, pairs.part(slice(start, end)), embeddings.part(slice(start, end)))


def _per_pair(batch: Batch, values: Tensor) -> np.ndarray:
    assert values.shape == (len(batch),)
    return values.double().cpu().numpy()
