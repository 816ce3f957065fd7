"""How long do searches take? 1,000 queries on 7,000 pictures, and an index of 1,000,000 random rows.

    python -m benchmarks.search [--json FILE] [--module_name NAME] [--images N] [--rows N]

The pictures are made up, of published sizes (36 regions x 2,048 dimensions); the network is untrained, so that only
the times mean something. Random rows have no clusters to be put into lists by, the hardest case for what lists find;
`clustered` rows lie around as many centres as there are lists. Memory is the process's resident set as Linux counts it.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import check_target
from benchmarks.published_sizes import VOCABULARY_SIZE, published_matcher, published_split
from models.similarity import SIMILARITIES
from runtime.checkpoint import write_json
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_choices, check_range, flag, from_namespace
from runtime.log import table
from searching.engine import images_for_texts
from searching.index_folder import LISTS, IndexFolder
from searching.queries import TextQueries
from searching.vectors import Lists, build_lists, search_exactly

BLOCK = 16_384
"""So many random rows are drawn at a time."""

TOP_K = 10
QUERY_WORDS = 6
SPREAD = 0.5
"""Deviation of clustered rows about their centre; centres have deviation 1."""


@dataclass(frozen=True)
class SearchBenchmark:
    """Flags of this benchmark."""

    module_name: str = flag("VSE", "similarity of the made-up network", choices=SIMILARITIES)
    embed_size: int = flag(1024, "its embedding")
    images: int = flag(7000, "pictures of the gallery; 0 leaves this part out")
    queries: int = flag(1000, "queries asked")
    shortlist: int = flag(64, "candidates a query whose real scores are computed")
    rows: int = flag(1_000_000, "random rows; 0 leaves this part out")
    dims: int = flag(256, "their dimensions")
    folder: str | None = flag(
        None, "where files are made and removed again (default: the system's temporary folder)", metavar="DIR"
    )
    json: str | None = flag(None, "write the numbers to this JSON file", metavar="FILE")

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("embed_size", "queries", "shortlist", "dims"):
            check_range(self, name, low=1)
        for name in ("images", "rows"):
            check_range(self, name, low=0)
        check_target(self.json)
        if self.folder is not None and not Path(self.folder).is_dir():
            raise InputError(f"--folder {self.folder} is not a folder; name one that exists")


@dataclass(frozen=True)
class Line:
    """One measurement.

    Attributes:
        name: what was searched.
        build_s: seconds to build the index.
        index_mib: its size on disk; where every product is computed, that of the rows.
        queries_s: seconds for all queries at once.
        query_ms: milliseconds for one query alone, the median of 20.
        found: share of the true `TOP_K` best that was found, None where all is exact.
        peak_mib: VmHWM of the process so far; pages of mapped files that were read are in it.
    """

    name: str
    build_s: float
    index_mib: float
    queries_s: float
    query_ms: float
    found: float | None
    peak_mib: float


def peak_mib() -> float:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def size_mib(folder: Path) -> float:
    """Return the size of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def alone(ask: Sequence[float]) -> float:
    """Return the median in milliseconds."""
    return 1000 * float(np.median(ask))


def search_pictures(config: SearchBenchmark, folder: Path) -> Line:
    """Build the index of made-up pictures, and ask."""
    device = torch.device("cpu")
    matcher = published_matcher(config.module_name, embed_size=config.embed_size)
    random = np.random.default_rng(0)
    words = random.integers(4, VOCABULARY_SIZE, (config.queries, QUERY_WORDS))
    ids = [[1, *row, 2] for row in words.tolist()]
    asked = TextQueries([""] * config.queries, ids, [[]] * config.queries)
    with published_split(config.images, 1) as split:
        started = time.perf_counter()
        index = IndexFolder(folder / "index", {"made": "up"})
        networks = index.networks([matcher], split, device)
        side = index.images(networks, split, device, lambda rows: None)
        build_s = time.perf_counter() - started

        def ask(queries: TextQueries) -> float:
            started = time.perf_counter()
            images_for_texts(networks, split, side, queries, device, top_k=TOP_K, shortlist=config.shortlist)
            return time.perf_counter() - started

        ask(TextQueries([""], ids[:1], [[]]))
        single = [ask(TextQueries([""], ids[k : k + 1], [[]])) for k in range(min(20, config.queries))]
        name = f"{config.images:,} pictures, {config.module_name} {config.embed_size}"
        return Line(name, build_s, size_mib(folder / "index"), ask(asked), alone(single), None, peak_mib())


def draw_rows(path: Path, count: int, dims: int, *, is_clustered: bool) -> np.ndarray:
    """Write random rows of length 1 to a file; return it as a map."""
    random = np.random.default_rng(0)
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (count, dims))
    centres = random.standard_normal((max(1, round(count**0.5)), dims), dtype=np.float32)
    for start in range(0, count, BLOCK):
        block = random.standard_normal((min(BLOCK, count - start), dims), dtype=np.float32)
        if is_clustered:
            block = centres[random.integers(0, len(centres), len(block))] + SPREAD * block
        rows[start : start + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    rows.flush()
    return np.load(path, mmap_mode="r")


def search_rows(config: SearchBenchmark, folder: Path, *, is_clustered: bool) -> list[Line]:
    """Build lists of random rows, and ask; then compute every product instead."""
    rows = draw_rows(folder / "rows.npy", config.rows, config.dims, is_clustered=is_clustered)
    random = np.random.default_rng(1)
    near = rows[np.sort(random.integers(0, len(rows), config.queries))]
    noise = random.standard_normal(near.shape, dtype=np.float32) / np.sqrt(config.dims, dtype=np.float32)
    queries = near + noise
    path = folder / LISTS
    started = time.perf_counter()
    build_lists(rows, path)
    build_s, lists = time.perf_counter() - started, Lists(path, rows)
    kind = f"{len(rows):,} {'clustered' if is_clustered else 'random'} rows x {config.dims}"
    exact: dict[str, np.ndarray] = {}
    lines = []
    for name, ask in (
        (f"{kind}, every product", lambda q: search_exactly(rows, q, TOP_K)),
        (f"{kind}, lists", lambda q: lists.search(q, TOP_K)),
    ):
        ask(queries[:1])
        started = time.perf_counter()
        found = ask(queries).numbers
        seconds = time.perf_counter() - started
        single = []
        for k in range(min(20, len(queries))):
            started = time.perf_counter()
            ask(queries[k : k + 1])
            single.append(time.perf_counter() - started)
        truth = exact.setdefault("numbers", found)
        shared = np.mean([len(set(a) & set(b)) / TOP_K for a, b in zip(found.tolist(), truth.tolist(), strict=True)])
        is_exact = found is truth
        lines.append(
            Line(
                name,
                0.0 if is_exact else build_s,
                (folder / "rows.npy" if is_exact else path).stat().st_size / 2**20,
                seconds,
                alone(single),
                None if is_exact else float(shared),
                peak_mib(),
            )
        )
    return lines


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = OneLineParser(prog="python -m benchmarks.search", description="Times of searches.")
    add_flags(parser, "benchmark", SearchBenchmark)
    config = from_namespace(SearchBenchmark, parser.parse_args(argv))
    lines: list[Line] = []
    for is_clustered in (False, True) if config.rows else ():
        with tempfile.TemporaryDirectory(dir=config.folder) as name:
            lines += search_rows(config, Path(name), is_clustered=is_clustered)
    if config.images:
        with tempfile.TemporaryDirectory(dir=config.folder) as name:
            lines.append(search_pictures(config, Path(name)))
    header = ["", "build s", "index MiB", f"{config.queries:,} queries s", "one query ms", "found %", "peak MiB"]
    cells = [
        [line.name, line.build_s, line.index_mib, f"{line.queries_s:.2f}", line.query_ms]
        + ["-" if line.found is None else 100 * line.found, round(line.peak_mib)]
        for line in lines
    ]
    print(table(header, cells))
    if config.json is not None:
        write_json(Path(config.json), [asdict(line) for line in lines])


if __name__ == "__main__":
    main()
