"""How long do a batch and the opening of a split take, against the published way of reading?

    python -m benchmarks.data_loading [--json FILE] [--device cpu|cuda] [--repeats N]

The published way is SCAN's, kept by SGRAF, NCR and BiCro: a data set gives one pair at a time, its caption tokenised by
NLTK each time it is asked for, its image a row of an array in memory (or of a memory map) turned into a tensor; collate
stacks and pads. Sizes are the published ones: batches of 128, 36 x 2048 float32 features, 145,000 captions. Peaks of
both sides hold the published side's images, since both run in one process; benchmarks.large_file measures ours alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Results, Row, check_target, compare, result_rows, write_rows
from data_utils.batch import Batch
from data_utils.loaders import load, shuffled_batches
from data_utils.precomputed import PrecomputedSplit
from data_utils.tokens import OFF, read_tokens
from runtime.device import choose_device
from runtime.errors import exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_choices, check_range, flag, from_namespace
from runtime.seed import generator
from vocab.vocabulary import END, SPECIAL, START, UNK, Vocabulary, tokenize_by_nltk

NUM_IMAGES, REGIONS, DIMS = 2000, 36, 2048
NUM_CAPTIONS, CAPTIONS_PER_IMAGE = 145_000, 5
BATCH_SIZE = 128


@dataclass(frozen=True)
class DataLoadingConfig:
    """Flags of this benchmark."""

    device: str = flag("cpu", "where batches are wanted", choices=("cpu", "cuda"))
    repeats: int = flag(5, "timed repetitions of each side; of the long rows a fifth")
    json: str | None = flag(None, "write the rows to this JSON file", metavar="FILE")

    def __post_init__(self) -> None:
        check_choices(self)
        check_range(self, "repeats", low=1)
        check_target(self.json)


def made_up_vocabulary() -> Vocabulary:
    """Return 8,000 words of letters, and the marks and clitics that captions hold."""
    letters = "etaoinsrhldcumfpgwybvkxjqz"
    words = [f"{letters[k // 676 % 26]}{letters[k // 26 % 26]}{letters[k % 26]}{'aeiou'[k % 5]}" for k in range(8000)]
    return Vocabulary([*SPECIAL, *words, ",", ".", "'s"])


def made_up_captions(number: int, vocabulary: Vocabulary, seed: int = 0) -> list[str]:
    """Return captions as people write them: about 12 words, frequent ones more often, a capital, a period.

    One in eight has a comma, one in thirty each an apostrophe, a hyphen, quotes.
    """
    random = np.random.RandomState(seed)
    words = np.array(vocabulary.words[len(SPECIAL) : -3])
    counts = np.clip(random.normal(12, 4, number).astype(int), 4, 40)
    chosen = words[np.minimum(random.zipf(1.2, counts.sum()) - 1, len(words) - 1)]
    captions = []
    for own, kind in zip(np.split(chosen, np.cumsum(counts)[:-1]), random.randint(0, 120, number), strict=True):
        parts = own.tolist()
        if kind < 15:
            parts[2] += ","
        elif kind < 19:
            parts[1] += "'s"
        elif kind < 23:
            parts[2] += "-" + parts[3]
        elif kind < 27:
            parts[-1] = f'"{parts[-1]}"'
        captions.append(" ".join(parts).capitalize() + (" ." if kind % 2 else "."))
    return captions


class PublishedPairs:
    """One pair at a time, as the published data sets give it."""

    def __init__(self, images: np.ndarray, captions: list[str], vocabulary: Vocabulary) -> None:
        self.images, self.captions = images, captions
        self.ids = {word: k for k, word in enumerate(vocabulary.words)}

    def encode(self, caption: str) -> list[int]:
        """Return a caption's ids."""
        unknown = self.ids[UNK]
        words = [self.ids.get(token, unknown) for token in tokenize_by_nltk(caption)]
        return [self.ids[START], *words, self.ids[END]]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.Tensor(self.images[index // CAPTIONS_PER_IMAGE]), torch.Tensor(self.encode(self.captions[index]))

    def collate(self, indices: Sequence[int], device: torch.device) -> Results:
        """Return a batch: features stacked, captions padded."""
        images, captions = zip(*(self[index] for index in indices), strict=True)
        lengths = [len(caption) for caption in captions]
        tokens = torch.zeros(len(captions), max(lengths)).long()
        for row, caption in zip(tokens, captions, strict=True):
            row[: len(caption)] = caption
        return {"regions": torch.stack(images, 0).to(device), "tokens": tokens.to(device)}


def _results(batch: Batch) -> Results:
    return {"regions": batch.regions, "tokens": batch.tokens}


def _batch_row(
    name: str, images: np.ndarray, captions: list[str], split: PrecomputedSplit, device: torch.device, repeats: int
) -> Row:
    """Time single batches of random pairs, the same ones in the same order on both sides."""
    published = PublishedPairs(images, captions, made_up_vocabulary())
    batches = shuffled_batches(np.arange(len(split)), BATCH_SIZE, generator(0, "batches"))
    batches *= 1 + repeats // len(batches)
    asked, stream = iter(batches), load(split, batches, device=device)
    return compare(
        name,
        lambda: published.collate(next(asked).tolist(), device),
        lambda: _results(next(stream)),
        repeats=repeats,
        device=device,
    )


def _opening_rows(folder: Path, captions: list[str], vocabulary: Vocabulary, repeats: int) -> list[Row]:
    """Time the way from 145,000 captions on disk to ids; the published code goes it once an epoch."""
    path, cache = folder / "many_caps.txt", str(folder / "cache")
    path.write_text("\n".join(captions) + "\n", encoding="utf-8")
    published = PublishedPairs(np.zeros(0), captions, vocabulary)

    def tokenise() -> Results:
        return {"ids": torch.tensor([k for caption in captions for k in published.encode(caption)])}

    def reading(token_cache: str) -> Callable[[], Results]:
        return lambda: {"ids": torch.from_numpy(read_tokens(path, vocabulary, token_cache).ids)}

    cpu = torch.device("cpu")
    return [
        compare("145,000 captions, first start", tokenise, reading(OFF), repeats=repeats, device=cpu),
        compare("145,000 captions, from cache", tokenise, reading(cache), repeats=repeats, device=cpu),
    ]


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Make a data set in a temporary folder, time both ways, print the table."""
    parser = OneLineParser(prog="python -m benchmarks.data_loading", description="Reading batches and captions.")
    add_flags(parser, "benchmark", DataLoadingConfig)
    config = from_namespace(DataLoadingConfig, parser.parse_args(argv))
    device = choose_device("cpu" if config.device == "cpu" else "0")
    vocabulary = made_up_vocabulary()
    captions = made_up_captions(NUM_CAPTIONS, vocabulary)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shape = (NUM_IMAGES, REGIONS, DIMS)
        features = np.lib.format.open_memmap(folder / "train_ims.npy", mode="w+", dtype=np.float32, shape=shape)
        random = np.random.default_rng(0)
        for row in features:
            row[:] = random.random(shape[1:], dtype=np.float32)
        del features
        own = captions[: NUM_IMAGES * CAPTIONS_PER_IMAGE]
        (folder / "train_caps.txt").write_text("\n".join(own) + "\n", encoding="utf-8")
        split = PrecomputedSplit(folder, "train", vocabulary, token_cache=OFF)
        mapped = np.load(split.regions.path, mmap_mode="c")
        rows = [
            _batch_row("batch, published memory map", mapped, own, split, device, config.repeats),
            _batch_row("batch, published in memory", np.array(mapped), own, split, device, config.repeats),
        ]
        del mapped
        rows += _opening_rows(folder, captions, vocabulary, max(1, config.repeats // 5))
    print(result_rows(rows))
    if config.json is not None:
        write_rows(config.json, rows)


if __name__ == "__main__":
    main()
