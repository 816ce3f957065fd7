"""How long does an epoch of a recipe take: division and training of both networks, published formulation against ours.

    python -m benchmarks.epoch --recipe recipes/emoji_mgcs_0.4.args --share 0.1

Both sides run the same trainer on the same first pictures; the published one scores one caption at a time, with
autograd through every pair, and has torch's GRU. Epochs follow each other on both sides; no results are compared, since
dropout draws other masks on each. Without `--start`, a checkpoint of warmed-up networks, division by untrained networks
leaves the epoch few clean pairs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks import published
from benchmarks.measure import Results, compare, device_of, tell
from data_utils.catalog import locate, protocol
from data_utils.noise import inject
from data_utils.precomputed import PrecomputedSplit
from models.attention import l2norm
from models.encoders import CaptionEncoder
from models.matcher import PRECISIONS, Embeddings, Matcher
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import check_range, flag
from tools.command import check_writable, parsed
from training.config import RunConfig, parse_args
from training.data import RunData, open_data
from training.trainer import Trainer


@dataclass(frozen=True)
class EpochConfig:
    """Flags of this benchmark."""

    recipe: str = flag("recipes/emoji_mgcs_0.4.args", "file of run.py's flags", metavar="FILE")
    share: float = flag(0.1, "share of the training pictures that is used, the first ones, in (0, 1]", metavar="RATIO")
    start: str | None = flag(None, "checkpoint of the recipe's networks after warm-up", metavar="FILE")
    repeats: int = flag(3, "timed epochs of each side")
    device: str = flag("cpu", "cpu, or cuda (the first GPU)")
    precision: str = flag("fp32", "our scoring without gradient", choices=PRECISIONS)
    json: str | None = flag(None, "write the row to this JSON file", metavar="FILE")

    def __post_init__(self) -> None:
        check_range(self, "share", low=1e-6, high=1.0)
        check_range(self, "repeats", low=1)
        check_writable("json", self.json)
        if not Path(self.recipe).is_file():
            raise InputError(f"--recipe {self.recipe} is not a file; recipes/ has some")


class PublishedEncoder(CaptionEncoder):
    """A caption encoder that lets torch differentiate its GRU."""

    def forward(self, tokens: Tensor, lengths: Tensor, mask: Tensor | None = None) -> Tensor:
        vectors = self.embed(tokens) if mask is None else self.embed(tokens) * mask
        packed = pack_padded_sequence(vectors, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.cap_rnn(packed)[0], batch_first=True, total_length=tokens.shape[1])
        forward, backward = states.chunk(2, dim=2)
        return l2norm((forward + backward) / 2)


class PublishedMatcher(Matcher):
    """A matcher that scores one caption at a time, all pairs whatever is wanted."""

    def score(self, embeddings: Embeddings) -> Tensor:
        captions = embeddings.captions
        encoded = published.Encoded(embeddings.images.regions, captions.words, captions.lengths.tolist())
        return published.score(self, encoded)


def first_images(config: RunConfig, data: RunData, share: float) -> RunData:
    """Return the data with the first training images only, noise injected among them."""
    count = max(2, int(share * data.train.num_images))
    train = PrecomputedSplit(locate(config.data), "train", data.vocabulary, count)
    has_real_noise = protocol(config.data.data_name).has_real_noise
    index, noise = inject(config.noise, train.image_of_caption, has_real_noise=has_real_noise)
    train.set_images(index)
    return replace(data, train=train, noise=noise)


def epochs_of(trainer: Trainer) -> Callable[[], Results]:
    """Return what trains one more epoch, as in the last epochs of a run."""
    last = trainer.settings.num_epochs - 1

    def epoch() -> Results:
        divisions = trainer.divide(last)
        for student, peer in trainer.students_and_peers():
            trainer.train_epoch(student, peer, last, divisions.get(peer.name))
        return {}

    return epoch


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Time epochs of both sides and print the row."""
    (config,) = parsed("benchmarks.epoch", "An epoch of a recipe.", argv, {"benchmark": EpochConfig})
    gpu = "0" if device_of(config.device).type == "cuda" else "cpu"
    flags = [f"@{config.recipe}", "--gpu", gpu, "--precision", config.precision]
    run = parse_args(flags + (["--warmup_model_path", config.start] if config.start else []))
    data = first_images(run, open_data(run.data, run.noise, run.matcher), config.share)
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        theirs, ours = Trainer(run, data, Path(first)), Trainer(run, data, Path(second))
        for network in theirs.networks:
            network.matcher.__class__ = PublishedMatcher
            network.matcher.caption_encoder.__class__ = PublishedEncoder
        name = f"{Path(config.recipe).name}, {len(data.train)} pairs, both networks"
        rows = compare(
            epochs_of(theirs),
            {name: epochs_of(ours)},
            repeats=config.repeats,
            device=ours.device,
            differences=lambda *_: {},
        )
        tell(rows, config.json)
        for trainer in (theirs, ours):
            trainer.log.close()


if __name__ == "__main__":
    main()
