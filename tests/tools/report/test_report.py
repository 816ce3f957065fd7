"""tools.report from the command line, its page in a browser, runs that lack something, wrong input."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.tiny import make_tiny_data
from tests.tools.conftest import ErrorOf
from tests.tools.pages.browser import PHONE, opened
from tests.tools.report.made_up import copied, edit_config, train, with_pictures
from tools.report import __main__ as report

LABEL = "getComputedStyle(document.querySelector('.chart svg .role-axis-label text')).fill"
SECTIONS = ["Results", "Curves", "Division", "Calibration", "Retrieval", "Attention", "Training pairs"]


@pytest.fixture(scope="module")
def root(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_pictures(tiny_root, tmp_path_factory.mktemp("pictures") / "root")


@pytest.fixture(scope="module")
def runs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A baseline, and MGCS with SGR, whose words attend to regions."""
    output = tmp_path_factory.mktemp("runs")
    return [train(root, output, "--method", "baseline"), train(root, output, "--module_name", "SGR")]


@pytest.fixture(scope="module")
def path(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("report") / "report.html"
    report.main([*map(str, runs), "--output", str(target), "--grid", "2", "--queries", "3", "--gpu", "cpu"])
    return target


def text_of(path: Path) -> str:
    return re.sub(r"<script.*?</script>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def written(folders: list[Path], target: Path, *flags: str) -> str:
    report.main([*map(str, folders), "--output", str(target), "--gpu", "cpu", *flags])
    return text_of(target)


def test_everything_is_there(path: Path) -> None:
    text = text_of(path)
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", text) == SECTIONS
    for said in ("baseline VSE", "mgcs SGR", "Training loss", "Best epoch on dev", "Settings that differ"):
        assert said in text
    assert "baseline VSE divides no pairs" in text
    assert "VSE compares pooled vectors" in text and "class='heat'" in text
    assert text.count("data:image/webp") > 30
    assert "Mismatched, and trusted most" in text
    assert path.stat().st_size < 3_000_000


@pytest.mark.parametrize(("scheme", "size"), [("light", None), ("dark", PHONE)])
def test_it_opens_in_a_browser(path: Path, scheme: str, size: dict[str, int] | None) -> None:
    with opened(path, scheme=scheme, size=size) as seen:
        assert seen.errors == [] and seen.requests == [path.as_uri()]
        charts = seen.page.locator(".chart")
        assert charts.count() > 15
        assert seen.page.evaluate(
            "[...document.querySelectorAll('.chart')].every(c => c.querySelectorAll('svg path').length > 2)"
        )
        assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        unnamed = "[...document.querySelectorAll('img')].filter(i => !i.hasAttribute('alt') || !i.naturalWidth).length"
        assert seen.page.evaluate(unnamed) == 0
        channels = [int(n) for n in seen.page.evaluate(LABEL).removeprefix("rgb(").removesuffix(")").split(",")]
        assert (sum(channels) / 3 > 128) == (scheme == "dark"), "labels of charts follow the scheme"


def test_runs_of_before_lack_their_divisions(runs: list[Path], tmp_path: Path) -> None:
    older = copied(runs[1], tmp_path / "older", "divisions")
    text = written([older], tmp_path / "report.html")
    assert "has no divisions/ folder" in text and "Quality of the division" in text
    assert "no stored division" in text


def test_a_run_in_progress(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    young = copied(runs[1], tmp_path / "young", "results.json", "*.tar")
    text = written([young], tmp_path / "report.html")
    assert "is not finished" in text and "Training loss" in text and "Retrieval</h2>" not in text
    assert "has no checkpoint yet" in text and "has no checkpoint yet" in capsys.readouterr().err


def test_data_that_are_gone_are_told(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = copied(runs[1], tmp_path / "moved")
    edit_config(moved, "data", data_path=str(tmp_path / "nowhere"))
    text = written([moved], tmp_path / "report.html")
    assert "no data set" in text and "Calibration of the clean probability" in text
    capsys.readouterr()
    again = written([moved], tmp_path / "report.html", "--data_path", str(tmp_path / "else"))
    assert "no data set" in again


def test_an_index_that_is_gone_is_not_made_again(runs: list[Path], tmp_path: Path) -> None:
    moved = copied(runs[1], tmp_path / "moved")
    edit_config(moved, "noise", noise_file=str(tmp_path / "noise.npy"))
    assert "is not there any more" in written([moved], tmp_path / "report.html")
    assert not (tmp_path / "noise.npy").exists()


def test_other_data_sets_side_by_side(runs: list[Path], tmp_path: Path) -> None:
    other = with_pictures(make_tiny_data(tmp_path / "made", seed=3), tmp_path / "root")
    folder = train(other, tmp_path / "output", "--method", "bicro")
    renamed = copied(folder, tmp_path / "renamed")
    shutil.move(other / "data" / "tiny_precomp", other / "data" / "other_precomp")
    shutil.move(other / "vocab" / "tiny_precomp_vocab.json", other / "vocab" / "other_precomp_vocab.json")
    edit_config(renamed, "data", data_name="other_precomp")
    results = json.loads((renamed / "results.json").read_text())
    (renamed / "results.json").write_text(json.dumps(results | {"data_name": "other_precomp"}))
    text = written([runs[0], renamed], tmp_path / "report.html")
    assert "different data sets (other_precomp, tiny_precomp): their numbers must not be compared" in text
    assert "Captions for pictures, tiny_precomp" in text and "Captions for pictures, other_precomp" in text


def test_without_pictures(runs: list[Path], tmp_path: Path) -> None:
    text = written(runs, tmp_path / "report.html", "--no_pictures")
    assert "has no pictures, or none are wanted" in text and "data:image" not in text


WRONG = {
    "no run": ([], "the following arguments are required: RUN"),
    "no folder": (["nowhere"], "there is no such folder"),
    "no such place": (["RUN", "--output", "nowhere/report.html"], "--output nowhere/report.html cannot be written"),
    "no queries": (["RUN", "--queries", "0"], "--queries 0 is out of range"),
    "no cells": (["RUN", "--grid", "0"], "--grid 0 is out of range"),
    "twice": (["RUN", "RUN"], "is given twice"),
    "a device": (["RUN", "--gpu", "tpu"], "--gpu 'tpu' is not a device"),
    "a picture folder": (["RUN", "--pictures", "nowhere"], "pictures are missing"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input(
    name: str, runs: list[Path], tmp_path: Path, error_of: ErrorOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words, said = WRONG[name]
    assert said in error_of(report.main, [runs[0] if word == "RUN" else word for word in words])
    assert not list(tmp_path.glob("*.html*"))
