"""What do neighbours cost: exactly and by inverted lists, and how many of the true ones do lists find?

    python -m benchmarks.neighbours --rows 145000 --size 1024 --count 10 [--threads N] [--json FILE]

Rows are captions in groups of about five, drawn at random; then images, alone, of which some have 2,048 dimensions as
raw region features have. `clustered` rows lie around as many centres as a fifth of them has a root, far from each
other; `smooth` ones fill 64 dimensions of falling spread without gaps, as trained embeddings do, which is harder for
lists. Each measurement is a process of its own; memory is what the process held at most beyond what it held before.
Seconds are the clock's and the processor's: where they differ, the machine had other work, or several threads. The last
column compares with one network's division pass at published sizes, 1,133 batches of 128 x 128 pairs
(`--division_seconds`; SGR, benchmarks/RESULTS.md: 1.6 s for all pairs of a batch and 0.35 s of encoding).
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import check_target
from methods.blocks.neighbours import Neighbours, nearest
from models.inverted_lists import faiss
from runtime.checkpoint import write_json
from runtime.errors import InputError, exit_on_input_error
from runtime.extras import require
from runtime.flags import OneLineParser, add_flags, check_range, flag, from_namespace
from runtime.log import table
from runtime.seed import generator

BLOCK = 16_384
"""So many random rows are drawn at a time."""

ASKED = 250
"""So many captions of the sample are compared with all at a time."""

SPREAD = 0.5
"""Deviation of clustered rows about their centre; centres have deviation 1."""

SMOOTH_DIMS, NOISE = 64, 0.1
"""Directions that smooth rows fill, the k-th with deviation k^-1/2, and their deviation in all others."""

REGION_DIM = 2048
GROUP = 5
KINDS = ("clustered", "smooth")


@dataclass(frozen=True)
class NeighbourBenchmark:
    """Flags of this benchmark."""

    rows: int = flag(145_000, "captions; 0 leaves them out")
    size: int = flag(1024, "dimensions")
    count: int = flag(10, "neighbours of each")
    images: int = flag(
        29_000, f"images, searched exactly, with --size and with {REGION_DIM} dimensions; 0 leaves them out"
    )
    kinds: str = flag(",".join(KINDS), "how rows lie, separated by commas")
    sample: int = flag(1000, "captions whose true neighbours those of lists are compared with")
    threads: int = flag(1, "threads of each measurement")
    division_seconds: float = flag(1133 * 1.95, "seconds of a network's division pass, to compare with")
    json: str | None = flag(None, "write the lines to this JSON file", metavar="FILE")

    def __post_init__(self) -> None:
        for name in ("size", "count", "sample", "threads"):
            check_range(self, name, low=1)
        for name in ("rows", "images"):
            check_range(self, name, low=0)
        check_range(self, "division_seconds", low=1e-6)
        check_target(self.json)
        if unknown := [kind for kind in self.kinds.split(",") if kind not in KINDS]:
            raise InputError(f"--kinds {unknown[0]!r} is unknown; allowed are {', '.join(KINDS)}, separated by commas")


@dataclass(frozen=True)
class Task:
    """One measurement: what is drawn, and how its neighbours are found."""

    kind: str
    rows: int
    size: int
    count: int
    is_exact: bool
    is_grouped: bool
    sample: int
    threads: int


@dataclass(frozen=True)
class Line:
    """What a measurement gave.

    Attributes:
        name: what was searched, and how.
        seconds: by the clock.
        processor_seconds: of all threads.
        memory_mib: held at most beyond what was held before, the result in it.
        found: share of the true neighbours of a sample that was found.
        share: seconds / those of the division pass.
    """

    name: str
    seconds: float
    processor_seconds: float
    memory_mib: float
    found: float
    share: float


def draw_rows(kind: str, rows: int, size: int) -> Tensor:
    """Return random rows (rows, size) as clustered or smooth as said."""
    random = generator(0, "neighbours", kind)
    drawn = torch.empty(rows, size)
    if kind == "clustered":
        base = torch.randn(max(1, round(rows**0.5)), size, generator=random)
    else:
        base = torch.randn(SMOOTH_DIMS, size, generator=random) * torch.arange(1, SMOOTH_DIMS + 1)[:, None] ** -0.5
    for block in drawn.split(BLOCK):
        torch.randn(block.shape, generator=random, out=block)
        if kind == "clustered":
            block.mul_(SPREAD).add_(base[torch.randint(0, len(base), (len(block),), generator=random)])
        else:
            block.mul_(NOISE).addmm_(torch.randn(len(block), SMOOTH_DIMS, generator=random), base)
    return drawn


def draw_groups(rows: int) -> Tensor:
    """Return groups (rows,) of about five rows, in no order."""
    return torch.randperm(rows, generator=generator(0, "neighbours", "groups")) // GROUP


def share_found(rows: Tensor, group: Tensor | None, found: Neighbours, sample: int) -> float:
    """Return the share of the true neighbours, in float64, of rows spread evenly that was found.

    Equal to a millionth counts as found: float32 cannot tell such rows apart.
    """
    count = min(found.numbers.shape[1], len(rows))
    hits = possible = 0
    for asked in torch.linspace(0, len(rows) - 1, min(sample, len(rows))).long().split(ASKED):
        unit = torch.nn.functional.normalize(rows[asked].double(), dim=1)
        blocks = [unit @ torch.nn.functional.normalize(block.double(), dim=1).t() for block in rows.split(BLOCK)]
        product = torch.cat(blocks, dim=1)
        own = asked[:, None] == torch.arange(len(rows)) if group is None else group[asked][:, None] == group
        last = product.masked_fill_(own, -torch.inf).topk(count, dim=1).values
        numbers = found.numbers[asked, :count]
        is_near = product.gather(1, numbers.clamp(min=0)) >= last[:, -1:] - 1e-6
        hits += int(((numbers >= 0) & is_near).sum())
        possible += int(last.isfinite().sum())
    return hits / max(1, possible)


def resident_mib() -> float:
    """Return what this process holds now, as Linux counts it."""
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def measure(task: Task, division_seconds: float) -> Line:
    """Draw rows, find their neighbours, and look at a sample of them."""
    torch.set_num_threads(task.threads)
    if faiss is not None:
        faiss.omp_set_num_threads(task.threads)
    rows = draw_rows(task.kind, task.rows, task.size)
    group = draw_groups(task.rows) if task.is_grouped else None
    nearest(rows[:2000], task.count)  # what is set up once
    before = resident_mib()
    started, used = time.perf_counter(), time.process_time()
    found = nearest(rows, task.count, group=group, exact=task.is_exact)
    seconds, used = time.perf_counter() - started, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    name = f"{task.rows:,} {task.kind} {'captions' if task.is_grouped else 'images'} x {task.size}"
    name += ", every product" if task.is_exact else ", lists"
    share = share_found(rows, group, found, task.sample)
    return Line(name, seconds, used, max(0.0, peak - before), share, seconds / division_seconds)


def tasks_of(config: NeighbourBenchmark) -> list[Task]:
    """Return what is to be measured."""
    tasks = []
    for kind in config.kinds.split(","):
        for size in (config.size, REGION_DIM) if config.images else ():
            tasks.append(Task(kind, config.images, size, config.count, True, False, config.sample, config.threads))
        for is_exact in (True, False) if config.rows else ():
            tasks.append(
                Task(kind, config.rows, config.size, config.count, is_exact, True, config.sample, config.threads)
            )
    return tasks


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = OneLineParser(prog="python -m benchmarks.neighbours", description="What neighbours cost.")
    add_flags(parser, "benchmark", NeighbourBenchmark)
    config = from_namespace(NeighbourBenchmark, parser.parse_args(argv))
    if config.rows:
        require(faiss, "faiss-cpu", "lists need")
    lines: list[Line] = []
    spawned = multiprocessing.get_context("spawn")
    for task in tasks_of(config):
        with ProcessPoolExecutor(1, mp_context=spawned) as process:
            lines.append(process.submit(measure, task, config.division_seconds).result())
        print(f"{lines[-1].name}: {lines[-1].seconds:.1f} s", flush=True)  # a long run's lines are wanted as they come
    header = ["", "s", "processor s", "MiB", "found %", "of division %"]
    cells = [
        [n.name, f"{n.seconds:.1f}", f"{n.processor_seconds:.1f}", round(n.memory_mib), f"{100 * n.found:.1f}"]
        + [f"{100 * n.share:.1f}"]
        for n in lines
    ]
    print(table(header, cells))
    if config.json is not None:
        write_json(Path(config.json), [asdict(line) for line in lines])


if __name__ == "__main__":
    main()
