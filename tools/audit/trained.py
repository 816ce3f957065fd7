"""The audit of a trained run: its networks, its training pairs, its method.

VSE and GPO rank every pair by one product. SGR, SAF and SCAN rank the pairs of a shortlist, or every pair by their real
scores with `--shortlist 0`. Whatever is of the size of the data set is kept in files of a scratch folder.
Legend: N pairs, I images, K dimensions of a key, P pairs of a list.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from data_utils.captions import read_captions
from data_utils.catalog import protocol
from data_utils.precomputed import PrecomputedSplit
from models.ensemble import image_blocks
from runtime.checkpoint import epoch_title
from runtime.log import percent
from tools.audit.opinions import ask_networks, stored_method
from tools.audit.partners import Rivalry, find_partners, listed_tiles, product_tiles, shortlist, similarity_tiles
from tools.audit.subject import Audit, Progressing, Subject, near_groups, text_groups
from tools.command import OpenedCheckpoint
from tools.search.scores import EncodedFile, KeyedMatcher, caption_keys, fit_networks, image_keys, score_listed
from vocab.vocabulary import SPECIAL, UNK

NAMES = "AB"


def mean_features(split: PrecomputedSplit) -> np.ndarray:
    """Return the mean region of every image, (I, D) float32."""
    means = np.empty((split.num_images, split.region_shape[1]), dtype=np.float32)
    for rows in image_blocks(split.num_images):
        means[rows] = split.read_images(rows).mean(dim=1).numpy()
    return means


def unknown_words(split: PrecomputedSplit) -> np.ndarray:
    """Return how many words of each caption (N,) are not in the vocabulary."""
    counts = np.empty(len(split), dtype=np.int64)
    for captions in image_blocks(len(split)):
        counts[captions] = (split.tokens(captions)[0] == SPECIAL.index(UNK)).sum(dim=1).numpy()
    return counts


def subject_of(run: OpenedCheckpoint, duplicate_cosine: float, *, truth_is_known: bool) -> Subject:
    """Describe the run's training pairs.

    Raises:
        InputError: `--duplicate_cosine` is too low.
    """
    split, lines = run.split, read_captions(run.folder, run.split.name)
    texts = [lines[k] for k in split.line_of_caption.tolist()]
    unknown = unknown_words(split)
    return Subject(
        name=run.stored.data_name,
        image_of_pair=split.image_of_pair,
        image_of_caption=split.image_of_caption,
        texts=texts,
        text_group=text_groups(texts),
        image_group=near_groups(mean_features(split), duplicate_cosine),
        is_mismatched=~split.is_matched if truth_is_known else None,
        unknown_words=unknown,
        is_unread=unknown == split.lengths - len(("<start>", "<end>")),
        has_real_noise=protocol(run.stored.data_name).has_real_noise,
    )


def audit_run(run: OpenedCheckpoint, subject: Subject, *, size: int, scratch: Path, progressing: Progressing) -> Audit:
    """Audit every training pair.

    Args:
        run: what is audited.
        subject: its pairs.
        size: `--shortlist`.
        scratch: folder for large files.
        progressing: shows how far it is.

    Raises:
        InputError: a network has diverged, or its method is not known.
    """
    split, matchers, device = run.split, run.matchers, run.device
    shape, given = (split.num_images, len(split)), (split.image_of_pair, np.arange(len(split)))
    name = stored_method(run.checkpoint)[0]
    advance = progressing("opinions", 2 * shape[1] * len(matchers), "pairs")
    opinions = ask_networks(run.checkpoint, matchers, split, device, advance)
    networks = fit_networks(matchers, split, device)
    with tempfile.TemporaryDirectory(dir=scratch) as place:
        is_exact = all(network.keys.are_exact for network in networks)
        to_encode = [] if is_exact else matchers
        encoded = [EncodedFile(Path(place), f"images_{k}", m, split, device) for k, m in enumerate(to_encode)]

        def scored(listed: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
            told = progressing("scores", len(listed[0]), "pairs")
            return score_listed(matchers, encoded, split, device, listed, told)

        over = "every pair"
        if is_exact:
            images, captions = _keys(networks, split, device, Path(place))
            parts = [np.einsum("nk,nk->n", images[given[0][r]], captions[r]) for r in image_blocks(shape[1])]
            similarity = np.concatenate(parts)
            tiles = product_tiles(images, captions, progressing("ranks", shape[0], "images"))
        elif size:
            estimates = product_tiles(
                *_keys(networks, split, device, Path(place)), progressing("shortlist", shape[0], "images")
            )
            chosen = shortlist(estimates, shape, size)
            own = given[0] * shape[1] + given[1]  # every pair's own partner is looked at too
            key = np.union1d(chosen[0] * shape[1] + chosen[1], own)
            listed = np.divmod(key, shape[1])
            scores = scored(listed)
            similarity, tiles = scores[np.searchsorted(key, own)], listed_tiles(*listed, scores, shape)
            over = (
                f"a shortlist: the {size} best captions of every image and the {size} best images of every caption by "
                f"a cheap estimate, {percent(len(key) / (shape[0] * shape[1]))} of all pairs; --shortlist 0 ranks all"
            )
        else:
            similarity = scored(given)
            tiles = similarity_tiles(matchers, encoded, split, device, progressing("ranks", shape[1], "captions"))
        rivalry = Rivalry(subject.image_of_pair, similarity, subject.text_group, subject.image_group)
        partners = find_partners(tiles, rivalry)
    return Audit(
        subject=subject,
        opinions=dict(zip(NAMES, opinions, strict=False)),
        similarity=similarity,
        partners=partners,
        judged_by=f"{run.path}, method {name}, {epoch_title(run.checkpoint)}",
        ranked_over=over,
    )


def _keys(
    networks: list[KeyedMatcher], split: PrecomputedSplit, device: torch.device, scratch: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys of all images (I, K) and captions (N, K), in files."""
    images, captions = image_keys(networks, split, device), caption_keys(networks, split, device)
    return (
        _in_file(scratch / "image_keys.npy", split.num_images, images),
        _in_file(scratch / "caption_keys.npy", len(split), captions),
    )


def _in_file(path: Path, rows: int, blocks: Iterator[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Write blocks of rows into a file, each at its place; return it as a map."""
    file: np.ndarray | None = None
    for numbers, block in blocks:
        if file is None:
            file = np.lib.format.open_memmap(path, "w+", block.dtype, (rows, block.shape[1]))
        file[numbers] = block
    assert file is not None
    return file
