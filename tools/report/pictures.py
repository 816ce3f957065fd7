"""Sections with pictures: what the networks retrieve, where words look, which training pairs are doubted and trusted.

The same queries for every run of a data set, drawn with a fixed seed: they are neither the best nor the worst ones.
Attention needs regions that are cells of a grid, row by row (SGR, SAF, SCAN).
Legend: Q queries, I images, C captions, N training pairs, R regions, W words, D embed size, G x G cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from markupsafe import Markup
from torch import Tensor

from models.attention import EPSILON, SOFTMAX_FACTOR, TINY
from models.matcher import evaluating
from models.scan import SOFTMAX_FACTORS
from tools.pages.page import Piece, badge, grid, heading, note, tick
from tools.pages.pictures import Thumbnails, card
from tools.picture_files import THUMBNAILS
from tools.report.division import missing_divisions
from tools.report.runs import OpenedRun

TOP = 5
SEED = 7


@dataclass(frozen=True)
class Ranking:
    """The best candidates of some queries.

    Attributes:
        best: (Q, TOP) numbers of candidates, the best first.
        scores: (Q, TOP).
        first_right: (Q,) the place of the first right candidate among all, 1 for the top.
    """

    best: np.ndarray
    scores: np.ndarray
    first_right: np.ndarray


def draw(num_images: int, image_of_caption: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers of query images and of query captions, of different images where there are enough."""
    random = np.random.RandomState(SEED)
    images = random.permutation(num_images)
    chosen = np.sort(images[:count])
    others = images[count : 2 * count] if num_images >= 2 * count else images[:count]
    captions = [int(random.choice(np.flatnonzero(image_of_caption == image))) for image in np.sort(others).tolist()]
    return chosen, np.array(captions)


def rank(scores: np.ndarray, is_right: np.ndarray) -> Ranking:
    """Rank candidates.

    Args:
        scores: (Q, n).
        is_right: (Q, n) bool, at least one a query.
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    best = order[:, :TOP]
    first = np.take_along_axis(is_right, order, axis=1).argmax(axis=1) + 1
    return Ranking(best, np.take_along_axis(scores, best, axis=1), first)


@torch.no_grad()
def query_scores(opened: OpenedRun, images: np.ndarray, captions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the networks' mean scores: query images with all captions (Q, C), query captions with images (Q, I)."""
    split = opened.data.test
    i2t, t2i = np.zeros((len(images), len(split))), np.zeros((len(captions), split.num_images))
    for name, matcher in opened.matchers.items():
        gallery = opened.galleries[name]
        with evaluating(matcher):
            asked = gallery.images[torch.from_numpy(images).to(opened.device)]
            for block, columns in zip(gallery.blocks, gallery.columns, strict=True):
                i2t[:, columns.numpy()] += matcher.similarity(asked, block).cpu().numpy()
            tokens, lengths = split.tokens(captions)
            side = matcher.encode_captions(tokens.to(opened.device), lengths)
            t2i += matcher.similarity(gallery.images, side).cpu().numpy().T
    return i2t / len(opened.matchers), t2i / len(opened.matchers)


def _place(first_right: int) -> str:
    return "right at once" if first_right == 1 else f"first right one at place {first_right:,}"


def _captions_found(ranking: Ranking, k: int, captions: list[str], own: set[int], label: str) -> Markup:
    items = Markup("").join(
        Markup("<li>{} {} <span class='soft'>{:.3f}</span></li>").format(tick(int(n) in own), captions[n], float(score))
        for n, score in zip(ranking.best[k], ranking.scores[k], strict=True)
    )
    return Markup("<h5>{}</h5><p class='soft'>{}</p><ol class='found'>{}</ol>").format(
        label, _place(int(ranking.first_right[k])), items
    )


def _pictures_found(ranking: Ranking, k: int, thumbs: Thumbnails, own: int, label: str) -> Markup:
    items = Markup("").join(
        Markup("<li>{}{}<span class='soft'>{:.3f}</span></li>").format(
            thumbs.image(int(n), f"picture {n}"), tick(int(n) == own), float(score)
        )
        for n, score in zip(ranking.best[k], ranking.scores[k], strict=True)
    )
    return Markup("<h5>{}</h5><p class='soft'>{}</p><ol class='strip'>{}</ol>").format(
        label, _place(int(ranking.first_right[k])), items
    )


def retrieval_section(all_opened: list[OpenedRun], count: int) -> list[Piece]:
    """Return both directions, for the runs of every data set that has pictures."""
    pieces: list[Piece] = []
    by_data: dict[tuple[str, str], list[OpenedRun]] = {}
    for opened in all_opened:
        by_data.setdefault((opened.run.data_name, str(opened.folder.resolve())), []).append(opened)
    for (data_name, _), group in by_data.items():
        thumbs = group[0].thumbnails("test")
        if thumbs is None:
            pieces.append(note(f"{data_name} has no pictures, or none are wanted."))
            continue
        pieces += _of_data_set(data_name, group, thumbs, count)
    return pieces


def _of_data_set(data_name: str, group: list[OpenedRun], thumbs: Thumbnails, count: int) -> list[Piece]:
    split, captions = group[0].data.test, group[0].captions("test")
    images, asked = draw(split.num_images, split.image_of_caption, min(count, split.num_images))
    by_image = {int(i): set(np.flatnonzero(split.image_of_caption == i).tolist()) for i in images}
    i2t, t2i = {}, {}
    for opened in group:
        to_text, to_image = query_scores(opened, images, asked)
        i2t[opened.run.label] = rank(to_text, split.image_of_caption[None, :] == images[:, None])
        t2i[opened.run.label] = rank(to_image, np.arange(split.num_images) == split.image_of_caption[asked][:, None])
    text = [
        card(
            thumbs.image(int(image), f"query picture {image}"),
            Markup("<h4>Test picture {}</h4>").format(int(image)),
            *(_captions_found(found, k, captions, by_image[int(image)], label) for label, found in i2t.items()),
        )
        for k, image in enumerate(images)
    ]
    pictures = [
        Markup("<div class='card'><h4>“{}”</h4>{}</div>").format(
            captions[caption],
            Markup("").join(
                _pictures_found(found, k, thumbs, int(split.image_of_caption[caption]), label)
                for label, found in t2i.items()
            ),
        )
        for k, caption in enumerate(asked.tolist())
    ]
    return [
        heading(f"Captions for pictures, {data_name}"),
        f"The {TOP} best of {len(captions):,} test captions for {len(images)} pictures drawn at random, with the mean "
        "of the networks' scores. ✓: the caption is the picture's own; ✗: it is another's, though it may well fit.",
        grid(text),
        heading(f"Pictures for captions, {data_name}"),
        f"The {TOP} best of {split.num_images:,} test pictures for {len(asked)} captions drawn at random.",
        grid(pictures),
    ]


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
    if opened.config.grid is not None:
        if opened.config.grid**2 != regions:
            return None
        return opened.config.grid
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
    split, device = opened.data.test, opened.device
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


def mean_over_networks(opened: OpenedRun) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean clean probability (N,) and the mean rank of the signal (N,), low for clean pairs."""
    divisions = opened.run.last_divisions()
    ranks = [np.argsort(np.argsort(d.signal, kind="stable"), kind="stable") for d in divisions]
    return np.mean([d.probability for d in divisions], axis=0), np.mean(ranks, axis=0)


def extremes(
    probability: np.ndarray, signal_rank: np.ndarray, count: int, among: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return the numbers of the `count` least and most probable pairs (`among` those of a mask); ties by the signal."""
    order = np.lexsort((-signal_rank, probability))
    if among is not None:
        order = order[among[order]]
    return {"doubted": order[:count], "trusted": order[::-1][:count]}


def _cards(
    opened: OpenedRun, pairs: np.ndarray, probability: np.ndarray, captions: list[str], thumbs: Thumbnails
) -> Markup:
    train, cards = opened.data.train, []
    for pair in pairs.tolist():
        image = int(train.image_of_pair[pair])
        truth = Markup("")
        if opened.data.truth_is_known:
            truth = badge("matched", "right") if train.is_matched[pair] else badge("mismatched", "wrong")
        text = Markup("<p>“{}”</p><p class='soft'>pair {:,}, picture {:,}, clean {:.3f} {}</p>")
        cards.append(
            card(
                thumbs.image(image, f"training picture {image}"),
                text.format(captions[pair], pair, image, float(probability[pair]), truth),
            )
        )
    return grid(cards, narrow=True)


def pairs_section(all_opened: list[OpenedRun], count: int) -> list[Piece]:
    """Return, for every run, doubted and trusted pairs and, where the truth is known, the worst mistakes."""
    pieces: list[Piece] = []
    for opened in all_opened:
        run, train = opened.run, opened.data.train
        if not run.divisions:
            pieces.append(note(missing_divisions(run)))
            continue
        thumbs = opened.thumbnails("train")
        if thumbs is None:
            pieces.append(note(f"{run.label}: {run.data_name} has no pictures, or none are wanted."))
            continue
        probability, ranks = mean_over_networks(opened)
        if len(probability) != len(train):
            pieces.append(
                note(f"{run.label}: its division has {len(probability):,} pairs, the data have {len(train):,}.")
            )
            continue
        captions = opened.captions("train")
        kinds: list[tuple[str, np.ndarray]] = []
        found = extremes(probability, ranks, count)
        kinds = [("Most suspicious", found["doubted"]), ("Most confidently kept", found["trusted"])]
        if opened.data.truth_is_known and not train.is_matched.all():
            wrong = extremes(probability, ranks, count, ~train.is_matched)["trusted"]
            lost = extremes(probability, ranks, count, train.is_matched)["doubted"]
            kinds += [("Mismatched, and trusted most", wrong), ("Matched, and doubted most", lost)]
        pieces.append(heading(run.label))
        for title, pairs in kinds:
            pieces += [heading(title, 4), _cards(opened, pairs, probability, captions, thumbs)]
    return pieces
