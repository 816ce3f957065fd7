"""Do MGCS's drift factors tell matched from mismatched pairs? Every reading of the paper, on one trained checkpoint.

    python -m tools.drift --mode_path output/RUN/checkpoint_warmup.pth.tar

Prints, for each reading, the area under the ROC curve (matched against mismatched training pairs) of the similarity S,
the factor F, their product and the division signal, and the precision and recall of the clean side that follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from data_utils.catalog import DataConfig
from data_utils.noise import NoiseConfig
from methods.mgcs import MGCS, MGCSConfig
from models.ensemble import restore
from models.matcher import MatcherConfig
from runtime.checkpoint import load_checkpoint
from runtime.device import choose_device
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import check_choices, flag, require
from runtime.log import table
from runtime.seed import generator
from tools.command import parsed
from training.data import open_data
from training.division import decide, gather_evidence
from training.reports import division_metrics

READINGS: dict[str, dict[str, Any]] = {
    "no factor": {"drift_correction": "off"},
    "batch, n = 5": {"drift_neighbours": "batch", "drift_num_neighbours": 5},
    "batch, n = 5, own": {"drift_neighbours": "batch", "drift_num_neighbours": 5, "drift_own": True},
    "bank, n = 5": {"drift_neighbours": "bank", "drift_num_neighbours": 5},
    "bank, n = 5, own": {"drift_neighbours": "bank", "drift_num_neighbours": 5, "drift_own": True},
    "bank, n = 30": {"drift_neighbours": "bank", "drift_num_neighbours": 30},
    "bank, n = 100": {"drift_neighbours": "bank", "drift_num_neighbours": 100},
}


@dataclass(frozen=True)
class DriftConfig:
    """Flags of `python -m tools.drift`."""

    mode_path: str | None = flag(
        None, "checkpoint that run.py wrote, with noise whose truth is known (required)", metavar="FILE"
    )
    fit_type: str = flag("gmm", "mixture of the division", choices=("gmm", "bmm"))
    gpu: str = flag("0", "GPU index, or cpu; without CUDA the CPU is used")

    def __post_init__(self) -> None:
        check_choices(self)
        require(self, "mode_path", "give a checkpoint that run.py wrote")


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Divide the training pairs by network A under every reading and print the table."""
    (config,) = parsed("tools.drift", "MGCS's drift factors, reading by reading.", argv, {"drift": DriftConfig})
    assert config.mode_path is not None
    checkpoint = load_checkpoint(config.mode_path)
    settings = checkpoint["config"]
    data = open_data(
        DataConfig(**settings["data"]), NoiseConfig(**settings["noise"]), MatcherConfig(**settings["matcher"])
    )
    if not data.truth_is_known:
        raise InputError(f"{config.mode_path}: which pairs of {data.train.name} are mismatched is not known")
    device = choose_device(config.gpu)
    matcher = restore(checkpoint, config.mode_path)[0].to(device)
    plain = MGCSConfig(fit_type=config.fit_type, drift_correction="division", drift_own=False)
    rows = []
    for name, reading in READINGS.items():
        method = MGCS(replace(plain, **reading))
        look = gather_evidence(
            matcher,
            method,
            data.train,
            batch_size=settings["training"]["batch_size"],
            generator=generator(settings["training"]["seed"], "division"),
            device=device,
        )
        metrics = division_metrics(decide(method, look, [look], data.train), data.train.is_matched)
        columns = ("auc_similarity", "auc_drift_factor", "auc_corrected", "auc_signal", "precision", "recall")
        unused = ("auc_drift_factor", "auc_corrected") if reading.get("drift_correction") == "off" else ()
        shown = [None if c in unused else metrics[c] for c in columns]
        rows.append([name, *("-" if value is None else f"{value:.3f}" for value in shown)])
    print(f"|mean f - mean g| = {look.modality_gap:.3f}, {100 * data.noise.measured_ratio:.1f} % mismatched")
    print(table(("reading", "AUC S", "AUC F", "AUC S*F", "AUC signal", "precision", "recall"), rows))


if __name__ == "__main__":
    main()
