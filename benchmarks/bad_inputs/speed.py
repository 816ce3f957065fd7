"""Bad inputs of issue 2, speed: what this processor or this gallery cannot do."""

from __future__ import annotations

import os
from unittest import mock

from benchmarks.bad_inputs.case import Case, Workshop
from models import precision

ISSUE = "2. fast"


def _no_bfloat16(w: Workshop) -> list[object]:
    w.open_for(mock.patch.object(precision, "bf16_is_supported", lambda device: False))
    return [*w.flags("--precision", "bf16")]


def _no_compiler(w: Workshop) -> list[object]:
    w.open_for(mock.patch.dict(os.environ, {"CXX": "no-such-compiler"}))
    return [*w.flags("--compile", "--module_name", "SGR")]


def _long_shortlist(w: Workshop) -> list[object]:
    return ["--mode_path", w.checkpoint, "--gpu", "cpu", "--split", "dev", "--shortlist", "9"]


CASES = [
    Case(ISSUE, "--precision bf16 where there is none", "run.py", _no_bfloat16, "--precision bf16.* use fp32, or auto"),
    Case(ISSUE, "--shortlist beyond the gallery", "evaluation.py", _long_shortlist, "--shortlist 9.*4 images"),
    Case(ISSUE, "--compile without a compiler", "run.py", _no_compiler, r"--compile needs a C\+\+ compiler.* leave"),
]
