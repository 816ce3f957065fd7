"""The golden check itself: its exit codes, and, where the golden files exist, that our code agrees with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import golden

FOLDER = Path(__file__).parents[3] / "shared" / "golden"
needs_files = pytest.mark.skipif(not FOLDER.is_dir(), reason="the golden files are not part of the project")
Contents = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def contents() -> dict[str, Contents]:
    """Both golden files."""
    return {name: golden.read_golden(FOLDER / name) for name in golden.FILES}


@needs_files
@pytest.mark.parametrize("name", golden.FILES)
def test_every_golden_value_is_matched(contents: dict[str, Contents], name: str) -> None:
    comparisons = golden.compare_file(name, contents[name])
    assert [c for c in comparisons if not c.is_ok] == []
    assert len({c.key for c in comparisons}) == len(comparisons) > 100


@needs_files
@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("SGR/eval/sims", lambda v: v + 2e-5),
        ("SAF/train/buffer/sim_enc/SAF_module.bn.running_mean", lambda v: v + 2e-5),
        ("SGR/train/grad/sim_enc/SGR_module.2.graph_query_w.weight", lambda v: v * 1.001),
        ("SGR/train/grad/sim_enc/SGR_module.0.graph_key_w.bias", lambda v: v + 0.1),
        ("criterion/anchor_idx", lambda v: v - 1),
        ("bicro/train/noisy_soft_label", lambda v: v[::-1].copy()),
        ("bmm/40/clean_probability", lambda v: v + 2e-6),
        ("ranks/t2i", lambda v: v + 1e-9),
        ("ranks/i2t", lambda v: v * np.nan),
        ("criterion/per_pair_loss", lambda v: v[:-1]),
    ],
)
def test_a_changed_golden_value_fails(
    contents: dict[str, Contents], key: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    changed = {**contents["bicro.npz"], key: change(contents["bicro.npz"][key])}
    group = {
        "S": lambda c: golden.compare_network(c, key[:3]),
        "c": golden.compare_criterion,
        "r": golden.compare_ranks,
        "b": golden.compare_mixtures if key.startswith("bmm") else golden.compare_bicro,
    }[key[0]]
    assert [c.key for c in group(changed) if not c.is_ok] == [key]


@needs_files
def test_a_forgotten_key_fails_and_a_missing_one_is_named(
    contents: dict[str, Contents], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in golden.FILES:
        np.savez(tmp_path / name, **{**contents[name], "criterion/new": np.zeros(3)})  # type: ignore[arg-type]
    with pytest.raises(SystemExit) as stopped:
        golden.main([str(tmp_path)])
    assert stopped.value.code == 1
    failures = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert len(failures) == 2 and all("criterion/new" in line for line in failures)

    short = {k: v for k, v in contents["ncr.npz"].items() if k != "criterion/ncr_predict"}
    np.savez(tmp_path / "ncr.npz", **short)  # type: ignore[arg-type]
    with pytest.raises(SystemExit) as stopped:
        golden.main([str(tmp_path)])
    assert stopped.value.code == 2
    assert "lacks the key 'criterion/ncr_predict'" in capsys.readouterr().err


@pytest.mark.parametrize("fault", ["no folder", "no file", "damaged"])
def test_unreadable_files_are_one_line(fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "absent" if fault == "no folder" else tmp_path
    if fault == "damaged":
        (tmp_path / "ncr.npz").write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(SystemExit) as stopped:
        golden.main([str(folder)])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1 and str(folder) in message
