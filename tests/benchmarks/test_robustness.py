"""The grid of runs: what is run once, what its tables say, and what is refused before the first run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import robustness
from benchmarks.robustness import FIELDS, division_figures, read_rows, summary
from tests.tiny import tiny_flags

ROOT = Path(__file__).parents[2]


def line(name: str, rsum: float, seed: str = "0", **cells: str) -> dict[str, str]:
    plain = {"similarity": "VSE", "noise_ratio": "0.4", "num_networks": "2", "dev_rSum": str(rsum + 10)}
    return {**dict.fromkeys(FIELDS, ""), **plain, "row": name, "seed": seed, "test_rSum": str(rsum), **cells}


def cells_of(text: str, name: str) -> list[list[str]]:
    """Cells of the lines of a row, in all tables."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_gap_that_is_closed() -> None:
    """Baseline 100, higher ceiling 200: 175 closes 75 %. Columns without a value are left out."""
    rows = [line("baseline", 100), line("ncr", 150), line("baseline --remove_noise", 180)]
    rows += [line("baseline --loss bounded --remove_noise", 200)]
    rows += [line("mgcs", 174, auc="0.98", recall="0.9"), line("mgcs", 176, seed="1", auc="0.99", recall="0.8")]
    text = summary(rows, list(dict.fromkeys(row["row"] for row in rows)))
    ratios, details = cells_of(text, "mgcs")
    assert ratios == ["mgcs", "175.0 ± 1.4", "0.985 ± 0.007"]
    assert details == ["mgcs", "2", "185.0 ± 1.4", "175.0 ± 1.4", "+75.0", "75%", "0.985", "0.850"]
    assert cells_of(text, "ncr")[1][4:] == ["+50.0", "50%", "-", "-"]
    assert "VSE, seeds 0, 1" in text and "rematched" not in text
    assert len(cells_of(summary(rows[:2], ["baseline", "ncr"]), "ncr")[1]) == 5, "without a ceiling there is no gap"


def test_figures_of_divisions() -> None:
    """First and last of each network, then their mean; what one network lacks is left out."""
    values = ((0, "A", 0.5), (0, "B", 0.7), (1, "A", 0.2), (1, "B", 0.4))
    records = [
        {"event": "division", "network": n, f"division/{n}/residual_noise": v, f"division/{n}/auc": v + step}
        for step, n, v in values
    ]
    records[-1]["division/B/recall"] = 1.0
    assert division_figures([{"event": "dev"}, *records]) == {
        "first_residual_noise": 0.6,
        "residual_noise": 0.3,
        "auc": 1.3,
    }
    assert division_figures([{"event": "dev"}]) == {}


def test_what_has_its_line_is_not_run_again(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = tiny_flags(tiny_root, tmp_path, "--num_epochs", "1")
    del flags[flags.index("--output_dir") : flags.index("--output_dir") + 2]
    path = tmp_path / "rows.csv"
    argv = [*flags, "--csv", str(path), "--rows", "baseline;mgcs  --loss bounded", "--noise_ratios", ".4"]
    robustness.main(argv)
    assert "2 runs to do, 0 lines" in capsys.readouterr().out
    one, other = sorted(read_rows(path), key=lambda row: row["row"])
    assert (one["row"], other["row"], other["noise_ratio"]) == ("baseline", "mgcs --loss bounded", "0.4")
    assert other["auc"] and not one["auc"] and 0 < float(other["test_rSum"]) <= 600
    monkeypatch.setattr(robustness, "run_recipe", None)
    robustness.main(argv)
    said = capsys.readouterr().out
    assert "0 runs to do, 2 lines" in said and len(cells_of(said, "mgcs --loss bounded")) == 2


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--rows", "baseline;nonsense"], "--method 'nonsense' is unknown"),
        (["--rows", "mgcs --los bounded"], "--los"),
        (["--rows", "mgcs;;ncr"], "--rows 'mgcs;;ncr' has an empty row"),
        (["--seeds", "a"], "--noise_ratios and --seeds are numbers"),
        (["--noise_ratios", "0.2,"], "--noise_ratios and --seeds are numbers"),
        (["--jobs", "0"], "--jobs 0"),
        (["--csv", "other.csv"], "other.csv has other columns"),
        (["--csv", "torn.csv"], "torn.csv row 1 has more or fewer cells"),
    ],
)
def test_what_is_not_known_is_refused_before_the_first_run(
    flags: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    Path("torn.csv").write_text(",".join(FIELDS) + "\n0,0.2\n", encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        robustness.main(flags)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and told in error and error.count("\n") == 1


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.csv")), ids=lambda path: path.name)
def test_the_results_kept_here_are_runs_of_today(path: Path) -> None:
    rows = read_rows(path)
    assert rows and summary(rows, list(dict.fromkeys(row["row"] for row in rows)))
    for name in {row["row"] for row in rows}:
        assert robustness.parse_args(robustness.arguments_of(("0", "0.4", name), [])).method_name == name.split()[0]
