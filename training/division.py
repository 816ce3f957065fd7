"""The division of one network's training pairs into a clean and a noisy side, and how good it was.

Legend: N training pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from data_utils.batch import Batch
from data_utils.loaders import covering_batches, load
from data_utils.precomputed import PrecomputedSplit
from methods.blocks.agreement import Agreement
from methods.blocks.choices import FEATURES, REMATCH
from methods.blocks.consensus import Consensus, agreed, consensus, share_like_random, tempered
from methods.blocks.method import Bank, Findings, Method, Scored
from methods.blocks.mixture import clean_probability
from methods.blocks.rematch import Offers, joint_offers, make_offers
from models.matcher import Matcher
from runtime.distributed import ALONE, Processes
from runtime.errors import InputError
from training.neighbourhood import Collected, collect_pairs

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
        offers: new pairs to train on, if the method asks for them.
        share_noisy: estimated share of mismatched pairs, if the method asks neighbours.
    """

    signal: np.ndarray
    probability: np.ndarray
    is_clean: np.ndarray
    diagnostics: dict[str, np.ndarray] = field(default_factory=dict)
    modality_gap: float = 0.0
    findings: Findings = field(default_factory=Findings)
    offers: Offers | None = None
    share_noisy: float | None = None

    def as_state(self) -> dict[str, Any]:
        """Return what training and the next division need of it, as tensors."""
        return {
            "signal": torch.from_numpy(self.signal),
            "probability": torch.from_numpy(self.probability),
            "is_clean": torch.from_numpy(self.is_clean),
            "offers": None if self.offers is None else self.offers.as_state(),
            "share_noisy": self.share_noisy,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Division:
        """Return the division of `as_state`."""
        offers = state["offers"]
        return cls(
            state["signal"].numpy(),
            state["probability"].numpy(),
            state["is_clean"].numpy(),
            offers=None if offers is None else Offers.from_state(offers),
            share_noisy=state["share_noisy"],
        )


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


@dataclass(frozen=True)
class Look:
    """What one network sees of the training pairs, before it is decided which are clean.

    Attributes:
        signal: (N,) the method's per-pair signal, low for clean pairs.
        diagnostics, modality_gap: as in `Division`.
        consensus: of the signal and the pairs' neighbours, if the method asks them.
        offers: new pairs that this network would train on, if the method asks for them.
        warning: one line for people, or "".
    """

    signal: np.ndarray
    diagnostics: dict[str, np.ndarray]
    modality_gap: float
    consensus: Consensus | None = None
    offers: Offers | None = None
    warning: str = ""


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
    """Let one network look at the pairs and decide by itself; raises what `look_at_pairs` raises."""
    look = look_at_pairs(
        matcher,
        method,
        split,
        batch_size=batch_size,
        generator=generator,
        device=device,
        workers=workers,
        advance=advance,
        processes=processes,
    )
    return decide(method, look, [look], split)


def decide(
    method: Method, own: Look, looks: Sequence[Look], split: PrecomputedSplit, earlier: Division | None = None
) -> Division:
    """Fit the mixture and divide.

    Args:
        method: of the network whose division this is.
        own: what it has seen.
        looks: what all networks have seen; heard where the method asks neighbours.
        split: the pairs.
        earlier: this network's last division, if there was one.
    """
    signal, figures, diagnostics, warning = own.signal, {}, own.diagnostics, own.warning
    if own.consensus is not None:
        before = None if earlier is None else -earlier.signal
        said = [look.consensus.log_odds for look in looks if look.consensus is not None]
        signal = -agreed(said, before, method.config.signal_memory)
        figures = {f"weight_{name}": weight for name, weight in own.consensus.weights.items()}
    probability = method.clean_probability(signal)
    share_noisy: float | None = None
    if own.consensus is not None:
        share_noisy = float(np.mean([look.consensus.share_noisy for look in looks if look.consensus is not None]))
        probability = tempered(probability, share_noisy)
        figures["share_noisy"] = share_noisy
    is_clean = method.divide(probability)
    offers = None
    if own.offers is not None:
        made = [look.offers for look in looks if look.offers is not None]
        offers = joint_offers(made, is_clean, split.image_of_pair)
        figures["offers"] = len(offers) / len(split)
    found = method.findings()
    warnings = "; ".join(filter(None, (warning, found.warning)))
    findings = Findings({**found.figures, **figures}, warnings, found.fitted)
    return Division(signal, probability, is_clean, diagnostics, own.modality_gap, findings, offers, share_noisy)


def look_at_pairs(
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
) -> Look:
    """Score every training pair, among the pairs of its batch if need be, and ask its neighbours if the method does.

    Batches come from one fixed permutation, so that a pair's signal does not depend on the epoch's shuffle; not file
    order, which would put an image's captions into one batch.

    Of several processes each scores some of the batches, and all return the same. Neighbours each looks for by itself.

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
    look = Look(signal, diagnostics, gap)
    if not method.asks_neighbours and method.refinement != REMATCH:
        return look
    return with_neighbours(look, method, collect_pairs(matcher, split, device, processes), generator)


def _arrays(signals: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: values.double().cpu().numpy() for name, values in signals.items()}


def with_neighbours(look: Look, method: Method, collected: Collected, generator: torch.Generator) -> Look:
    """Add what the pairs' neighbours say, and whom they would be matched with.

    Args:
        generator: draws pairs at random, to compare with.
    """
    bank, config, warnings = collected.bank, method.config, []
    said: Consensus | None = None
    diagnostics = dict(look.diagnostics)
    if method.asks_neighbours:
        space = collected.features if config.neighbour_space == FEATURES else None
        around = Agreement(bank, count=config.neighbours, votes=config.neighbour_votes, space=space)
        own = torch.arange(len(bank.captions), device=bank.captions.device)
        found = _arrays(around.signals(bank.image_of_pair, own))
        anyone = torch.randperm(len(own), generator=generator).to(own.device)
        drawn = _arrays(around.signals(bank.image_of_pair[anyone], own))
        said = consensus({"pair": -look.signal, **found}, config.fit_type)
        said = replace(said, share_noisy=share_like_random(found, drawn))
        diagnostics |= found
        if around.fewest < config.neighbours:
            warnings.append(
                f"--neighbours {config.neighbours}: an image or a caption has only {around.fewest} that are not its own"
            )
        if silent := [name for name, weight in said.weights.items() if not weight]:
            warnings.append(f"no pair differs from the others, or none agrees with the rest, by {', '.join(silent)}")
    offers: Offers | None = None
    if method.refinement == REMATCH:
        signal = -said.log_odds if said else look.signal
        probability = clean_probability(signal, config.fit_type, monotone=True)
        offers = make_offers(bank, (tempered(probability, said.share_noisy) if said else probability) > 0.5)
    return replace(look, diagnostics=diagnostics, consensus=said, offers=offers, warning="; ".join(warnings))


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
