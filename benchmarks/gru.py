"""Time the caption encoder with torch's own GRU against ours (models/gru.py).

    OMP_NUM_THREADS=1 python -m benchmarks.gru [--repeats N] [--json FILE]

At published sizes (Flickr30K: SCAN, SGRAF, NCR, BiCro) and at those of the embedded recipes: a training pass, forward
and backward with the same dropout, and a forward pass without gradients. The difference is the largest relative one
over the words and the gradient of every parameter. CPU only: elsewhere both are torch's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.measure import Results, Row, check_target, compare, result_rows, write_rows
from models.attention import l2norm
from models.encoders import CaptionEncoder
from runtime.errors import exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_range, flag, from_namespace


@dataclass(frozen=True)
class GRUBenchmarkConfig:
    """Flags of this benchmark."""

    repeats: int = flag(5, "timed runs of each side; the median counts")
    json: str | None = flag(None, "file for the rows", metavar="FILE")

    def __post_init__(self) -> None:
        check_range(self, "repeats", low=1)
        check_target(self.json)


@dataclass(frozen=True)
class Size:
    """One caption encoder and its batch; lengths are log-normal around `mean_length`."""

    name: str
    vocabulary_size: int
    word_dim: int
    embed_size: int
    batch_size: int
    mean_length: float
    shortest: int
    longest: int


SIZES = (
    Size("published", 8481, 300, 1024, 128, 14, 5, 53),
    Size("embedded, SGR", 2000, 64, 128, 48, 8, 3, 20),
    Size("embedded, VSE", 2000, 64, 128, 128, 8, 3, 20),
)


def encode_as_torch(encoder: CaptionEncoder, tokens: Tensor, lengths: Tensor) -> Tensor:
    """Do what the encoder does with torch's own GRU on padded captions, as the lineage does."""
    packed = pack_padded_sequence(
        encoder.dropout(encoder.embed(tokens)), lengths, batch_first=True, enforce_sorted=False
    )
    states, _ = pad_packed_sequence(encoder.cap_rnn(packed)[0], batch_first=True, total_length=tokens.shape[1])
    forward, backward = states.chunk(2, dim=2)
    return l2norm((forward + backward) / 2)


def encode(encoder: CaptionEncoder, tokens: Tensor, lengths: Tensor, *, ours: bool) -> Tensor:
    """Encode one way or the other, with the same dropout."""
    torch.manual_seed(0)
    return encoder(tokens, lengths) if ours else encode_as_torch(encoder, tokens, lengths)


def train(encoder: CaptionEncoder, tokens: Tensor, lengths: Tensor, target: Tensor, *, ours: bool) -> Results:
    """Encode, and find the gradients of <words, target>."""
    encoder.zero_grad(set_to_none=True)
    words = encode(encoder, tokens, lengths, ours=ours)
    words.backward(target)
    gradients = {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}
    return {"words": words.detach(), **gradients}


@torch.no_grad()
def infer(encoder: CaptionEncoder, tokens: Tensor, lengths: Tensor, *, ours: bool) -> Results:
    """Encode without gradients."""
    return {"words": encode(encoder, tokens, lengths, ours=ours)}


def measure(size: Size, repeats: int) -> list[Row]:
    """Compare a training pass and a pass without gradients."""
    torch.manual_seed(0)
    encoder = CaptionEncoder(size.vocabulary_size, size.word_dim, size.embed_size)
    lengths = size.mean_length * torch.exp(0.36 * torch.randn(size.batch_size) - 0.36**2 / 2)
    lengths = lengths.round().long().clamp(size.shortest, size.longest)
    tokens = torch.randint(1, size.vocabulary_size, (size.batch_size, int(lengths.max())))
    tokens[torch.arange(tokens.shape[1]) >= lengths[:, None]] = 0
    target = torch.randn(*tokens.shape, size.embed_size)
    training = partial(train, encoder, tokens, lengths, target)
    inference = partial(infer, encoder, tokens, lengths)
    rows = []
    for what, side in (("forward + backward", training), ("forward, no gradients", inference)):
        sides = partial(side, ours=False), partial(side, ours=True)
        rows.append(compare(f"{size.name}: {what}", *sides, repeats=repeats, device=torch.device("cpu")))
    return rows


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Measure every size and print the table."""
    parser = OneLineParser(prog="python -m benchmarks.gru", description="The caption encoder: torch's GRU and ours.")
    add_flags(parser, "benchmark", GRUBenchmarkConfig)
    config = from_namespace(GRUBenchmarkConfig, parser.parse_args(argv))
    print(f"{torch.get_num_threads()} thread(s)")
    rows = [row for size in SIZES for row in measure(size, config.repeats)]
    print(result_rows(rows))
    if config.json is not None:
        write_rows(config.json, rows)


if __name__ == "__main__":
    main()
