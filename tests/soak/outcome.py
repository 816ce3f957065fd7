"""What a finished run left, so that two runs can be compared bit by bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from runtime.log import ARRAYS, EVENTS, METRICS
from training.saved_state import NAMES

CHECKPOINTS = ("checkpoint_dev_best.pth.tar", "checkpoint_warmup.pth.tar")
CLOCKS = ("seconds",)
"""Fields of results.json that tell the time."""
PLACES = ("output_dir", "resume", "saved_model", "save_minutes")
"""Settings that say where a run wrote and how it was taken up again."""


def outcome(folder: Path, *, by_network: bool = False) -> dict[str, Any]:
    """Return all that a finished run left, by name, less clocks and places.

    Args:
        by_network: compare the order of each network's records, and not who comes first: networks side by side hand in
            their records at every save, so that a clock decides that.

    Raises:
        OSError, ValueError: a file of the run is missing or broken.
    """
    found: dict[str, Any] = {"files": sorted(path.name for path in folder.iterdir())}
    for name in CHECKPOINTS:
        if not (folder / name).exists():
            continue
        content = torch.load(folder / name, weights_only=True)
        found[name] = [{key: value.numpy().tobytes() for key, value in n.items()} for n in content.pop("networks")]
        _forget_places(content["config"])
        found[f"{name}, beside the networks"] = content
    for path in (folder / ARRAYS).glob("*"):
        found[f"{ARRAYS}/{path.name}"] = path.read_bytes()
    lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
    found[METRICS] = sorted(lines, key=lambda line: json.loads(line).get("network", "")) if by_network else lines
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    found["results.json"] = {key: value for key, value in results.items() if key not in CLOCKS}
    return found


def _forget_places(config: dict[str, Any]) -> None:
    for name in PLACES:
        config["training"].pop(name, None)


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the names of what differs between two outcomes."""
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]


def leftovers(folder: Path) -> list[str]:
    """Return what a finished run should have removed: states, half-written files, its lock."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.parent.name != EVENTS]
    return sorted(name for name in names if name.endswith(".part") or name in (*NAMES, "lock"))
