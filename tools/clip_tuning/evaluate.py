"""What a CLIP model makes of pairs: their embeddings, DSDMR's filter of them, the ranking of a split.

    python -m tools.clip_tuning.evaluate --clip output/RUN/model --split test
    python -m tools.clip_tuning.evaluate --clip DIR --test_pairs test.json

The command ranks the whole of a split, and folds of it where it is larger than one. Which protocol this is follows from
the pairs: 1,000 images with 5 captions each (Flickr30K), with one each (CC152K), or 5,000 x 5 (MS-COCO), whole and as
the mean of five folds of 1,000 images. Of the filter *published* is: the cosines of the given pairs, by the pretrained
model, are two Gaussian modes; the lower one is dropped; after an epoch of fine-tuning it is fitted again. *Ours* are
the pools, and what methods.blocks.modes.py marks so. Legend: I pictures, C captions or pairs, D embed size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluation import result_table
from methods.blocks.dynamic_margin import MarginConfig
from methods.blocks.modes import RefitConfig
from models.ranks import Retrieval, folds_of, mean_retrieval, retrieval
from runtime.device import choose_device
from runtime.errors import exit_on_input_error
from runtime.files import write_json
from runtime.flags import check_choices, check_range, flag, require
from tools.clip_tuning.model import Clip, Tokens, load_clip, placed
from tools.clip_tuning.pairs import SPLITS, Pairs, PairsConfig, PreparedPictures, open_pairs
from tools.command import check_writable, parsed
from tools.filter.filtering import Filtered, filter_pairs, filter_quality, pair_similarity

CHUNK = 256
"""Pictures or captions that are embedded at a time."""


@dataclass(frozen=True)
class PreparedPairs:
    """Pairs made ready for a model: its picture size, its token ids."""

    pairs: Pairs
    pictures: PreparedPictures
    tokens: Tokens

    @classmethod
    def of(cls, pairs: Pairs, model: Clip, *, workers: int = 0) -> PreparedPairs:
        """Prepare pairs; see `PreparedPictures` for the arguments."""
        how = model.preprocessing
        pictures = PreparedPictures(pairs.pictures, how.prepare, how.side, workers=workers)
        return cls(pairs, pictures, model.tokens(pairs.captions))


@torch.no_grad()
def embed(model: Clip, data: PreparedPairs) -> tuple[Tensor, Tensor]:
    """Return unit embeddings of pictures (I, D) and captions (C, D), float32 on the CPU.

    They are computed in evaluation mode; the model's mode is restored.
    """
    was_training = model.training
    model.eval()
    images, captions = (np.arange(count) for count in (data.pairs.num_images, len(data.tokens)))
    parts = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
    pictures = [
        model.embed_pictures(model.preprocessing.normalise(prepared.to(model.device))).cpu()
        for _, prepared in data.pictures.batches(parts)
    ]
    texts = [
        model.embed_captions(data.tokens.rows(captions[start : start + CHUNK]).ids.to(model.device)).cpu()
        for start in range(0, len(captions), CHUNK)
    ]
    model.train(was_training)
    return torch.cat(pictures), torch.cat(texts)


# -- the filter -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RefilterConfig(RefitConfig, MarginConfig):
    """Flags of the filter and of the margins that follow it."""

    p_threshold: float = flag(0.5, "pairs of a clean probability above this are kept, in [0, 1)")

    def __post_init__(self) -> None:
        RefitConfig.__post_init__(self)
        MarginConfig.__post_init__(self)
        check_range(self, "p_threshold", low=0.0, high=1.0, high_open=True)


def filter_given_pairs(model: Clip, data: PreparedPairs, image_index: np.ndarray, config: RefilterConfig) -> Filtered:
    """Filter captions and the pictures they are trained with, `image_index` (C,), by the model as it is now."""
    pictures, captions = embed(model, data)
    similarity = pair_similarity(pictures[torch.from_numpy(image_index)], captions)
    return filter_pairs(similarity, config, config.p_threshold)


def filter_figures(found: Filtered, is_matched: np.ndarray | None) -> dict[str, Any]:
    """Return the modes, the share of kept pairs and, where the truth (C,) is known, how good they are.

    The AUC is that of the similarities; see `filter_quality` for the rest.
    """
    modes = found.modes
    figures: dict[str, Any] = {
        "share_kept": float(found.is_clean.mean()),
        **{name: getattr(modes, name) for name in ("is_split", "separation", "overlap", "bic_gain")},
        **{f"noisy_{name}": value for name, value in vars(modes.noisy).items()},
        **{f"clean_{name}": value for name, value in vars(modes.clean).items()},
    }
    if is_matched is not None:
        quality = filter_quality(found.is_clean, found.similarity, is_matched)
        figures |= {name: quality[name] for name in ("residual_noise", "recall", "auc")}
    return figures


# -- the ranking ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranked:
    """Retrieval on a split, and the mean over its folds if it has several."""

    whole: Retrieval
    folds: Retrieval | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers by name, for JSON."""
        return self.whole.as_dict() | ({} if self.folds is None else {"folds": self.folds.as_dict()})


def rank(model: Clip, data: PreparedPairs, fold_images: int) -> Ranked:
    """Embed a split and rank it both ways, captions by the pictures that they were written for.

    Args:
        model: on its device.
        data: the split.
        fold_images: images of a fold.
    """
    pictures, captions = embed(model, data)
    sims = (pictures @ captions.T).numpy()
    image_of_caption = data.pairs.image_of_caption
    folds = None
    if data.pairs.num_images > fold_images:
        folds = mean_retrieval(folds_of(sims, image_of_caption, fold_images))
    return Ranked(retrieval(sims, image_of_caption), folds)


def ranked_tables(title: str, rows: dict[str, Ranked], fold_images: int) -> str:
    """Return the table of recalls, and below it that of the folds' means where there are folds."""
    parts = [result_table(title, {name: row.whole for name, row in rows.items()})]
    folds = {name: row.folds for name, row in rows.items() if row.folds is not None}
    if folds:
        parts.append(result_table(f"{fold_images}-image\nfolds, mean", folds))
    return "\n".join(parts)


@dataclass(frozen=True)
class ClipEvaluationConfig:
    """Flags of the evaluation."""

    clip: str | None = flag(None, "CLIP folder to evaluate, e.g. the model folder of a run (required)", metavar="DIR")
    precision: str = flag("fp32", "bf16: the towers compute in bfloat16 (autocast)", choices=("fp32", "bf16"))
    split: str = flag("test", "split to evaluate", choices=SPLITS)
    fold_images: int = flag(1000, "a split of more images is also ranked in folds of so many")
    output: str | None = flag(None, "write the results to this JSON file", metavar="FILE")
    gpu: str = flag("0", "GPU index, or cpu; without CUDA the CPU is used")
    workers: int = flag(0, "threads that decode pictures ahead (0: none)")

    def __post_init__(self) -> None:
        require(self, "clip", "give a folder with config.json and model.safetensors")
        check_choices(self)
        check_range(self, "fold_images", low=1)
        check_range(self, "workers", low=0)
        check_writable("output", self.output)


def evaluate(config: ClipEvaluationConfig, pairs_config: PairsConfig) -> dict[str, Any]:
    """Evaluate as the flags say, print the tables, write what was asked for; return the results."""
    assert config.clip is not None
    pairs = open_pairs(pairs_config, config.split)
    model = placed(load_clip(Path(config.clip), config.precision), choose_device(config.gpu))
    data = PreparedPairs.of(pairs, model, workers=config.workers)
    ranked = rank(model, data, config.fold_images)
    print(f"{pairs.name}, {pairs.num_images} images x {len(pairs.captions)} captions; {config.clip}")
    print(ranked_tables(config.split, {"clip": ranked}, config.fold_images))
    record = {
        "clip": config.clip,
        "pairs": pairs.name,
        "split": config.split,
        "images": pairs.num_images,
        "captions": len(pairs.captions),
        "precision": config.precision,
        "results": ranked.as_dict(),
    }
    if config.output is not None:
        write_json(Path(config.output), record)
    return record


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags and evaluate."""
    kinds = {"evaluation": ClipEvaluationConfig, "pairs": PairsConfig}
    evaluate(*parsed("tools.clip_tuning.evaluate", "Evaluate a CLIP folder's retrieval.", argv, kinds))


if __name__ == "__main__":
    main()
