"""The first losses of a run, as they are: a change of the order of draws or of the arithmetic shows here.

Whoever changes them on purpose says so in CHANGELOG.md and writes down the new ones.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import run
from tests.tiny import tiny_flags
from tests.training.test_distributed import losses

TRACE = {
    "SGR": [0.369103, 0.372945, 0.372776, 0.370243, 0.372184, 0.370027],
    "VSE": [0.46753, 0.460214, 0.452277, 0.484168, 0.486514, 0.452549],
}


@pytest.mark.parametrize("module", TRACE)
def test_the_first_losses(tiny_root: Path, tmp_path: Path, module: str) -> None:
    """Under dropout; to 1e-4, which rounding on another processor does not reach in so few steps."""
    run.main(tiny_flags(tiny_root, tmp_path, "--module_name", module, "--log_step", "1", "--learning_rate", "0.0005"))
    found = [loss for network, step, loss in losses(tmp_path) if network == "A" and step <= len(TRACE[module])]
    assert found == pytest.approx(TRACE[module], abs=1e-4)
