"""How long a run still takes: seconds that its steps have taken so far, times the steps that are left.

A run does work of several kinds: steps of the warm-up, steps on clean pairs (which also ask the peer for labels), on
clean and noisy pairs, division passes and rankings. What was done is measured; a kind that is still to come is taken
from the others by its usual cost. That is good enough to tell minutes from days.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from runtime.log import duration
from training.config import TrainingConfig
from training.network import Network
from training.position import Position
from training.stages import Stage, noisy_side_is_due, stages

WARM_UP, CLEAN, NOISY, DIVISION, RANKING = "warm-up", "clean", "noisy", "division", "ranking"
COSTS = {WARM_UP: 1.0, CLEAN: 1.0, NOISY: 2.0, DIVISION: 0.4, RANKING: 0.3}
"""A batch of each kind beside a warm-up step, encoded, scored and differentiated once."""

ASKING = 0.8
"""What the look of both networks at the pairs adds, for labels."""

FIRST_STEPS, FIRST_SECONDS, LONGEST_WAIT = 5, 1.0, 20.0
"""After so many steps and seconds, or after that many seconds alone, it is said what a step takes."""

LONG = 24 * 3600
"""A run of more seconds is worth a hint."""


@dataclass(frozen=True)
class Spent:
    """Seconds that so many batches took; `is_first`: the first ones of their kind."""

    seconds: float
    batches: float
    is_first: bool = False


@dataclass
class Learnt:
    """What a run has learnt of its pace; a fork hands it back.

    Attributes:
        spent: by kind of work.
        steps: by kind, the batches that its last epoch had of each network.
        is_told: it was said what a step takes.
    """

    spent: dict[str, Spent]
    steps: dict[str, int]
    is_told: bool = False


class Pace:
    """The work of a run, and how long it takes.

    Args:
        settings: of the loop.
        networks: in training.
        pairs: training pairs.
        rankings: images times captions of the dev and the test split.
        side_by_side: whether networks work at the same time where neither needs the other.
    """

    def __init__(
        self,
        settings: TrainingConfig,
        networks: Sequence[Network],
        pairs: int,
        rankings: tuple[int, int],
        side_by_side: bool = False,
    ) -> None:
        self._settings, self._networks, self._side_by_side = settings, networks, side_by_side
        self._stages, self.step_size, self._pairs = stages(settings), settings.step_size, pairs
        self._all = ceil(pairs / self.step_size)
        self._tiles = [tile / self.step_size**2 for tile in rankings]
        self.learnt = Learnt({}, {})

    def took(self, kind: str, seconds: float, batches: float = 1.0) -> None:
        """Count work that was done. The first of its kind takes longer: it counts only until there is more."""
        spent = self.learnt.spent.get(kind)
        if spent is None or (spent.is_first and batches):
            self.learnt.spent[kind] = Spent(seconds, batches, spent is None)
        else:
            self.learnt.spent[kind] = Spent(spent.seconds + seconds, spent.batches + batches)

    def ranked(self, pairs: int, seconds: float) -> None:
        """Count a ranking of so many images times captions by every network."""
        self.took(RANKING, seconds, len(self._networks) * pairs / self.step_size**2)

    def timed_division(self, position: Position, network: str) -> TimedDivision:
        """Return what times a network's division pass that begins now."""
        names = [] if self._side_by_side else [n.name for n in self._networks if n.method.divides]
        return TimedDivision(self, position, names.index(network) if names else 0, max(1, len(names)), self._pairs)

    def _asks(self, noisy: bool) -> bool:
        return any(network.method.asks_peer(noisy) for network in self._networks)

    def _cost(self, kind: str) -> float:
        asks = kind in (CLEAN, NOISY) and self._asks(kind == NOISY)
        together = kind == WARM_UP and self._settings.warmup_type == "co_teaching"
        return COSTS[kind] * (1 + ASKING * asks) * (1 + 2 * together)

    def seconds(self, kind: str) -> float:
        """Return the seconds of a batch: measured, or by what others take."""
        spent = self.learnt.spent
        if kind in spent and spent[kind].batches:
            return spent[kind].seconds / spent[kind].batches
        usual = sum(self._cost(known) * found.batches for known, found in spent.items())
        return self._cost(kind) * sum(found.seconds for found in spent.values()) / (usual or 1.0)

    def _turns(self, kind: str) -> int:
        """Return how many networks do a kind of work one after the other."""
        if kind == WARM_UP and self._settings.warmup_type == "co_teaching":
            return 1
        in_turn = kind in (CLEAN, NOISY) and self._asks(kind == NOISY)
        return len(self._networks) if in_turn or not self._side_by_side else 1

    def kind(self, stage: Stage) -> str:
        """Return the kind of a stage's steps."""
        if stage.kind == WARM_UP:
            return WARM_UP
        wants = all(network.method.wants_noisy for network in self._networks)
        return NOISY if wants and noisy_side_is_due(self._settings, stage.epoch) else CLEAN

    def _steps_of(self, kind: str) -> int:
        return self.learnt.steps.get(kind) or self.learnt.steps.get(CLEAN if kind == NOISY else kind) or self._all

    def _division(self, stage: Stage) -> float:
        divides = [network.method for network in self._networks if network.method.divides]
        is_due = divides and (not stage.epoch or all(method.divides_in(stage.epoch) for method in divides))
        return self._turns(DIVISION) * self._all * self.seconds(DIVISION) if is_due else 0.0

    def _ranking(self, of: int) -> float:
        return len(self._networks) * self._tiles[of] * self.seconds(RANKING)

    def _of_stage(self, stage: Stage) -> float:
        ranking = self._ranking(0) / (1 if stage.is_last else self._settings.validate_every)
        if stage.kind == "start":
            return ranking
        kind = self.kind(stage)
        division = self._division(stage) if stage.kind == "epoch" else 0.0
        return division + self._turns(kind) * self._steps_of(kind) * self.seconds(kind) + ranking

    def left(self, position: Position, own: Sequence[str] = (), divided: float = 0.0) -> tuple[float, float]:
        """Return about how many seconds are left of the stage in progress, and of the run with its test.

        Args:
            position: where the run is.
            own: the networks at work, side by side with others or alone.
            divided: share of the stage's division that is done, where that is in progress.
        """
        if position.stage >= len(self._stages):
            return 0.0, self._ranking(1)
        stage = self._stages[position.stage]
        whole, done = self._of_stage(stage), 0.0
        if stage.kind == "epoch":
            done += self._division(stage) * (1.0 if position.is_divided else divided)
        if stage.kind != "start":
            kind = self.kind(stage)
            at_once = self._turns(kind) == 1
            batches = (n for name, n in position.batches.items() if not (at_once and own) or name in own)
            done += sum(batches) * self.seconds(kind)
        of_stage = max(0.0, whole - done)
        after = sum(self._of_stage(later) for later in self._stages[position.stage + 1 :])
        return of_stage, of_stage + after + self._ranking(1)

    def left_in_words(self, position: Position, own: Sequence[str] = (), divided: float = 0.0) -> str:
        """Return what `left` does, for people."""
        of_stage, of_run = self.left(position, own, divided)
        return f"{duration(of_stage)} of the epoch, {duration(of_run)} of the run"

    def first_word(self, position: Position, own: Sequence[str], module: str) -> str:
        """Return a line on what a step takes and what that means for the run, once after some steps; else ""."""
        steps = [self.learnt.spent[kind] for kind in (WARM_UP, CLEAN, NOISY) if kind in self.learnt.spent]
        seconds, count = sum(s.seconds for s in steps), sum(s.batches for s in steps)
        is_due = (count >= FIRST_STEPS and seconds >= FIRST_SECONDS) or seconds >= LONGEST_WAIT
        if self.learnt.is_told or not is_due:
            return ""
        self.learnt.is_told = True
        of_run = self.left(position, own)[1]
        line = f"a step takes about {duration(seconds / count)} here, what is left of the run about {duration(of_run)}"
        if of_run > LONG and module not in ("VSE", "GPO"):
            line += "; much faster: a GPU, --module_name VSE or GPO, or a recipe of the embedded data (recipes/)"
        return line


class TimedDivision:
    """Times a division pass while it goes on; the `turn`-th of `turns` that follow each other."""

    def __init__(self, pace: Pace, position: Position, turn: int, turns: int, pairs: int) -> None:
        self._pace, self._position, self._turn, self._turns, self._pairs = pace, position, turn, turns, pairs
        self._done, self._began = 0, time.monotonic()

    def took(self, pairs: int) -> None:
        """Count pairs that were looked at since the last time."""
        began, self._began = self._began, time.monotonic()
        self._done += pairs
        self._pace.took(DIVISION, self._began - began, pairs / self._pace.step_size)

    def left_in_words(self) -> str:
        """Return how long the epoch and the run still take."""
        share = (self._turn + self._done / self._pairs) / self._turns
        return self._pace.left_in_words(self._position, divided=share)
