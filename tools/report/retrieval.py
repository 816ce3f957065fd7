"""Section: what the networks retrieve: the best captions of some test pictures and the reverse, right and wrong marked.

The same queries for every run of a data set, drawn with a fixed seed: they are neither the best nor the worst ones.
Legend: Q queries, I images, C captions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from markupsafe import Markup

from models.encoded_split import evaluating
from tools.pages.pictures import Thumbnails, card
from tools.pages.text import Piece, grid, heading, note, tick
from tools.report.opened import OpenedRun

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
            asked = gallery.images[torch.from_numpy(images).to(opened.sources.device)]
            for block, columns in zip(gallery.blocks, gallery.columns, strict=True):
                i2t[:, columns.numpy()] += matcher.similarity(asked, block).cpu().numpy()
            tokens, lengths = split.tokens(captions)
            side = matcher.encode_captions(tokens.to(opened.sources.device), lengths)
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
