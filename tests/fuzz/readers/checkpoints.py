"""Readers of checkpoints, run states, and of the settings and results of runs."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import robustness
from data_utils.noise import NoiseReport
from models.restored import restore
from runtime.checkpoint import FORMAT, load_checkpoint
from runtime.errors import InputError
from runtime.inspection import description, request_lines
from runtime.legacy import misfits, to_legacy
from runtime.lock import FolderLock
from runtime.log import RunLog
from runtime.provenance import provenance, provenance_lines
from runtime.torch_file import requested_names
from tests.fuzz.trial import Prepared, Reader
from tests.runtime.lineage import SHAPE, SIZES, lineage_content, small_matcher
from tests.tools.test_table import evaluation_record, run_record
from tools.table import FORMATS, TableConfig, build
from training.config import RunConfig, parse_args
from training.saved_state import NAMES, SavedState

NETWORK = {**SIZES, "module_name": "VSE", "word_dim": 4, "embed_size": 4, "num_layers": 1}


def torch_bytes(content: Any, *, old: bool = False) -> bytes:
    """Return what torch.save writes; `old`: as before torch 1.6."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not old)
    return buffer.getvalue()


def our_content(module_name: str = "VSE") -> dict[str, Any]:
    """Return a checkpoint of two small networks."""
    matchers = [small_matcher(module_name, seed=seed) for seed in (0, 1)]
    config: RunConfig = parse_args(["--data_name", "tiny"])
    told = config.as_dict()
    told["matcher"] |= {**SIZES, "module_name": module_name}
    report = NoiseReport("caption", 0.2, 0.19)
    test = {name: {"rSum": 100.0} for name in ("A", "B", "mean")}
    return {
        "format": FORMAT,
        "epoch": 3,
        "config": {**told, "shape": asdict(SHAPE), "noise_report": asdict(report)},
        "vocabulary_digest": "0" * 64,
        "networks": [matcher.state_dict() for matcher in matchers],
        "dev": test,
        "chosen_on": "dev",
    }


def _checkpoint(path: Path) -> None:
    names = requested_names(path)
    if names is not None:
        request_lines(names)
    content = load_checkpoint(path)
    print(description(content, path))
    matchers = restore(content, str(path))
    record = provenance([content], [str(path)])
    print(provenance_lines(record, [["A", "B", "C"][: len(matchers)]]))
    json.dumps(record)
    torch.save(to_legacy(content), io.BytesIO())
    misfits(content)


def prepare_checkpoint(folder: Path) -> Prepared:
    """Checkpoints of this suite."""
    samples = [torch_bytes(our_content(module)) for module in ("VSE", "SGR")]
    return Prepared([*samples, torch_bytes(our_content(), old=True)], _checkpoint)


def prepare_lineage(folder: Path, *, old: bool) -> Prepared:
    """Checkpoints of NCR, SGRAF and CRCL (SGRAF's with values of numpy), of either layout of torch."""
    crcl = lineage_content([small_matcher("SAF")], module_name="SAF")
    contents = [
        lineage_content([small_matcher(seed=0), small_matcher(seed=1)]),
        lineage_content([small_matcher("SAF")], module_name="SAF"),
        {**crcl, "best_rsum": np.float64(400), "move_gt": np.ones(9)},
    ]
    return Prepared([torch_bytes(content, old=old) for content in contents], _checkpoint)


def state_content() -> dict[str, Any]:
    """Return what a run might save: tensors, generators, nested plain values."""
    network = small_matcher("VSE")
    return {
        "config": parse_args([]).as_dict(),
        "data_digest": "0" * 64,
        "networks": [{"weights": network.state_dict(), "dropout": torch.Generator().get_state()}],
        "position": {"stage": 1, "batches": {"A": 3}},
        "divisions": {"A": {"signal": torch.zeros(4, dtype=torch.float64)}},
        "best": {"epoch": 2},
        "log": {"metrics.jsonl": 3},
    }


def prepare_state(folder: Path) -> Prepared:
    """A run state whose checksum is right."""
    SavedState(folder).save(state_content())
    (folder / "outside").write_text("kept", encoding="utf-8")
    place = folder / NAMES[1]

    def read(path: Path) -> None:
        logs = folder / "logs"
        logs.mkdir(exist_ok=True)
        content, _ = SavedState(folder).load()
        try:
            RunLog(logs, content.get("log")).close()
        finally:
            assert (folder / "outside").read_text(encoding="utf-8") == "kept"

    return Prepared([place.read_bytes()], read)


def prepare_results(folder: Path, *, config: bool) -> Prepared:
    """results.json of run.py, evaluation.py and CLIP runs, or the config.json beside one."""
    told = json.dumps(parse_args([]).as_dict(), indent=2).encode()
    clip = {"clip_method": "dsdmr", "seed": 0, "epoch": 1, "chosen_on": "dev", "noise": None}
    records = [run_record(), evaluation_record(), {**clip, "test": run_record()["test"]["A"]}]
    if config:
        (folder / "results.json").write_text(json.dumps(run_record()), encoding="utf-8")
    else:
        (folder / "config.json").write_bytes(told)

    def read(path: Path) -> None:
        for form in FORMATS:
            print(build(TableConfig(format=form, each=True), [folder, folder / "results.json"]))

    return Prepared([told] if config else [json.dumps(record, indent=2).encode() for record in records], read)


def prepare_rows(folder: Path) -> Prepared:
    """The CSV of robustness.py."""
    rows = (Path(robustness.__file__).with_name("robustness_vse.csv")).read_bytes().splitlines(keepends=True)[:6]

    def read(path: Path) -> None:
        found = robustness.read_rows(path)
        print(robustness.summary(found, list(dict.fromkeys(row["row"] for row in found))))

    return Prepared([b"".join(rows)], read)


def prepare_arguments(folder: Path) -> Prepared:
    """An argument file, `@FILE`."""
    recipes = Path(robustness.__file__).parents[1] / "recipes"

    def read(path: Path) -> None:
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                parse_args([f"@{path}"])
        except SystemExit as stop:
            if stop.code == 2:
                raise InputError(said.getvalue().removesuffix("\n")) from None
            assert stop.code == 0  # --help

    return Prepared([(recipes / name).read_bytes() for name in ("emoji_mgcs_0.4.args", "f30k_scan_i2t.args")], read)


def prepare_lock(folder: Path) -> Prepared:
    """The lock of a folder, left behind by a process that is dead."""
    return Prepared([b"4711\n", b""], lambda path: FolderLock(path.parent).release())


def _lineage(old: bool) -> Callable[[Path], Prepared]:
    return lambda folder: prepare_lineage(folder, old=old)


READERS = [
    Reader("checkpoint", "net.pth.tar", "zip", prepare_checkpoint, cost=4),
    Reader("lineage", "ncr.pth.tar", "zip", _lineage(False), cost=4),
    Reader("lineage_old", "ncr.pth.tar", "legacy_torch", _lineage(True), cost=4),
    Reader("run_state", NAMES[1], "state", prepare_state, where="", cost=2),
    Reader("results", "results.json", "json", lambda folder: prepare_results(folder, config=False)),
    Reader("run_config", "config.json", "json", lambda folder: prepare_results(folder, config=True)),
    Reader("robustness_rows", "rows.csv", "text", prepare_rows, where=""),
    Reader("argument_file", "run.args", "args", prepare_arguments, where=""),
    Reader("lock", "lock", "text", prepare_lock),
]
