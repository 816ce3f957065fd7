"""Train a robust image-text matcher under noisy correspondence.

    python run.py @recipes/emoji_mgcs_0.4.args
    python run.py --data_name f30k_precomp --data_path /data --noise_ratio 0.2 --fit_type bmm

Without arguments it trains MGCS on the embedded data set. `--help` lists every flag.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from runtime.errors import InputError, exit_on_input_error
from training.config import RunConfig, parse_args
from training.data import open_data
from training.trainer import Trainer


def claim_folder(config: RunConfig) -> Path:
    """Make the run's folder; an earlier run of the same name is kept, and the new one gets a number.

    Raises:
        InputError: the output folder cannot be written.
    """
    name = config.run_name()
    try:
        for number in count(1):
            folder = Path(config.training.output_dir) / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir(parents=True)
                return folder
            except FileExistsError:
                if not folder.is_dir():
                    raise
    except OSError as error:
        raise InputError(
            f"--output_dir {config.training.output_dir} cannot be written: {error.strerror}; name another folder"
        ) from None
    raise AssertionError("unreachable: numbers do not end")


def train(config: RunConfig) -> dict[str, Any]:
    """Open the data, claim a folder, train; return the content of results.json."""
    data = open_data(config.data, config.noise, config.matcher)
    folder = claim_folder(config)
    try:
        trainer = Trainer(config, data, folder)
    except InputError:
        folder.rmdir()  # nothing was written yet: leave nothing behind
        raise
    return trainer.train()


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags and train."""
    train(parse_args(argv))


if __name__ == "__main__":
    main()
