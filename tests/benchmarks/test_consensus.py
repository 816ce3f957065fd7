"""The ablation's table: means, what a row gains, and the share of the gap that it closes."""

from __future__ import annotations

import pytest

from benchmarks.consensus import ROWS, AblationConfig, summary
from runtime.errors import InputError
from training.config import parse_args


def row(name: str, rsum: float, seed: str = "0", **cells: str) -> dict[str, str]:
    plain = {"similarity": "VSE", "noise_ratio": "0.4", "dev_rSum": str(rsum + 10), "auc": "", "offers": ""}
    return {**plain, "row": name, "seed": seed, "test_rSum": str(rsum), **cells}


def cells_of(table: str, name: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_gap_closed_and_gain_over_the_best_other() -> None:
    """Baseline 100, ceiling 200: 175 closes 75 %; the best other has 150."""
    rows = [row("baseline", 100), row("ncr", 150), row("bicro", 140), row("ceiling, hinge", 180)]
    rows += [row("ceiling, bounded", 200)]
    rows += [row("consensus", 174, auc="0.98"), row("consensus", 176, seed="1", auc="0.99")]
    table = summary(rows)
    found = cells_of(table, "consensus")
    assert found[1:6] == ["185.0 ± 1.4", "175.0 ± 1.4", "+25.0", "75%", "0.985"]
    assert cells_of(table, "ncr")[3:5] == ["-", "50%"]
    assert "VSE, noise 0.4, seeds 0, 1" in table


def test_without_baseline_and_ceiling_there_is_no_gap() -> None:
    assert cells_of(summary([row("consensus", 175)]), "consensus")[3:5] == ["-", "-"]


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_a_run(name: str) -> None:
    assert parse_args([*ROWS[name], "--noise_ratio", "0.4"]).method_name == ROWS[name][1]


@pytest.mark.parametrize("flags", [{"rows": "nonsense"}, {"seeds": "a"}, {"jobs": 0}])
def test_what_is_not_known_is_refused(flags: dict[str, object]) -> None:
    with pytest.raises(InputError):
        AblationConfig(**flags)  # type: ignore[arg-type]
