"""Small networks and random inputs for the model and method tests, in double precision so that twins agree closely."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from data_utils.loaders import Batch
from models.attention import gram
from models.matcher import SIMILARITIES, Embeddings, Matcher, MatcherConfig, MatcherShape
from models.similarity import Block, CrossAttention

VOCABULARY, REGIONS, REGION_DIM = 11, 3, 5
LENGTHS = (3, 2, 5, 3)


def make_matcher(module_name: str = "SGR", *, seed: int = 0, sgr_step: int = 2, dropout: float = 0.0) -> Matcher:
    """Build a small matcher whose every parameter and running statistic is drawn at random."""
    torch.manual_seed(seed)
    config = MatcherConfig(
        module_name=module_name, word_dim=4, embed_size=6, sim_dim=5, sgr_step=sgr_step, dropout=dropout
    )
    matcher = Matcher(config, MatcherShape(VOCABULARY, REGIONS, REGION_DIM)).double()
    randomise(matcher)
    return matcher


def randomise(module: nn.Module) -> None:
    """Move parameters and running statistics off their tidy initial values."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)


def make_batch(
    lengths: Sequence[int] = LENGTHS, *, image_id: Sequence[int] | None = None, seed: int = 1, width: int | None = None
) -> Batch:
    """Draw a batch of as many pairs as there are lengths."""
    random = torch.Generator().manual_seed(seed)
    size = len(lengths)
    tokens = torch.randint(1, VOCABULARY, (size, width or max(lengths)), generator=random)
    for row, length in enumerate(lengths):
        tokens[row, length:] = 0
    return Batch(
        regions=torch.randn(size, REGIONS, REGION_DIM, generator=random, dtype=torch.float64),
        tokens=tokens,
        lengths=torch.tensor(lengths),
        index=torch.arange(size),
        image_id=torch.arange(size) if image_id is None else torch.tensor(image_id),
    )


def dense_scores(matcher: Matcher, embeddings: Embeddings) -> Tensor:
    """Score a batch without chunks: one caption at a time, one graph for everything."""
    similarity = matcher.similarity
    if not isinstance(similarity, CrossAttention):
        return matcher.score(embeddings)
    images, captions = embeddings.images, embeddings.captions
    weights, columns = similarity.block_weights(captions.words.dtype), []
    for words, length, pooled in zip(captions.words, captions.lengths.tolist(), captions.pooled, strict=True):
        mask = torch.ones(1, length, dtype=torch.bool)
        block = Block(images.regions, gram(images.regions), images.pooled, words[None, :length], pooled[None], mask)
        columns.append(similarity.score_block(weights, block))
    return torch.cat(columns, dim=1)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters (the very ones, for gradients) and copies of buffers, by name."""
    return dict(module.named_parameters()) | {name: b.detach().clone() for name, b in module.named_buffers()}


def gradients(output: Tensor, inputs: Iterable[Tensor], seed: int = 2) -> list[Tensor]:
    """Return the gradients of a fixed random combination of the outputs; zeros where there is no path."""
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed), dtype=output.dtype)
    listed = list(inputs)
    if not output.requires_grad:
        return [torch.zeros_like(x) for x in listed]
    found = torch.autograd.grad((output * weights).sum(), listed, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(listed, found, strict=True)]


def assert_same(ours: Tensor, twin: Tensor, inputs: Iterable[Tensor], *, tolerance: float = 1e-9) -> None:
    """Assert that two computations agree in value and in their gradients for `inputs`."""
    torch.testing.assert_close(ours, twin, rtol=tolerance, atol=tolerance)
    listed = list(inputs)
    for mine, theirs in zip(gradients(ours, listed), gradients(twin, listed), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


CROSS = [name for name in SIMILARITIES if isinstance(make_matcher(name).similarity, CrossAttention)]
"""Similarities that look at every image beside every caption, a chunk at a time."""
