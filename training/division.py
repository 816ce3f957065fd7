"""The division of the training pairs into a clean and a noisy side, and what an epoch trains on then.

Each network passes over all pairs and gathers evidence; from its own, and where the method asks neighbours from its
peer's too, it is decided which are clean. Where neighbours are asked, every image and caption is encoded once more, to
one vector each. These are held: 4 bytes a number, of VSE and GPO as many numbers as --embed_size, of the others (the
pooled vector beside the plain mean) twice as many.
Legend: N training pairs, M new ones that a method offers, V images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_utils.loaders import covering_batches, load
from data_utils.precomputed import PrecomputedSplit
from methods.blocks.consensus import (
    SIGNALS,
    Agreement,
    Consensus,
    PairBank,
    agreed,
    consensus,
    same,
    share_like_random,
    tempered,
    worth,
)
from methods.blocks.method import CONSENSUS, FEATURES, PAIR, REMATCH, Bank, DivisionReport, Method, Scored
from methods.blocks.rematch import Offers, joint_offers, make_offers
from models.ensemble import caption_vectors, encoded_captions, image_blocks, image_vectors
from models.keys import fit_keys
from models.matcher import Matcher, evaluating
from runtime.distributed import ALONE, Processes
from runtime.errors import InputError

ENCODED_PAIRS = 512
"""Without gradient about so many pairs are encoded at a time."""


@dataclass(frozen=True)
class PairEvidence:
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


@dataclass(frozen=True)
class Division:
    """What one network thinks of the training pairs.

    Attributes:
        signal: (N,) the method's per-pair signal, low for clean pairs.
        probability: (N,) clean probability.
        is_clean: (N,) bool.
        diagnostics: named (N,) values, high for clean pairs.
        modality_gap: |mean f - mean g|, distance between the mean pooled image and caption vectors.
        report: what else the method found.
        offers: new pairs to train on, if the method asks for them.
        share_noisy: estimated share of mismatched pairs, if the method asks neighbours.
    """

    signal: np.ndarray
    probability: np.ndarray
    is_clean: np.ndarray
    diagnostics: dict[str, np.ndarray] = field(default_factory=dict)
    modality_gap: float = 0.0
    report: DivisionReport = field(default_factory=DivisionReport)
    offers: Offers | None = None
    share_noisy: float | None = None

    def as_state(self) -> dict[str, Any]:
        """Return what training and the next division need of it, as tensors."""
        arrays = {name: torch.from_numpy(getattr(self, name)) for name in ("signal", "probability", "is_clean")}
        offers = None if self.offers is None else self.offers.as_state()
        return {**arrays, "offers": offers, "share_noisy": self.share_noisy}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Division:
        """Return the division of `as_state`."""
        signal, probability, is_clean = (state[name].numpy() for name in ("signal", "probability", "is_clean"))
        offers = None if state["offers"] is None else Offers.from_state(state["offers"])
        return cls(signal, probability, is_clean, offers=offers, share_noisy=state["share_noisy"])


# -- evidence -------------------------------------------------------------------------------------------------------


def gather_evidence(
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
) -> PairEvidence:
    """Score every training pair, among the pairs of its batch if need be, and ask its neighbours if the method does.

    Batches come from one fixed permutation, so that a pair's signal does not depend on the epoch's shuffle; not file
    order, which would put an image's captions into one batch.

    Of several processes each scores some of the batches, and all return the same. Neighbours each looks for by itself.

    Raises:
        InputError: the signal is not finite: the network has diverged.
    """
    batches = covering_batches(np.arange(len(split)), batch_size, generator)
    together = max(1, ENCODED_PAIRS // max(len(b) for b in batches))
    groups = [batches[k : k + together] for k in range(0, len(batches), together)]
    found: dict[str, np.ndarray] = {"": np.zeros(len(split))}  # the signal, and the diagnostics by name
    sums = torch.zeros(())
    with evaluating(matcher):
        if method.needs_bank:
            method.remember(collect_bank(matcher, split, max(batch_size, ENCODED_PAIRS), device, processes))
        scorers = processes if len(groups) >= processes.count else ALONE  # too little to share: each does it all
        for scored in _scored_batches(matcher, method, split, list(scorers.mine(groups)), device, workers):
            where, embeddings = scored.batch.index.cpu().numpy(), scored.embeddings
            for name, values in _arrays({"": method.pair_signal(scored), **method.diagnostics(scored)}).items():
                assert values.shape == where.shape
                found.setdefault(name, np.zeros(len(split)))[where] = values
            sums = sums + torch.stack([embeddings.image_global.sum(dim=0), embeddings.caption_global.sum(dim=0)])
            advance(len(where))
    for of_pairs in found.values():
        scorers.summed(torch.from_numpy(of_pairs))
    gap = float(torch.linalg.vector_norm(scorers.summed(sums[0] - sums[1])) / len(split))
    signal = found.pop("")
    if not np.isfinite(signal).all():
        raise InputError("the division signal is not finite: the network has diverged; lower --learning_rate")
    seen = PairEvidence(signal, found, gap)
    if not method.needs_neighbours:
        return seen
    return with_neighbours(seen, method, *collect_pairs(matcher, split, device, scorers), generator)


def _arrays(signals: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: values.double().cpu().numpy() for name, values in signals.items()}


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
        embeddings = matcher.embed(pairs)
        ends = np.cumsum([len(b) for b in group]).tolist()
        for start, end in zip([0, *ends], ends, strict=False):
            yield Scored(matcher, method, pairs.part(slice(start, end)), embeddings.part(slice(start, end)))


@torch.no_grad()
def collect_bank(
    matcher: Matcher, split: PrecomputedSplit, batch_size: int, device: torch.device, processes: Processes = ALONE
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


def collect_pairs(
    matcher: Matcher, split: PrecomputedSplit, device: torch.device, processes: Processes = ALONE
) -> tuple[PairBank, Tensor]:
    """Encode every image and every caption once, and return the mean raw feature of every image, (V, dimensions), too.

    Of several processes each encodes some of the blocks.

    Raises:
        InputError: a score is not finite.
    """
    keys = fit_keys(matcher, split, device)
    size = matcher.region_encoder.fc.out_features * (1 if keys.are_exact else 2)
    images, captions = (torch.zeros(count, size, device=device) for count in (split.num_images, len(split)))
    features = torch.zeros(split.num_images, split.region_shape[1], device=device)
    with evaluating(matcher):
        for rows in processes.mine(image_blocks(split.num_images)):
            regions, where = split.read_images(rows), torch.from_numpy(rows).to(device)
            features[where] = regions.mean(dim=1).to(device)  # the same bits of equal pictures, wherever they stand
            side = matcher.encode_images(regions.to(device))
            images[where] = side.pooled if keys.are_exact else image_vectors(side)
        for numbers, captioned in encoded_captions(matcher, split, device, processes=processes):
            where = torch.from_numpy(numbers).to(device)
            captions[where] = captioned.pooled if keys.are_exact else caption_vectors(captioned)
    for values in (images, captions, features):
        processes.summed(values)
    picture = torch.from_numpy(same(features.cpu().numpy())).to(device)
    given = torch.from_numpy(np.asarray(split.image_of_pair, dtype=np.int64)).to(device)
    if keys.slope is None or keys.offset is None:
        slope, nothing = torch.ones_like(images[0]), images.new_zeros(())
        parts = nothing.expand(len(images)), nothing.expand(len(captions))
    else:
        slope = -2 * keys.slope
        parts = images.square() @ keys.slope + keys.offset, captions.square() @ keys.slope
    return PairBank(images, captions, slope, *parts, given, picture), features


def with_neighbours(
    seen: PairEvidence, method: Method, bank: PairBank, features: Tensor, generator: torch.Generator
) -> PairEvidence:
    """Add what the pairs' neighbours say, and whom they would be matched with.

    Args:
        features: (V, dimensions), the mean raw feature of every image.
        generator: draws pairs at random, to compare with.
    """
    config, warnings = method.config, []
    said: Consensus | None = None
    diagnostics = dict(seen.diagnostics)
    if config.signal == CONSENSUS:
        space = features if config.neighbour_space == FEATURES else None
        around = Agreement(bank, count=config.neighbours, votes=config.neighbour_votes, space=space)
        own = torch.arange(len(bank.captions), device=bank.captions.device)
        anyone = bank.image_of_pair[torch.randperm(len(own), generator=generator).to(own.device)]
        given, drawn = (
            _arrays({PAIR: around.scores(images, own), **around.signals(images, own)})
            for images in (bank.image_of_pair, anyone)
        )
        worths = {name: worth(values, drawn[name]) for name, values in given.items()}
        found = {name: given[name] for name in SIGNALS}
        said = consensus({PAIR: -seen.signal, **found}, worths, config.fit_type)
        said = replace(said, share_noisy=share_like_random(found, drawn))
        diagnostics |= found
        if around.fewest < config.neighbours:
            warnings.append(
                f"--neighbours {config.neighbours}: an image or a caption has only {around.fewest} that are not its own"
            )
        if silent := [name for name, weight in said.weights.items() if not weight]:
            warnings.append(f"given pairs are no better than pairs at random by {', '.join(silent)}")
    probability = method.clean_probability(-said.log_odds if said else seen.signal)
    if said:
        probability = tempered(probability, said.share_noisy, config.p_threshold)
    trusted = probability > config.p_threshold
    return replace(
        seen,
        diagnostics=diagnostics,
        consensus=said,
        offers=make_offers(bank, trusted) if config.refine == REMATCH else None,
        warning="; ".join(warnings),
    )


# -- decision -------------------------------------------------------------------------------------------------------


def decide(
    method: Method,
    own: PairEvidence,
    evidence: Sequence[PairEvidence],
    split: PrecomputedSplit,
    earlier: Division | None = None,
) -> Division:
    """Fit the mixture and divide.

    Args:
        method: of the network whose division this is.
        own: what it has seen.
        evidence: what all networks have seen; heard where the method asks neighbours.
        split: the pairs.
        earlier: this network's last division, if there was one.
    """
    said = [seen.consensus for seen in evidence if seen.consensus is not None]
    figures: dict[str, float] = {}
    if own.consensus is None:
        signal, share_noisy = own.signal, None
        probability = method.clean_probability(signal)
    else:
        before = None if earlier is None else -earlier.signal
        signal = -agreed([seen.log_odds for seen in said], before, method.config.signal_memory)
        share_noisy = float(np.mean([seen.share_noisy for seen in said]))
        probability = tempered(method.clean_probability(signal), share_noisy, method.config.p_threshold)
        figures = {f"weight_{name}": weight for name, weight in own.consensus.weights.items()}
        figures["share_noisy"] = share_noisy
    is_clean = method.divide(probability)
    offers = None
    if own.offers is not None:
        made = [seen.offers for seen in evidence if seen.offers is not None]
        offers = joint_offers(made, is_clean, split.image_of_pair)
        figures["offers"] = len(offers) / len(split)
    found = method.report()
    warnings = "; ".join(filter(None, (own.warning, found.warning)))
    report = DivisionReport({**found.figures, **figures}, warnings, found.fitted)
    return Division(signal, probability, is_clean, own.diagnostics, own.modality_gap, report, offers, share_noisy)


@dataclass(frozen=True)
class EpochPairs:
    """Pairs to train on.

    Attributes:
        split: given pairs 0 .. N - 1, offered ones behind them.
        clean, noisy: numbers of the pairs of either side; offers are on the clean one.
        probability: (N + M,) float32, clean probability of given pairs, confidence of offered ones.
    """

    split: PrecomputedSplit
    clean: np.ndarray
    noisy: np.ndarray
    probability: Tensor


def epoch_pairs(split: PrecomputedSplit, division: Division | None) -> EpochPairs:
    """Return what a division says is to be trained on; without one all pairs are clean."""
    if division is None:
        everything = np.arange(len(split))
        return EpochPairs(split, everything, everything[:0], torch.ones(len(split)))
    is_clean, probability, offers = division.is_clean, division.probability, division.offers
    if offers is not None and len(offers):
        caption = np.concatenate([np.arange(len(split)), offers.caption])
        split = split.with_pairs(caption, np.concatenate([split.image_of_pair, offers.image]))
        is_clean = np.concatenate([is_clean, np.ones(len(offers), dtype=bool)])
        probability = np.concatenate([probability, offers.confidence])
    clean, noisy = np.flatnonzero(is_clean), np.flatnonzero(~is_clean)
    return EpochPairs(split, clean, noisy, torch.from_numpy(probability).float())
