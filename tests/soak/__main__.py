"""Kill real runs and let their writes fail; exit code 1 if any of them ends otherwise than the run left alone.

python -m tests.soak --kills 50
python -m tests.soak --kills 3 --seed 1 --part kills
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from runtime.errors import exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_choices, check_range, flag, from_namespace
from tests.soak.full_disk import run_on_a_full_disk
from tests.soak.kills import Campaign
from tests.soak.kinds import KINDS, make_data
from tests.soak.torn import go_on_from_torn_states
from tests.soak.victims import run_here
from tests.soak.write_errors import fail_writes

PARTS = ("all", "kills", "write_errors", "torn", "full_disk")


@dataclass(frozen=True)
class SoakConfig:
    """Flags of `python -m tests.soak`."""

    kills: int = flag(50, "how often a run is killed")
    seed: int = flag(0, "seed of the moments")
    stride: int = flag(1, "let every so-many-th write fail, each in a run of its own")
    part: str = flag("all", "what to do", choices=PARTS)

    def __post_init__(self) -> None:
        check_choices(self)
        check_range(self, "kills", low=1)
        check_range(self, "seed", low=0)
        check_range(self, "stride", low=1)


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def kill(config: SoakConfig, data: Path, folder: Path) -> bool:
    """Kill runs; tell whether all of them ended as they would have."""
    started = time.monotonic()
    campaign = Campaign(data, folder, Random(config.seed), say)
    is_good = campaign.kill(config.kills)
    say("where: " + ", ".join(f"{place} {count}" for place, count in sorted(campaign.places.items())))
    say(
        f"{campaign.survived} of {config.kills} kills resumed bit-identical, {campaign.runs} runs, "
        f"{time.monotonic() - started:.0f} s"
    )
    return is_good


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Make the data, do the parts, tell."""
    parser = OneLineParser(prog="python -m tests.soak", description="Kill real runs, let their writes fail, compare.")
    add_flags(parser, "soak", SoakConfig)
    config = from_namespace(SoakConfig, parser.parse_args(argv))
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    data = make_data(folder)
    run_here(KINDS[next(iter(KINDS))].argv(data, folder / "first"))
    is_good = True
    if config.part in ("all", "kills"):
        is_good &= kill(config, data, folder / "kills")
    if config.part in ("all", "write_errors"):
        is_good &= fail_writes(data, folder / "write errors", config.stride, say)
    if config.part in ("all", "torn"):
        is_good &= go_on_from_torn_states(data, folder / "torn", say)
    if config.part in ("all", "full_disk"):
        is_good &= run_on_a_full_disk(data, folder / "full disk", say)
    if not is_good:
        say(f"everything is kept in {folder}")
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
