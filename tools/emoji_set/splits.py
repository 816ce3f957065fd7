"""Splits: held-out concepts and artists, with near-duplicates kept on one side."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tools.emoji_set.pictures import Picture


@dataclass(frozen=True)
class SplitRule:
    """How a set is split: pictures of dev, pictures of test, and the text that all shuffling starts from."""

    dev: int
    test: int
    seed: str

    def shuffle_key(self, text: str) -> str:
        """Give a sort key that shuffles, the same on every platform and Python version."""
        return hashlib.sha256(f"{self.seed}:{text}".encode()).hexdigest()


def near_pairs(images: np.ndarray, near: float) -> np.ndarray:
    """Find all near-duplicates.

    Args:
        images: Small images, uint8 of shape (pictures, ...), such as grey images of 16 x 16.
        near: Mean absolute difference, in levels, below which two pictures are twins.

    Returns:
        Pairs of indices (first < second), int64 of shape (pairs, 2).
    """
    # Sums of a few hundred bytes are exact in float32, so the comparison below is exact too.
    flat = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32))
    pairs = []
    for start in range(0, len(flat), 500):
        distance = torch.cdist(flat[start : start + 500], flat, p=1)
        first, second = torch.nonzero(distance < near * flat.shape[1], as_tuple=True)
        first = first + start
        pairs.append(torch.stack([first, second], dim=1)[first < second])
    return torch.cat(pairs).numpy()


def drop_twins(pictures: Sequence[Picture], pairs: np.ndarray) -> set[int]:
    """Choose which pictures, of twins (pairs, 2), to leave out.

    Two kinds go: drawings nearly the same as an earlier artist's of the same concept, and drawings that an
    artist reuses for another concept (one drawing for all families), which no caption can tell apart.
    """
    dropped: set[int] = set()
    for first, second in pairs.tolist():
        one, other = pictures[first], pictures[second]
        if first not in dropped and (one.concept == other.concept or one.source == other.source):
            dropped.add(second)
    return dropped


class Holdout:
    """Chooses held-out pictures one by one, and which training pictures have to go for them.

    Args:
        pictures: All pictures.
        kept: Indices of the pictures of the set; all of them start in the training split.
        pairs: Near-duplicates among all pictures, shape (pairs, 2).
    """

    def __init__(self, pictures: Sequence[Picture], kept: Sequence[int], pairs: np.ndarray) -> None:
        self.pictures = pictures
        self.train = set(kept)
        self.held: dict[int, int] = {}  # concept -> picture
        self.twins: dict[int, set[int]] = {i: set() for i in kept}
        for first, second in pairs.tolist():
            if first in self.train and second in self.train:
                self.twins[first].add(second)
                self.twins[second].add(first)
        self.drawings: dict[int, list[int]] = defaultdict(list)
        for i in kept:
            self.drawings[pictures[i].concept].append(i)
        self.count: Counter[str] = Counter()

    def allowed(self, i: int) -> bool:
        """Tell whether picture `i` can be held out.

        It cannot if it or a near-duplicate of it is held out already, or if the training split would lose the last
        picture of this concept or of one held out before.
        """
        if i not in self.train or not self.twins[i].isdisjoint(self.held.values()):
            return False
        left = self.train - self.twins[i] - {i}
        touched = {self.pictures[j].concept for j in self.twins[i]} & self.held.keys()
        return all(not left.isdisjoint(self.drawings[c]) for c in touched | {self.pictures[i].concept})

    def hold(self, concept: int) -> None:
        """Hold out a picture of a concept, if one can be."""
        options = [i for i in self.drawings[concept] if self.allowed(i)]
        if options:
            best = min(options, key=lambda i: (len(self.twins[i]), self.count[self.pictures[i].artist]))
            self.held[concept] = best
            self.count[self.pictures[best].artist] += 1
            self.train -= self.twins[best] | {best}


def make_splits(
    pictures: Sequence[Picture], codes: Sequence[str], pairs: np.ndarray, rule: SplitRule
) -> dict[str, list[int]]:
    """Split the pictures.

    Concepts with a picture that resembles no other come first, so few training pictures have to be dropped;
    among those, concepts that few artists drew choose first, and the others then even out the artists.

    Args:
        pictures: The pictures, by concept and then by artist.
        codes: What each concept is called, without repetitions.
        pairs: Near-duplicates, shape (pairs, 2).
        rule: How many to hold out, and the seed.

    Returns:
        Indices of the pictures of "train", "dev" and "test", in row order.

    Raises:
        ValueError: Too few concepts can be held out.
    """
    dropped = drop_twins(pictures, pairs)
    wanted = rule.dev + rule.test
    holdout = Holdout(pictures, [i for i in range(len(pictures)) if i not in dropped], pairs)

    def ease(concept: int) -> tuple[int, int, str]:
        twins = [len(holdout.twins[i]) for i in holdout.drawings[concept]]
        return min(twins), twins.count(min(twins)), rule.shuffle_key(codes[concept])

    for concept in sorted(holdout.drawings, key=ease):
        if len(holdout.held) < wanted:
            holdout.hold(concept)
    if len(holdout.held) < wanted:
        raise ValueError(f"only {len(holdout.held)} concepts can be held out, {wanted} are needed")

    def key(i: int) -> str:
        return rule.shuffle_key(f"{codes[pictures[i].concept]}/{pictures[i].artist}")

    held = sorted(holdout.held.values(), key=key)
    return {"train": sorted(holdout.train, key=key), "dev": held[: rule.dev], "test": held[rule.dev :]}
