"""Rank a CLIP folder's retrieval on a split: the whole of it, and in folds where it is larger than one.

    python -m tools.clip_tuning.evaluate --clip output/RUN/model --split test
    python -m tools.clip_tuning.evaluate --clip DIR --test_pairs test.json

Which protocol this is follows from the pairs: 1,000 images with 5 captions each (Flickr30K), with one each (CC152K), or
5,000 x 5 (MS-COCO), whole and as the mean of five folds of 1,000 images. Legend: I pictures, C captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation import result_table
from models.ranks import Retrieval, folds_of, mean_retrieval, retrieval
from runtime.checkpoint import write_json
from runtime.device import choose_device
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_choices, check_range, flag, from_namespace, require
from tools.clip_tuning.embedding import PreparedPairs, embed
from tools.clip_tuning.model import Clip, load_clip, placed
from tools.clip_tuning.pairs import SPLITS, PairsConfig, open_pairs


@dataclass(frozen=True)
class ClipEvaluationConfig:
    """Flags of the evaluation."""

    clip: str | None = flag(None, "CLIP folder to evaluate, e.g. the model folder of a run (required)", metavar="DIR")
    precision: str = flag("fp32", "bf16: the towers compute in bfloat16 (autocast)", choices=("fp32", "bf16"))
    split: str = flag("test", "split to evaluate", choices=SPLITS)
    fold_images: int = flag(1000, "a split of more images is also ranked in folds of so many")
    output: str | None = flag(None, "write the results to this JSON file", metavar="FILE")
    gpu: str = flag("0", "GPU index, or cpu; without CUDA the CPU is used")
    workers: int = flag(0, "threads that decode pictures ahead (0: none)")

    def __post_init__(self) -> None:
        require(self, "clip", "give a folder with config.json and model.safetensors")
        check_choices(self)
        check_range(self, "fold_images", low=1)
        check_range(self, "workers", low=0)
        if self.output is not None and (Path(self.output).is_dir() or not Path(self.output).resolve().parent.is_dir()):
            raise InputError(f"{self.output} cannot be written: it is a folder, or its folder does not exist")


@dataclass(frozen=True)
class Ranked:
    """Retrieval on a split, and the mean over its folds if it has several."""

    whole: Retrieval
    folds: Retrieval | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers by name, for JSON."""
        return self.whole.as_dict() | ({} if self.folds is None else {"folds": self.folds.as_dict()})


def rank(model: Clip, data: PreparedPairs, fold_images: int) -> Ranked:
    """Embed a split and rank it both ways.

    Args:
        model: on its device.
        data: the split; captions belong to the pictures that they were written for.
        fold_images: images of a fold.
    """
    embeddings = embed(model, data)
    sims = (embeddings.pictures @ embeddings.captions.T).numpy()
    image_of_caption = data.pairs.image_of_caption
    folds = None
    if data.pairs.num_images > fold_images:
        folds = mean_retrieval(folds_of(sims, image_of_caption, fold_images))
    return Ranked(retrieval(sims, image_of_caption), folds)


def ranked_tables(title: str, rows: dict[str, Ranked], fold_images: int) -> str:
    """Return the table of recalls, and below it that of the folds' means where there are folds."""
    parts = [result_table(title, {name: row.whole for name, row in rows.items()})]
    folds = {name: row.folds for name, row in rows.items() if row.folds is not None}
    if folds:
        parts.append(result_table(f"{fold_images}-image\nfolds, mean", folds))
    return "\n".join(parts)


def evaluate(config: ClipEvaluationConfig, pairs_config: PairsConfig) -> dict[str, Any]:
    """Evaluate as the flags say, print the tables, write what was asked for; return the results."""
    assert config.clip is not None
    pairs = open_pairs(pairs_config, config.split)
    model = placed(load_clip(Path(config.clip), config.precision), choose_device(config.gpu))
    data = PreparedPairs.of(pairs, model, cache_bytes=0, workers=config.workers)
    ranked = rank(model, data, config.fold_images)
    print(f"{pairs.name}, {pairs.num_images} images x {len(pairs.captions)} captions; {config.clip}")
    print(ranked_tables(config.split, {"clip": ranked}, config.fold_images))
    record = {
        "clip": config.clip,
        "pairs": pairs.name,
        "split": config.split,
        "images": pairs.num_images,
        "captions": len(pairs.captions),
        "precision": config.precision,
        "results": ranked.as_dict(),
    }
    if config.output is not None:
        write_json(Path(config.output), record)
    return record


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags and evaluate."""
    parser = OneLineParser(
        prog="python -m tools.clip_tuning.evaluate", description="Evaluate a CLIP folder's retrieval."
    )
    add_flags(parser, "evaluation", ClipEvaluationConfig)
    add_flags(parser, "pairs", PairsConfig)
    namespace = parser.parse_args(argv)
    evaluate(from_namespace(ClipEvaluationConfig, namespace), from_namespace(PairsConfig, namespace))


if __name__ == "__main__":
    main()
