"""Train a robust image-text matcher under noisy correspondence.

    python run.py @recipes/emoji_mgcs_0.4.args
    python run.py --data_name f30k_precomp --data_path /data --noise_ratio 0.2 --fit_type bmm

Without arguments it trains MGCS on the embedded data set. `--help` lists every flag. An interrupted run goes on with
the same command and `--resume`.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import Any

from runtime.errors import InputError, exit_on_input_error
from runtime.interruption import Stopped
from training.config import RunConfig, parse_args
from training.data import open_data
from training.folders import choose_folder
from training.trainer import Trainer


def train(config: RunConfig) -> dict[str, Any]:
    """Open the data, claim a folder, train; return the content of results.json."""
    data = open_data(config.data, config.noise, config.matcher)
    folder, is_resumed = choose_folder(config)
    try:
        trainer = Trainer(config, data, folder, resume=is_resumed)
    except InputError:
        if not is_resumed:
            shutil.rmtree(folder)  # nothing was trained yet: leave nothing behind
        raise
    return trainer.train()


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags and train."""
    try:
        train(parse_args(argv))
    except Stopped as stopped:
        print("interrupted, and saved; to go on, give the same command with --resume", file=sys.stderr)
        sys.exit(stopped.exit_code)


if __name__ == "__main__":
    main()
