"""The rows of DSDMR's ablation (Table 5) from one pretraining, and their table.

    python -m tools.clip_tuning.ablation @recipes/clip_emoji.args

With `--clip tiny` and `--pretrain_epochs` the model is trained once, as the zero_shot row, and its folder is where the
other rows start; with a folder as `--clip` all start there. Every row is what `python -m tools.clip_tuning` does with
the same flags. Finished rows are not repeated and interrupted ones go on, so that the command can be given again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import InputError, exit_on_input_error
from runtime.files import write_json
from runtime.flags import flag
from runtime.log import table
from tools.clip_tuning.config import CLIP_METHODS, SECTIONS, ClipRunConfig
from tools.clip_tuning.trainer import PRETRAINED, RESULTS, ClipTrainer, latest_run
from tools.command import parsed

BASE = "zero_shot"
TABLE = "ablation.json"
HEADER = ("row", "epoch", "dev rSum", "test rSum", "i2t R@1", "t2i R@1", "noise 1st", "noise after", "AUC", "d'", "s")
"""noise 1st: residual noise that the first filtering leaves, where there is one; noise after, AUC and d' are those of a
filtering by the model after training, on which nothing is trained."""


@dataclass(frozen=True)
class AblationConfig:
    """Flags of the ablation."""

    rows: str = flag(",".join(CLIP_METHODS), "rows, separated by commas")

    def __post_init__(self) -> None:
        unknown = sorted(set(self.names) - set(CLIP_METHODS))
        if unknown:
            raise InputError(f"--rows {', '.join(unknown)} unknown; known: {', '.join(CLIP_METHODS)}")

    @property
    def names(self) -> list[str]:
        """Rows, the one that others start from first."""
        names = [name.strip() for name in self.rows.split(",") if name.strip()]
        return sorted(dict.fromkeys(names), key=lambda name: name != BASE)


def row_config(config: ClipRunConfig, name: str, pretrained: Path | None) -> ClipRunConfig:
    """Return the settings of a row; `pretrained` is the folder to start from, None the one that `--clip` names."""
    tuning, model = dataclasses.replace(config.tuning, clip_method=name, resume=True), config.model
    if pretrained is not None:
        tuning = dataclasses.replace(tuning, pretrain_epochs=0)
        model = dataclasses.replace(model, clip=str(pretrained))
    return dataclasses.replace(config, tuning=tuning, model=model)


def run_row(config: ClipRunConfig) -> dict[str, Any]:
    """Train a row, go on with it, or read its results; return the content of its results.json.

    Raises:
        InputError: its folder is of a run with other settings.
    """
    folder = latest_run(config)
    if folder is not None and (folder / RESULTS).is_file():
        return json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    return ClipTrainer.start(config).train()


def ablation_table(results: dict[str, dict[str, Any]]) -> str:
    """Return the table, a line a row."""

    def shown(value: float | None, digits: int = 3) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    lines = []
    for name, result in results.items():
        test, after, first = result["test"], result["after_training"], result["first_filter"] or {}
        recalls = [result["dev"]["rSum"], test["rSum"], test["i2t"]["R@1"], test["t2i"]["R@1"]]
        left = first.get("residual_noise") if CLIP_METHODS[name].filters else None
        figures = [shown(value) for value in (left, after.get("residual_noise"), after.get("auc"))]
        separation, seconds = shown(after["separation"], 2), shown(result["seconds"], 0)
        lines.append([name, result["epoch"], *recalls, *figures, separation, seconds])
    return table(HEADER, lines)


def ablation(config: ClipRunConfig, names: Sequence[str]) -> None:
    """Run the rows, print their table, write ablation.json."""
    output, results, pretrained = Path(config.tuning.output_dir), {}, None
    if config.tuning.pretrain_epochs:
        base = row_config(config, BASE, None)
        results[BASE] = run_row(base)
        pretrained = output / base.run_name() / PRETRAINED
    for name in names:
        if name not in results:
            results[name] = run_row(row_config(config, name, pretrained))
    write_json(output / TABLE, results)
    print(ablation_table({name: results[name] for name in names}))


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags and run the rows."""
    kinds = {"ablation": AblationConfig, **SECTIONS}
    rows, pairs, noise, model, filtering, tuning = parsed(
        "tools.clip_tuning.ablation", "The ablation of DSDMR with CLIP.", argv, kinds
    )
    tuning = dataclasses.replace(tuning, clip_method=BASE)  # each row sets its own
    ablation(ClipRunConfig(pairs, noise, model, filtering, tuning), rows.names)


if __name__ == "__main__":
    main()
