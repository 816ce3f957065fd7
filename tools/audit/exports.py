"""An audit for other programs.

cleanlab: `cleanlab_labels.npy` (N,) int64 and `cleanlab_pred_probs.npy` (N, 2) float64, row k is pair k. Class 1 is
"these belong together", which every pair's label claims; column 1 of the probabilities is the clean probability.

    quality = cleanlab.rank.get_label_quality_scores(labels, pred_probs)

(`cleanlab.filter.find_label_issues` wants labels of two classes at least and refuses these; `find_label_issues_batched`
takes them.)

FiftyOne: folder `fiftyone/` in its FiftyOneImageClassificationDataset layout: `labels.json` with `classes` and, by
sample name, `label`, `confidence` and `attributes`; `data.json` names each sample's picture. A sample is a pair.

    fiftyone.Dataset.from_dir("DIR/fiftyone", fiftyone.types.FiftyOneImageClassificationDataset, data_path="data.json")
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tools.audit.columns import Table
from tools.picture_files import Pictures

LABELS, PRED_PROBS = "cleanlab_labels.npy", "cleanlab_pred_probs.npy"
FIFTYONE = "fiftyone"
CLASSES = ("mismatched", "matched")
"""What the numbers of a label mean."""

SUFFIXES = {b"RIFF": ".webp", b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg"}
"""First bytes of a picture's file -> what such a file is called."""


def write_cleanlab(folder: Path, probability: np.ndarray) -> None:
    """Write labels and probabilities.

    Args:
        folder: where to.
        probability: (N,) clean probability.
    """
    probability = np.clip(probability, 0.0, 1.0)
    np.save(folder / LABELS, np.ones(len(probability), dtype=np.int64))
    np.save(folder / PRED_PROBS, np.stack([1 - probability, probability], axis=1))


def _picture_paths(folder: Path, pictures: Pictures, wanted: np.ndarray, place: Path) -> dict[int, str]:
    """Return where each wanted picture is, by its number; those without a file of their own get one in `folder`.

    Args:
        folder: where to write.
        pictures: the data set's.
        wanted: their numbers.
        place: where `folder` will be when all is done.
    """
    if pictures.paths is not None:
        return {number: str(Path(pictures.paths[number]).resolve()) for number in wanted.tolist()}
    folder.mkdir()
    found = {}
    for number in wanted.tolist():
        content = pictures.encoded(number)
        suffix = next((s for start, s in SUFFIXES.items() if content.startswith(start)), ".img")
        (folder / f"{number:07d}{suffix}").write_bytes(content)
        found[number] = str(place / f"{number:07d}{suffix}")
    return found


def write_fiftyone(folder: Path, table: Table, pictures: Pictures, threshold: float, place: Path) -> None:
    """Write the layout's two files and, where pictures have no files of their own, those.

    Args:
        folder: where to write; made.
        table: `tools.audit.columns.audit_table`.
        pictures: of the images.
        threshold: a pair is called matched if its clean probability is above this.
        place: where `folder` will be when all is done; FiftyOne wants absolute paths.
    """
    folder.mkdir()
    images = table.column("image").to_numpy()
    paths = _picture_paths(folder / "pictures", pictures, np.unique(images), place.resolve() / "pictures")
    labels: dict[str, Any] = {}
    data: dict[str, str] = {}
    for batch in table.to_batches(max_chunksize=65536):
        for row in batch.to_pylist():
            name, chance = f"pair_{row['pair']:07d}", row["clean_probability"]
            is_matched = chance > threshold
            labels[name] = {
                "label": int(is_matched),
                "confidence": chance if is_matched else 1 - chance,
                "attributes": {key: value for key, value in row.items() if value is not None},
            }
            data[name] = paths[row["image"]]
    (folder / "labels.json").write_text(json.dumps({"classes": CLASSES, "labels": labels}), encoding="utf-8")
    (folder / "data.json").write_text(json.dumps(data), encoding="utf-8")
