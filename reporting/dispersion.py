"""Drift dispersion: how alike the drifts of one image's captions are (SAD, MGCS, AAAI 2026, Table 1).

The drift of a pair is f - g, its pooled image vector minus its pooled caption vector. Dispersion: standard deviation,
in degrees, of the angles between the drifts of the captions of one image.
Legend: I images, K captions an image, D embed size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_utils.precomputed import PrecomputedSplit
from models.gallery import evaluating
from models.matcher import Matcher
from pages.figures import MATCHED, NEUTRAL, figure
from pages.table import table
from pages.text import Piece, grid, note
from reporting.histograms import overlaid, shares, wide
from reporting.opened import Opened

PUBLISHED = (("Flickr30K, as published", 6.91), ("MS-COCO, as published", 6.13), ("uniform angles", 51.96))
BLOCK = 256


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
        angles: (I, K (K - 1) / 2) degrees.
    """

    angles: Tensor

    @property
    def within(self) -> float:
        """The standard deviation within an image, averaged over the images (*reading* of Table 1)."""
        return float(self.angles.std(dim=1, correction=0).mean())

    @property
    def pooled(self) -> float:
        """The standard deviation of all images' angles together (the other reading)."""
        return float(self.angles.std(correction=0))

    @property
    def mean(self) -> float:
        """The mean angle."""
        return float(self.angles.mean())


@torch.no_grad()
def drifts_of_split(matcher: Matcher, split: PrecomputedSplit, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return f (I, D) of a split's images and g (I, K, D) of their own captions."""
    images, captions = [], []
    with evaluating(matcher):
        for start in range(0, split.num_images, BLOCK):
            numbers = np.arange(start, min(start + BLOCK, split.num_images))
            images.append(matcher.image_means(split.read_images(numbers).to(device)).cpu())
            per = split.captions_per_image
            tokens, lengths = split.tokens((numbers[:, None] * per + np.arange(per)).ravel())
            captions.append(matcher.caption_means(tokens.to(device), lengths).cpu().view(len(numbers), per, -1))
    return torch.cat(images), torch.cat(captions)


def _own_and_others(opened: Opened, name: str) -> tuple[Dispersion, Dispersion]:
    """Return the dispersion of the test images' own captions, and of captions drawn from all."""
    image, caption = drifts_of_split(opened.matchers[name], opened.data.test, opened.sources.device)
    drawn = torch.from_numpy(np.random.RandomState(0).permutation(caption.shape[0] * caption.shape[1]))
    others = caption.flatten(0, 1)[drawn].view_as(caption)
    own, mixed = (pairwise_angles(image[:, None] - g) for g in (caption, others))
    return Dispersion(own), Dispersion(mixed)


def dispersion_part(all_opened: list[Opened]) -> list[Piece]:
    """Return the table of dispersions and the histograms of the angles, of the test images."""
    charts, rows = [], []
    notes: list[Piece] = []
    for opened in all_opened:
        if opened.data.test.captions_per_image < 3:
            notes.append(note(f"{opened.run.label}: an image needs three captions or more for angles to spread."))
            continue
        for name in opened.matchers:
            own, others = _own_and_others(opened, name)
            rows.append((opened.run.label, name, own.mean, own.within, own.pooled, others.within, others.pooled))
            if name != next(iter(opened.matchers)):
                continue
            values = {
                "own captions": own.angles.flatten().numpy(),
                "captions of any image": others.angles.flatten().numpy(),
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
