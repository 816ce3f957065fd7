"""Recipes x seeds, every run in a process and a folder of its own, as many at once as fit; in the end a table.

    python -m tools.sweep recipes/emoji_vse.args recipes/emoji_gpo.args --seeds 1,2,3
    python -m tools.sweep recipes/emoji_vse.args --seeds 1,2 --jobs 2 -- --noise_ratio 0.6 --gpu cpu

What stands behind `--` goes to every run. The same command again goes on: finished runs are left alone, interrupted
ones resumed. A run that fails does not stop the others; its last line is told in the end, and the exit code is 1.
Ctrl-C lets every run finish its step and save. What a run says is in OUTPUT_DIR/RECIPE/seed_N/output.txt, its folder
beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from runtime.errors import InputError, Interruption, exit_on_input_error
from runtime.files import write_atomically, write_json
from runtime.flags import OneLineParser, add_flags, check_range, flag, from_namespace
from tools.table import TableConfig, build
from training.checkpointing import differing_settings
from training.config import parse_args

REPOSITORY = Path(__file__).resolve().parent.parent
PROGRAM = [sys.executable, str(REPOSITORY / "run.py")]
OWN = ("--seed", "--output_dir", "--resume", "--no-resume")
"""Flags of run.py that the sweep gives itself."""
RESULTS, SETTINGS, SAID = "results.json", "settings.json", "output.txt"
LOOK_SECONDS = 0.1
GIBI = 2**30


@dataclass(frozen=True)
class SweepConfig:
    """Flags of the sweep."""

    seeds: str = flag("0", "seeds, separated by commas")
    output_dir: str = flag("output/sweep", "folder of all runs", metavar="DIR")
    jobs: int = flag(0, "runs at the same time (0: as many as fit)")
    threads: int = flag(1, "processor threads of each run")
    run_gib: float = flag(3.0, "memory that a run needs, in GiB, to tell how many fit")

    def __post_init__(self) -> None:
        check_range(self, "jobs", low=0)
        check_range(self, "threads", low=1)
        check_range(self, "run_gib", low=1e-3)
        self.numbers()

    def numbers(self) -> list[int]:
        """Return the seeds.

        Raises:
            InputError: they are no whole numbers of at least 0.
        """
        texts = [text.strip() for text in self.seeds.split(",")]
        if not all(text.isdecimal() for text in texts):
            raise InputError(f"--seeds {self.seeds} must be whole numbers of at least 0, separated by commas")
        return list(dict.fromkeys(int(text) for text in texts))


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    name: str
    folder: Path
    arguments: tuple[str, ...]

    def results(self) -> Path | None:
        """Return the results of the finished run, None while there are none."""
        return next(self.folder.glob(f"*/{RESULTS}"), None)

    def last_line(self) -> str:
        """Return what the run said last."""
        path = self.folder / SAID
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def grid(config: SweepConfig, recipes: Sequence[str], extra: Sequence[str]) -> list[Cell]:
    """Return the runs, seed by seed, so that a part of the grid is a fair table already; their flags are checked.

    Raises:
        InputError: a recipe is missing or named twice, a flag is the sweep's own, or a run was begun with other flags.
    """
    names = [Path(recipe).stem for recipe in recipes]
    if len(set(names)) < len(names):
        raise InputError(f"recipes {', '.join(recipes)} have the same name twice; runs of one would be the other's")
    missing = [recipe for recipe in recipes if not Path(recipe).is_file()]
    if missing:
        raise InputError(f"recipe {missing[0]} is not a file; recipes/ has some")
    taken = [word for word in extra if word.split("=")[0] in OWN]
    if taken:
        raise InputError(f"{taken[0]} belongs to the sweep; leave it out behind --, and use --seeds and --output_dir")
    cells = []
    for seed, (recipe, name) in product(config.numbers(), zip(recipes, names, strict=True)):
        folder = Path(config.output_dir) / name / f"seed_{seed}"
        arguments = (f"@{recipe}", *extra, "--seed", str(seed), "--output_dir", str(folder), "--resume")
        _claim(folder, arguments)
        cells.append(Cell(f"{name}, seed {seed}", folder, arguments))
    return cells


def _claim(folder: Path, arguments: Sequence[str]) -> None:
    """Make a run's folder and note its settings there; those of an earlier sweep must be the same."""
    settings = parse_args(arguments).as_dict()
    path = folder / SETTINGS
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            before = None
        if not isinstance(before, dict):
            raise InputError(f"{path} is damaged; remove {folder}, or name another --output_dir")
        differing = differing_settings(before, settings)
        if differing:
            raise InputError(f"{folder} holds a run with other settings: {differing}; name another --output_dir")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir: {folder} cannot be made: {error.strerror}; name another folder") from None
    write_json(path, settings)


def how_many_fit(config: SweepConfig) -> int:
    """Return how many runs this machine has processor cores and free memory for, at least one."""
    if config.jobs:
        return config.jobs
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores // config.threads, int(_free_bytes() / GIBI / config.run_gib)))


def _free_bytes() -> float:
    """Return the memory that is not in use; all there is where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def run_all(
    cells: Sequence[Cell], jobs: int, threads: int, interruption: Interruption, say: Callable[[str], None]
) -> dict[str, int]:
    """Run the cells, `jobs` at a time, until all have ended; return the exit codes of those that failed, by name.

    A request to end goes to the runs that are under way, which save and end; no other is started then.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    waiting, running, failed = list(cells), dict[Cell, subprocess.Popen[bytes]](), dict[str, int]()
    is_told = False
    with interruption.caught():
        while waiting or running:
            if interruption.requested is not None:
                waiting.clear()
                for process in running.values() if not is_told else ():
                    process.send_signal(interruption.requested)
                is_told = True
            while waiting and len(running) < jobs:
                cell = waiting.pop(0)
                with open(cell.folder / SAID, "ab") as said:  # a session of its own: Ctrl-C comes from here, and once
                    running[cell] = subprocess.Popen(
                        [*PROGRAM, *cell.arguments],
                        stdout=said,
                        stderr=subprocess.STDOUT,
                        stdin=subprocess.DEVNULL,
                        env=environment,
                        start_new_session=True,
                    )
                say(f"started {cell.name}")
            for cell, process in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[cell]
                if code and not is_told:
                    failed[cell.name] = code
                say(f"{'ended' if not code else f'exit code {code}:'} {cell.name}: {cell.last_line()}")
            time.sleep(LOOK_SECONDS)
    return failed


def _say(line: str) -> None:
    print(line, flush=True)


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Run what is not finished, print the table and what failed."""
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    parser = OneLineParser(
        prog="python -m tools.sweep",
        description="Runs of recipes x seeds, and their table.",
        epilog="What stands behind -- goes to every run: -- --noise_ratio 0.4 --gpu cpu",
    )
    parser.add_argument("recipes", nargs="+", metavar="RECIPES", help="files of run.py's flags")
    add_flags(parser, "sweep", SweepConfig)
    add_flags(parser, "table", TableConfig)
    namespace = parser.parse_args(words[:cut])
    config, shown = from_namespace(SweepConfig, namespace), from_namespace(TableConfig, namespace)
    cells = grid(config, namespace.recipes, words[cut + 1 :])
    wanted = [cell for cell in cells if cell.results() is None]
    jobs = how_many_fit(config)
    _say(f"{len(cells)} runs, {len(cells) - len(wanted)} finished; {min(jobs, len(wanted))} at a time")
    interruption = Interruption()
    failed = run_all(wanted, jobs, config.threads, interruption, _say)
    finished = [path for cell in cells if (path := cell.results()) is not None]
    if finished:
        text = build(shown, finished)
        if shown.output is not None:
            write_atomically(Path(shown.output), text.encode())
        _say(f"\n{text.rstrip()}")
    for cell in cells:
        if cell.name in failed:
            _say(f"FAILED {cell.name}, exit code {failed[cell.name]}: {cell.last_line()}")
    if interruption.requested is not None:
        print("interrupted, and saved; to go on, give the same command", file=sys.stderr)
        sys.exit(128 + interruption.requested)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
