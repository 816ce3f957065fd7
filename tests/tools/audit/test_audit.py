"""python -m tools.audit on a small run and on small embeddings: what is written, and wrong input."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

import run
from data_utils.captions import read_captions
from data_utils.precomputed import PrecomputedSplit
from tests.tiny import make_tiny_data, tiny_flags
from tests.tools.conftest import ErrorOf
from tools.audit import __main__ as audit
from tools.audit.trained import unknown_words
from vocab.vocabulary import Vocabulary

FILES = {
    *("audit.csv", "audit.parquet", "audit.html", "cleaned_index.npy", "cleaned_index.json"),
    *("cleanlab_labels.npy", "cleanlab_pred_probs.npy"),
}
NUM_PAIRS = 200


@pytest.fixture(scope="module")
def audited(checkpoint_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an audit of the trained tiny run."""
    output = tmp_path_factory.mktemp("audit") / "out"
    audit.main(["--mode_path", str(checkpoint_path), "--output", str(output), "--gpu", "cpu"])
    return output


def test_the_table(audited: Path, tiny_root: Path) -> None:
    table = pq.read_table(audited / "audit.parquet")
    rows = table.to_pylist()
    assert sorted(table["pair"].to_pylist()) == list(range(NUM_PAIRS))
    assert table["order"].to_pylist() == list(range(1, NUM_PAIRS + 1))
    suspicion = table["suspicion"].to_pylist()
    assert suspicion == sorted(suspicion, reverse=True)
    captions = read_captions(tiny_root / "data" / "tiny_precomp", "train")
    for row in rows:
        assert row["caption"] == captions[row["pair"]]
        assert row["is_mismatched"] == (row["image"] != row["pair"] // 5)
        assert (row["better_image"] is None) == (row["better_image_score"] is None)
        if row["better_image"] is not None:
            assert row["better_image_score"] > row["similarity"] and row["rank_t2i"] > 1
        if row["better_caption"] is not None:
            assert row["better_caption_text"] == captions[row["better_caption"]]
            assert row["rank_i2t"] > 1
        assert row["cleaned_image"] == (
            row["better_image"] if row["is_suspect"] and row["better_image"] is not None else row["image"]
        )
    assert sum(row["is_mismatched"] for row in rows) > 30
    with open(audited / "audit.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["pair"]) for line in lines] == table["pair"].to_pylist()
    assert [line["caption"] for line in lines] == table["caption"].to_pylist()
    assert list(lines[0]) == table.column_names


def test_page_and_cleanlab_files(audited: Path) -> None:
    table = pq.read_table(audited / "audit.parquet")
    first = table["is_mismatched"].to_pylist()[:100]
    page = (audited / "audit.html").read_text(encoding="utf-8")
    assert "Audit of tiny_precomp" in page and "has no pictures" in page
    assert re.search(rf"first 100</th><td[^>]*>{float(sum(first)):.1f}<", page), "precision"
    assert page.count("clean 0.") + page.count("clean 1.") == 2 * NUM_PAIRS, "both networks of every pair shown"
    labels, chances = np.load(audited / "cleanlab_labels.npy"), np.load(audited / "cleanlab_pred_probs.npy")
    assert labels.shape == (NUM_PAIRS,) and (labels == 1).all()
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    np.testing.assert_allclose(chances[table["pair"].to_numpy(), 1], table["clean_probability"].to_numpy())


def test_run_takes_the_cleaned_index(audited: Path, tiny_root: Path, tmp_path: Path) -> None:
    index = audited / "cleaned_index.npy"
    run.main(tiny_flags(tiny_root, tmp_path, "--num_epochs", "1", "--noise_ratio", "0", "--noise_file", str(index)))
    (folder,) = tmp_path.iterdir()
    noise = json.loads((folder / "results.json").read_text())["noise"]
    own = np.arange(NUM_PAIRS) // 5
    assert noise["measured_ratio"] == pytest.approx(float((np.load(index) != own).mean()))


@pytest.mark.parametrize("module", ["SGR", "SCAN_t2i"])
def test_a_shortlist_of_everything_is_every_pair(
    module: str, tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.main(
        tiny_flags(tiny_root, tmp_path / "run", "--num_epochs", "1", "--module_name", module, "--warmup_epoch", "0")
    )
    (checkpoint,) = (tmp_path / "run").glob("*/checkpoint_dev_best.pth.tar")
    tables = []
    for size in (NUM_PAIRS, 0, 3):
        output = tmp_path / f"audit_{size}"
        audit.main(["--mode_path", str(checkpoint), "--output", str(output), "--shortlist", str(size)])
        tables.append({row["pair"]: row for row in pq.read_table(output / "audit.parquet").to_pylist()})
    whole, exact, short = tables
    for pair, row in exact.items():
        assert whole[pair]["similarity"] == pytest.approx(row["similarity"], abs=1e-5)
        assert abs(whole[pair]["rank_i2t"] - row["rank_i2t"]) <= 3, "but for scores that differ in their last bits"
        assert short[pair]["rank_i2t"] <= row["rank_i2t"] + 3
    assert sum(short[pair]["rank_t2i"] < row["rank_t2i"] for pair, row in exact.items()) > 20
    assert "ranks are over a shortlist: the 3 best captions of every image" in capsys.readouterr().out


def test_embeddings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """40 pairs, of which two have each other's captions: they come first, and each fits the other's image better."""
    random = np.random.default_rng(0)
    images = random.standard_normal((40, 16)).astype(np.float32)
    captions = images + 0.1 * random.standard_normal((40, 16)).astype(np.float32)
    captions[[3, 30]] = captions[[30, 3]]
    np.save(tmp_path / "i.npy", images)
    np.save(tmp_path / "c.npy", captions)
    truth = np.ones(40, dtype=np.uint8)
    truth[[3, 30]] = 0
    np.save(tmp_path / "t.npy", truth)
    (tmp_path / "texts.txt").write_text("\n".join(f"text {k}" for k in range(40)) + "\n", encoding="utf-8")
    files = ["--images", str(tmp_path / "i.npy"), "--captions", str(tmp_path / "c.npy")]
    more = ["--truth", str(tmp_path / "t.npy"), "--texts", str(tmp_path / "texts.txt")]
    audit.main([*files, *more, "--output", str(tmp_path / "out")])
    rows = pq.read_table(tmp_path / "out" / "audit.parquet").to_pylist()
    assert {row["pair"] for row in rows[:2]} == {3, 30}
    assert {row["pair"]: row["better_image"] for row in rows[:2]} == {3: 30, 30: 3}
    assert {row["pair"]: row["better_caption_text"] for row in rows[:2]} == {3: "text 30", 30: "text 3"}
    assert all(row["rank_i2t"] == row["rank_t2i"] == 1 for row in rows[2:])
    assert "DSDMR's filter" in capsys.readouterr().out
    audit.main([*files, "--output", str(tmp_path / "bare")])
    bare = pq.read_table(tmp_path / "bare" / "audit.parquet")
    assert bare["caption"].null_count == 40 and "is_mismatched" not in bare.column_names


def test_pictures(tiny_root: Path, checkpoint_path: Path, tmp_path: Path) -> None:
    """A data set with thumbnails: they are on the page."""
    Image = pytest.importorskip("PIL.Image")
    root = make_tiny_data(tmp_path)
    folder = root / "data" / "tiny_precomp"
    files = []
    for k in range(40):
        Image.fromarray(np.full((8, 8, 3), 6 * k, dtype=np.uint8)).save(tmp_path / "one.png")
        files.append((tmp_path / "one.png").read_bytes())
    with h5py.File(folder / "thumbnails.h5", "w") as file:
        file["train/bytes"] = np.frombuffer(b"".join(files), np.uint8)
        file["train/offsets"] = np.cumsum([0, *map(len, files)])
    output = tmp_path / "out"
    argv = ["--mode_path", str(checkpoint_path), "--data_path", str(root / "data"), "--output", str(output)]
    audit.main([*argv, "--page_pairs", "7"])
    assert (output / "audit.html").read_text().count('<img class="thumb"') >= 7
    (output / "audit.html").unlink()
    audit.main([*argv, "--no_pictures", "--overwrite"])
    assert {path.name for path in output.iterdir()} == FILES, "what an earlier audit left is gone"


def test_unknown_words_are_counted(tmp_path: Path) -> None:
    root = make_tiny_data(tmp_path)
    folder = root / "data" / "tiny_precomp"
    captions = read_captions(folder, "train")
    captions[:2] = ["a zeppelin dog", "quux quuz"]
    (folder / "train_caps.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
    vocabulary = Vocabulary.load(root / "vocab" / "tiny_precomp_vocab.json")
    counts = unknown_words(PrecomputedSplit(folder, "train", vocabulary))
    assert counts[:2].tolist() == [1, 2] and not counts[2:].any()


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "give either --mode_path"),
        (["--mode_path", "c", "--images", "i.npy"], "give either --mode_path"),
        (["--images", "i.npy"], "--images and --captions belong together"),
        (["--mode_path", "c"], "--output is missing"),
        (["--mode_path", "c", "--output", "o", "--truth", "t"], "--truth goes with --images only"),
        (["--images", "i.npy", "--captions", "c.npy", "--output", "o", "--shortlist", "3"], "--shortlist goes with"),
        (["--mode_path", "c", "--output", "o", "--duplicate_cosine", "2"], "--duplicate_cosine 2.0 is out of range"),
        (["--mode_path", "nowhere.pth.tar", "--output", "o"], "no checkpoint at nowhere.pth.tar"),
        (["--mode_path", "c", "--output", "o", "--page_pairs", "0"], "--page_pairs 0 is out of range"),
    ],
)
def test_wrong_flags(
    argv: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error_of: ErrorOf
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in error_of(audit.main, argv)
    assert not list(tmp_path.iterdir()), "nothing is left"


def test_an_output_that_is_not_empty(checkpoint_path: Path, tmp_path: Path, error_of: ErrorOf) -> None:
    (tmp_path / "note.txt").write_text("mine", encoding="utf-8")
    text = error_of(audit.main, ("--mode_path", checkpoint_path, "--output", tmp_path))
    assert "is not empty" in text and "--overwrite" in text
