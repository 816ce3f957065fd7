"""Networks' opinions of their training pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_utils.precomputed import PrecomputedSplit
from data_utils.stored import open_for_all
from methods import known_methods
from methods.blocks.method import StudentAndPeer
from models.ensemble import restore
from runtime.checkpoint import load_checkpoint
from runtime.errors import InputError
from runtime.seed import generator
from tools.audit.opinions import ask_networks, stored_method
from tools.command import give_noise
from training.division import decide, gather_evidence

CPU = torch.device("cpu")


def opened(path: Path) -> tuple[dict[str, Any], list[Any], PrecomputedSplit]:
    checkpoint = load_checkpoint(path)
    stored = open_for_all([checkpoint], [str(path)], "train")
    give_noise(stored, checkpoint, str(path))
    return checkpoint, restore(checkpoint, str(path)), stored.split


def test_signals_are_those_of_a_division(checkpoint_path: Path) -> None:
    checkpoint, matchers, split = opened(checkpoint_path)
    told: list[int] = []
    opinions = ask_networks(checkpoint, matchers, split, CPU, told.append)
    method = known_methods()["mgcs"]
    assert sum(told) == 2 * len(split) * len(matchers)
    for matcher, opinion in zip(matchers, opinions, strict=True):
        own = method(method.Config(**checkpoint["config"]["method"]))
        look = gather_evidence(
            matcher,
            own,
            split,
            batch_size=checkpoint["config"]["training"]["batch_size"],
            generator=generator(checkpoint["config"]["training"]["seed"], "division"),
            device=CPU,
        )
        division = decide(own, look, [look], split)
        np.testing.assert_array_equal(opinion.signal, division.signal)
        np.testing.assert_array_equal(opinion.probability, division.probability)


@pytest.mark.parametrize("name", sorted(known_methods()))
def test_every_method_labels_every_pair(name: str, checkpoint_path: Path) -> None:
    checkpoint, matchers, split = opened(checkpoint_path)
    checkpoint["config"] |= {"method_name": name, "method": {}}
    opinions = ask_networks(checkpoint, matchers, split, CPU)
    for k, opinion in enumerate(opinions):
        assert opinion.soft_label.shape == opinion.signal.shape == (len(split),)
        assert (opinion.soft_label >= 0).all() and (opinion.soft_label <= 1).all()
        peer = opinions[len(opinions) - 1 - k].probability
        if name == "baseline":
            assert (opinion.soft_label == 1).all()
        elif name == "dsdmr":
            assert set(opinion.soft_label.tolist()) <= {0.0, 1.0}
        elif name in ("mgcs", "bicro"):
            assert (opinion.soft_label[peer > 0.5] >= 0.5).all(), "the peer's clean side"
        if name == "mgcs":
            labels = opinion.soft_label[known_methods()[name](known_methods()[name].Config()).divide(peer)]
            assert (labels == 1).all() and (opinion.soft_label < 1).any()


def test_a_method_that_is_not_recorded_or_not_known(checkpoint_path: Path) -> None:
    checkpoint = load_checkpoint(checkpoint_path)
    checkpoint["config"]["method_name"] = None
    assert stored_method(checkpoint)[0] == "baseline"
    checkpoint["config"]["method_name"] = "unheard"
    with pytest.raises(InputError, match="'unheard' is unknown; known: .*mgcs"):
        stored_method(checkpoint)


def test_an_index_that_is_gone_is_told_and_not_made(checkpoint_path: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(checkpoint_path)
    stored = open_for_all([checkpoint], [str(checkpoint_path)], "train")
    gone = tmp_path / "gone.npy"
    checkpoint["config"]["noise"]["noise_file"] = str(gone)
    with pytest.raises(InputError, match="was trained with the noise index .*gone.npy, which is not there"):
        give_noise(stored, checkpoint, "c")
    with pytest.raises(InputError, match="--noise_file .*other.npy, which is not there"):
        give_noise(stored, checkpoint, "c", noise_file=str(tmp_path / "other.npy"))
    assert not gone.exists()


def test_each_network_is_labelled_beside_its_peer(checkpoint_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, matchers, split = opened(checkpoint_path)
    kind, seen = known_methods()["mgcs"], set()
    original = kind.labels

    def labels(self: Any, views: StudentAndPeer, *others: Any) -> Any:
        seen.add(tuple(matchers.index(view._matcher) for view in (views.student, views.peer)))
        return original(self, views, *others)

    monkeypatch.setattr(kind, "labels", labels)
    ask_networks(checkpoint, matchers, split, CPU)
    assert seen == {(0, 1), (1, 0)}
