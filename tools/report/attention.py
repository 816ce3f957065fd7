"""Section: where words look: the weight of every cell of a picture for every word of its caption (SGR, SAF, SCAN).

Needs regions that are cells of a grid, row by row. Legend: R regions, W words, D embed size, G x G cells.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from markupsafe import Markup
from torch import Tensor

from models.attention import EPSILON, SOFTMAX_FACTOR, TINY
from models.encoded_split import evaluating
from models.scan import SOFTMAX_FACTORS
from tools.pages.pictures import Thumbnails, card
from tools.pages.text import Piece, grid, heading, note
from tools.picture_files import THUMBNAILS
from tools.report.opened import OpenedRun
from tools.report.retrieval import draw

REGIONS_ASK = "SCAN_i2t"
ATTENDING = ("SGR", "SAF", "SCAN_t2i", REGIONS_ASK)
FULL = 0.85
"""Opacity of the heaviest cell of a caption."""


def word_weights(regions: Tensor, words: Tensor, factor: float, *, words_ask: bool = True) -> Tensor:
    """Return how much of every region each word sees, (W, R).

    SGR, SAF and SCAN from words to regions: LeakyReLU of the products, l2-norm over the words, softmax of `factor`
    times that over the regions; a word's weights add up to 1. SCAN from regions to words: the same with the roles
    exchanged; a region's weights add up to 1.

    Args:
        regions: (R, D).
        words: (W, D), without padding.
        factor: of the softmax.
        words_ask: False for SCAN from regions to words.
    """
    raised = F.leaky_relu(words @ regions.t(), 0.1)
    over, softmax_over = (0, 1) if words_ask else (1, 0)
    norm = raised.square().sum(dim=over, keepdim=True).clamp(min=TINY).sqrt()
    return torch.softmax(factor * raised / (norm + EPSILON), dim=softmax_over)


def grid_size(opened: OpenedRun) -> int | None:
    """Return how many cells a side the regions' grid has; None if the regions are not known to be one.

    Raises:
        InputError: `--grid` does not fit the number of regions.
    """
    regions = opened.data.shape.num_regions
    if opened.sources.grid is not None:
        if opened.sources.grid**2 != regions:
            return None
        return opened.sources.grid
    side = math.isqrt(regions)
    return side if side * side == regions and (opened.folder / THUMBNAILS).is_file() else None


def _factor(opened: OpenedRun) -> float:
    matcher = opened.run.config["matcher"]
    name = matcher["module_name"]
    if not name.startswith("SCAN"):
        return SOFTMAX_FACTOR
    given = matcher.get("scan_softmax")
    return SOFTMAX_FACTORS[name.removeprefix("SCAN_")] if given is None else given


@torch.no_grad()
def caption_weights(opened: OpenedRun, caption: int) -> tuple[list[str], np.ndarray]:
    """Return the words of a test caption as the network reads them and their weights (W, R), of its first network."""
    split, device = opened.data.test, opened.sources.device
    matcher = next(iter(opened.matchers.values()))
    tokens, lengths = split.tokens(np.array([caption]))
    regions = split.read_images(split.image_of_caption[[caption]]).to(device)
    with evaluating(matcher):
        image, text = matcher.encode_images(regions), matcher.encode_captions(tokens.to(device), lengths)
    words_ask = opened.run.config["matcher"]["module_name"] != REGIONS_ASK
    weights = word_weights(image.regions[0], text.words[0, : int(lengths[0])], _factor(opened), words_ask=words_ask)
    known = opened.data.vocabulary.words
    names = [known[k] for k in tokens[0, : int(lengths[0])].tolist()]
    return names[1:-1], weights[1:-1].cpu().numpy()  # without <start> and <end>, which have weights too


def heat(thumbs: Thumbnails, image: int, word: str, weights: np.ndarray, side: int, most: float) -> Markup:
    """Return a picture with a word's weights (G G,) over it; `most` is the weight that is shown in full."""
    cells = Markup("").join(
        Markup('<rect x="{}" y="{}" width="1" height="1" opacity="{:.2f}"/>').format(
            k % side, k // side, FULL * w / most
        )
        for k, w in enumerate(weights.tolist())
    )
    top = int(weights.argmax())
    alt = f"{word}: most in row {top // side + 1}, column {top % side + 1}, {100 * weights[top]:.0f} percent"
    return Markup(
        "<figure class='heat'><div role='img' aria-label='{}'>{}<svg viewBox='0 0 {} {}' preserveAspectRatio='none' "
        "aria-hidden='true'>{}</svg></div><figcaption>{} <span class='soft'>{:.0f}&nbsp;%</span></figcaption></figure>"
    ).format(alt, thumbs.image(image, ""), side, side, cells, word, 100 * float(weights[top]))


def attention_section(all_opened: list[OpenedRun], count: int) -> list[Piece]:
    """Return some test captions with their pictures, word by word, for the runs whose similarity attends."""
    pieces: list[Piece] = []
    for opened in all_opened:
        label, name = opened.run.label, opened.run.config["matcher"]["module_name"]
        thumbs = opened.thumbnails("test")
        if name not in ATTENDING:
            pieces.append(note(f"{label}: {name} compares pooled vectors; its words attend to no regions."))
            continue
        side = grid_size(opened)
        if thumbs is None or side is None:
            lacking = (
                "pictures" if thumbs is None else f"regions that are a grid ({opened.data.shape.num_regions} of them)"
            )
            pieces.append(
                note(f"{label}: attention is shown on pictures whose regions are cells; {lacking} are lacking.")
            )
            continue
        split, captions = opened.data.test, opened.captions("test")
        _, asked = draw(split.num_images, split.image_of_caption, min(count, split.num_images))
        cards = []
        for caption in asked.tolist():
            image = int(split.image_of_caption[caption])
            words, weights = caption_weights(opened, caption)
            most = max(float(weights.max()), 1e-12)
            heats = Markup("").join(
                heat(thumbs, image, word, row, side, most) for word, row in zip(words, weights, strict=True)
            )
            cards.append(
                card(
                    thumbs.image(image, f"test picture {image}"),
                    Markup("<h4>“{}”</h4><div class='heats'>{}</div>").format(captions[caption], heats),
                )
            )
        told = (
            "the share of each cell's attention that a word gets"
            if name == REGIONS_ASK
            else "a word's attention to each cell"
        )
        pieces += [
            heading(f"{label}, network {next(iter(opened.matchers))}"),
            f"Colour is {told}, on one scale a caption; the number is the heaviest cell's share.",
            grid(cards),
        ]
    return pieces
