"""What a search found, for the terminal and as a page.

Legend: Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from runtime.log import table
from tools.pages.page import Cell, Page, Piece, grid, note
from tools.pages.page import table as html_table
from tools.pages.pictures import Thumbnails
from tools.picture_files import Pictures
from tools.search.retrieval import Found

WIDTH = 72
"""Captions of the terminal's table are cut to so many characters."""

SHOWN_CAPTIONS = 2
"""So many captions of an image tell what it is."""


@dataclass(frozen=True)
class Gallery:
    """What is searched, as people see it.

    Attributes:
        name: of the data set and split.
        captions: all of them.
        image_of_caption: (captions,) the image each was written for.
        pictures: of the images, None if there are none.
    """

    name: str
    captions: list[str]
    image_of_caption: np.ndarray
    pictures: Pictures | None

    def image_name(self, number: int) -> str:
        """Return the name of an image's own file, or its number."""
        paths = None if self.pictures is None else self.pictures.paths
        return str(number) if paths is None else f"{number} {paths[number].name}"

    def of_image(self, number: int) -> list[str]:
        """Return an image's captions."""
        return [self.captions[k] for k in np.flatnonzero(self.image_of_caption == number).tolist()]


@dataclass(frozen=True)
class Result:
    """A query and what was found for it, the best first.

    Attributes:
        query: in words.
        remark: what is to be said of the query, or "".
        image: number of the image that is asked with, None for a query in words.
        numbers: of images, or of captions for an image.
        scores: theirs.
    """

    query: str
    remark: str
    image: int | None
    numbers: list[int]
    scores: list[float]


def results_of(queries: list[str], remarks: list[str], found: Found, image: int | None = None) -> list[Result]:
    """Return a result a query."""
    results = []
    for query, remark, numbers, scores in zip(queries, remarks, found.numbers, found.scores, strict=True):
        kept = numbers >= 0
        results.append(Result(query, remark, image, numbers[kept].tolist(), scores[kept].tolist()))
    return results


def _cut(text: str) -> str:
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def image_table(result: Result, gallery: Gallery) -> str:
    """Return the images found for a query in words, as text."""
    rows: list[list[Any]] = []
    for rank, (number, score) in enumerate(zip(result.numbers, result.scores, strict=True), start=1):
        told = "; ".join(gallery.of_image(number)[:SHOWN_CAPTIONS])
        rows.append([str(rank), f"{score:.4f}", gallery.image_name(number), _cut(told)])
    return _left(["rank", "score", "image", "its captions"], rows)


def caption_table(result: Result, gallery: Gallery) -> str:
    """Return the captions found for an image, as text."""
    rows: list[list[Any]] = []
    for rank, (number, score) in enumerate(zip(result.numbers, result.scores, strict=True), start=1):
        own = int(gallery.image_of_caption[number])
        mark = " (its own)" if own == result.image else ""
        rows.append([str(rank), f"{score:.4f}", f"{gallery.image_name(own)}{mark}", _cut(gallery.captions[number])])
    return _left(["rank", "score", "of image", "caption"], rows)


def _left(header: list[str], rows: list[list[Any]]) -> str:
    """Return a table whose last column, text, stands to the left: padded, since tables put all but the first right."""
    width = max(len(row[-1]) for row in [header, *rows])
    return table(header[:-1] + [header[-1].ljust(width)], [row[:-1] + [row[-1].ljust(width)] for row in rows])


def text_of(result: Result, gallery: Gallery, *, is_image: bool) -> str:
    """Return a query, what is to be said of it, and its table."""
    lines = [result.query, *([result.remark] if result.remark else [])]
    lines.append(caption_table(result, gallery) if is_image else image_table(result, gallery))
    return "\n".join(line.rstrip() for part in lines for line in part.split("\n"))


def result_page(results: list[Result], gallery: Gallery, *, judged_by: str, how: str, is_image: bool) -> Page:
    """Return the page: a section a query, pictures where there are some, and how it was found."""
    thumbnails = None if gallery.pictures is None else Thumbnails(gallery.pictures, 160)
    page = Page(f"Search in {gallery.name}", lead=f"Scores are those of {judged_by}.")
    if thumbnails is None:
        page.section("Pictures", note("This gallery has no pictures; images are shown by their numbers."))
    for result in results:
        pieces: list[Piece] = [note(result.remark)] if result.remark else []
        if is_image:
            if result.image is not None and thumbnails is not None:
                pieces.append(Markup("<p>{}</p>").format(thumbnails.image(result.image, result.query)))
            pieces.append(_caption_rows(result, gallery, thumbnails))
        else:
            pieces.append(
                grid((_card(result, k, gallery, thumbnails) for k in range(len(result.numbers))), narrow=True)
            )
        page.section(result.query, *pieces)
    page.section("How this was found", how)
    return page


def _card(result: Result, place: int, gallery: Gallery, thumbnails: Thumbnails | None) -> Markup:
    number, told = result.numbers[place], "; ".join(gallery.of_image(result.numbers[place])[:SHOWN_CAPTIONS])
    picture = Markup("") if thumbnails is None else thumbnails.image(number, told)
    return Markup("<p>{}<br><strong>{}.</strong> {:.4f} <small>image {}</small><br>{}</p>").format(
        picture, place + 1, result.scores[place], gallery.image_name(number), told
    )


def _caption_rows(result: Result, gallery: Gallery, thumbnails: Thumbnails | None) -> Markup:
    rows: list[list[Cell]] = []
    for rank, (number, score) in enumerate(zip(result.numbers, result.scores, strict=True), start=1):
        own = int(gallery.image_of_caption[number])
        picture = gallery.image_name(own) if thumbnails is None else thumbnails.image(own, f"image {own}")
        mark = Markup(" <strong>(its own)</strong>") if own == result.image else Markup("")
        rows.append([rank, f"{score:.4f}", Markup("{}{}").format(gallery.captions[number], mark), picture])
    return html_table(("rank", "score", "caption", "the image it was written for"), rows, caption="Captions found")
