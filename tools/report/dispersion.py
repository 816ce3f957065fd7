"""Drift dispersion: how alike the drifts of one image's captions are (SAD, MGCS, AAAI 2026, Table 1).

The drift of a pair is f - g, its pooled image vector minus its pooled caption vector. Dispersion: standard deviation,
in degrees, of the angles between the drifts of the captions of one image.
Legend: I images of K captions each, C captions, D embed size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_utils.precomputed import PrecomputedSplit
from models.encoded_split import evaluating
from models.matcher import Matcher
from tools.pages.figures import MATCHED, NEUTRAL, figure
from tools.pages.table import table
from tools.pages.text import Piece, grid, note
from tools.report.histograms import overlaid, shares, wide
from tools.report.opened import OpenedRun

PUBLISHED = (("Flickr30K, as published", 6.91), ("MS-COCO, as published", 6.13), ("uniform angles", 51.96))
BLOCK = 256
FEWEST = 3
"""With fewer captions an image has one angle or none, and nothing spreads."""


def pairwise_angles(drift: Tensor) -> Tensor:
    """Return the angles, in degrees, between all couples of an image's drifts: (I, K, D) to (I, K (K - 1) / 2)."""
    units = torch.nn.functional.normalize(drift.double(), dim=2)
    cosines = (units @ units.transpose(1, 2)).clamp(-1, 1)  # (I, K, K)
    first, second = torch.triu_indices(drift.shape[1], drift.shape[1], offset=1)
    return torch.rad2deg(torch.arccos(cosines[:, first, second]))


@dataclass(frozen=True)
class Dispersion:
    """How much the angles between drifts spread.

    Attributes:
        angles: degrees, (I, K (K - 1) / 2) of the images of each number K of captions.
    """

    angles: list[Tensor]

    @property
    def within(self) -> float:
        """The standard deviation within an image, averaged over the images (*reading* of Table 1)."""
        return float(torch.cat([angles.std(dim=1, correction=0) for angles in self.angles]).mean())

    @property
    def pooled(self) -> float:
        """The standard deviation of all images' angles together (the other reading)."""
        return float(self.all.std(correction=0))

    @property
    def mean(self) -> float:
        """The mean angle."""
        return float(self.all.mean())

    @property
    def all(self) -> Tensor:
        """All images' angles, flat."""
        return torch.cat([angles.flatten() for angles in self.angles])


@torch.no_grad()
def drifts_of_split(matcher: Matcher, split: PrecomputedSplit, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return f of a split's images and g (C, D) of their own captions, sorted by image."""
    images, captions = [], []
    by_image, ends = np.argsort(split.image_of_caption, kind="stable"), np.cumsum(np.bincount(split.image_of_caption))
    with evaluating(matcher):
        for start in range(0, split.num_images, BLOCK):
            numbers = np.arange(start, min(start + BLOCK, split.num_images))
            images.append(matcher.image_means(split.read_images(numbers).to(device)).cpu())
            own = by_image[ends[start - 1] if start else 0 : ends[numbers[-1]]]
            tokens, lengths = split.tokens(own)
            captions.append(matcher.caption_means(tokens.to(device), lengths).cpu())
    return torch.cat(images), torch.cat(captions)


def _own_and_others(opened: OpenedRun, name: str) -> tuple[Dispersion, Dispersion]:
    """Return the dispersion of the test images' own captions, and of captions drawn from all."""
    test = opened.data.test
    image, caption = drifts_of_split(opened.matchers[name], test, opened.sources.device)
    others = caption[torch.from_numpy(np.random.RandomState(0).permutation(len(caption)))]
    counts = np.bincount(test.image_of_caption)
    own, mixed = (drift_angles(image, g, counts) for g in (caption, others))
    return Dispersion(own), Dispersion(mixed)


def drift_angles(image: Tensor, caption: Tensor, counts: np.ndarray) -> list[Tensor]:
    """Return the angles between the drifts of images with as many captions, for each such number from three on.

    Args:
        image: (images, D) f.
        caption: (C, D) g, the captions of an image one after another.
        counts: (images,) how many those are.
    """
    starts, found = np.cumsum(counts) - counts, []
    for number in np.unique(counts[counts >= FEWEST]).tolist():
        images = np.flatnonzero(counts == number)
        own = torch.from_numpy(starts[images][:, None] + np.arange(number))
        found.append(pairwise_angles(image[torch.from_numpy(images)][:, None] - caption[own]))
    return found


def dispersion_part(all_opened: list[OpenedRun]) -> list[Piece]:
    """Return the table of dispersions and the histograms of the angles, of the test images."""
    charts, rows = [], []
    notes: list[Piece] = []
    for opened in all_opened:
        has_few = np.bincount(opened.data.test.image_of_caption) < FEWEST
        if has_few.any():
            left_out = "" if has_few.all() else f" {has_few.sum()} of {len(has_few)} images are left out."
            needed = "an image needs three captions or more for angles to spread."
            notes.append(note(f"{opened.run.label}: {needed}{left_out}"))
        if has_few.all():
            continue
        for name in opened.matchers:
            own, others = _own_and_others(opened, name)
            rows.append((opened.run.label, name, own.mean, own.within, own.pooled, others.within, others.pooled))
            if name != next(iter(opened.matchers)):
                continue
            values = {
                "own captions": own.all.numpy(),
                "captions of any image": others.all.numpy(),
            }
            points = shares(values, 0.0, min(180.0, 10.0 * np.ceil(max(v.max() for v in values.values()) / 10)))
            charts.append(
                figure(
                    overlaid(points, {"own captions": MATCHED, "captions of any image": NEUTRAL}, "angle in degrees"),
                    title=f"Angles between drifts, {opened.run.label}, network {name}",
                    text=f"Own captions: mean {own.mean:.1f} degrees, dispersion {own.within:.2f}; "
                    f"captions of any image: mean {others.mean:.1f}, dispersion {others.within:.2f}.",
                    data=(("angle from", *values), wide(points, list(values))),
                    height=170,
                )
            )
    if rows:
        columns = (
            "run",
            "network",
            "mean angle",
            "dispersion",
            "pooled",
            "dispersion, any captions",
            "pooled, any captions",
        )
        published = [(name, "", None, value, None, None, None) for name, value in PUBLISHED]
        notes.append(table(columns, [*rows, *published], caption="Dispersion on the test split, degrees", digits=2))
        notes.append(
            "Dispersion: standard deviation of the angles within an image, averaged over the images; pooled: of all "
            "images' angles together (which of the two is published is not said). Any captions: the same pictures with "
            "captions drawn from all."
        )
    return [*notes, grid(charts)] if charts else notes
