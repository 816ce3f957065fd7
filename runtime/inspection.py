"""What a checkpoint holds, as text for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from runtime.legacy import PARTS
from runtime.provenance import epoch_title
from runtime.torch_file import is_accepted

KINDS = {
    1: "checkpoint of this suite",
    "legacy": "checkpoint of NCR's, BiCro's, MGCS's or SGRAF's layout",
}
_WIDTH = 22


def _line(name: str, value: Any) -> str:
    return f"  {name!s:<{_WIDTH}}{'-' if value is None else value}".rstrip()


def _count(weights: Mapping[str, Tensor], prefix: str = "") -> int:
    """Count the numbers in floating-point tensors that are no running statistics."""
    chosen = (t for n, t in weights.items() if n.startswith(prefix) and t.is_floating_point() and ".running_" not in n)
    return sum(t.numel() for t in chosen)


def request_lines(names: list[str]) -> list[str]:
    """Return a line for each function or class that loading a file asks for."""
    return ["asks for"] + [_line("accepted" if is_accepted(name) else "REFUSED", name) for name in names]


def _option_lines(config: Mapping[str, Any]) -> list[str]:
    """Return every stored option; those of a checkpoint of ours under the title of their section."""
    if "options" in config:
        return ["options"] + [_line(name, value) for name, value in sorted(config["options"].items())]
    lines = []
    for title, section in config.items():
        if isinstance(section, Mapping):
            lines += [f"options, {title}"] + [_line(name, value) for name, value in section.items()]
        else:
            lines.append(_line(title, section))
    return lines


def description(checkpoint: Mapping[str, Any], path: Path) -> str:
    """Return epoch, dimensions, counts and options of a loaded checkpoint, one a line."""
    config, networks = checkpoint["config"], checkpoint["networks"]
    matcher, shape = config["matcher"], config["shape"]
    noise = config.get("noise_report") or {}
    parts = ", ".join(f"{prefix} {_count(networks[0], prefix + '.'):,}" for prefix in PARTS)
    digest = checkpoint["vocabulary_digest"]
    dev = checkpoint.get("dev") or {}
    best = list(dev.values())[-1]["rSum"] if dev else checkpoint.get("best_rsum")
    other = set(checkpoint) - {
        "format",
        "epoch",
        "title",
        "config",
        "vocabulary_digest",
        "networks",
        "dev",
        "chosen_on",
    }
    lines = [
        f"{path}: {KINDS[checkpoint['format']]}, {path.stat().st_size:,} bytes",
        _line("epoch", epoch_title(checkpoint).removeprefix("epoch ")),
        _line("chosen on", checkpoint.get("chosen_on")),
        _line("best rSum there", "not recorded" if best is None else f"{best:.1f}"),
        _line("networks", len(networks)),
        _line("parameters of each", f"{_count(networks[0]):,} ({parts})"),
        _line("similarity", matcher.get("module_name", "not recorded")),
        _line("image", f"{shape['num_regions']} regions x {shape['region_dim']} dimensions"),
        _line("vocabulary", f"{shape['vocabulary_size']} words, digest {digest or 'not recorded'}"),
        _line(
            "word, embedding, sim", " ".join(str(matcher.get(n, "-")) for n in ("word_dim", "embed_size", "sim_dim"))
        ),
        _line("noise protocol", noise.get("protocol")),
        _line("noise ratio asked", noise.get("asked_ratio")),
        _line("noise ratio measured", noise.get("measured_ratio")),
        *([_line("left out", checkpoint["left_out"])] if checkpoint.get("left_out") else []),
        _line("beside these", ", ".join(sorted(other - {"best_rsum", "left_out"})) or "nothing"),
    ]
    return "\n".join(lines + _option_lines(config))
