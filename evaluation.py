"""Evaluate trained matchers: recalls at 1, 5 and 10, median and mean rank, both directions, and their sum.

    python evaluation.py --mode_path output/RUN/checkpoint_dev_best.pth.tar
    python evaluation.py --mode_path sgr.pth.tar,saf.pth.tar --data_name coco_precomp --split testall

Checkpoints are ours or those of NCR, BiCro, MGCS and SGRAF. Each network gets a row, and several get one for the mean
of their scores. Rows of every similarity matrix are images, columns captions. `--relevance FILE` ranks by a ground
truth of many to many as well.
"""

# ruff: noqa: E402
from __future__ import annotations

import sys

from runtime.packages import begin

if __name__ == "__main__":
    begin(sys.argv[1:])

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_utils.catalog import REAL_NOISE, protocol
from data_utils.precomputed import PrecomputedSplit
from data_utils.relevance import read_image_ids, read_relevance
from data_utils.stored import open_for_all
from models.ensemble import rank_scores, restore, scores_in_turn
from models.matcher import Matcher, ScoringConfig, prepare_scoring
from models.ranks import RECALLS, Retrieval
from models.relevance import Truth
from runtime.checkpoint import load_checkpoint, provenance, provenance_lines
from runtime.device import choose_device
from runtime.errors import InputError, exit_on_input_error
from runtime.files import array_file, write_json
from runtime.flags import OneLineParser, add_flags, flag, from_namespace, require
from runtime.log import table


def result_table(title: str, results: dict[str, Retrieval]) -> str:
    """Return the table of recalls, one row a network and one for their mean."""
    header = [title, *(f"{d}\nR@{k}" for d in ("i2t", "t2i") for k in RECALLS), "i2t\nmed", "t2i\nmed", "rSum"]
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


def relevance_table(title: str, results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Return the table of figures by a ground truth of many to many, one row a network."""
    names = (*(f"R@{k}" for k in RECALLS), "mAP@R", "R-Precision")
    shown = (*names[:-1], "R-Prec")
    header = [title, *(f"{d}\n{name}" for d in ("i2t", "t2i") for name in shown)]
    rows = [[name, *(r[d][n] for d in ("i2t", "t2i") for n in names)] for name, r in results.items()]
    return table(header, rows)


def _as_dicts(results: Mapping[str, Retrieval]) -> dict[str, dict[str, Any]]:
    return {name: result.as_dict() for name, result in results.items()}


@dataclass(frozen=True)
class EvaluationConfig:
    """Flags of evaluation.py."""

    mode_path: str | None = flag(
        None, "checkpoint to evaluate, or several separated by commas (required)", metavar="FILE"
    )
    mode_path1: str | None = flag(
        None, "one more checkpoint; the scores of all are averaged (SGR + SAF = SGRAF)", metavar="FILE"
    )
    data_name: str | None = flag(None, "data set (default: the one the checkpoint was trained on)")
    data_path: str | None = flag(
        None, "folder that holds the data set's folder (default: as in training)", metavar="DIR"
    )
    vocab_path: str | None = flag(None, "folder that holds the vocabulary (default: as in training)", metavar="DIR")
    split: str = flag("test", "split to evaluate: test, dev, testall (as folds too), ...")
    relevance: str | None = flag(
        None,
        "file of relevant image-caption pairs (.tsv, .csv, .json) to rank by as well: R@K, mAP@R, R-Precision",
        metavar="FILE",
    )
    output: str | None = flag(None, "write the results to this JSON file", metavar="FILE")
    save_sims: str | None = flag(
        None, "write the score matrices (images x captions, float32) to this .npz file", metavar="FILE"
    )
    gpu: str = flag("0", "GPU index, or cpu; without CUDA the CPU is used")

    def __post_init__(self) -> None:
        require(self, "mode_path", "give a checkpoint that run.py wrote")
        if not self.paths():
            raise InputError(f"--mode_path {self.mode_path!r} names no checkpoint; give one, or several with commas")
        for path, count in Counter(Path(path).resolve() for path in self.paths()).items():
            if count > 1:
                raise InputError(
                    f"--mode_path and --mode_path1 name {path} {count} times, so that it would count so often in the "
                    "mean; name each checkpoint once"
                )

    def paths(self) -> list[str]:
        """Return the checkpoints' paths; a comma in the name of an existing file does not separate."""
        assert self.mode_path is not None
        given = [self.mode_path] if Path(self.mode_path).is_file() else self.mode_path.split(",")
        named = [expanduser(path.strip()) for path in given if path.strip()]
        return named + ([self.mode_path1] if self.mode_path1 else [])


@dataclass(frozen=True)
class LoadedNetworks:
    """Networks by name (`A`, `B`, of a second checkpoint `A1`, `B1`) and the split they are evaluated on.

    Attributes:
        matchers: on the device where they are evaluated.
        origin: what the checkpoints say of the networks, for the record, and `lines`, the same in words.
        truth: of `--relevance`.
    """

    matchers: dict[str, Matcher]
    split: PrecomputedSplit
    data_name: str
    origin: dict[str, Any]
    lines: list[str]
    truth: Truth | None = None


def ground_truth(path: Path, split: PrecomputedSplit) -> Truth:
    """Read `--relevance` for a split, whose captions need not be all lines of its file."""
    lines, folder = split.line_of_caption, split.regions.path.parent
    numbers = np.full(int(lines.max()) + 1, -1)
    numbers[lines] = np.arange(len(lines))

    @functools.cache
    def image_ids() -> dict[str, int]:
        ids = read_image_ids(folder, split.name, split.counts.image_of_caption)
        return {name: image for name, image in ids.items() if image < split.num_images}

    truth = {}
    for way, pairs in read_relevance(path, split.num_images, len(numbers), image_ids).items():
        truth[way], column = pairs.copy(), 1 if way == "i2t" else 0
        truth[way][:, column] = numbers[pairs[:, column]]
        if unused := pairs[truth[way][:, column] < 0, column].tolist():
            raise InputError(f"--relevance {path}: caption {unused[0]} is of an image that {split.name} does not use")
    return truth


def load_networks(config: EvaluationConfig, device: torch.device) -> LoadedNetworks:
    """Load the checkpoints and open the split.

    Raises:
        InputError: checkpoints, data and flags do not fit together.
    """
    paths = config.paths()
    print(f"reading {', '.join(paths)} ...", flush=True)
    checkpoints = [load_checkpoint(path) for path in paths]
    matchers: dict[str, Matcher] = {}
    owners = []
    for number, (path, checkpoint) in enumerate(zip(paths, checkpoints, strict=True)):
        named = {f"{chr(ord('A') + k)}{number or ''}": m.to(device) for k, m in enumerate(restore(checkpoint, path))}
        matchers |= named
        owners.append(list(named))
    places = {"data_name": config.data_name, "data_path": config.data_path, "vocab_path": config.vocab_path}
    stored = open_for_all(checkpoints, paths, config.split, **places)
    truth = ground_truth(Path(config.relevance), stored.split) if config.relevance else None
    origin = provenance(checkpoints, paths, REAL_NOISE)
    return LoadedNetworks(matchers, stored.split, stored.data_name, origin, provenance_lines(origin, owners), truth)


def evaluate_checkpoints(config: EvaluationConfig, scoring: ScoringConfig | None = None) -> dict[str, Any]:
    """Evaluate checkpoints as the flags say, print the tables, write what was asked for; return the record."""
    scoring = scoring or ScoringConfig()
    for target in (config.output, config.save_sims):
        if target is not None and (Path(target).is_dir() or not Path(target).resolve().parent.is_dir()):
            raise InputError(f"{target} cannot be written: it is a folder, or its folder does not exist")
    device = choose_device(config.gpu)
    loaded = load_networks(config, device)
    split, matchers, truth = loaded.split, loaded.matchers, loaded.truth
    prepare_scoring(list(matchers.values()), scoring, device)
    fold = protocol(loaded.data_name).folds(split.name)
    fold = fold if fold is not None and split.num_images > fold else None

    with array_file(None if config.save_sims is None else Path(config.save_sims)) as keep:
        scores = scores_in_turn(matchers, split, device)
        found = rank_scores(scores, split.image_of_caption, fold_images=fold, truth=truth, keep=keep)

    record: dict[str, Any] = {
        "data_name": loaded.data_name,
        "split": split.name,
        "images": split.num_images,
        "captions": len(split),
        **loaded.origin,
        "num_networks": len(matchers),
        "precision": scoring.precision,
        "results": _as_dicts(found.whole),
    }
    print(f"{loaded.data_name} {split.name}, {split.num_images} images x {len(split)} captions")
    print("\n".join([*loaded.lines, result_table(split.name, found.whole)]))
    if fold is not None:
        print(result_table(f"{fold}-image\nfolds, mean", found.folds))
        record |= {"fold_images": fold, "fold_results": _as_dicts(found.folds)}
    if truth is not None:
        found_first = next(iter(found.relevance.values()))
        queries = [found_first[way]["queries"] for way in ("i2t", "t2i")]
        print(f"{config.relevance}: {queries[0]} images and {queries[1]} captions have something relevant")
        print(relevance_table("network", found.relevance))
        record["relevance"] = {"file": config.relevance, "results": found.relevance}
    if config.output is not None:
        write_json(Path(config.output), record)
    return record


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
