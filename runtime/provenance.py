"""What evaluated networks come from: their training's noise, seed, epoch, and the split that chose them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

REAL = {"protocol": "real", "asked_ratio": 0.0, "measured_ratio": None}
"""What is recorded of noise as it was collected."""


def provenance(
    checkpoints: Sequence[Mapping[str, Any]], paths: Sequence[str], real_noise: Collection[str] = ()
) -> dict[str, Any]:
    """Return, by name and for JSON, a list with one entry a checkpoint.

    Args:
        checkpoints: as loaded.
        paths: where they are.
        real_noise: names of the data sets whose noise is real, whatever their checkpoints say of it.
    """
    configs = [c["config"] for c in checkpoints]
    return {
        "checkpoints": list(paths),
        "epochs": [c["epoch"] for c in checkpoints],
        "epoch_titles": [epoch_title(c) for c in checkpoints],
        "chosen_on": [c.get("chosen_on") for c in checkpoints],
        "networks": [len(c["networks"]) for c in checkpoints],
        "similarities": [c["matcher"].get("module_name") for c in configs],
        "methods": [c.get("method_name") for c in configs],
        "noise": [REAL if c["data"].get("data_name") in real_noise else c.get("noise_report") for c in configs],
        "seeds": [c["training"].get("seed") for c in configs],
    }


def epoch_title(checkpoint: Mapping[str, Any]) -> str:
    """Return the epoch that a checkpoint's networks are of, as its run named it: `epoch 2/4`, `warm-up 1/1`, `start`.

    Checkpoints from before titles were stored have only the number of epochs done, warm-up included; those of other
    programs their own count.
    """
    if checkpoint.get("title"):
        return checkpoint["title"]
    if checkpoint["epoch"] is None:
        return "epoch not recorded"
    return f"epoch {checkpoint['epoch']}" + (" with warm-up" if checkpoint.get("format") != "legacy" else "")


def noise_text(noise: Mapping[str, Any] | None) -> str:
    """Return protocol, asked and measured ratio in words."""
    if not noise:
        return "noise not recorded"
    if noise.get("protocol") == "real":
        return "real noise, share unknown"
    asked, measured = noise.get("asked_ratio"), noise.get("measured_ratio")
    if noise.get("protocol") == "none" and not asked:
        return "no noise added"
    parts = [
        f"protocol {noise.get('protocol') or 'not recorded'}",
        "ratio asked not recorded" if asked is None else f"{100 * asked:g} % asked",
        "not measured" if measured is None else f"{100 * measured:.2f} % measured",
    ]
    return "noise: " + ", ".join(parts)


def provenance_lines(record: Mapping[str, Any], names: Sequence[Sequence[str]]) -> list[str]:
    """Return a line for each checkpoint of a `provenance` record, and one for the mean of several networks.

    Args:
        record: what `provenance` returned.
        names: the names of each checkpoint's networks.
    """
    lines = []
    for k, path in enumerate(record["checkpoints"]):
        chosen = record["chosen_on"][k]
        choice = {None: "not chosen on a split", "not recorded": "chosen on a split that is not recorded"}
        trained = [record["methods"][k], record["similarities"][k], record["epoch_titles"][k]]
        lines.append(
            f"{' '.join(names[k])}: {path}: {', '.join(t for t in trained if t)}, "
            f"{choice.get(chosen, f'chosen on {chosen}')}, "
            f"seed {'not recorded' if record['seeds'][k] is None else record['seeds'][k]}; "
            f"{noise_text(record['noise'][k])}"
        )
    total = sum(map(len, names))
    return lines + ([f"mean: of the scores of {total} networks"] if total > 1 else [])
