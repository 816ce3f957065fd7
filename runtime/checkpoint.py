"""Checkpoints: tensors and plain types only, loaded without running anything, written whole or not at all.

{"format": 1, "epoch": int, "config": {...}, "vocabulary_digest": str, "networks": [state dict, ...],
 "dev": {...}, "chosen_on": "dev"}

Checkpoints of NCR, BiCro, MGCS and SGRAF are read too, and written (runtime/legacy.py); those of programs built on
them, such as PC2, GSC and CRCL, are read:

    python -m runtime.checkpoint inspect FILE
    python -m runtime.checkpoint export FILE --output OUT
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from runtime.errors import InputError, exit_on_input_error, say_aside
from runtime.files import write_atomically
from runtime.flags import OneLineParser, add_flags, check_choices, flag, from_namespace, word
from runtime.legacy import PARTS, from_legacy, is_legacy, misfits, to_legacy
from runtime.torch_file import as_bytes, examine, is_accepted, read_torch_file

FORMAT = 1
OURS = ("format", "epoch", "config", "vocabulary_digest", "networks")
"""What a checkpoint of ours must hold."""

TEXT, REAL_NUMBER, TABLE = (str, type(None)), (int, float, type(None)), (dict, type(None))
FIELDS: dict[str, tuple[type, ...]] = {
    **{"format": (int, str), "epoch": (int, type(None)), "networks": (list,), "best_rsum": REAL_NUMBER, "dev": TABLE},
    **dict.fromkeys(("title", "vocabulary_digest", "chosen_on"), TEXT),
    **{f"config{part}": (dict,) for part in ("", "/data", "/matcher", "/shape", "/training")},
    **{f"config/{part}": TABLE for part in ("method", "noise", "options", "noise_report")},
    **{f"config/data/{name}": TEXT for name in ("data_name", "data_path", "vocab_path")},
    **{f"config/shape/{name}": (int,) for name in ("vocabulary_size", "num_regions", "region_dim")},
    **{"config/training/seed": (int, type(None)), "config/method_name": TEXT, "config/noise_report/protocol": TEXT},
    **{f"config/noise_report/{name}_ratio": REAL_NUMBER for name in ("asked", "measured")},
}
"""Path -> types. A field that may be nothing may be missing."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint (the fields of the module docstring, less `format`) to `path`, atomically."""
    write_atomically(path, as_bytes({"format": FORMAT, **content}))


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, ours or of the lineage, onto the CPU without executing anything in it.

    The content of one of the lineage comes back in our layout, with `vocabulary_digest` None.

    Raises:
        InputError: no such file, not a checkpoint, or one that asks for code.
    """
    path = Path(path)
    if path.is_dir():
        inside = sorted(file.name for file in path.glob("*.pth.tar"))
        advice = f"give the checkpoint itself: {path / inside[0]}" if inside else "it holds no checkpoint (.pth.tar)"
        raise InputError(f"no checkpoint at {path}, which is a folder; {advice}")
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}; give the path of a .pth.tar file that run.py wrote")
    content = read_torch_file(path)
    if is_legacy(content):
        content = from_legacy(content, str(path))
        check_fields(content, str(path))
        if content["left_out"]:
            say_aside(f"note: {path}: {content['left_out']}")
        return content
    if not isinstance(content, dict) or any(field not in content for field in OURS):
        raise InputError(
            f"{path} is not a checkpoint of this suite; give a .pth.tar file that run.py wrote, or one of NCR, BiCro, "
            "MGCS or SGRAF"
        )
    if content["format"] != FORMAT:
        raise InputError(f"{path} has checkpoint format {content['format']}; this version reads format {FORMAT}")
    check_fields(content, str(path))
    return content


def _at(content: Any, path: str) -> Any:
    for name in path.split("/"):
        content = content.get(name) if isinstance(content, Mapping) else None
    return content


def check_fields(content: Mapping[str, Any], path: str) -> None:
    """Check the fields of a checkpoint's content that anything reads.

    Raises:
        InputError: one is missing or of another type; names it.
    """
    for field, kinds in FIELDS.items():
        value = _at(content, field)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            told = "is missing" if value is None else f"is {value!r}"
            raise InputError(f"{path} is damaged: {field.replace('/', ', ')} {told}")
    networks = content["networks"]
    are_named = all(isinstance(weights, Mapping) for weights in networks) and all(
        isinstance(name, str) and isinstance(value, Tensor) for weights in networks for name, value in weights.items()
    )
    if not networks or not are_named:
        raise InputError(f"{path} is damaged: its networks are no tensors with names")
    for name, result in (content.get("dev") or {}).items():
        if not isinstance(_at(result, "rSum"), (int, float)):
            raise InputError(f"{path} is damaged: its results on dev have no rSum of {name}")


# -- what networks come from: their training's noise, seed, epoch, and the split that chose them -----------------------

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


# -- the command -----------------------------------------------------------------------------------------------------

KINDS = {FORMAT: "checkpoint of this suite", "legacy": "checkpoint of NCR's, BiCro's, MGCS's or SGRAF's layout"}


def _line(name: str, value: Any) -> str:
    return f"  {name!s:<22}{'-' if value is None else value}".rstrip()


def _count(weights: Mapping[str, Tensor], prefix: str = "") -> int:
    """Count the numbers in floating-point tensors that are no running statistics."""
    chosen = (t for n, t in weights.items() if n.startswith(prefix) and t.is_floating_point() and ".running_" not in n)
    return sum(t.numel() for t in chosen)


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
    told = {"format", "epoch", "title", "config", "vocabulary_digest", "networks", "dev", "chosen_on", "best_rsum"}
    beside, sizes = set(checkpoint) - told - {"left_out"}, ("word_dim", "embed_size", "sim_dim")
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
        _line("word, embedding, sim", " ".join(str(matcher.get(name, "-")) for name in sizes)),
        _line("noise protocol", noise.get("protocol")),
        _line("noise ratio asked", noise.get("asked_ratio")),
        _line("noise ratio measured", noise.get("measured_ratio")),
        *([_line("left out", checkpoint["left_out"])] if checkpoint.get("left_out") else []),
        _line("beside these", ", ".join(sorted(beside)) or "nothing"),
    ]
    return "\n".join(lines + _option_lines(config))


@dataclass(frozen=True)
class CheckpointConfig:
    """Words and flags of `python -m runtime.checkpoint`."""

    action: str = word("inspect: tell what a file holds; export: write it as NCR does", choices=("inspect", "export"))
    file: str = word("checkpoint: of this suite, of NCR, BiCro, MGCS or SGRAF", metavar="FILE")
    output: str | None = flag(None, "export: the file to write (an existing one is replaced)", metavar="FILE")

    def __post_init__(self) -> None:
        check_choices(self)
        if (self.action == "export") != (self.output is not None):
            raise InputError("--output names the file that export writes; give it with export, and only then")


def inspect(path: Path) -> None:
    """Print what a checkpoint holds and what loading it would ask for.

    Raises:
        InputError: it cannot be read; what it asks for has been printed all the same.
    """
    names = examine(path).names if path.is_file() else set()
    if names:
        print("\n".join(["asks for", *(_line("accepted" if is_accepted(n) else "REFUSED", n) for n in sorted(names))]))
    print(description(load_checkpoint(path), path))


def export(path: Path, output: Path) -> None:
    """Write a checkpoint in the lineage's layout."""
    checkpoint = load_checkpoint(path)
    write_atomically(output, as_bytes(to_legacy(checkpoint)))
    print(f"{output}: {len(checkpoint['networks'])} network(s), options as argparse.Namespace")
    for note in misfits(checkpoint):
        print(f"note: {note}")


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Inspect or export."""
    parser = OneLineParser(prog="python -m runtime.checkpoint", description="Look into checkpoints; convert them.")
    add_flags(parser, "checkpoint", CheckpointConfig)
    config = from_namespace(CheckpointConfig, parser.parse_args(argv))
    if config.output is not None:
        export(Path(config.file), Path(config.output))
    else:
        inspect(Path(config.file))


if __name__ == "__main__":
    main()
