"""Evaluate a trained matcher: recalls at 1, 5 and 10, median and mean rank, both directions, and their sum.

    python evaluation.py --mode_path output/RUN/checkpoint_dev_best.pth.tar

Rows of every similarity matrix are images, columns captions. Which image a caption belongs to is data
(`image_of_caption`), never a number of captions an image.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_utils.catalog import DataConfig, locate, protocol, vocabulary_file
from data_utils.precomputed import PrecomputedSplit
from models.matcher import Matcher, MatcherConfig, MatcherShape, build_matcher
from models.similarity import ImageSide
from runtime.checkpoint import load_checkpoint, write_atomically, write_json
from runtime.device import choose_device
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser, add_flags, flag, from_namespace
from runtime.log import table
from vocab.vocabulary import Vocabulary

IMAGE_BLOCK = 256
CAPTION_BLOCK = 512
"""So many images or captions are encoded at a time; only encoded images are kept."""

RECALLS = (1, 5, 10)


@dataclass(frozen=True)
class Ranks:
    """Recalls in percent and rank statistics (1 is best) of one direction."""

    recall: dict[int, float]
    median_rank: float
    mean_rank: float

    @classmethod
    def of(cls, positions: np.ndarray) -> Ranks:
        """Summarise positions (n,), 0 for a hit at the top. The median is rounded down, as in the lineage."""
        return cls(
            recall={k: 100.0 * float((positions < k).mean()) for k in RECALLS},
            median_rank=float(np.floor(np.median(positions)) + 1),
            mean_rank=float(positions.mean() + 1),
        )


@dataclass(frozen=True)
class Retrieval:
    """Image-to-text and text-to-image ranks of one similarity matrix."""

    i2t: Ranks
    t2i: Ranks

    @property
    def r_sum(self) -> float:
        """Sum of the six recalls."""
        return sum(self.i2t.recall.values()) + sum(self.t2i.recall.values())

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers by name, for JSON."""
        content: dict[str, Any] = {}
        for name, ranks in (("i2t", self.i2t), ("t2i", self.t2i)):
            content[name] = {f"R@{k}": ranks.recall[k] for k in RECALLS}
            content[name] |= {"median_rank": ranks.median_rank, "mean_rank": ranks.mean_rank}
        return content | {"rSum": self.r_sum}


def i2t_positions(sims: np.ndarray, image_of_caption: np.ndarray) -> np.ndarray:
    """Return (images,): how many captions of other images score at least as high as the image's best own caption.

    Ties count against the model, so that a collapsed one scores what it deserves.
    """
    positions = np.empty(len(sims), dtype=np.int64)
    for image, row in enumerate(sims):
        is_own = image_of_caption == image
        positions[image] = (row[~is_own] >= row[is_own].max()).sum()
    return positions


def t2i_positions(sims: np.ndarray, image_of_caption: np.ndarray) -> np.ndarray:
    """Return (captions,): how many other images score at least as high as the caption's own; ties count against it."""
    own = sims[image_of_caption, np.arange(sims.shape[1])]
    return (sims >= own).sum(axis=0) - 1


def retrieval(sims: np.ndarray, image_of_caption: np.ndarray) -> Retrieval:
    """Rank both ways.

    Args:
        sims: (images, captions) finite scores.
        image_of_caption: (captions,) the row each caption belongs to; every image needs a caption.

    Example:
        4 images x 8 captions with `image_of_caption = [0, 0, 1, 1, 2, 2, 3, 3]`: image 1 is found by its better caption
        of columns 2 and 3; caption 5 is found by the place of row 2 in its column.

    Raises:
        ValueError: a score is not finite, or shapes disagree.
    """
    if sims.ndim != 2 or sims.shape[1] != len(image_of_caption):
        raise ValueError(f"sims {sims.shape} do not fit {len(image_of_caption)} captions")
    if not np.isfinite(sims).all():
        raise ValueError("similarities hold NaN or infinity; they cannot be ranked")
    return Retrieval(
        i2t=Ranks.of(i2t_positions(sims, image_of_caption)),
        t2i=Ranks.of(t2i_positions(sims, image_of_caption)),
    )


def mean_retrieval(parts: Sequence[Retrieval]) -> Retrieval:
    """Average every number over folds."""

    def average(ranks: Sequence[Ranks]) -> Ranks:
        return Ranks(
            recall={k: float(np.mean([r.recall[k] for r in ranks])) for k in RECALLS},
            median_rank=float(np.mean([r.median_rank for r in ranks])),
            mean_rank=float(np.mean([r.mean_rank for r in ranks])),
        )

    return Retrieval(average([p.i2t for p in parts]), average([p.t2i for p in parts]))


def folds_of(sims: np.ndarray, image_of_caption: np.ndarray, fold_images: int) -> list[Retrieval]:
    """Rank within consecutive folds of `fold_images` images and their captions (COCO's 1K protocol)."""
    results = []
    for start in range(0, len(sims), fold_images):
        is_in = (image_of_caption >= start) & (image_of_caption < start + fold_images)
        results.append(retrieval(sims[start : start + fold_images, is_in], image_of_caption[is_in] - start))
    return results


@torch.no_grad()
def similarities(matcher: Matcher, split: PrecomputedSplit, device: torch.device) -> np.ndarray:
    """Return (images, captions) float32 scores of a whole split; the matcher's train mode is restored.

    Every image is encoded once and kept; captions pass in blocks of similar length.
    """
    was_training = matcher.training
    matcher.eval()
    blocks = np.array_split(np.arange(split.num_images), max(1, -(-split.num_images // IMAGE_BLOCK)))
    parts = [matcher.encode_images(split.read_images(block).to(device)) for block in blocks]
    images = ImageSide(torch.cat([p.regions for p in parts]), torch.cat([p.pooled for p in parts]))
    sims = np.empty((split.num_images, len(split)), dtype=np.float32)
    by_length = np.argsort(split.lengths, kind="stable")
    for start in range(0, len(by_length), CAPTION_BLOCK):
        chosen = by_length[start : start + CAPTION_BLOCK]
        tokens, lengths = split.tokens(chosen)
        captions = matcher.encode_captions(tokens.to(device), lengths)
        sims[:, chosen] = matcher.similarity(images, captions).cpu().numpy()
    matcher.train(was_training)
    return sims


def named_similarities(
    matchers: Sequence[Matcher], split: PrecomputedSplit, device: torch.device
) -> dict[str, np.ndarray]:
    """Return the scores of each network (`A`, `B`, ...) and, of several, their `mean`."""
    sims = {chr(ord("A") + k): similarities(matcher, split, device) for k, matcher in enumerate(matchers)}
    return with_mean(sims)


def with_mean(sims: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add the mean of several score matrices under `mean`."""
    if len(sims) == 1:
        return sims
    return {**sims, "mean": np.stack(list(sims.values())).mean(axis=0, dtype=np.float32)}


def result_table(title: str, results: dict[str, Retrieval]) -> str:
    """Return the table of recalls, one row a network and one for their mean."""
    header = [title, *(f"{d} R@{k}" for d in ("i2t", "t2i") for k in RECALLS), "i2t med", "t2i med", "rSum"]
    rows = [
        [
            name,
            *(r.i2t.recall[k] for k in RECALLS),
            *(r.t2i.recall[k] for k in RECALLS),
            int(r.i2t.median_rank),
            int(r.t2i.median_rank),
            r.r_sum,
        ]
        for name, r in results.items()
    ]
    return table(header, rows)


@dataclass(frozen=True)
class EvaluationConfig:
    """Flags of evaluation.py."""

    mode_path: str | None = flag(None, "checkpoint to evaluate (required)")
    mode_path1: str | None = flag(None, "second checkpoint; the scores of both are averaged (SGR + SAF = SGRAF)")
    data_name: str | None = flag(None, "data set (default: the one the checkpoint was trained on)")
    data_path: str | None = flag(None, "folder that holds the data set's folder (default: as in training)")
    vocab_path: str | None = flag(None, "folder that holds the vocabulary (default: as in training)")
    split: str = flag("test", "split to evaluate: test, dev, testall (as folds too), ...")
    output: str | None = flag(None, "write the results to this JSON file")
    save_sims: str | None = flag(None, "write the score matrices (images x captions, float32) to this .npz file")
    gpu: str = flag("0", "GPU index, or cpu; without CUDA the CPU is used")

    def __post_init__(self) -> None:
        if self.mode_path is None:
            raise InputError("--mode_path is missing; give a checkpoint that run.py wrote")


def restore(checkpoint: dict[str, Any], path: str) -> list[Matcher]:
    """Build a checkpoint's networks with their weights.

    Raises:
        InputError: the weights do not fit the dimensions that the checkpoint itself states.
    """
    try:
        config = MatcherConfig(**checkpoint["config"]["matcher"])
        shape = MatcherShape(**checkpoint["config"]["shape"])
        matchers = [build_matcher(config, shape) for _ in checkpoint["networks"]]
        for matcher, weights in zip(matchers, checkpoint["networks"], strict=True):
            matcher.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{path} is damaged: its weights do not fit its own dimensions ({str(error)[:160]})") from None
    return matchers


def open_split(data: DataConfig, split: str, checkpoint: dict[str, Any], path: str) -> PrecomputedSplit:
    """Open a split for a checkpoint, with the vocabulary it was trained with.

    Raises:
        InputError: another vocabulary, or features of other dimensions.
    """
    vocabulary = Vocabulary.load(vocabulary_file(data))
    if vocabulary.digest() != checkpoint["vocabulary_digest"]:
        raise InputError(
            f"{vocabulary_file(data)} is not the vocabulary that {path} was trained with; set --vocab_path to that one"
        )
    opened = PrecomputedSplit(
        locate(data), split, vocabulary, protocol(data.data_name).dev_images if split == "dev" else None
    )
    expected = (checkpoint["config"]["shape"]["num_regions"], checkpoint["config"]["shape"]["region_dim"])
    if opened.region_shape != expected:
        raise InputError(
            f"{path} was trained on {expected[0]} regions x {expected[1]} dimensions; {opened.regions.path} has "
            f"{opened.region_shape[0]} x {opened.region_shape[1]}"
        )
    return opened


def evaluate_checkpoints(config: EvaluationConfig) -> dict[str, np.ndarray] | None:
    """Evaluate one or two checkpoints as the flags say, print the tables, write what was asked for."""
    paths = [p for p in (config.mode_path, config.mode_path1) if p is not None]
    for target in (config.output, config.save_sims):
        if target is not None and (Path(target).is_dir() or not Path(target).resolve().parent.is_dir()):
            raise InputError(f"{target} cannot be written: it is a folder, or its folder does not exist")
    device = choose_device(config.gpu)
    sims: dict[str, np.ndarray] = {}
    checkpoints = [load_checkpoint(path) for path in paths]
    split: PrecomputedSplit | None = None
    for number, (path, checkpoint) in enumerate(zip(paths, checkpoints, strict=True)):
        stored = checkpoint["config"]["data"]
        data = DataConfig(
            data_name=config.data_name or stored["data_name"],
            data_path=config.data_path or stored["data_path"],
            vocab_path=config.vocab_path or stored["vocab_path"],
        )
        matchers = restore(checkpoint, path)
        opened = open_split(data, config.split, checkpoint, path)
        if split is not None and (len(opened), opened.num_images) != (len(split), split.num_images):
            raise InputError(
                f"{path} evaluates on another number of pairs than {paths[0]}; name one --data_name for both"
            )
        split = opened
        suffix = "" if number == 0 else str(number)
        for k, matcher in enumerate(matchers):
            sims[f"{chr(ord('A') + k)}{suffix}"] = similarities(matcher.to(device), split, device)
    assert split is not None
    sims = with_mean(sims)
    results = {name: retrieval(matrix, split.image_of_caption) for name, matrix in sims.items()}
    size = f"{split.num_images} images x {len(split)} captions"
    chosen = "chosen on dev" if checkpoints[0].get("chosen_on") == "dev" else "not chosen on dev"
    print(f"{data.data_name} {config.split}, {size}; checkpoint of epoch {checkpoints[0]['epoch']}, {chosen}")
    print(result_table(config.split, results))
    record: dict[str, Any] = {
        "data_name": data.data_name,
        "split": config.split,
        "images": split.num_images,
        "captions": len(split),
        "checkpoints": paths,
        "epochs": [c["epoch"] for c in checkpoints],
        "chosen_on": [c.get("chosen_on") for c in checkpoints],
        "num_networks": len(sims) - ("mean" in sims),
        "noise": [c["config"].get("noise_report") for c in checkpoints],
        "seeds": [c["config"]["training"]["seed"] for c in checkpoints],
        "results": {name: r.as_dict() for name, r in results.items()},
    }
    fold = protocol(data.data_name).fold_images
    if config.split == "testall" and split.num_images > fold:
        folds = {n: mean_retrieval(folds_of(m, split.image_of_caption, fold)) for n, m in sims.items()}
        print(result_table(f"{fold}-image folds, mean", folds))
        record["fold_results"] = {name: r.as_dict() for name, r in folds.items()}
    if config.output is not None:
        write_json(Path(config.output), record)
    if config.save_sims is not None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **sims)  # type: ignore[arg-type]
        write_atomically(Path(config.save_sims), buffer.getvalue())
    return sims


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags and evaluate."""
    parser = OneLineParser(prog="python evaluation.py", description="Evaluate a trained matcher.")
    add_flags(parser, "evaluation", EvaluationConfig)
    evaluate_checkpoints(from_namespace(EvaluationConfig, parser.parse_args(argv)))


if __name__ == "__main__":
    main()
