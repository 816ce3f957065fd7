"""Checkpoints: tensors and plain types only, loaded without running anything, written whole or not at all.

{"format": 1, "epoch": int, "config": {...}, "vocabulary_digest": str, "networks": [state dict, ...],
 "dev": {...}, "chosen_on": "dev"}

Checkpoints of NCR, BiCro, MGCS and SGRAF are read too, and written (runtime/legacy.py); those of programs built on
them, such as PC2, GSC and CRCL, are read:

    python -m runtime.checkpoint inspect FILE
    python -m runtime.checkpoint export FILE --output OUT
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from runtime.checkpoint_fields import check_fields
from runtime.errors import InputError, exit_on_input_error, say_aside
from runtime.flags import OneLineParser, add_flags, check_choices, flag, from_namespace, word
from runtime.inspection import description, request_lines
from runtime.legacy import from_legacy, is_legacy, misfits, to_legacy
from runtime.torch_file import read_torch_file, requested_names

FORMAT = 1
FIELDS = ("format", "epoch", "config", "vocabulary_digest", "networks")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its name only when all is written and on disk: temporary file, fsync, rename.

    Raises:
        InputError: the place cannot be written; nothing new is left there.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise InputError(f"{path} cannot be written: {error.strerror or error}") from None
        raise


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that it is there whole or not at all."""
    with whole_file(path) as file:
        file.write(content)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, human-readable and whole."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def as_bytes(content: Any) -> memoryview:
    """Return what torch.save writes for tensors and plain values.

    In memory first: torch's own writer says nothing useful of a full disk, and not always that it was one.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getbuffer()


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
    if not isinstance(content, dict) or any(field not in content for field in FIELDS):
        raise InputError(
            f"{path} is not a checkpoint of this suite; give a .pth.tar file that run.py wrote, or one of NCR, BiCro, "
            "MGCS or SGRAF"
        )
    if content["format"] != FORMAT:
        raise InputError(f"{path} has checkpoint format {content['format']}; this version reads format {FORMAT}")
    check_fields(content, str(path))
    return content


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
    names = requested_names(path) if path.is_file() else None
    if names is not None:
        print("\n".join(request_lines(names)))
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
