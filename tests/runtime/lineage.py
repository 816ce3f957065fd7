"""Checkpoints as NCR, BiCro, MGCS and SGRAF write them, made by hand from small networks of ours."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch

from models.matcher import Matcher, MatcherConfig, MatcherShape
from tests.models.networks import randomise

SHAPE = MatcherShape(vocabulary_size=20, num_regions=4, region_dim=7)
SIZES: dict[str, Any] = {"word_dim": 5, "embed_size": 6, "sim_dim": 3, "sgr_step": 2}


def small_matcher(module_name: str = "SGR", *, seed: int = 0, **changes: Any) -> Matcher:
    """Build a network in single precision whose every parameter and running statistic is drawn at random."""
    torch.manual_seed(seed)
    matcher = Matcher(MatcherConfig(module_name=module_name, **{**SIZES, **changes}), SHAPE)
    randomise(matcher)
    return matcher.eval()


def options_of(module_name: str = "SGR", **changes: Any) -> dict[str, Any]:
    """Return the options that the lineage stores."""
    sizes = {**SIZES, "img_dim": SHAPE.region_dim, "vocab_size": SHAPE.vocabulary_size, "num_layers": 1}
    places = {"data_name": "tiny_precomp", "data_path": "/gone", "vocab_path": "/gone"}
    flags = {"module_name": module_name, "bi_gru": True, "no_imgnorm": False, "no_txtnorm": False}
    return {
        **sizes,
        **places,
        **flags,
        "noise_ratio": 0.2,
        "seed": 96,
        "margin": 0.2,
        "warmup_model_path": "",
        **changes,
    }


def state_dicts(matcher: Matcher) -> list[OrderedDict[str, torch.Tensor]]:
    """Return image encoder, caption encoder and similarity under the lineage's names."""
    parts = (matcher.region_encoder, matcher.caption_encoder, matcher.similarity)
    return [OrderedDict((name, value.clone()) for name, value in part.state_dict().items()) for part in parts]


def lineage_content(matchers: Sequence[Matcher], **options: Any) -> dict[str, Any]:
    """Return what NCR saves of two networks, or SGRAF of one."""
    models = [state_dicts(matcher) for matcher in matchers]
    named = {"model": models[0]} if len(models) == 1 else {"model_A": models[0], "model_B": models[1]}
    return {"epoch": 7, **named, "best_rsum": 123.4, "opt": argparse.Namespace(**options_of(**options))}
