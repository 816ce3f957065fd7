"""All settings of a CLIP run, made from the flags once, and what each row of the ablation is trained with.

`--clip_method` names a row of DSDMR's Table 5, as far as its text tells them. Filter on or off and margins dynamic or
fixed make four of them, so that each part's effect can be seen alone; the other two are CLIP's own loss and no training
at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_utils.noise import NoiseConfig
from runtime.errors import InputError
from runtime.flags import check_choices, check_range, flag
from tools.clip_tuning.evaluate import RefilterConfig
from tools.clip_tuning.model import TINY, ModelConfig
from tools.clip_tuning.pairs import PairsConfig
from tools.command import parsed

PLAIN_LOSSES = ("triplet", "contrastive")
NEGATIVES = ("hardest", "mean")
"""`--negatives`."""


@dataclass(frozen=True)
class Row:
    """What one `--clip_method` does.

    Attributes:
        filters: train on the pairs that the filter keeps, else on all.
        loss: dynamic (margins that follow the modes), triplet (base margins), contrastive, plain (what `--plain_loss`
            names), or None: no training.
        meaning: for people.
    """

    filters: bool
    loss: str | None
    meaning: str

    @property
    def needs_modes(self) -> bool:
        return self.filters or self.loss == "dynamic"


CLIP_METHODS = {
    "dsdmr": Row(True, "dynamic", "filter and dynamic margins (full)"),
    "loss_only": Row(False, "dynamic", "dynamic margins on all pairs (without GMM)"),
    "filter_only": Row(True, "plain", "--plain_loss on the filtered pairs (without its loss)"),
    "triplet": Row(False, "triplet", "base margins on all pairs"),
    "contrastive": Row(False, "contrastive", "CLIP's loss on all pairs (neither)"),
    "zero_shot": Row(False, None, "the given model as it is"),
}


@dataclass(frozen=True)
class TuningConfig:
    """Flags of the loop. Defaults are DSDMR's published ones for fine-tuning CLIP ViT-B/32, where there are any."""

    clip_method: str = flag(
        "dsdmr", "; ".join(f"{name}: {row.meaning}" for name, row in CLIP_METHODS.items()), choices=CLIP_METHODS
    )
    plain_loss: str = flag("triplet", "the loss of --clip_method filter_only", choices=PLAIN_LOSSES)
    negatives: str = flag(
        "hardest",
        "of hinges: each anchor's hardest negative, or the mean over all (for weak models, which the hardest collapse)",
        choices=NEGATIVES,
    )
    pretrain_epochs: int = flag(
        0, "first train so many epochs with CLIP's loss on all pairs; the model then plays the pretrained one's part"
    )
    pretrain_lr: float = flag(1e-3, "learning rate of these epochs, after a warm-up and before a cosine's fall to 0")
    num_epochs: int = flag(15, "epochs of fine-tuning")
    batch_size: int = flag(64, "pairs a batch")
    learning_rate: float = flag(5e-7, "learning rate of fine-tuning")
    lr_update: int = flag(10, "epochs after which the learning rate falls to a tenth")
    weight_decay: float = flag(0.2, "weight decay of AdamW, on matrices")
    grad_clip: float = flag(1.0, "largest norm of the gradient over all parameters")
    augment: float = flag(0.0, "strength of random shifts, zooms, turns and tints of training pictures, 0 to 1")
    seed: int = flag(0, "seed of weights, shuffles and random changes of pictures")
    gpu: str = flag("0", "GPU index, or cpu; without CUDA the CPU is used")
    workers: int = flag(0, "threads that decode pictures ahead (0: none)")
    fold_images: int = flag(1000, "a split of more images is also ranked in folds of so many")
    output_dir: str = flag("output", "folder in which the run's own folder is made", metavar="DIR")
    id: str | None = flag(None, "a name for this run, added to its folder's")
    resume: bool = flag(False, "go on with the newest interrupted run of these settings, where there is one")

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("pretrain_epochs", "num_epochs", "seed", "workers"):
            check_range(self, name, low=0)
        for name in ("lr_update", "fold_images"):
            check_range(self, name, low=1)
        check_range(self, "batch_size", low=2)
        for name in ("learning_rate", "pretrain_lr"):
            check_range(self, name, low=1e-12, high=1.0)
        check_range(self, "weight_decay", low=0.0)
        check_range(self, "grad_clip", low=1e-12)
        check_range(self, "augment", low=0.0, high=1.0)

    @property
    def tuning_epochs(self) -> int:
        """Epochs of fine-tuning, none for zero_shot."""
        return 0 if CLIP_METHODS[self.clip_method].loss is None else self.num_epochs


@dataclass(frozen=True)
class ClipRunConfig:
    """Everything a run needs to know."""

    pairs: PairsConfig
    noise: NoiseConfig
    model: ModelConfig
    filter: RefilterConfig
    tuning: TuningConfig

    def __post_init__(self) -> None:
        tuning, is_random = self.tuning, self.model.clip == TINY and not self.tuning.pretrain_epochs
        if is_random and CLIP_METHODS[tuning.clip_method].needs_modes:
            raise InputError(
                f"--clip_method {tuning.clip_method} filters with a model that has learnt something: give a trained "
                f"folder as --clip, or --pretrain_epochs with --clip {TINY}"
            )

    def run_name(self) -> str:
        """Return the name of the run's folder."""
        data = self.pairs.data_name if self.pairs.train_pairs is None else Path(self.pairs.train_pairs).stem
        parts = ["clip", data, self.tuning.clip_method, f"{self.noise.noise_ratio:g}", f"s{self.tuning.seed}"]
        return "_".join(parts + ([self.tuning.id] if self.tuning.id else []))


SECTIONS = {
    "pairs": PairsConfig,
    "noise": NoiseConfig,
    "model": ModelConfig,
    "filter and margins": RefilterConfig,
    "training": TuningConfig,
}
"""Titles of the groups of flags, in the order of `ClipRunConfig`."""


def parse_args(argv: Sequence[str] | None = None) -> ClipRunConfig:
    """Turn command-line arguments into a checked configuration.

    Raises:
        InputError: a value is not allowed.
    """
    told = "Fine-tune CLIP under noisy correspondence: DSDMR's filter and dynamic margins, a reconstruction."
    epilog = "@FILE reads further arguments from a file, one or more a line; # starts a comment. See recipes/."
    return ClipRunConfig(*parsed("tools.clip_tuning", told, argv, SECTIONS, epilog))
