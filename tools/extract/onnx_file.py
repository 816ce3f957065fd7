"""A backbone in an ONNX file, run by onnxruntime on the processor.

Its one input is pictures as (B, 3, H, W) or (B, H, W, 3), floats or 8 bits; one of its outputs is
taken for feature maps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from runtime.errors import InputError
from tools.extract.backbones import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    INSTALL,
    BackboneOptions,
    as_maps,
    normalised,
)

try:
    import onnxruntime
except ImportError:  # an optional extra: the rest of the suite works without it
    onnxruntime = None

TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
SIZE = 224
"""Pixels of a picture's side where the file leaves it open."""


class OnnxFile:
    """A backbone from an ONNX file.

    Raises:
        InputError: onnxruntime is not installed, the file is not ONNX, or it takes something other than pictures.
    """

    def __init__(self, path: Path, options: BackboneOptions) -> None:
        if onnxruntime is None:
            raise InputError(f"--backbone {path} needs onnxruntime, which is not installed; run: {INSTALL}")
        self._path = path
        self._session = self._open()
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in TYPES or len(inputs[0].shape) != 4:
            told = ", ".join(f"{given.name} {given.type} {given.shape}" for given in inputs)
            raise InputError(
                f"--backbone {path} takes {told}; it must take pictures alone: (B, 3, H, W) or (B, H, W, 3)"
            )
        self._input, self._dtype = inputs[0].name, TYPES[inputs[0].type]
        batch, *sides = inputs[0].shape
        self._batch = batch if isinstance(batch, int) else None
        self._channels_last = sides[0] != 3 and sides[2] == 3
        if not self._channels_last and isinstance(sides[0], int) and sides[0] != 3:
            raise InputError(f"--backbone {path} takes {sides[0]} channels; pictures have 3")
        self.size = self._choose_size(sides[:2] if self._channels_last else sides[1:], options.size)
        if self._dtype is np.uint8 and (options.mean is not None or options.std is not None):
            raise InputError(f"--backbone {path} takes 8-bit pictures; leave out --mean and --std")
        self._mean, self._std = options.mean or IMAGENET_MEAN, options.std or IMAGENET_STD
        self._output = self._choose_output(options.output)

    def _open(self) -> Any:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.log_severity_level = 4
        try:
            return onnxruntime.InferenceSession(str(self._path), settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own classes, which share no base but this
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"--backbone {self._path} is no ONNX file that can be run: {reason}") from None

    def _choose_size(self, sides: list[Any], wanted: int | None) -> tuple[int, int]:
        height, width = (side if isinstance(side, int) else wanted or SIZE for side in sides)
        if wanted is not None and (height, width) != (wanted, wanted):
            raise InputError(f"--size {wanted} does not fit --backbone {self._path}, which takes {height} x {width}")
        return height, width

    def _choose_output(self, wanted: str | None) -> str:
        names = [output.name for output in self._session.get_outputs()]
        if wanted is not None and wanted not in names:
            raise InputError(f"--onnx_output {wanted!r} is unknown; {self._path} has: {', '.join(names)}")
        return wanted or names[0]

    def maps(self, pixels: np.ndarray) -> np.ndarray:
        """Compute feature maps of pictures (B, H, W, 3) uint8: (B, h, w, C) float32."""
        values = pixels if self._dtype is np.uint8 else normalised(pixels, self._mean, self._std).astype(self._dtype)
        values = np.ascontiguousarray(values if self._channels_last else values.transpose(0, 3, 1, 2))
        step = self._batch or len(values)
        parts = [self._run(values[start : start + step], step) for start in range(0, len(values), step)]
        return as_maps(np.concatenate(parts), str(self._path), channels_last=self._channels_last)

    def _run(self, values: np.ndarray, step: int) -> np.ndarray:
        """Run a batch, filled up with its last picture where the file's own batch is larger."""
        count = len(values)
        filled = np.concatenate([values, np.repeat(values[-1:], step - count, axis=0)])
        try:
            (output,) = self._session.run([self._output], {self._input: filled})
        except Exception as error:  # its own classes, which share no base but this
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"--backbone {self._path} cannot be run on {self.size} pictures: {reason}") from None
        return output[:count]
