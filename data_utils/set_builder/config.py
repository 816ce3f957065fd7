"""The flags that every builder of a set has, and what goes round its work."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_utils.extraction.lite0 import CHANNELS
from runtime.errors import InputError
from runtime.flags import check_range, flag, require


@dataclass(frozen=True)
class BuilderConfig:
    """Flags of a builder."""

    output: str | None = flag(None, "folder for the finished files (required)", metavar="DIR")
    work: str | None = flag(
        None, "folder for packages and feature maps, kept for the next time (default: a temporary one)", metavar="DIR"
    )
    dims: int = flag(128, "dimensions of a region")
    step: float = flag(0.1, "step of the 8-bit storage")

    def __post_init__(self) -> None:
        require(self, "output", "name the folder for the finished files")
        check_range(self, "dims", low=1, high=CHANNELS)
        check_range(self, "step", low=1e-6)


def run_builder(config: BuilderConfig, build: Callable[[Path, Path], None]) -> None:
    """Build a set with a work folder that is kept or a temporary one.

    Args:
        config: The flags.
        build: Gets the output folder and the work folder.

    Raises:
        InputError: If something that the builder reads or writes is not as it must be.
    """
    assert config.output is not None
    with tempfile.TemporaryDirectory() as temporary:
        output, work = Path(config.output), Path(config.work or temporary)
        for name, folder in (("output", output), ("work", work)):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"--{name} {folder} cannot be made: {error.strerror or error}") from None
        try:
            build(output, work)
        except ValueError as error:
            raise InputError(str(error)) from None
        except OSError as error:
            raise InputError(f"--output {output} or --work {work} cannot be written: {error}") from None
