"""What trained networks and their method think of every training pair: signal, clean probability, soft label.

As between two epochs of training, but by the networks of a checkpoint: each divides the pairs among the batches of one
fixed permutation, then labels them by its peer's division (by its own, if there is one network only), as it would be
trained with. Labels depend on the batch that a pair is in: NCR's and BiCro's are relative to its most trusted pairs.
Legend: N training pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from data_utils.loaders import MIN_BATCH, covering_batches
from data_utils.precomputed import PrecomputedSplit
from methods import Method, known_methods, stored_config
from methods.blocks.method import Scored, StudentAndPeer
from models.matcher import Matcher
from runtime.errors import InputError
from runtime.seed import generator
from training.division import Division, decide, gather_evidence

FALLBACK = "baseline"
"""What audits a checkpoint that does not record its method: its signal is the mean hinge."""

DEFAULT_BATCH = 128

Network = tuple[Matcher, Method]


@dataclass(frozen=True)
class Opinion:
    """What one network thinks of each of N pairs.

    Attributes:
        signal: low for clean pairs.
        probability: to be clean.
        soft_label: in [0, 1], what this network would be trained with now; 0 for pairs left out.
    """

    signal: np.ndarray
    probability: np.ndarray
    soft_label: np.ndarray


def stored_method(checkpoint: Mapping[str, Any]) -> tuple[str, type[Method], dict[str, Any]]:
    """Return the name of a checkpoint's method, it, and its settings; of one that records none the baseline.

    Raises:
        InputError: a method or setting that this suite does not have.
    """
    config = checkpoint["config"]
    name, settings = config.get("method_name"), config.get("method")
    if not name or not isinstance(settings, dict):
        return FALLBACK, known_methods()[FALLBACK], {}
    if name not in known_methods():
        raise InputError(f"the checkpoint's method {name!r} is unknown; known: {', '.join(known_methods())}")
    return name, known_methods()[name], settings


def ask_networks(
    checkpoint: Mapping[str, Any],
    matchers: Sequence[Matcher],
    split: PrecomputedSplit,
    device: torch.device,
    advance: Callable[[int], None] = lambda pairs: None,
) -> list[Opinion]:
    """Return each network's opinion; `advance` is told pairs that are divided or labelled, each twice a network.

    Raises:
        InputError: a network has diverged, or the checkpoint's method is not known.
    """
    name, kind, settings = stored_method(checkpoint)
    try:
        methods = [kind(stored_config(kind, settings)) for _ in matchers]
    except TypeError as error:
        raise InputError(f"the checkpoint's settings of method {name} are not this suite's: {error}") from None
    training = checkpoint["config"]["training"]
    batch_size, seed = training.get("batch_size") or DEFAULT_BATCH, training.get("seed") or 0
    looks = [
        gather_evidence(
            matcher,
            method,
            split,
            batch_size=batch_size,
            generator=generator(seed, "division"),
            device=device,
            advance=advance,
        )
        for matcher, method in zip(matchers, methods, strict=True)
    ]
    divisions = [decide(method, look, looks, split) for method, look in zip(methods, looks, strict=True)]
    networks = list(zip(matchers, methods, strict=True))
    opinions = []
    for k, own in enumerate(divisions):
        pair = networks[k], networks[-1 - k]
        division = divisions[-1 - k] if kind.divides else None
        batches = partial(_batches, batch_size=batch_size, seed=seed)
        opinions.append(Opinion(own.signal, own.probability, _labels(*pair, split, division, batches, device, advance)))
    return opinions


def _batches(pairs: np.ndarray, side: str, *, batch_size: int, seed: int) -> list[torch.Tensor]:
    """Return batches that cover the pairs; too few to make one are none."""
    return covering_batches(pairs, batch_size, generator(seed, "audit", side)) if len(pairs) >= MIN_BATCH else []


def _labels(
    student: Network,
    peer: Network,
    split: PrecomputedSplit,
    division: Division | None,
    batches: Callable[[np.ndarray, str], list[torch.Tensor]],
    device: torch.device,
    advance: Callable[[int], None],
) -> np.ndarray:
    """Return (N,) labels by a division; without one all pairs are clean with probability 1."""
    probability = np.ones(len(split)) if division is None else division.probability
    is_clean = np.ones(len(split), dtype=bool) if division is None else division.is_clean
    labels = np.zeros(len(split))
    clean = batches(np.flatnonzero(is_clean), "clean")
    noisy = batches(np.flatnonzero(~is_clean), "noisy") if student[1].wants_noisy else []
    for step in range(max(len(clean), len(noisy)) if clean else 0):
        numbers = clean[step % len(clean)], noisy[step] if step < len(noisy) else None
        batch, other = (None if n is None else split[n].to(device) for n in numbers)
        views = [
            None if b is None else StudentAndPeer(*(Scored(*network, b) for network in (student, peer)))
            for b in (batch, other)
        ]
        assert batch is not None and views[0] is not None
        chances = torch.from_numpy(probability[batch.index.cpu().numpy()]).float().to(device)
        with torch.no_grad():
            found = student[1].labels(views[0], views[1], chances)
        if step < len(clean):
            labels[batch.index.cpu().numpy()] = found.clean.double().cpu().numpy()
            advance(len(batch))
        if other is not None:
            advance(len(other))
            if found.noisy is not None and found.noisy_kept is not None:
                kept = torch.where(found.noisy_kept, found.noisy, torch.zeros_like(found.noisy))
                labels[other.index.cpu().numpy()] = kept.double().cpu().numpy()
    return labels
