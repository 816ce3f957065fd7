"""How pairs are scored while no gradient is asked for: in float32 or bfloat16, compiled or not.

Gradients are always computed in the precision of the parameters.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from models.attention import l2norm
from models.matcher import Matcher
from models.sides import EncodedCaptions, EncodedImages
from models.tiled import TiledSimilarity
from runtime.errors import InputError
from runtime.flags import check_choices, flag
from runtime.seed import generator

PRECISIONS = ("fp32", "bf16", "auto")

TRIAL_IMAGES, TRIAL_CAPTIONS, TRIAL_WORDS, TRIAL_REGIONS = 64, 16, 12, 36
TRIALS = 3


@dataclass(frozen=True)
class ScoringConfig:
    """Flags of scoring."""

    precision: str = flag(
        "fp32",
        "scoring without gradient: fp32, bf16, or auto, what a short trial finds faster here; hardest negatives stay "
        "those of fp32; on CUDA bf16 also allows TF32 with gradients",
        choices=PRECISIONS,
    )
    compile: bool = flag(False, "compile the scoring of a tile with torch.compile: half a minute once, for long runs")

    def __post_init__(self) -> None:
        check_choices(self)


def bf16_is_supported(device: torch.device) -> bool:
    """Tell whether `device` multiplies matrices in bfloat16 by itself."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def has_compiler(device: torch.device) -> bool:
    """Tell whether torch.compile finds what it needs: a C++ compiler, or triton on CUDA."""
    if device.type == "cuda":
        return importlib.util.find_spec("triton") is not None
    named = os.environ.get("CXX")
    return any(shutil.which(name) for name in ([named] if named else ["g++", "clang++", "c++"]))


def prepare_scoring(matchers: list[Matcher], config: ScoringConfig, device: torch.device) -> list[str]:
    """Make the matchers, already on `device`, score as asked; return lines that say what was chosen and what it cost.

    Raises:
        InputError: bfloat16 or a compiler is asked for where there is none.
    """
    if config.precision == "bf16" and not bf16_is_supported(device):
        raise InputError(f"--precision bf16: {device} has no bfloat16 products; use fp32, or auto to let it choose")
    if config.compile and not has_compiler(device):
        raise InputError(
            "--compile needs a C++ compiler (g++ or clang++ on the path, or CXX; on CUDA triton) and finds none; "
            "install one or leave --compile out"
        )
    said: list[str] = []
    tiled = [m.similarity for m in matchers if isinstance(m.similarity, TiledSimilarity)]
    if not tiled:  # VSE and GPO are one product
        return said
    if config.compile:
        started = time.perf_counter()
        for similarity in tiled:
            similarity.compile_tiles()
        _trial(tiled[0], device, None)
        said.append(f"tiles compiled in {time.perf_counter() - started:.0f} s")
    dtype = torch.bfloat16 if config.precision == "bf16" else None
    if config.precision == "auto" and bf16_is_supported(device):
        full, low = (_trial(tiled[0], device, dtype) for dtype in (None, torch.bfloat16))
        dtype = torch.bfloat16 if low < full else None
        times = f"a trial tile took {1e3 * full:.1f} ms in fp32, {1e3 * low:.1f} ms in bf16"
        said.append(f"scoring in {'bf16' if dtype else 'fp32'} ({times})")
    for similarity in tiled:
        similarity.scoring_dtype = dtype
    if device.type == "cuda" and dtype is not None:
        torch.set_float32_matmul_precision("high")  # TF32
    return said


@torch.no_grad()
def _trial(similarity: TiledSimilarity, device: torch.device, dtype: torch.dtype | None) -> float:
    """Return the seconds, the best of a few, that one made-up tile takes."""
    size = similarity.embed_size
    draw = generator(0, "trial tile")

    def unit(*shape: int) -> Tensor:
        return l2norm(torch.randn(*shape, size, generator=draw)).to(device)

    images = EncodedImages(unit(TRIAL_IMAGES, TRIAL_REGIONS), unit(TRIAL_IMAGES))
    lengths = torch.full((TRIAL_CAPTIONS,), TRIAL_WORDS)
    captions = EncodedCaptions(unit(TRIAL_CAPTIONS, TRIAL_WORDS), lengths, unit(TRIAL_CAPTIONS))
    before, was_training = similarity.scoring_dtype, similarity.training
    similarity.eval()
    similarity.scoring_dtype = dtype
    seconds = []
    for _ in range(1 + TRIALS):
        started = time.perf_counter()
        similarity(images, captions).cpu()  # the copy waits for the device
        seconds.append(time.perf_counter() - started)
    similarity.scoring_dtype = before
    similarity.train(was_training)
    return min(seconds[1:])
