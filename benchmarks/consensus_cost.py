"""What does `--signal consensus --refine rematch` add to a division? Every step on random vectors of published sizes.

    python -m benchmarks.consensus_cost --images 29000 --captions_per_image 5 --size 1024

Seconds are the clock's and the processor's; memory is what the process held at most beyond the vectors themselves. The
last line is the sum's share of one network's division pass (benchmarks/neighbours.py tells which).
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from benchmarks.neighbours import NeighbourBenchmark, draw_rows, resident_mib
from methods.blocks.agreement import Agreement, PairBank
from methods.blocks.consensus import consensus, share_like_random, worth
from methods.blocks.rematch import make_offers
from runtime.errors import exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_range, flag, from_namespace
from runtime.log import table
from runtime.seed import generator

Result = TypeVar("Result")

NEAR = 0.5
"""A caption's vector is its image's, and so many times a random one's."""


@dataclass(frozen=True)
class CostBenchmark:
    """Flags of this benchmark."""

    images: int = flag(29_000, "images")
    captions_per_image: int = flag(5, "captions of each")
    size: int = flag(1024, "dimensions")
    noise: float = flag(0.4, "share of captions that get another image", metavar="RATIO")
    threads: int = flag(1, "processor threads")
    division_seconds: float = flag(NeighbourBenchmark.division_seconds, "seconds of a division pass, to compare with")

    def __post_init__(self) -> None:
        for name in ("images", "captions_per_image", "size", "threads"):
            check_range(self, name, low=1)
        check_range(self, "noise", low=0.0, high=1.0)
        check_range(self, "division_seconds", low=1e-6)


def draw_bank(config: CostBenchmark) -> tuple[PairBank, torch.Tensor]:
    """Return a bank of smooth rows, and which pairs are matched (N,) bool."""
    random = generator(0, "consensus cost")
    images = draw_rows("smooth", config.images, config.size)
    written_for = torch.arange(config.images).repeat_interleave(config.captions_per_image)
    captions = draw_rows("smooth", len(written_for), config.size).mul_(NEAR)
    for numbers in torch.arange(len(captions)).split(10_000):
        captions[numbers] += images[written_for[numbers]]
    moved = torch.randperm(len(captions), generator=random)[: int(config.noise * len(captions))]
    given = written_for.clone()
    given[moved] = written_for[moved[torch.randperm(len(moved), generator=random)]]
    nothing = images.new_zeros(())
    parts = nothing.expand(len(images)), nothing.expand(len(captions))
    bank = PairBank(images, captions, torch.ones(config.size), *parts, given, torch.arange(len(images)))
    return bank, given == written_for


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Measure each step and print."""
    parser = OneLineParser(prog="python -m benchmarks.consensus_cost", description="What a consensus costs.")
    add_flags(parser, "benchmark", CostBenchmark)
    config = from_namespace(CostBenchmark, parser.parse_args(argv))
    torch.set_num_threads(config.threads)
    bank, is_matched = draw_bank(config)
    before, rows = resident_mib(), []

    def timed(name: str, step: Callable[[], Result]) -> Result:
        started, used = time.perf_counter(), time.process_time()
        result = step()
        rows.append((name, time.perf_counter() - started, time.process_time() - used))
        return result

    everyone = torch.arange(len(bank.captions))
    around = timed("neighbours of images and captions", lambda: Agreement(bank))
    given = timed("signals of given pairs", lambda: around.signals(bank.image_of_pair, everyone))
    anyone = bank.image_of_pair[torch.randperm(len(everyone), generator=generator(0, "consensus cost", "random"))]
    drawn = timed("signals of random pairs", lambda: around.signals(anyone, everyone))
    columns, others = ({name: values.double().numpy() for name, values in own.items()} for own in (given, drawn))
    worths = timed("worth of each signal", lambda: {name: worth(columns[name], others[name]) for name in columns})
    said = timed("consensus", lambda: consensus(columns, worths, "gmm"))
    timed("share that looks random", lambda: share_like_random(columns, others))
    timed("offers", lambda: make_offers(bank, said.log_odds > 0))
    rows.append(("all", sum(r[1] for r in rows), sum(r[2] for r in rows)))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    print(table(["", "s", "processor s"], [[name, f"{s:.1f}", f"{p:.1f}"] for name, s, p in rows]))
    print(
        f"{100 * rows[-1][1] / config.division_seconds:.1f} % of a division pass, {memory:.0f} MiB beyond the vectors"
    )
    print(f"right side of 0: {((said.log_odds > 0) == is_matched.numpy()).mean():.3f} of the pairs")


if __name__ == "__main__":
    main()
