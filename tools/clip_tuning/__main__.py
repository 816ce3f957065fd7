"""Fine-tune CLIP under noisy correspondence: DSDMR's filter and dynamic margins, a reconstruction, and its ablation.

    python -m tools.clip_tuning --clip DIR --train_pairs train.json --dev_pairs dev.json --test_pairs test.json
    python -m tools.clip_tuning @recipes/clip_emoji.args --clip_method dsdmr
    python -m tools.clip_tuning @recipes/clip_emoji.args --clip_method dsdmr --resume

The second command needs no download: a small CLIP from random weights on the embedded pictures. The authors' loss and
trainer are unpublished: margins, guards and pools are ours, and numbers are not a reproduction.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.errors import exit_on_input_error
from tools.clip_tuning.config import parse_args
from tools.clip_tuning.trainer import ClipTrainer


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags and train."""
    ClipTrainer.start(parse_args(argv)).train()


if __name__ == "__main__":
    main()
