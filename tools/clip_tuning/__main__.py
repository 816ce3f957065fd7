"""Fine-tune CLIP under noisy correspondence: DSDMR's filter and dynamic margins, a reconstruction, and its ablation.

    python -m tools.clip_tuning --clip DIR --train_pairs train.json --dev_pairs dev.json --test_pairs test.json
    python -m tools.clip_tuning @recipes/clip_emoji.args --clip_method dsdmr
    python -m tools.clip_tuning --resume output/RUN

The second command needs no download: a small CLIP from random weights on the embedded pictures. The authors' loss and
trainer are unpublished: margins, guards and pools are ours, and numbers are not a reproduction.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.checkpoint import write_json
from runtime.errors import InputError, exit_on_input_error
from runtime.run_folder import claim
from tools.clip_tuning.config import ClipRunConfig, parse_args, resumed
from tools.clip_tuning.library import require_transformers
from tools.clip_tuning.setup import open_run
from tools.clip_tuning.state import load_state
from tools.clip_tuning.trainer import ClipTrainer

CONFIG, RESULTS = "config.json", "results.json"


def start(config: ClipRunConfig) -> ClipTrainer:
    """Open data and model and claim a folder for a new run."""
    data = open_run(config)
    folder = claim(Path(config.tuning.output_dir), config.run_name())
    write_json(folder / CONFIG, config.as_dict())
    return ClipTrainer(config, data, folder)


def resume(given: ClipRunConfig, folder: Path) -> ClipTrainer:
    """Open an interrupted run.

    Raises:
        InputError: there is none, it is finished, or a flag asks for something else.
    """
    config = resumed(given, ClipRunConfig.read(folder / CONFIG), folder)
    if (folder / RESULTS).is_file():
        raise InputError(f"--resume {folder}: that run is finished; its results are in {RESULTS}")
    load_state(folder)  # before the pictures are opened
    return ClipTrainer(config, open_run(config), folder, resumes=True)


def train(config: ClipRunConfig) -> dict[str, Any]:
    """Train, or go on training; return the content of results.json."""
    require_transformers()
    folder = config.tuning.resume
    trainer = start(config) if folder is None else resume(config, Path(folder))
    return trainer.train()


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags and train."""
    train(parse_args(argv))


if __name__ == "__main__":
    main()
