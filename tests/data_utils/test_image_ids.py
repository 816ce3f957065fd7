"""The image ids of a tsv decide, in any order and with any number of captions an image, from check to audit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import evaluation
from data_utils.captions import parse_captions
from data_utils.catalog import DataConfig, vocabulary_file
from data_utils.loaders import Batch
from data_utils.noise import NoiseConfig, make_index
from data_utils.precomputed import PrecomputedSplit, count
from data_utils.regions import RegionFile
from models.matcher import MatcherConfig
from runtime.errors import InputError
from tests import reference
from tests.test_run import train
from tests.tiny import make_tiny_data, scatter
from tools.audit import __main__ as audit
from tools.check import __main__ as check
from tools.report import __main__ as report
from tools.search import __main__ as search
from training.data import RunData, open_data
from vocab.vocabulary import Vocabulary

NAME = "tiny_precomp"


def lines_of(root: Path, split: str) -> list[list[str]]:
    text = (root / "data" / NAME / f"{split}_caps.tsv").read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines()]


def slow_images(ids: list[str]) -> list[int]:
    """Return the number of each line's image."""
    order: list[str] = []
    for name in ids:
        if name not in order:
            order.append(name)
    return [order.index(name) for name in ids]


def data_of(root: Path, noise: NoiseConfig | None = None) -> RunData:
    data = DataConfig(NAME, str(root / "data"), str(root / "vocab"))
    return open_data(data, noise or NoiseConfig(), MatcherConfig())


def test_training_evaluation_audit_search_and_report_go_by_the_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_tiny_data(tmp_path)
    features = scatter(root)
    where = ["--data_name", NAME, "--data_path", str(root / "data"), "--vocab_path", str(root / "vocab")]
    check.main(where)
    told = capsys.readouterr().out
    assert "1-4  an image" in told and told.endswith("usable\n")

    seen: list[tuple[str, Batch]] = []
    read = PrecomputedSplit.batch

    def watched(self: PrecomputedSplit, *given: object) -> Batch:
        batch = read(self, *given)  # type: ignore[arg-type]
        seen.append((self.name, batch))
        return batch

    monkeypatch.setattr(PrecomputedSplit, "batch", watched)
    clean = ["--module_name", "VSE", "--num_epochs", "1", "--noise_ratio", "0"]
    train(root, tmp_path / "clean", *clean)
    monkeypatch.undo()
    lines = lines_of(root, "train")
    pairs = {int(k) for name, batch in seen if name == "train" for k in batch.index}
    assert len(pairs) == len(lines) == 100
    vocabulary = Vocabulary.load(root / "vocab" / f"{NAME}_vocab.json")
    for name, batch in seen:
        for k, number in enumerate(batch.index.tolist()):
            image, caption = lines_of(root, name)[number] if name != "train" else lines[number]
            np.testing.assert_array_equal(batch.regions[k].numpy(), features[name][image])
            assert batch.tokens[k, : batch.lengths[k]].tolist() == vocabulary.encode(caption)

    noisy = ["--num_epochs", "1", "--noise_ratio", "0.5", "--noise_protocol", "image", "--module_name", "VSE"]
    folder = train(root, tmp_path / "noisy", *noisy)
    path = str(folder / "checkpoint_dev_best.pth.tar")
    capsys.readouterr()
    target = tmp_path / "record.json"
    evaluation.main(["--mode_path", path, "--gpu", "cpu", "--output", str(target), "--save_sims", str(tmp_path / "s")])
    with np.load(tmp_path / "s") as sims:
        expected = reference.ranks(sims["A"], slow_images([image for image, _ in lines_of(root, "test")]))
    result = json.loads(target.read_text(encoding="utf-8"))["results"]["A"]
    for way in ("i2t", "t2i"):
        assert list(result[way].values()) == pytest.approx(list(expected[way].values()))

    audit.main(["--mode_path", path, "--output", str(tmp_path / "audit"), "--gpu", "cpu"])
    own = slow_images([image for image, _ in lines])
    given = make_index(np.array(own), 0.5, "image", 123)
    rows = pq.read_table(tmp_path / "audit" / "audit.parquet").to_pylist()
    assert {row["pair"] for row in rows} == set(range(100))
    for row in rows:
        pair = row["pair"]
        assert (row["caption"], row["image"]) == (lines[pair][1], given[pair])
        assert row["is_mismatched"] == (given[pair] != own[pair])
    cleaned = np.load(tmp_path / "audit" / "cleaned_index.npy")
    written = json.loads((tmp_path / "audit" / "cleaned_index.json").read_text(encoding="utf-8"))
    assert written["measured_mismatch"] == (cleaned != own).mean()

    capsys.readouterr()
    search.main(["--mode_path", path, "--image", "2", "--top_k", "20", "--gpu", "cpu"])
    tests = lines_of(root, "test")
    mine = [c for (_, c), image in zip(tests, slow_images([i for i, _ in tests]), strict=True) if image == 2]
    marked = [line for line in capsys.readouterr().out.splitlines() if "(its own)" in line]
    assert sorted(line.split(")", 1)[1].strip() for line in marked) == sorted(mine)
    report.main([str(folder), "--output", str(tmp_path / "report.html"), "--gpu", "cpu"])
    assert "Calibration of the clean probability" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_first_images_are_those_whose_ids_come_first(tmp_path: Path) -> None:
    root = make_tiny_data(tmp_path)
    features = scatter(root)
    vocabulary = Vocabulary.load(vocabulary_file(DataConfig(NAME, vocab_path=str(root / "vocab"))))
    split = PrecomputedSplit(root / "data" / NAME, "train", vocabulary, 7)
    lines = lines_of(root, "train")
    used = [k for k, image in enumerate(slow_images([image for image, _ in lines])) if image < 7]
    assert split.line_of_caption.tolist() == used != list(range(len(used))) and split.num_images == 7
    regions = split.read_images(split.image_of_caption).numpy()
    tokens, lengths = split.tokens(np.arange(len(split)))
    for k, line in enumerate(used):
        np.testing.assert_array_equal(regions[k], features["train"][lines[line][0]])
        assert tokens[k, : lengths[k]].tolist() == vocabulary.encode(lines[line][1])

    relevant = tmp_path / "relevant.tsv"
    rows = "".join(f"{lines[line][0]}\t{line}\n" for line in used)
    relevant.write_text(f"image_id\tcaption\n{rows}", encoding="utf-8")
    truth = evaluation.ground_truth(relevant, split)
    np.testing.assert_array_equal(truth["t2i"], np.stack([np.arange(len(used)), split.image_of_caption], 1))
    np.testing.assert_array_equal(truth["i2t"], truth["t2i"][:, ::-1])
    unused = next(k for k in range(len(lines)) if k not in used)
    assert unused < max(used)
    relevant.write_text(f"0\t{unused}\n", encoding="utf-8")
    with pytest.raises(InputError, match=f"relevant.tsv: caption {unused} is of an image that train does not use"):
        evaluation.ground_truth(relevant, split)


def test_a_run_is_not_resumed_with_other_ids(tmp_path: Path) -> None:
    """Ids in order change no digest, so that runs of before are still resumed."""
    plain = data_of(make_tiny_data(tmp_path / "a"))
    in_order = data_of(make_tiny_data(tmp_path / "b", tsv=True))
    assert plain.digest() == in_order.digest()
    found = {plain.digest()}
    for split in ("train", "dev", "test"):
        root = make_tiny_data(tmp_path / split, tsv=True)
        path = root / "data" / NAME / f"{split}_caps.tsv"
        path.write_text(path.read_text().replace("\n1\t", "\n0\t", 1), encoding="utf-8")
        np.save(tmp_path / "noise.npy", plain.train.image_of_pair)
        found.add(data_of(root, NoiseConfig(noise_file=str(tmp_path / "noise.npy"))).digest())
    assert len(found) == 4


ROWS = np.random.RandomState(0).randn(6, 2, 3).astype(np.float32)


def counted(folder: Path, rows: np.ndarray, ids: str) -> tuple[list[int], list[int], str]:
    """Return the image of each caption, the row of each image and the captions an image."""
    path = folder / "train_caps.tsv"
    np.save(folder / "train_ims.npy", rows)
    captions = parse_captions(path, "".join(f"{name}\tcaption\n" for name in ids.split()).encode())
    found = count(RegionFile(folder / "train_ims.npy"), captions)
    return found.image_of_caption.tolist(), found.row_of_image.tolist(), found.each


@pytest.mark.parametrize(
    ("rows", "ids", "expected"),
    [
        ([0, 1, 2], "x x x y z z", ([0, 0, 0, 1, 2, 2], [0, 1, 2], "1-3")),
        ([0, 1, 2], "x y z x y z", ([0, 1, 2, 0, 1, 2], [0, 1, 2], "2")),
        ([0, 1, 2], "z 1 a", ([0, 1, 2], [0, 1, 2], "1")),
        ([0, 1, 2], "5 3 9 3", ([0, 1, 2, 1], [0, 1, 2], "1-2")),
        ([0, 1, 2], "2 0 1", ([0, 1, 2], [0, 1, 2], "1")),
        ([0, 0, 1, 1], "7 7 8 8", ([0, 0, 1, 1], [0, 2], "2")),
        ([0, 1, 0, 2, 0], "x y x z x", ([0, 1, 0, 2, 0], [0, 1, 3], "1-3")),
        ([0, 0], "x x", ([0, 0], [0], "2")),
    ],
)
def test_images_by_hand(tmp_path: Path, rows: list[int], ids: str, expected: tuple[list[int], list[int], str]) -> None:
    assert counted(tmp_path, ROWS[rows], ids) == expected


@pytest.mark.parametrize(
    ("rows", "ids", "message"),
    [
        (
            [0, 1],
            "x x x y z z",
            "2 feature rows in .*ims.npy but 3 different image ids in .*caps.tsv of 6 lines; there",
        ),
        ([0, 1, 2, 3], "x x y y z z", "4 feature rows in .* but 3 different image ids"),
        ([0, 1], "a#0 a#1 b#0 b#1", "2 feature rows in .* but 4 different image ids .* they name captions, not images"),
        (
            [0, 1, 2, 3],
            "x x y y",
            "4 feature rows .* but 2 different .*: rows 0 and 1 are both of image 'x' and differ",
        ),
        ([0, 1, 2], "0 2 1 1", "are the numbers of the 3 rows .* but do not first appear in that order"),
        ([0, 1], "2 1 2", "are the numbers of the 2 rows .* but do not first appear in that order .line 1 has '2'"),
    ],
)
def test_ids_that_do_not_fit_the_features(tmp_path: Path, rows: list[int], ids: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        counted(tmp_path, ROWS[rows], ids)


def test_check_says_that_ids_and_features_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By position both would divide: 40 captions for 40 rows."""
    root = make_tiny_data(tmp_path, captions_per_image=1, tsv=True)
    path = root / "data" / NAME / "train_caps.tsv"
    path.write_text(path.read_text(encoding="utf-8").replace("39\t", "38\t"), encoding="utf-8")
    with pytest.raises(SystemExit):
        check.main(["--data_name", NAME, "--data_path", str(root / "data"), "--vocab_path", str(root / "vocab")])
    assert "40 feature rows in" in (out := capsys.readouterr().out) and "but 39 different image ids in" in out


def test_addresses_are_ignored_and_check_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_tiny_data(tmp_path, images={"train": 40, "dev": 8, "test": 10}, captions_per_image=1, tsv=True)
    path = root / "data" / NAME / "dev_caps.tsv"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("".join(f"{line}\thttps://pictures.example/{k}.jpg\n" for k, line in enumerate(lines)))
    check.main(["--data_name", NAME, "--data_path", str(root / "data"), "--vocab_path", str(root / "vocab")])
    told = capsys.readouterr().out
    assert "note: dev_caps.tsv: the third field of its lines, an address, is ignored" in told
    assert data_of(root).dev.lengths.tolist() == [len(line.split("\t")[1].split()) + 2 for line in lines]
