"""python -m tools.search on a small run: what is found, what is said, wrong input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import run
from data_utils.captions import read_captions
from data_utils.stored import open_for_all
from models.ensemble import restore, similarities
from runtime.checkpoint import load_checkpoint
from tests.tiny import tiny_flags
from tests.tools.conftest import ErrorOf
from tools.command import parsed
from tools.search import __main__ as search
from tools.search.results import Result

CPU = torch.device("cpu")


def answers(argv: list[str]) -> list[Result]:
    """Return what a command finds."""
    (config,) = parsed("tools.search", "", argv, {"search": search.SearchConfig})
    return search.search(config)


def all_scores(path: Path) -> tuple[np.ndarray, list[str]]:
    """Return the networks' mean scores of the test split, (8, 40), and its captions."""
    checkpoint = load_checkpoint(path)
    split = open_for_all([checkpoint], [str(path)], "test").split
    matchers = restore(checkpoint, str(path))
    mean = sum(similarities(matcher, split, CPU) for matcher in matchers) / len(matchers)
    return mean, read_captions(split.regions.path.parent, "test")


@pytest.fixture(scope="module", params=["VSE", "SGR"])
def checkpoint(request: pytest.FixtureRequest, tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a run whose scores are products, and of one whose are not."""
    output = tmp_path_factory.mktemp(request.param)
    run.main(tiny_flags(tiny_root, output, "--num_epochs", "1", "--module_name", request.param))
    (path,) = output.glob("*/checkpoint_dev_best.pth.tar")
    return path


def test_words_find_images_in_the_order_of_their_scores(checkpoint: Path, tmp_path: Path) -> None:
    scores, captions = all_scores(checkpoint)
    queries = list(dict.fromkeys(captions))
    (tmp_path / "q.txt").write_text("\n".join(queries) + "\n", encoding="utf-8")
    found = answers(["--mode_path", str(checkpoint), "--queries", str(tmp_path / "q.txt"), "--top_k", "5"])
    assert [result.query for result in found] == queries
    for result in found:
        column = scores[:, captions.index(result.query)]
        np.testing.assert_allclose(result.scores, np.sort(column)[::-1][:5], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(column[result.numbers], result.scores, rtol=1e-4, atol=1e-5)
    (one,) = answers(["--mode_path", str(checkpoint), queries[0], "--top_k", "5"])
    assert one.numbers == found[0].numbers


def test_an_image_finds_captions(checkpoint: Path) -> None:
    scores, _ = all_scores(checkpoint)
    (found,) = answers(["--mode_path", str(checkpoint), "--image", "3", "--top_k", "12"])
    assert found.image == 3 and len(found.numbers) == 12
    np.testing.assert_allclose(found.scores, np.sort(scores[3])[::-1][:12], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scores[3][found.numbers], found.scores, rtol=1e-4, atol=1e-5)


def test_an_index_is_kept_and_gives_the_same(checkpoint: Path, tmp_path: Path) -> None:
    argv = ["--mode_path", str(checkpoint), "a red dog", "--index", str(tmp_path / "index")]
    (first,), (second,) = answers(argv), answers(argv)
    assert first == second
    (without,) = answers(argv[:3])
    assert first.numbers == without.numbers
    (answer,) = answers([*argv[:2], "--image", "1", *argv[3:]])
    assert answer.numbers and (tmp_path / "index" / "captions").is_dir()


def test_what_is_printed(checkpoint_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search.main(["--mode_path", str(checkpoint_path), "a RED zeppelin zeppelin", "--top_k", "3"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a RED zeppelin zeppelin" and lines[1] == "unknown words, left to chance: zeppelin"
    assert lines[2].split()[:3] == ["rank", "score", "image"]
    assert [line.split()[0] for line in lines[4:7]] == ["1", "2", "3"]
    assert "8 images of tiny_precomp test" in lines[-1] and "--index DIR keeps it" in lines[-1]


def test_the_page(checkpoint_path: Path, tmp_path: Path) -> None:
    target = tmp_path / "found.html"
    search.main(["--mode_path", str(checkpoint_path), "a <b>red</b> dog", "--html", str(target)])
    page = target.read_text(encoding="utf-8")
    assert "Search in tiny_precomp test" in page and "has no pictures" in page
    assert "a &lt;b&gt;red&lt;/b&gt; dog" in page and "<b>red" not in page
    assert page.count("<small>image ") == 8


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "give one of: a query in quotes"),
        (["a dog", "--image", "1"], "give one of: a query in quotes"),
        ([""], "the query is empty"),
        (["xyzzy plugh"], "holds no word that the networks have learnt: xyzzy, plugh"),
        (["a dog", "--top_k", "0"], "--top_k 0 is out of range"),
        (["a dog", "--split", "tset"], "split 'tset' has no features: did you mean test?"),
        (["--image", "8"], "--image 8 is not in the gallery: test has images 0 to 7"),
        (["--image", "nowhere.png"], "neither a number of the gallery nor a picture file"),
        (["--queries", "nowhere.txt"], "--queries nowhere.txt is no file"),
        (["a dog", "--html", "nowhere/x.html"], "--html nowhere/x.html cannot be written"),
        (["a dog", "--pictures", "."], "test_images.txt is not there"),
    ],
)
def test_wrong_input(argv: list[str], told: str, checkpoint_path: Path, error_of: ErrorOf) -> None:
    assert told in error_of(search.main, ("--mode_path", checkpoint_path, *argv))


def test_a_line_of_a_query_file_is_told(checkpoint_path: Path, tmp_path: Path, error_of: ErrorOf) -> None:
    path = tmp_path / "q.txt"
    argv = ["--mode_path", str(checkpoint_path), "--queries", str(path)]
    for content, told in (
        ("a dog\n\na cat\n", "query 2 is empty"),
        ("a dog\nxyzzy\n", "query 2 ('xyzzy') holds no word"),
        ("", "is empty; it must hold a query a line"),
    ):
        path.write_text(content, encoding="utf-8")
        assert told in error_of(search.main, argv)


def test_a_picture_file_of_other_features(
    checkpoint_path: Path, tmp_path: Path, error_of: ErrorOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_module = pytest.importorskip("PIL.Image")
    image_module.fromarray(np.zeros((9, 9, 3), dtype=np.uint8)).save(tmp_path / "p.png")

    class Backbone:
        size = (6, 6)
        channels = 5

        def maps(self, pixels: np.ndarray) -> np.ndarray:
            return np.ones((len(pixels), 2, 2, self.channels), dtype=np.float32)

    monkeypatch.setattr("tools.search.queries.open_backbone", lambda *how: Backbone())
    argv = ["--mode_path", str(checkpoint_path), "--image", str(tmp_path / "p.png"), "--grid", "2"]
    text = error_of(search.main, argv)
    assert "gives 4 regions x 5 dimensions, the networks were trained on 4 x 12" in text
    Backbone.channels = 12
    (found,) = answers([*argv, "--top_k", "2"])
    assert found.image is None and len(found.numbers) == 2
