"""What a run says of itself: its settings, its divisions, its results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_utils.precomputed import MANY_UNKNOWN
from models.ranks import Retrieval
from runtime.log import RunLog
from training.config import RunConfig
from training.data import RunData
from training.division import Division

MAX_RATIO_ERROR = 0.01 + 1e-9
"""A noise index that misses the asked ratio by more is warned about."""

SAMPLES = 24
"""So many captions are shown in TensorBoard."""

FLAT = 1e-6
"""Scores that differ by no more tell nothing apart."""


DIAGNOSTIC = "diagnostic_"
"""Prefix of the diagnostics in a division's file; they are kept in half precision, to be looked at."""


def described(config: RunConfig, data: RunData) -> dict[str, Any]:
    """Return every setting as plain values; places in full, so that the data are found from any folder."""
    settings = config.as_dict()
    for section, name in (("data", "data_path"), ("data", "vocab_path"), ("noise", "noise_file")):
        if settings[section][name] is not None:
            settings[section][name] = str(Path(settings[section][name]).resolve())
    return {**settings, "shape": asdict(data.shape), "noise_report": data.noise_record}


def introduction(config: RunConfig, data: RunData, device: torch.device, folder: Path) -> Iterator[str]:
    """Yield the lines that a run begins with."""
    noise = data.noise
    is_removed = ", removed" if config.training.remove_noise else ""
    unknown = 100 * data.train.unknown_share
    mismatched = f"{100 * noise.measured_ratio:.1f} % mismatched (protocol {noise.protocol}{is_removed})"
    yield (
        f"{config.data.data_name}: {data.train.num_images} images, {len(data.train)} training pairs, "
        f"{mismatched if data.truth_is_known else 'real noise, share unknown'}, {unknown:.1f} % of the words unknown; "
        f"{config.num_networks} x {config.matcher.module_name}, method {config.method_name}, "
        f"on {device}; output in {folder}"
    )
    yield from config.warnings()
    if config.training.batch_size > len(data.train):
        yield (
            f"warning: --batch_size {config.training.batch_size} is more than the {len(data.train)} training pairs: "
            "each epoch is one step, on all of them"
        )
    if data.train.unknown_share > MANY_UNKNOWN:
        yield (
            f"warning: the vocabulary does not know {unknown:.0f} % of the training words; is it another data set's? "
            "python -m vocab.build makes one, --vocab_path names one"
        )
    if data.made_index is not None:
        yield f"noise index made: {data.made_index}, protocol {noise.protocol}, ratio {noise.asked_ratio:g}"
    if abs(noise.measured_ratio - noise.asked_ratio) > MAX_RATIO_ERROR:
        yield (
            f"warning: --noise_ratio is {noise.asked_ratio:g}, but {100 * noise.measured_ratio:.1f} % of the "
            "pairs of the noise index are mismatched"
        )


def as_arrays(division: Division, is_matched: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return a division as named arrays for a file: signal, probability, is_clean, is_matched (N,) where it is known,
    every diagnostic as `diagnostic_NAME`, and the fitted components, if any (methods/blocks/mixture.py)."""
    fitted = division.report.fitted
    return {
        "signal": division.signal.astype(np.float32),
        "probability": division.probability.astype(np.float32),
        "is_clean": division.is_clean,
        **({} if is_matched is None else {"is_matched": is_matched}),
        **{f"{DIAGNOSTIC}{name}": values.astype(np.float16) for name, values in division.diagnostics.items()},
        **({} if fitted is None else fitted.as_arrays()),
    }


def _auc(is_matched: np.ndarray, values: np.ndarray) -> float | None:
    """Return the area under the ROC curve, None where one class is missing."""
    from sklearn.metrics import roc_auc_score  # here: it takes long to load

    return float(roc_auc_score(is_matched, values)) if 0 < is_matched.sum() < len(is_matched) else None


def division_metrics(division: Division, is_matched: np.ndarray | None) -> dict[str, float | None]:
    """Return the share of clean pairs and, where the truth (N,) is known, how well it was found.

    Precision and recall are of the clean side; residual noise is the share of mismatched pairs in it.
    """
    metrics: dict[str, float | None] = {
        "share_clean": float(division.is_clean.mean()),
        "modality_gap": division.modality_gap,
        **division.report.figures,
    }
    if is_matched is None:
        return metrics
    hits = float((division.is_clean & is_matched).sum())
    metrics["precision"] = hits / division.is_clean.sum() if division.is_clean.any() else None
    metrics["recall"] = hits / is_matched.sum() if is_matched.any() else None
    metrics["residual_noise"] = None if metrics["precision"] is None else 1 - metrics["precision"]
    metrics["auc"] = _auc(is_matched, division.probability)
    metrics["auc_signal"] = _auc(is_matched, -division.signal)
    for name, values in division.diagnostics.items():
        metrics[f"auc_{name}"] = _auc(is_matched, values)
    return metrics


def record_division(log: RunLog, step: int, name: str, division: Division, data: RunData) -> None:
    """Say and record how good a division is, with histograms of its signal split by the truth, if it is known.

    The division itself goes to `divisions/epoch_{step}_{name}.npz` for tools.report; a resumed run writes it again.
    """
    is_matched = data.train.is_matched if data.truth_is_known else None
    log.arrays(f"epoch_{step:03d}_{name}", as_arrays(division, is_matched))
    metrics = division_metrics(division, is_matched)
    known = {f"division/{name}/{key}": value for key, value in metrics.items() if value is not None}
    log.scalars(step, known, event="division", network=name)
    shown = ("share_clean", "precision", "recall", "residual_noise", "auc")
    parts = [f"{key.replace('_', ' ')} {metrics[key]:.3f}" for key in shown if metrics.get(key) is not None]
    log.say(f"  division by {name}: {', '.join(parts)}")
    if division.report.warning:
        log.say(f"  warning: {division.report.warning}")
    for label, values in {"signal": division.signal, **division.diagnostics}.items():
        sides = {"": slice(None)} if is_matched is None else {"/matched": is_matched, "/mismatched": ~is_matched}
        for side, chosen in sides.items():
            log.histogram(f"division/{name}/{label}{side}", values[chosen], step)
    record_samples(log, step, name, division, data)


def record_samples(log: RunLog, step: int, name: str, division: Division, data: RunData) -> None:
    """Record some captions with their clean probability and, where it is known, the truth: the same at every division,
    evenly spread over the training pairs."""
    train, words = data.train, data.vocabulary.words
    chosen = np.unique(np.linspace(0, len(train) - 1, SAMPLES).astype(int))
    tokens, lengths = train.tokens(chosen)
    rows = []
    for pair, ids, length in zip(chosen.tolist(), tokens.tolist(), lengths.tolist(), strict=True):
        truth = ("matched" if train.is_matched[pair] else "mismatched") if data.truth_is_known else "not known"
        caption = " ".join(words[k] for k in ids[1 : length - 1])  # without <start> and <end>
        rows.append((str(pair), caption, f"{division.probability[pair]:.3f}", truth))
    log.samples(f"captions/{name}", ("pair", "caption", "clean probability", "truth"), rows, step)


def record_ranking(
    log: RunLog,
    split: str,
    step: int,
    ranked: Mapping[str, Retrieval],
    more: Mapping[str, float] | None = None,
    **where: Any,
) -> None:
    """Record the results of a split after `step` epochs, and `more` numbers."""
    values = {f"{split}/{name}/rSum": found.r_sum for name, found in ranked.items()} | dict(more or {})
    log.scalars(step, values, event=split, **where, results={name: found.as_dict() for name, found in ranked.items()})


def check_flat(log: RunLog, name: str, sims: np.ndarray) -> None:
    """Warn of a network that gives every pair the same score."""
    if float(sims.max()) - float(sims.min()) <= FLAT:
        log.say(
            f"warning: network {name} gives every pair the same score: it has collapsed; lower --learning_rate, "
            "warm up longer, or use --negatives anneal"
        )


def results(
    config: RunConfig, data: RunData, best: dict[str, Any], test: Mapping[str, Retrieval], *, seconds: float
) -> dict[str, Any]:
    """Return the content of results.json."""
    return {
        "data_name": config.data.data_name,
        "method": config.method_name,
        "similarity": config.matcher.module_name,
        "noise": data.noise_record,
        "seed": config.training.seed,
        "num_networks": config.num_networks,
        "epoch": best["epoch"],
        "epoch_title": best["title"],
        "chosen_on": "dev",
        "split": "test",
        "dev": best["results"],
        "test": {name: r.as_dict() for name, r in test.items()},
        "seconds": seconds,
    }
