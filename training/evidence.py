"""What one network sees of the training pairs before it is decided which are clean: its pass over all of them.

Where the method asks neighbours, every image and caption is encoded once more, to one vector each. These are held:
4 bytes a number, of VSE and GPO as many numbers as --embed_size, of the others (the pooled vector beside the plain
mean) twice as many.
Legend: N training pairs, V images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from data_utils.loaders import Batch, covering_batches, load
from data_utils.precomputed import PrecomputedSplit
from methods.blocks.consensus import (
    SIGNALS,
    Agreement,
    Consensus,
    PairBank,
    consensus,
    same,
    share_like_random,
    tempered,
    worth,
)
from methods.blocks.method import CONSENSUS, FEATURES, PAIR, REMATCH, Bank, Method, Scored
from methods.blocks.rematch import Offers, make_offers
from models.encoded_split import caption_vectors, encoded_captions, image_blocks, image_vectors
from models.keys import Keys, fit_keys
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
class Collected:
    """One network's vectors of all images and captions, and the mean raw feature of every image, (V, dimensions)."""

    bank: PairBank
    features: Tensor


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
    seen = PairEvidence(signal, diagnostics, gap)
    if not method.needs_neighbours:
        return seen
    return with_neighbours(seen, method, collect_pairs(matcher, split, device, processes), generator)


def _arrays(signals: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: values.double().cpu().numpy() for name, values in signals.items()}


def with_neighbours(
    seen: PairEvidence, method: Method, collected: Collected, generator: torch.Generator
) -> PairEvidence:
    """Add what the pairs' neighbours say, and whom they would be matched with.

    Args:
        generator: draws pairs at random, to compare with.
    """
    bank, config, warnings = collected.bank, method.config, []
    said: Consensus | None = None
    diagnostics = dict(seen.diagnostics)
    if config.signal == CONSENSUS:
        space = collected.features if config.neighbour_space == FEATURES else None
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


def collect_pairs(
    matcher: Matcher, split: PrecomputedSplit, device: torch.device, processes: Processes = ALONE
) -> Collected:
    """Encode every image and every caption once; of several processes each encodes some of the blocks.

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
    return Collected(_bank(keys, images, captions, given, picture), features)


def _bank(keys: Keys, images: Tensor, captions: Tensor, given: Tensor, picture: Tensor) -> PairBank:
    if keys.slope is None or keys.offset is None:
        slope, nothing = torch.ones_like(images[0]), images.new_zeros(())
        parts = nothing.expand(len(images)), nothing.expand(len(captions))
    else:
        slope = -2 * keys.slope
        parts = images.square() @ keys.slope + keys.offset, captions.square() @ keys.slope
    return PairBank(images, captions, slope, *parts, given, picture)
