"""Evaluate a trained matcher: recalls at 1, 5 and 10, median and mean rank, both directions, and their sum.

    python evaluation.py --mode_path output/RUN/checkpoint_dev_best.pth.tar

Rows of every similarity matrix are images, columns captions. By default every pair is scored. With `--shortlist K` a
cheap estimate picks the K best captions of every image and the K best images of every caption, and only those are
scored; all others rank behind them.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_utils.catalog import DataConfig, locate, protocol, vocabulary_file
from data_utils.precomputed import PrecomputedSplit
from models.gallery import similarities, similarities_by_name, with_mean
from models.matcher import Matcher
from models.precision import ScoringConfig, prepare_scoring
from models.ranks import RECALLS, Ranks, Retrieval, difference, fold_members, folds_of, mean_retrieval, retrieval
from models.restored import restore
from models.shortlist import shortlisted_similarities
from models.similarity import VSE
from runtime.checkpoint import load_checkpoint, write_atomically, write_json
from runtime.device import choose_device
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_range, flag, from_namespace, require
from runtime.log import table
from vocab.vocabulary import Vocabulary

__all__ = ["Ranks", "restore", "retrieval", "similarities", "with_mean"]
"""What others import from here, though it lives below."""


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
    shortlist: int = flag(0, "score only so many best candidates of each image and caption; 0: every pair")
    shortlist_check: int = flag(1_000_000, "up to so many pairs, score all of them too and tell the recall lost")

    def __post_init__(self) -> None:
        require(self, "mode_path", "give a checkpoint that run.py wrote")
        check_range(self, "shortlist", low=0)
        check_range(self, "shortlist_check", low=0)


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


@dataclass(frozen=True)
class Opened:
    """Networks by name (`A`, `B`, of a second checkpoint `A1`, `B1`) and the split they are evaluated on."""

    matchers: dict[str, Matcher]
    split: PrecomputedSplit
    data_name: str


def open_all(config: EvaluationConfig, paths: list[str], checkpoints: list[dict[str, Any]]) -> Opened:
    """Restore the networks and open the split.

    Raises:
        InputError: checkpoints, data and flags do not fit together.
    """
    matchers: dict[str, Matcher] = {}
    split: PrecomputedSplit | None = None
    for number, (path, checkpoint) in enumerate(zip(paths, checkpoints, strict=True)):
        stored = checkpoint["config"]["data"]
        data = DataConfig(
            data_name=config.data_name or stored["data_name"],
            data_path=config.data_path or stored["data_path"],
            vocab_path=config.vocab_path or stored["vocab_path"],
        )
        matchers |= {f"{chr(ord('A') + k)}{number or ''}": m for k, m in enumerate(restore(checkpoint, path))}
        opened = open_split(data, config.split, checkpoint, path)
        if split is not None and (len(opened), opened.num_images) != (len(split), split.num_images):
            raise InputError(
                f"{path} evaluates on another number of pairs than {paths[0]}; name one --data_name for both"
            )
        split = opened
    assert split is not None
    if config.shortlist > min(split.num_images, len(split)):
        raise InputError(
            f"--shortlist {config.shortlist} is more than there is to choose from: {config.split} has "
            f"{split.num_images} images and {len(split)} captions; lower it, or take 0 to score every pair"
        )
    return Opened(matchers, split, data.data_name)


def ranked(sims: dict[str, np.ndarray], split: PrecomputedSplit) -> dict[str, Retrieval]:
    """Rank every score matrix of a split."""
    return {name: retrieval(matrix, split.image_of_caption) for name, matrix in sims.items()}


def score_shortlist(
    opened: Opened, device: torch.device, config: EvaluationConfig, fold_images: int | None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Score the shortlisted pairs; return the scores and, for the record, what that saved and lost.

    Prints the recall lost against all pairs, or how to find out where that would take long.
    """
    split, started = opened.split, time.perf_counter()
    folds = fold_members(split.image_of_caption, split.num_images, fold_images) if fold_images else ()
    found = shortlisted_similarities(opened.matchers, split, device, size=config.shortlist, folds=folds)
    seconds = time.perf_counter() - started
    record: dict[str, Any] = {"size": config.shortlist, "share_of_pairs": found.share, "seconds": seconds, "lost": None}
    done = f"--shortlist {config.shortlist}: {100 * found.share:.2g} % of the pairs scored, {seconds:.1f} s"
    pairs = split.num_images * len(split)
    if pairs > config.shortlist_check:
        print(f"{done}; the recall lost was not measured: --shortlist_check {pairs} scores all pairs too")
        return found.sims, record
    started = time.perf_counter()
    exact, short = ranked(similarities_by_name(opened.matchers, split, device), split), ranked(found.sims, split)
    record["exact_seconds"] = time.perf_counter() - started
    record["lost"] = {name: difference(exact[name], short[name]) for name in exact}
    lost = ", ".join(f"{name} {exact[name].r_sum - short[name].r_sum:.2f}" for name in exact)
    print(f"{done}; all pairs {record['exact_seconds']:.1f} s; rSum lost: {lost} (below zero: gained)")
    return found.sims, record


def evaluate_checkpoints(config: EvaluationConfig, scoring: ScoringConfig | None = None) -> dict[str, np.ndarray]:
    """Evaluate one or two checkpoints as the flags say, print the tables, write what was asked for."""
    scoring = scoring or ScoringConfig()
    paths = [p for p in (config.mode_path, config.mode_path1) if p is not None]
    for target in (config.output, config.save_sims):
        if target is not None and (Path(target).is_dir() or not Path(target).resolve().parent.is_dir()):
            raise InputError(f"{target} cannot be written: it is a folder, or its folder does not exist")
    device = choose_device(config.gpu)
    checkpoints = [load_checkpoint(path) for path in paths]
    opened = open_all(config, paths, checkpoints)
    split, fold = opened.split, protocol(opened.data_name).fold_images
    for matcher in opened.matchers.values():
        matcher.to(device)
    for line in prepare_scoring(list(opened.matchers.values()), scoring, device):
        print(line)
    has_folds = config.split == "testall" and split.num_images > fold
    shortlist: dict[str, Any] | None = None
    if config.shortlist and any(isinstance(m.similarity, VSE) for m in opened.matchers.values()):
        print("--shortlist is left aside: VSE scores every pair as fast as a shortlist is made")
    elif config.shortlist:
        sims, shortlist = score_shortlist(opened, device, config, fold if has_folds else None)
    if shortlist is None:
        sims = similarities_by_name(opened.matchers, split, device)
    results = ranked(sims, split)
    size = f"{split.num_images} images x {len(split)} captions"
    chosen = "chosen on dev" if checkpoints[0].get("chosen_on") == "dev" else "not chosen on dev"
    print(f"{opened.data_name} {config.split}, {size}; checkpoint of epoch {checkpoints[0]['epoch']}, {chosen}")
    print(result_table(config.split, results))
    record: dict[str, Any] = {
        "data_name": opened.data_name,
        "split": config.split,
        "images": split.num_images,
        "captions": len(split),
        "checkpoints": paths,
        "epochs": [c["epoch"] for c in checkpoints],
        "chosen_on": [c.get("chosen_on") for c in checkpoints],
        "num_networks": len(opened.matchers),
        "noise": [c["config"].get("noise_report") for c in checkpoints],
        "seeds": [c["config"]["training"]["seed"] for c in checkpoints],
        "precision": scoring.precision,
        "shortlist": shortlist,
        "results": {name: r.as_dict() for name, r in results.items()},
    }
    if has_folds:
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
    add_flags(parser, "scoring", ScoringConfig)
    namespace = parser.parse_args(argv)
    evaluate_checkpoints(from_namespace(EvaluationConfig, namespace), from_namespace(ScoringConfig, namespace))


if __name__ == "__main__":
    main()
