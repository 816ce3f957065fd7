"""Train a robust image-text matcher under noisy correspondence.

    python run.py @recipes/emoji_mgcs_0.4.args
    python run.py --data_name f30k_precomp --data_path /data --noise_ratio 0.2 --fit_type bmm

Without arguments it trains MGCS on the embedded data set. `--help_all` lists every flag. An interrupted run goes on
with the same command and `--resume`, or with the run's folder as `--saved_model`.
"""

# ruff: noqa: E402
from __future__ import annotations

import os
import sys

from runtime.packages import begin

if __name__ == "__main__":
    begin(sys.argv[1:])

import shutil
from collections.abc import Sequence
from typing import Any

from runtime.device import keep_freed_memory, repeatable
from runtime.distributed import Processes, asked_for, started
from runtime.errors import InputError, Stopped, exit_on_input_error, say_aside
from training.checkpointing import choose_folder
from training.config import RunConfig, parse_args
from training.data import RunData, open_data
from training.trainer import Trainer


def train(config: RunConfig) -> dict[str, Any]:
    """Open the data, claim a folder, train; return the content of results.json."""
    config.check_processes(asked_for().count)
    with repeatable(config.training.deterministic):
        data = open_data(config.data, config.noise, config.matcher)
        with started() as processes:
            return train_together(config, data, processes)


def train_together(config: RunConfig, data: RunData, processes: Processes) -> dict[str, Any]:
    """Train in one of several processes, or in the only one."""
    place = processes.told(choose_folder(config) if processes.is_first else None)
    assert place is not None
    try:
        trainer = Trainer(place.config, data, place.folder, resume=place.is_resumed, processes=processes)
    except InputError:
        if place.is_new and processes.is_first:
            shutil.rmtree(place.folder)  # nothing was trained yet: leave nothing behind
        raise
    for line in place.remarks:
        trainer.log.say(line)
    return trainer.train()


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags and train."""
    config = parse_args(argv)
    keep_freed_memory()
    try:
        if asked_for().is_first:
            print(f"reading {config.data.data_name} ...", flush=True)
        train(config)
    except Stopped as stopped:
        goes_on = config.training.resume or config.training.continued
        by_make = " (by make: make run ARGS=--resume)" if "MAKELEVEL" in os.environ else ""
        advice = "again" if goes_on else f"with --resume{by_make}"
        say_aside(f"interrupted, and saved; to go on, give the same command {advice}")
        sys.exit(stopped.exit_code)


if __name__ == "__main__":
    main()
