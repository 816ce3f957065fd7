"""All of a run's settings: a composition of small configs, made from the flags once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from data_utils.catalog import DataConfig
from data_utils.noise import NoiseConfig
from methods import Method, MethodConfig, known_methods
from methods.blocks.method import LABELS, PAIR
from models.losses import HINGE
from models.matcher import MatcherConfig, ScoringConfig
from runtime.errors import InputError
from runtime.flags import OneLineParser, add_flags, check_choices, check_range, flag, from_namespace
from vocab.word_vectors import WordVectorsConfig

WARMUPS = ("warmup", "warmup_sele", "co_teaching")
NEGATIVES = ("mean", "hardest", "anneal")
ON_NAN = ("stop", "skip")


LR_RULES: dict[str, Callable[[int, int, int], float]] = {
    "ncr": lambda epoch, num_epochs, lr_update: 0.1 ** (epoch // lr_update),
    "mgcs": lambda epoch, num_epochs, lr_update: (
        0.5 ** (epoch // lr_update) * 0.1 ** ((2 * epoch >= num_epochs) + (4 * epoch >= 3 * num_epochs))
    ),
}
"""`--lr_rule`: name -> factor on the learning rate at (epoch, num_epochs, lr_update), epochs from 0."""

CONTRASTIVE_DEFAULTS = {"negatives": "mean"}
"""Defaults of flags where the loss is contrastive. On photographs (30,000 pairs, 40 % noise, VSE) the baseline with the
bounded loss collapsed as `--negatives anneal` went to the hardest one."""

COMMON = (
    *("data_name", "data_path", "vocab_path", "noise_ratio", "noise_file", "module_name", "method", "fit_type"),
    *("warmup_epoch", "num_epochs", "batch_size", "learning_rate", "lr_update", "negatives"),
    *("resume", "saved_model", "seed", "gpu", "workers", "id", "output_dir"),
)
"""Flags that people use; the others are in `--help_all`."""


@dataclass(frozen=True)
class TrainingConfig:
    """Flags of the loop."""

    warmup_type: str = flag(
        "warmup",
        "warm-up: warmup takes all pairs, warmup_sele the small-loss ones, co_teaching those that the peer picks",
        choices=WARMUPS,
    )
    warmup_rate: float = flag(
        0.3, "share of each batch that warmup_sele and co_teaching keep, in (0, 1]", metavar="RATIO"
    )
    warmup_epoch: int = flag(10, "epochs of warm-up")
    num_epochs: int = flag(40, "epochs after warm-up")
    batch_size: int = flag(128, "pairs a batch; with a noisy side, so many of each side")
    accumulate: int = flag(
        1,
        "take so many batches as one, with all their captions as negatives; they are encoded one after the other, and "
        "again for the derivative, to save memory",
    )
    learning_rate: float = flag(2e-4, "learning rate of Adam")
    lr_update: int = flag(30, "epochs between steps of the learning rate")
    lr_rule: str = flag(
        "ncr",
        "ncr: 0.1^(epoch // lr_update); mgcs: 0.5^(epoch // lr_update), and 0.1 at 50 %% and again at 75 %% of epochs",
        choices=LR_RULES,
    )
    grad_clip: float = flag(2.0, "largest norm of the gradient over all parameters")
    negatives: str = flag(
        "hardest",
        "negatives after warm-up: their mean (contrastive losses: all of them), the hardest, or from mean to hardest",
        choices=NEGATIVES,
    )
    anneal_epochs: int = flag(10, "epochs over which --negatives anneal goes from mean to hardest")
    noisy_start: float = flag(
        0.5, "the noisy side is trained from this share of the epochs on (1: never)", metavar="RATIO"
    )
    remove_noise: bool = flag(
        False,
        "train on the matched pairs alone, as the noise index tells them: no method, but the ceiling of those that "
        "drop noisy pairs",
    )
    no_co_training: bool = flag(False, "one network, divided by its own signal, instead of two")
    save_minutes: float = flag(10.0, "minutes between saves of the run's state; it is also saved after every epoch")
    resume: bool = flag(False, "go on where the last run of this name was interrupted; without one, start")
    on_nan: str = flag(
        "stop", "a loss or gradient that is not finite: stop with a snapshot, or skip the step", choices=ON_NAN
    )
    saved_model: str | None = flag(
        None,
        "start from this checkpoint's networks; no warm-up; it counts as a candidate; given the folder of an "
        "interrupted run, go on with that run, as --resume does",
        metavar="FILE",
    )
    warmup_model_path: str | None = flag(
        None, "checkpoint of warmed-up networks to start from instead of warming up", metavar="FILE"
    )
    seed: int = flag(0, "seed of weights, shuffles and dropout")
    deterministic: bool = flag(
        False, "only arithmetic that repeats bit by bit, on CUDA too; what cannot repeat is refused"
    )
    gpu: str = flag("0", "GPU index, or cpu; without CUDA the CPU is used")
    workers: int = flag(0, "processes that read batches ahead (0: none)")
    log_step: int = flag(50, "steps between records of the training loss")
    id: str | None = flag(None, "a name for this run, added to its folder's")
    output_dir: str = flag("output", "folder in which the run's own folder is made", metavar="DIR")

    def __post_init__(self) -> None:
        check_choices(self)
        check_range(self, "warmup_rate", low=1e-9, high=1.0)
        check_range(self, "noisy_start", low=0.0, high=1.0)
        check_range(self, "batch_size", low=2)
        check_range(self, "save_minutes", low=0.0)
        check_range(self, "learning_rate", low=1e-12, high=1.0)
        check_range(self, "grad_clip", low=1e-12)
        for name in ("warmup_epoch", "num_epochs", "workers", "seed"):
            check_range(self, name, low=0)
        for name in ("accumulate", "lr_update", "anneal_epochs", "log_step"):
            check_range(self, name, low=1)
        if self.num_epochs == 0 and not self.saved_model and not self.warmup_model_path:
            raise InputError("--num_epochs 0 needs a checkpoint to test: give --saved_model or --warmup_model_path")
        if self.saved_model and self.warmup_model_path and not self.continued:
            raise InputError("--saved_model and --warmup_model_path both name a start; give one")
        if self.no_co_training and self.warmup_type == "co_teaching" and self.warmup_epoch:
            raise InputError("--warmup_type co_teaching needs two networks; leave out --no_co_training")

    @property
    def step_size(self) -> int:
        """Pairs whose captions are each other's negatives."""
        return self.batch_size * self.accumulate

    @property
    def continued(self) -> Path | None:
        """The folder of the run that `--saved_model` goes on with, if it names a folder and no checkpoint."""
        return Path(self.saved_model) if self.saved_model and Path(self.saved_model).is_dir() else None


@dataclass(frozen=True)
class MethodChoice:
    """Which method, before its own flags are read."""

    method: str = flag("mgcs", "training method", choices=known_methods())

    def __post_init__(self) -> None:
        check_choices(self)


@dataclass(frozen=True)
class RunConfig:
    """Everything a run needs to know."""

    data: DataConfig
    noise: NoiseConfig
    matcher: MatcherConfig
    method_name: str
    method: MethodConfig
    training: TrainingConfig
    scoring: ScoringConfig
    words: WordVectorsConfig

    def __post_init__(self) -> None:
        start = self.training.saved_model or self.training.warmup_model_path
        if self.words.word_vectors and start and not self.training.continued:
            raise InputError(f"--word_vectors would be overwritten by the networks of {start}; leave one out")
        if not known_methods()[self.method_name].divides:
            for name, usual in (("signal", PAIR), ("refine", LABELS)):
                if (value := getattr(self.method, name)) != usual:
                    raise InputError(
                        f"--{name} {value} has no effect with --method {self.method_name}: it divides nothing"
                    )

    def warnings(self) -> list[str]:
        """Return what is allowed and yet likely a mistake, a line each."""
        negatives, loss = self.training.negatives, self.method.loss
        if loss == HINGE or negatives == "mean":
            return []
        return [
            f"warning: --negatives {negatives} contrasts a pair with its hardest negative alone under the {loss} loss, "
            "which made networks collapse on photographs; without the flag all negatives are kept"
        ]

    def check_processes(self, count: int) -> None:
        """Raise `InputError` unless `count` processes can share the run."""
        size = self.training.step_size
        if size % count:
            unit = count // math.gcd(count, self.training.accumulate)
            nearest = unit * max(1, round(self.training.batch_size / unit))
            raise InputError(
                f"--batch_size {self.training.batch_size} does not divide among {count} processes; the nearest that "
                f"does is {nearest}"
            )

    def build_method(self) -> Method:
        """Return a fresh `Method`, for one network."""
        return known_methods()[self.method_name](self.method)

    @property
    def num_networks(self) -> int:
        """One without co-training, else as many as the method trains."""
        return 1 if self.training.no_co_training else known_methods()[self.method_name].num_networks

    def as_dict(self) -> dict[str, Any]:
        """Return plain nested values, for JSON and checkpoints."""
        return asdict(self)

    def run_name(self) -> str:
        """Return the name of the run's folder."""
        parts = [self.data.data_name, self.method_name, self.matcher.module_name, f"{self.noise.noise_ratio:g}"]
        return "_".join([*parts, f"s{self.training.seed}", *filter(None, [self.training.id])])


def build_parser() -> OneLineParser:
    """Return the parser of run.py: every flag of every method, in groups."""
    methods = known_methods()
    parser = OneLineParser(
        prog="python run.py",
        common=COMMON,
        description="Train and compare robust image-text matchers under noisy correspondence.",
        epilog="@FILE reads further arguments from a file, one or more a line; # starts a comment. See recipes/.",
    )
    add_flags(parser, "data", DataConfig)
    add_flags(parser, "noise", NoiseConfig)
    add_flags(parser, "network", MatcherConfig)
    add_flags(parser, "word vectors", WordVectorsConfig)
    add_flags(parser, "training", TrainingConfig)
    add_flags(parser, "scoring", ScoringConfig)
    add_flags(parser, "method", MethodChoice)
    add_flags(parser, "every method", MethodConfig)
    for name, method in methods.items():
        add_flags(parser, f"{name} and what builds on it", method.Config)
    parser.tell_defaults({"contrastive losses": CONTRASTIVE_DEFAULTS, **{n: m.defaults for n, m in methods.items()}})
    return parser


def parse_args(argv: Sequence[str] | None = None) -> RunConfig:
    """Turn command-line arguments into a checked `RunConfig`.

    Flags that are not given have the chosen method's defaults, if it has some of its own, and those of its loss.

    Raises:
        InputError: a value is not allowed.
    """
    parser, methods = build_parser(), known_methods()
    special = {*CONTRASTIVE_DEFAULTS, *(name for method in methods.values() for name in method.defaults)}
    namespace = parser.parse_args(argv, SimpleNamespace(**dict.fromkeys(special)))  # None stays where none is given
    choice = from_namespace(MethodChoice, namespace)
    kind = methods[choice.method]
    loss = namespace.loss or kind.defaults.get("loss", HINGE)
    defaults = {**({} if loss == HINGE else CONTRASTIVE_DEFAULTS), **kind.defaults}
    for name in special:
        if getattr(namespace, name) is None:
            setattr(namespace, name, defaults.get(name, parser.get_default(name)))
    return RunConfig(
        data=from_namespace(DataConfig, namespace),
        noise=from_namespace(NoiseConfig, namespace),
        matcher=from_namespace(MatcherConfig, namespace),
        method_name=choice.method,
        method=from_namespace(kind.Config, namespace),
        training=from_namespace(TrainingConfig, namespace),
        scoring=from_namespace(ScoringConfig, namespace),
        words=from_namespace(WordVectorsConfig, namespace),
    )
