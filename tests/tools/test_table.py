"""Tables of results: sums recomputed, seeds averaged, published rows beside, what cannot be compared marked."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import evaluation
from tests.tools.conftest import ErrorOf
from tools import table
from tools.result_rows import Row, marks, over_seeds, read_published, read_results, sections

RECALLS = {"i2t": {"R@1": 10.0, "R@5": 20.0, "R@10": 30.0}, "t2i": {"R@1": 5.0, "R@5": 15.0, "R@10": 25.0}}
NOISE = {"protocol": "caption", "asked_ratio": 0.2, "measured_ratio": 0.1998}


def result(shift: float = 0.0, r_sum: float | None = None) -> dict[str, Any]:
    moved = {way: {k: v + shift for k, v in recalls.items()} for way, recalls in RECALLS.items()}
    return {**moved, "rSum": 105.0 + 6 * shift if r_sum is None else r_sum}


def run_record(seed: int = 0, shift: float = 0.0, **changes: Any) -> dict[str, Any]:
    """Return what run.py writes."""
    told = {"data_name": "tiny_precomp", "method": "mgcs", "similarity": "SGR", "noise": NOISE, "seed": seed}
    chosen = {
        "num_networks": 2,
        "epoch": 7 + seed,
        "epoch_title": f"epoch {4 + seed}/9",
        "chosen_on": "dev",
        "split": "test",
    }
    test = {"A": result(shift - 1), "B": result(shift - 2), "mean": result(shift)}
    return {**told, **chosen, "test": test, **changes}


def evaluation_record(**changes: Any) -> dict[str, Any]:
    """Return what evaluation.py writes of two checkpoints on folds."""
    told = {
        "data_name": "tiny_precomp",
        "split": "testall",
        "num_networks": 4,
        "noise": [NOISE, NOISE],
        "seeds": [0, 0],
    }
    told |= {"epochs": [3, 4], "chosen_on": ["dev", "dev"], "methods": ["mgcs"] * 2, "similarities": ["SGR", "SAF"]}
    folds = {"fold_images": 1000, "fold_results": {"A": result(1), "mean": result(2)}}
    return {**told, **folds, "results": {"A": result(-1), "mean": result(0)}, **changes}


def written(folder: Path, record: Any, settings: dict[str, Any] | None = None) -> Path:
    """Write a run's folder."""
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(record), encoding="utf-8")
    if settings is not None:
        (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def built(*paths: Path, **flags: Any) -> str:
    return table.build(table.TableConfig(**flags), list(paths))


# -- reading --------------------------------------------------------------------------------------------------------


def test_a_run_becomes_a_row(tmp_path: Path) -> None:
    (row,) = read_results(written(tmp_path / "run", run_record()))
    assert row.recalls == (10.0, 20.0, 30.0, 5.0, 15.0, 25.0) and row.r_sum == 105.0
    assert (row.method, row.similarity, row.source, row.split) == ("mgcs", "SGR", "run", "test")
    assert (row.noise_protocol, row.noise_ratio, row.measured_ratio) == ("caption", 0.2, 0.1998)
    assert (row.num_networks, row.seeds, row.epochs, row.chosen_on) == (2, (0,), ("4/9",), "dev")


def test_an_evaluation_becomes_a_row_of_its_folds_and_one_of_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    path.write_text(json.dumps(evaluation_record()), encoding="utf-8")
    folds, whole = read_results(path)
    assert (folds.split, folds.r_sum, whole.split, whole.r_sum) == ("testall, folds of 1,000", 117.0, "testall", 105.0)
    assert (whole.method, whole.similarity, whole.num_networks) == ("mgcs", "SGR+SAF", 4)
    assert (whole.seeds, whole.epochs, whole.source) == ((0, 0), (3, 4), "e.json")
    other = {**NOISE, "protocol": "image"}
    path.write_text(json.dumps(evaluation_record(noise=[NOISE, other])), encoding="utf-8")
    assert read_results(path)[0].noise_protocol is None


def test_a_clip_run_becomes_a_row(tmp_path: Path) -> None:
    record = {"clip_method": "dsdmr", "noise": NOISE, "seed": 1, "num_networks": 1, "epoch": 2, "chosen_on": "dev"}
    record["test"] = {**result(), "folds": result(1)}
    folds, whole = read_results(written(tmp_path / "run", record))
    assert (whole.method, whole.features, whole.num_networks, whole.r_sum) == ("dsdmr", "CLIP", 1, 105.0)
    assert folds.r_sum == 111.0 and "folds" in folds.split


def test_what_run_and_evaluation_write_is_read(trained_folder: Path, checkpoint_path: Path, tmp_path: Path) -> None:
    output = tmp_path / "e.json"
    evaluation.main(["--mode_path", str(checkpoint_path), "--gpu", "cpu", "--output", str(output)])
    (run,), (evaluated,) = read_results(trained_folder), read_results(output)
    assert run.recalls == evaluated.recalls and run.settings is not None
    told = ("method", "similarity", "data_name", "split", "noise_protocol", "noise_ratio", "measured_ratio")
    for name in (*told, "num_networks", "seeds", "epochs", "chosen_on"):
        assert getattr(run, name) == getattr(evaluated, name), name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a results file"),
        ("[1, 2]", "not a results file"),
        ('{"data_name": "x"}', "lacks 'num_networks'"),
        (json.dumps({**run_record(), "test": {"A": {"i2t": {}}}}), "lacks 'R@1'"),
        (json.dumps({**run_record(), "test": {}}), "not a results file"),
        (json.dumps({k: v for k, v in run_record().items() if k != "noise"}), "lacks 'noise'"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, error_of: ErrorOf, content: str, message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content, encoding="utf-8")
    line = error_of(table.main, [path])
    assert str(path) in line and message in line


# -- sums and seeds -------------------------------------------------------------------------------------------------


def test_a_sum_that_disagrees_is_said_and_recomputed(tmp_path: Path) -> None:
    bad = run_record(test={"A": result(), "mean": result(r_sum=117.0)})
    text = built(written(tmp_path / "bad", bad))
    assert "says rSum 117.0, its recalls add up to 105.0" in text and str(tmp_path / "bad") in text
    assert "| 105.0 |" in text
    rounded = run_record(test={"A": result(), "mean": result(r_sum=105.04)})
    assert "add up" not in built(written(tmp_path / "rounded", rounded), published="none")


def test_seeds_of_one_setting_are_averaged(tmp_path: Path) -> None:
    training = {"num_epochs": 4, "id": "x"}
    paths = [
        written(tmp_path / f"s{k}", run_record(k, shift), {"training": {**training, "seed": k, "id": str(k)}})
        for k, shift in enumerate((0.0, 1.0, 3.5))
    ]
    (row,) = over_seeds([r for path in [*paths, paths[0]] for r in read_results(path)])
    assert (row.seeds, row.epochs) == ((0, 1, 2), ("4/9", "5/9", "6/9")), "a file given twice counts once"
    assert row.r_sum == pytest.approx(105 + 6 * 1.5) and row.spread[-1] == pytest.approx(6 * 3.25**0.5)
    assert row.recalls[0] == pytest.approx(11.5) and row.spread[0] == pytest.approx(3.25**0.5)
    text = built(*paths)
    assert "| 114.0 ± 10.8 |" in text and "| 0, 1, 2 |" in text

    other = written(tmp_path / "other", run_record(3), {"training": {**training, "seed": 3, "num_epochs": 5}})
    assert len(over_seeds([r for path in [*paths, other] for r in read_results(path)])) == 2, "another setting"
    started = written(tmp_path / "started", run_record(4), {"training": {**training, "warmup_model_path": "x"}})
    also = written(tmp_path / "also", run_record(5), {"training": {**training, "warmup_model_path": "y"}})
    warm = over_seeds([r for path in [*paths, started, also] for r in read_results(path)])
    assert [row.seeds for row in warm] == [(0, 1, 2), (4, 5)], "a start is a setting, its path is not"


# -- what cannot be compared ----------------------------------------------------------------------------------------

REFERENCE = Row(
    method="mgcs",
    source="run",
    data_name="tiny_precomp",
    split="test",
    noise_ratio=0.2,
    recalls=(1.0,) * 6,
    r_sum=6.0,
    similarity="SGR",
    noise_protocol="caption",
    measured_ratio=0.2,
    num_networks=2,
    seeds=(0,),
    epochs=(1,),
    chosen_on="dev",
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ""),
        ({"similarity": "SAF", "method": "ncr", "seeds": (1,), "epochs": (9,), "source": "x"}, ""),
        ({"data_name": "other"}, "D"),
        ({"split": "dev"}, "S"),
        ({"noise_protocol": "image"}, "N"),
        ({"noise_protocol": None}, "N"),
        ({"num_networks": 1}, "E"),
        ({"num_networks": None}, "E"),
        ({"features": "CLIP"}, "F"),
        ({"chosen_on": "test"}, "C"),
        ({"chosen_on": None}, "C"),
        ({"chosen_on": None, "is_published": True}, ""),
        ({"measured_ratio": 0.2099}, ""),
        ({"measured_ratio": 0.2101}, "R"),
        ({"measured_ratio": None}, ""),
        ({"split": "dev", "num_networks": 4, "features": "CLIP"}, "S E F"),
    ],
)
def test_marks(changes: dict[str, Any], expected: str) -> None:
    assert marks(replace(REFERENCE, **changes), REFERENCE) == expected


def test_published_rows_stand_beside_those_of_their_data_and_ratio() -> None:
    published = read_published()
    own = replace(REFERENCE, data_name="f30k_precomp")
    (section,) = sections([own], published, "auto")
    assert section.rows[0] is own and section.reference is own and section.title == "f30k_precomp, 20 % noise asked"
    beside = section.rows[1:]
    assert {row.data_name for row in beside} == {"f30k_precomp"} and {row.noise_ratio for row in beside} == {0.2}
    bicro = next(row for row in beside if row.method == "BiCro")
    assert (bicro.r_sum, marks(bicro, own)) == (504.7, "E")
    assert "N" in marks(next(row for row in beside if "DECL" in row.source), own)
    assert "F" in marks(next(row for row in beside if row.method == "DSDMR"), own)

    assert len(sections([own], published, "none")[0].rows) == 1
    assert {row.data_name for row in sections([own], published, "all")[0].rows} == {"f30k_precomp", "coco_precomp"}
    (foreign,) = sections([REFERENCE], published, "auto")
    assert len(foreign.rows) > 5 and all("D" in marks(row, REFERENCE) for row in foreign.rows[1:])
    assert len(sections([replace(REFERENCE, noise_ratio=0.3)], published, "auto")[0].rows) == 1
    titles = [s.title for s in sections([REFERENCE, own, replace(own, noise_ratio=0.4)], published, "none")]
    assert len(titles) == 3 == len(set(titles))


# -- formats --------------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs on Flickr30K's name: one as published, one with images shuffled."""
    image = {**NOISE, "protocol": "image"}
    return [
        written(tmp_path / "a_run", run_record(data_name="f30k_precomp")),
        written(tmp_path / "b_run", run_record(data_name="f30k_precomp", noise=image, method="ncr|x", num_networks=1)),
    ]


def test_markdown(runs: list[Path]) -> None:
    text = built(*runs)
    lines = text.splitlines()
    assert lines[0] == "### f30k_precomp, 20 % noise asked"
    rows = [line for line in lines if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1, "every row has every column"
    header = [cell.strip() for cell in rows[0].strip("|").split("|")]
    assert set(table.COLUMNS) - set(header) == set(table.IN_TITLE)
    assert "| ncr\\|x |" in text and "| N E |" in text and "504.7* |" in text and "0.1998" in text
    legend = [line for line in lines if line.startswith("- ")]
    assert "- N: another noise protocol, or one of them is not stated" in legend
    assert not any(line.startswith(("- D", "- R", "- C")) for line in legend), "only marks that occur"
    assert any(line.startswith("- * behind a sum") for line in legend)
    assert "MGCS in MGCS (AAAI 2026), f30k_precomp at 0.2: printed rSum 515.4" in text
    assert "printed rSum" not in built(*runs, published="none")


def test_text_fits_a_terminal(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = [written(tmp_path / f"seed_{k}", run_record(k, k, data_name="f30k_precomp")) for k in (1, 2)]
    text = built(*runs, *more, format="text")
    lines = text.splitlines()
    assert max(map(len, lines)) <= table.WIDTH
    (mean,) = [line for line in lines if line.startswith("1 mgcs ")]
    assert mean.split()[2:] == ["11.0", "21.0", "31.0", "6.0", "16.0", "26.0", "111.0±6.0"]
    assert "epoch 4/9, 5/9, 6/9" in " ".join(text.split()) and "- N: another noise protocol" in text
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert built(*runs, *more) == text


def test_csv(runs: list[Path]) -> None:
    lines = built(*runs, format="csv").splitlines()
    remarks = [line for line in lines if line.startswith("#")]
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert list(rows[0]) == list(table.COLUMNS) and all(None not in row.values() for row in rows)
    assert (rows[0]["data"], rows[0]["ratio asked"], rows[0]["rSum"]) == ("f30k_precomp", "0.2", "105.0")
    assert rows[1]["not comparable"] == "N E" and len(rows) == 2 + 7
    assert any(line.startswith("# E: ") for line in remarks)


def test_latex(runs: list[Path]) -> None:
    text = built(*runs, format="latex")
    assert r"\caption{f30k\_precomp, 20 \% noise asked}" in text
    body = [line for line in text.splitlines() if line.endswith(r"\\") and "&" in line]
    assert len({line.count(" & ") for line in body}) == 1 and len(body) == 1 + 2 + 7
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    columns = text.split(r"\begin{tabular}{")[1].split("}")[0]
    assert len(columns) == body[0].count(" & ") + 1
    assert "±" not in text and "_" not in text.replace(r"\_", "")


def test_the_command_writes_a_file(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "t.md"
    table.main([*map(str, runs), "--output", str(output)])
    assert output.read_text(encoding="utf-8") == built(*runs) and str(output) in capsys.readouterr().out
    table.main([str(runs[0]), "--format", "latex"])
    assert capsys.readouterr().out == built(runs[0], format="latex")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["missing"], "missing"),
        ([], "RESULTS"),
        (["--format", "word", "x"], "--format 'word' is unknown"),
        (["--output", "no/such/t.md", "x"], "--output no/such/t.md cannot be written"),
    ],
)
def test_wrong_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error_of: ErrorOf, flags: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in error_of(table.main, flags)
