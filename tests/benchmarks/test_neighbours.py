"""What neighbours cost: the share that is found, and one small run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from benchmarks import neighbours
from methods.blocks.neighbours import Neighbours, nearest


def test_the_share_found() -> None:
    rows = neighbours.draw_rows("smooth", 300, 8)
    group = neighbours.draw_groups(300)
    assert (torch.bincount(group) == neighbours.GROUP).all()
    true = nearest(rows, 4, group=group)
    assert neighbours.share_found(rows, group, true, 50) == 1
    half = true.numbers.clone()
    half[:, 2:] = -1
    assert neighbours.share_found(rows, group, Neighbours(half, true.cosines), 300) == 0.5
    far = nearest(-rows, 4, queries=rows).numbers
    assert neighbours.share_found(rows, group, Neighbours(far, true.cosines), 300) == 0
    alone = nearest(rows, 4)
    assert neighbours.share_found(rows, None, alone, 300) == 1


def test_kinds_lie_as_said() -> None:
    near = [float(nearest(neighbours.draw_rows(kind, 400, 200), 1).cosines.mean()) for kind in neighbours.KINDS]
    assert near[0] == pytest.approx(0.8, abs=0.05)  # 1 / (1 + 0.5^2)
    assert torch.equal(neighbours.draw_rows("smooth", 50, 6), neighbours.draw_rows("smooth", 50, 6))


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Measure here: starting processes takes longer than all the rest."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(neighbours, "ProcessPoolExecutor", lambda workers, mp_context: ThreadPoolExecutor(workers))
    yield
    torch.set_num_threads(threads)


def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], in_this_process: None) -> None:
    pytest.importorskip("faiss")
    argv = ["--rows", "400", "--size", "6", "--images", "60", "--kinds", "clustered", "--count", "3"]
    neighbours.main([*argv, "--json", str(tmp_path / "lines.json")])
    lines = json.loads((tmp_path / "lines.json").read_text())
    assert [line["name"] for line in lines] == [
        "60 clustered images x 6, every product",
        "60 clustered images x 2048, every product",
        "400 clustered captions x 6, every product",
        "400 clustered captions x 6, lists",
    ]
    assert [line["found"] for line in lines[:3]] == [1, 1, 1] and 0.3 < lines[3]["found"] <= 1
    assert all(line["seconds"] > 0 and line["share"] > 0 for line in lines)
    assert "of division %" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [["--rows", "-1"], ["--count", "0"], ["--kinds", "round"], ["--threads", "0"], ["--json", "/no/where/x.json"]],
)
def test_bad_flags(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        neighbours.main(argv)
    assert stop.value.code == 2 and capsys.readouterr().err.startswith("error: " + argv[0])
