"""The adapter: what it is, that it helps where it can, that its run is reproducible and honest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from methods.blocks.dynamic_margin import MarginConfig
from models.losses import Margins
from models.ranks import retrieval
from runtime.seed import generator
from tests.tools.filter.made_up import MadeUp, flags, make, save
from tools.filter import __main__ as clean
from tools.filter.adapter import AdapterConfig, AdapterTraining, RankedSet, ResidualAdapter
from tools.filter.filtering import FilterConfig

CPU = torch.device("cpu")


def units(rows: np.ndarray) -> np.ndarray:
    """Return rows of length 1, float32."""
    return (rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)).astype(np.float32)


def training(
    made_up: MadeUp, *, policy: str = "separation", each: int = 1, device: torch.device = CPU, **settings: object
) -> AdapterTraining:
    """Return a training on all pairs."""
    config = replace(AdapterConfig(num_epochs=3, batch_size=64, hidden_size=16), **settings)  # type: ignore[arg-type]
    return AdapterTraining(
        (units(made_up.images), units(made_up.captions)),
        np.arange(len(made_up.captions)) // each,
        np.ones(len(made_up.captions), dtype=bool),
        config=config,
        filtering=FilterConfig(),
        margins=MarginConfig(margin_policy=policy),
        device=device,
    )


def test_the_adapter_starts_as_the_identity_and_is_its_equation() -> None:
    rows = torch.from_numpy(units(make(20).images))
    adapter = ResidualAdapter(32, 8, generator(0, "x"))
    torch.testing.assert_close(adapter(rows), rows, rtol=0, atol=1e-7)
    with torch.no_grad():
        adapter.outer.normal_(generator=generator(0, "y"))
    for row, found in zip(rows, adapter(rows), strict=True):
        expected = row + adapter.outer @ F.gelu(adapter.inner @ row)
        torch.testing.assert_close(found, expected / expected.norm())


def test_recall_rises_where_there_is_something_to_unlearn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_up = make(900, nuisance=0.4, noise=0.3)
    argv = ["--adapt", "--holdout", "0.2", "--num_epochs", "12", "--hidden_size", "64", "--learning_rate", "0.005"]
    clean.main(flags(save(made_up, tmp_path), tmp_path / "out", *argv))
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    results = record["results"]
    assert set(results) == {"before", "before, matched only", "after", "after, matched only"}
    for way in ("i2t", "t2i"):
        assert results["after"][way]["R@1"] > results["before"][way]["R@1"] + 5
        matched = [results[f"{when}, matched only"][way]["R@1"] for when in ("before", "after")]
        assert matched[1] > matched[0] + 10 and matched[1] > 90
    first, last = record["epochs"][0], record["epochs"][-1]
    assert last["modes"]["separation"] > first["modes"]["separation"] + 1
    assert last["quality"]["residual_noise"] < first["quality"]["residual_noise"]
    assert first["image_margin"] > last["image_margin"] >= 0.3, "margins follow the modes' overlap"
    assert (
        record["adapted"]["quality"]["auc"] >= json.loads((tmp_path / "out/modes.json").read_text())["quality"]["auc"]
    )
    told = capsys.readouterr().out
    assert told.count("epoch ") == 12 and "after, matched only" in told


def test_what_is_written_is_what_was_ranked(tmp_path: Path) -> None:
    made_up = make(300, captions_per_image=2, nuisance=0.2)
    argv = ["--captions_per_image", "2", "--adapt", "--num_epochs", "2", "--hidden_size", "8", "--seed", "3"]
    names, output = save(made_up, tmp_path / "in"), tmp_path / "out"
    clean.main(flags(names, output, *argv))
    images, captions = np.load(output / "adapted_images.npy"), np.load(output / "adapted_captions.npy")
    assert images.dtype == captions.dtype == np.float32 and (len(images), len(captions)) == (300, 600)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, atol=1e-6)
    state = torch.load(output / "adapter.pt", weights_only=True)
    for rows, adapted, side in ((made_up.images, images, "images"), (made_up.captions, captions, "captions")):
        x, weights = torch.from_numpy(units(rows)), state[side]
        y = F.normalize(x + F.gelu(x @ weights["inner"].t()) @ weights["outer"].t(), dim=1)
        np.testing.assert_allclose(adapted, y.numpy(), atol=1e-6)
    owner = np.arange(600) // 2
    held = RankedSet.held_out(owner, 300, AdapterConfig(), 3)
    assert held.images.tolist() != RankedSet.held_out(owner, 300, AdapterConfig(), 4).images.tolist()
    assert len(held.images) == 30 and len(held.captions) == 60, "images are held out with all their captions"
    twin = retrieval(images[held.images] @ captions[held.captions].T, held.image_of_caption)
    results = json.loads((output / "results.json").read_text())
    assert results["results"]["after"] == twin.as_dict()
    assert results["epochs"][0]["modes"]["num_pairs"] == 540
    assert not [path for path in output.iterdir() if path.is_dir()]
    clean.main(["--images", f"{output}/adapted_images.npy", "--captions", f"{output}/adapted_captions.npy", *argv[:2]]
               + ["--output", str(tmp_path / "again")])  # fmt: skip
    again = json.loads((tmp_path / "again" / "modes.json").read_text())["modes"]
    assert again["clean"]["mean"] == pytest.approx(results["adapted"]["modes"]["clean"]["mean"], abs=1e-6)


def test_held_out_pairs_are_not_seen(tmp_path: Path) -> None:
    """Other held-out rows change nothing that was learnt."""
    made_up, owner = make(300, nuisance=0.2), np.arange(300)
    held = RankedSet.held_out(owner, 300, AdapterConfig(), 0)
    learnt = []
    for name in "ab":
        clean.main(flags(save(made_up, tmp_path / f"in{name}"), tmp_path / name, "--adapt", "--num_epochs", "2"))
        state = torch.load(tmp_path / name / "adapter.pt", weights_only=True)
        learnt.append(
            b"".join(state[side][key].numpy().tobytes() for side in ("images", "captions") for key in state[side])
        )
        made_up.images[held.images], made_up.captions[held.captions] = 1.0, -2.0
    assert learnt[0] == learnt[1]
    made_up.images[np.setdiff1d(owner, held.images)[0]] *= -1
    clean.main(flags(save(made_up, tmp_path / "inc"), tmp_path / "c", "--adapt", "--num_epochs", "2"))
    state = torch.load(tmp_path / "c" / "adapter.pt", weights_only=True)
    assert state["images"]["outer"].numpy().tobytes() not in learnt[0], "a row that was trained on does"


def test_without_held_out_pairs_nothing_is_ranked(tmp_path: Path) -> None:
    names = save(make(300, nuisance=0.2), tmp_path / "in")
    clean.main(flags(names, tmp_path / "none", "--adapt", "--num_epochs", "1", "--holdout", "0"))
    record = json.loads((tmp_path / "none" / "results.json").read_text())
    assert record["results"] == {} and record["epochs"][0]["modes"]["num_pairs"] == 300


def test_captions_of_the_same_image_are_no_negatives() -> None:
    """Two near images whose captions fill the batch: only the other image's captions cost."""
    random = np.random.default_rng(0)
    image = random.normal(size=32) + 0.4 * random.normal(size=(2, 32))
    made_up = MadeUp(image, np.repeat(image, 10, axis=0), np.ones(20, dtype=bool))
    cosine = float(image[0] @ image[1] / np.linalg.norm(image[0]) / np.linalg.norm(image[1]))
    (record,) = training(made_up, each=10, num_epochs=1, batch_size=20).epochs()
    assert 0.8 < cosine < 0.95
    assert record.loss == pytest.approx((0.3 - 1 + cosine) + (0.2 - 1 + cosine), abs=1e-6)


@pytest.mark.parametrize(("margins", "expected"), [(Margins(0.3, 0.1), 0.2), (Margins(0.1, 0.3), 0.25)])
def test_the_hinge_of_a_step(margins: Margins, expected: float) -> None:
    """Scores 1, .8 / 0, .6: image 0 may not reach caption 1 by its margin, caption 1 is nearer to image 0 by .2."""
    made_up = MadeUp(np.eye(2), np.array([[1.0, 0.0], [0.8, 0.6]]), np.ones(2, dtype=bool))
    assert training(made_up)._step(np.arange(2), margins) == pytest.approx(expected, abs=1e-6)


def test_only_kept_pairs_are_trained_on_with_margins_of_their_own() -> None:
    made_up = make(300, nuisance=0.4)
    trained, given = training(made_up, policy="posterior", num_epochs=1), []
    step = trained._step
    trained._step = lambda pairs, margins: (given.append((pairs, margins)), step(pairs, margins))[1]  # type: ignore
    (record,) = trained.epochs()
    probability, is_clean = record.found.probability, record.found.is_clean
    assert (
        sorted(np.concatenate([pairs for pairs, _ in given])) == np.flatnonzero(is_clean).tolist() != list(range(300))
    )
    for pairs, margins in given:
        expected = 0.3 * torch.from_numpy(probability[pairs])
        torch.testing.assert_close(torch.as_tensor(margins.image).double(), expected)
    assert len(np.unique(probability[is_clean].round(3))) > 10
