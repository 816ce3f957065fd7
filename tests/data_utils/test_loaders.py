"""Orders and worker processes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from data_utils import regions
from data_utils.loaders import MIN_BATCH, Batch, covering_batches, load, load_forever, one_ahead, shuffled_batches
from data_utils.precomputed import PrecomputedSplit
from runtime.errors import InputError
from runtime.seed import generator
from tests.tiny import make_tiny_data
from vocab.vocabulary import Vocabulary


def open_train(root: Path) -> PrecomputedSplit:
    vocabulary = Vocabulary.load(root / "vocab" / "tiny_precomp_vocab.json")
    return PrecomputedSplit(root / "data" / "tiny_precomp", "train", vocabulary)


def assert_equal(one: Batch, other: Batch) -> None:
    for field in fields(Batch):
        pair = getattr(one, field.name), getattr(other, field.name)
        assert pair == (None, None) or torch.equal(*pair), field.name


def numbers(batches: list[Tensor]) -> list[int]:
    return torch.cat(batches).tolist()


@pytest.mark.parametrize(("count", "sizes"), [(20, [8, 8, 4]), (17, [8, 8]), (18, [8, 8, 2]), (1, []), (0, [])])
def test_every_pair_once_and_no_batch_of_one(count: int, sizes: list[int]) -> None:
    pairs = np.arange(100, 100 + count)
    batches = shuffled_batches(pairs, 8, generator(0, "x"))
    assert [len(b) for b in batches] == sizes
    seen = numbers(batches) if batches else []
    assert len(set(seen)) == len(seen) >= count - 1 and set(seen) <= set(pairs.tolist())


@pytest.mark.parametrize(
    ("count", "sizes"), [(20, [8, 8, 4]), (17, [8, 9]), (18, [8, 8, 2]), (9, [9]), (8, [8]), (1, [1])]
)
def test_covering_batches_leave_none_out(count: int, sizes: list[int]) -> None:
    batches = covering_batches(np.arange(count), 8, generator(0, "x"))
    assert [len(b) for b in batches] == sizes
    assert sorted(numbers(batches)) == list(range(count))
    assert MIN_BATCH == 2


# -- reading --------------------------------------------------------------------------------------------------------


def test_workers_change_nothing(tiny_root: Path) -> None:
    split = open_train(tiny_root)
    batches = shuffled_batches(np.arange(len(split)), 32, generator(0, "x"))
    alone, helped = list(load(split, batches, 0)), list(load(split, batches, 2))
    assert len(alone) == len(helped) == len(batches)
    for one, other, asked in zip(alone, helped, batches, strict=True):
        assert_equal(one, other)
        assert one.index.tolist() == asked.tolist()


def test_workers_read_a_large_hdf5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_tiny_data(tmp_path)
    folder = root / "data" / "tiny_precomp"
    features = np.load(folder / "train_ims.npy")
    (folder / "train_ims.npy").unlink()
    with h5py.File(folder / "train_ims.h5", "w") as file:
        file.create_dataset("features", data=features, chunks=(1, 4, 12), compression="gzip")
    monkeypatch.setattr(regions, "IN_MEMORY_BYTES", 0)
    split = open_train(root)
    batches = shuffled_batches(np.arange(len(split)), 10, generator(0, "x"))
    for one, other in zip(load(split, batches, 0), load(split, batches, 2), strict=True):
        assert_equal(one, other)


def test_a_fault_in_a_worker_reads_like_one_in_this_process(tmp_path: Path) -> None:
    root = make_tiny_data(tmp_path)
    path = root / "data" / "tiny_precomp" / "train_ims.npy"
    features = np.load(path)
    features[30] = np.nan
    np.save(path, features)
    split = open_train(root)
    messages = []
    for workers in (0, 1):
        with pytest.raises(InputError) as caught:
            list(load(split, [torch.tensor([0, 1]), torch.tensor([2, 150])], workers))
        messages.append(str(caught.value))
    assert "row 30 holds NaN" in messages[0]
    assert messages[1] == messages[0]


def test_load_forever_goes_round(tiny_root: Path) -> None:
    split = open_train(tiny_root)
    pairs = np.array([3, 50, 51, 90, 120])
    stream = load_forever(split, pairs, 3, generator(0, "x"))
    rounds = [[b.index.tolist() for b in islice(stream, 2)] for _ in range(4)]
    assert all(sorted(sum(r, [])) == pairs.tolist() for r in rounds)
    assert len({str(r) for r in rounds}) > 1, "every round has its own order"


def test_one_batch_is_prepared_ahead(tiny_root: Path) -> None:
    split = open_train(tiny_root)
    taken: list[int] = []
    second_is_taken = threading.Event()

    def source() -> Iterator[Batch]:
        for number in range(4):
            taken.append(number)
            if number == 1:
                second_is_taken.set()
            yield split[torch.tensor([number, number + 1])]

    stream = one_ahead(source(), lambda batch: (batch, threading.current_thread()))
    first, thread = next(stream)
    assert second_is_taken.wait(10) and thread is not threading.current_thread()
    assert taken == [0, 1] and first.index.tolist() == [0, 1]
    assert [batch.index.tolist() for batch, _ in stream] == [[1, 2], [2, 3], [3, 4]]


def test_a_stream_that_is_left_ends_its_thread(tiny_root: Path) -> None:
    split = open_train(tiny_root)
    before = set(threading.enumerate())  # those of earlier tests may still be ending
    stream = one_ahead(iter([split[torch.arange(2)]] * 9), lambda batch: batch)
    next(stream)
    (own,) = set(threading.enumerate()) - before
    stream.close()  # type: ignore[attr-defined]
    assert not own.is_alive()


@pytest.mark.parametrize("prepare_fails", [False, True])
def test_a_fault_ahead_comes_in_its_turn(tiny_root: Path, prepare_fails: bool) -> None:
    split = open_train(tiny_root)

    def source() -> Iterator[Batch]:
        yield split[torch.arange(2)]
        if not prepare_fails:
            raise InputError("cannot be read")
        yield split[torch.arange(3)]

    def prepare(batch: Batch) -> Batch:
        if len(batch) == 3:
            raise InputError("cannot be read")
        return batch

    stream = one_ahead(source(), prepare)
    assert len(next(stream)) == 2
    with pytest.raises(InputError, match="cannot be read"):
        next(stream)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_gpu_gets_the_same_batches(tiny_root: Path, workers: int) -> None:
    split = open_train(tiny_root)
    device = torch.device("cuda", 0)
    batches = shuffled_batches(np.arange(len(split)), 16, generator(0, "x"))
    busy = torch.randn(2048, 2048, device=device)
    kept = []
    for moved, asked in zip(load(split, batches, workers, device=device), batches, strict=True):
        assert {t.device for t in (moved.regions, moved.tokens, moved.index, moved.image_id)} == {device}
        assert moved.lengths.device.type == "cpu"
        for _ in range(20):
            busy = torch.nn.functional.normalize(busy @ busy)  # copies run beside it
        kept.append((moved.regions * 1.0, moved, asked))
    for copied, moved, asked in kept:
        expected = split[asked]
        assert torch.equal(copied.cpu(), expected.regions)
        assert_equal(
            Batch(*(getattr(moved, field.name).cpu() for field in fields(Batch))),
            expected,
        )
