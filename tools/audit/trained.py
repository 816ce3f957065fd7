"""The audit of a trained run: its networks, its training pairs, its method.

VSE and GPO rank every pair by one product. SGR, SAF and SCAN rank the pairs of a shortlist, or every pair by their real
scores with `--shortlist 0`. Whatever is of the size of the data set is kept in files of a scratch folder.
Legend: N pairs, I images, K dimensions of a key, P pairs of a list.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from data_utils.captions import read_captions
from data_utils.catalog import protocol
from data_utils.precomputed import PrecomputedSplit
from models.encoded_split import image_blocks
from models.matcher import Matcher
from runtime.checkpoint import epoch_title
from runtime.log import percent
from tools.audit.opinions import ask_networks, stored_method
from tools.audit.partners import (
    Partners,
    Rivalry,
    find_partners,
    listed_tiles,
    product_tiles,
    shortlist,
    similarity_tiles,
)
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
    split, pairs, matchers = run.split, len(run.split), run.matchers
    name = stored_method(run.checkpoint)[0]
    opinions = ask_networks(
        run.checkpoint, matchers, split, run.device, progressing("opinions", 2 * pairs * len(matchers), "pairs")
    )
    networks = fit_networks(matchers, split, run.device)
    with tempfile.TemporaryDirectory(dir=scratch) as place:
        ranking = _Ranking(networks, split, run.device, subject, Path(place), progressing)
        if all(network.keys.are_exact for network in networks):
            similarity, partners, over = ranking.by_products()
        elif size:
            similarity, partners, over = ranking.by_shortlist(size)
        else:
            similarity, partners, over = ranking.by_similarity()
    return Audit(
        subject=subject,
        opinions=dict(zip(NAMES, opinions, strict=False)),
        similarity=similarity,
        partners=partners,
        judged_by=f"{run.path}, method {name}, {epoch_title(run.checkpoint)}",
        ranked_over=over,
    )


Ranked = tuple[np.ndarray, Partners, str]


class _Ranking:
    """Similarities and ranks of all pairs, in one of three ways."""

    def __init__(
        self,
        networks: Sequence[KeyedMatcher],
        split: PrecomputedSplit,
        device: torch.device,
        subject: Subject,
        scratch: Path,
        progressing: Progressing,
    ) -> None:
        self._networks, self._split, self._device = networks, split, device
        self._subject, self._scratch, self._progressing = subject, scratch, progressing
        self._own = (split.image_of_pair, np.arange(len(split)))

    def _rivalry(self, own: np.ndarray) -> Rivalry:
        subject = self._subject
        return Rivalry(subject.image_of_pair, own, subject.text_group, subject.image_group)

    def _keys(self) -> tuple[np.ndarray, np.ndarray]:
        split, device = self._split, self._device
        images = image_keys(self._networks, split, device)
        captions = caption_keys(self._networks, split, device)
        return (
            _in_file(self._scratch / "image_keys.npy", split.num_images, images),
            _in_file(self._scratch / "caption_keys.npy", len(split), captions),
        )

    def by_products(self) -> Ranked:
        """Rank all pairs by products of keys."""
        images, captions = self._keys()
        own = np.concatenate(
            [
                np.einsum("nk,nk->n", images[self._own[0][rows]], captions[rows])
                for rows in image_blocks(len(self._split))
            ]
        )
        advance = self._progressing("ranks", self._split.num_images, "images")
        tiles = product_tiles(images, captions, advance)
        return own, find_partners(tiles, self._rivalry(own)), "every pair"

    def _matchers(self) -> list[Matcher]:
        return [network.matcher for network in self._networks]

    def _encoded(self) -> list[EncodedFile]:
        return [
            EncodedFile(self._scratch, f"images_{k}", matcher, self._split, self._device)
            for k, matcher in enumerate(self._matchers())
        ]

    def _score(self, encoded: list[EncodedFile], pairs: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        advance = self._progressing("scores", len(pairs[0]), "pairs")
        return score_listed(self._matchers(), encoded, self._split, self._device, pairs, advance)

    def by_shortlist(self, size: int) -> Ranked:
        """Rank the pairs of a shortlist, and every pair's own partner, by their real scores."""
        shape = (self._split.num_images, len(self._split))
        advance = self._progressing("shortlist", shape[0], "images")
        chosen = shortlist(product_tiles(*self._keys(), advance), shape, size)
        key = np.union1d(chosen[0] * shape[1] + chosen[1], self._own[0] * shape[1] + self._own[1])
        image, caption = np.divmod(key, shape[1])
        scores = self._score(self._encoded(), (image, caption))
        own = scores[np.searchsorted(key, self._own[0] * shape[1] + self._own[1])]
        over = (
            f"a shortlist: the {size} best captions of every image and the {size} best images of every caption by a "
            f"cheap estimate, {percent(len(key) / (shape[0] * shape[1]))} of all pairs; --shortlist 0 ranks all"
        )
        return own, find_partners(listed_tiles(image, caption, scores, shape), self._rivalry(own)), over

    def by_similarity(self) -> Ranked:
        """Rank all pairs by their real scores."""
        encoded = self._encoded()
        own = self._score(encoded, self._own)
        advance = self._progressing("ranks", len(self._split), "captions")
        tiles = similarity_tiles(self._matchers(), encoded, self._split, self._device, advance)
        return own, find_partners(tiles, self._rivalry(own)), "every pair"


def _in_file(path: Path, rows: int, blocks: Iterator[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Write blocks of rows into a file, each at its place; return it as a map."""
    file: np.ndarray | None = None
    for numbers, block in blocks:
        if file is None:
            file = np.lib.format.open_memmap(path, "w+", block.dtype, (rows, block.shape[1]))
        file[numbers] = block
    assert file is not None
    return file
