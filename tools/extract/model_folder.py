"""A vision backbone of `transformers` in a folder on disk: config.json, weights, preprocessor_config.json.

Whatever `AutoModel` opens and gives `last_hidden_state`: ViT, DINOv2, Swin, ResNet, ConvNeXt, the picture side of CLIP
and SigLIP, and timm's models where timm can be imported. Nothing is downloaded. Pictures come in their final size, so
that the folder's image processor only scales and normalises.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runtime.errors import InputError
from tools.extract.backbones import INSTALL, BackboneOptions, as_maps, normalised

try:
    from transformers import AutoImageProcessor, AutoModel
    from transformers.utils import logging
except ImportError:  # an optional extra: the rest of the suite works without it
    AutoImageProcessor: Any = None  # type: ignore[no-redef]
    AutoModel: Any = None  # type: ignore[no-redef]
    logging: Any = None  # type: ignore[no-redef]

PREPROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


class ModelFolder:
    """A backbone from a folder.

    Raises:
        InputError: transformers is not installed, the folder holds no such model or not all of its weights, or nothing
            says how pictures are prepared.
    """

    def __init__(self, folder: Path, device: torch.device, options: BackboneOptions) -> None:
        if AutoModel is None:
            raise InputError(f"--backbone {folder} needs transformers, which is not installed; run: {INSTALL}")
        if options.output is not None:
            raise InputError("--onnx_output is for ONNX files; leave it out")
        self._folder, self._device, self._options = folder, device, options
        with _quietly(folder):
            model, loading = AutoModel.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, output_loading_info=True
            )
        missing = sorted(key for key in loading["missing_keys"] if "pooler" not in key.split("."))
        if missing:
            raise InputError(
                f"--backbone {folder} lacks {len(missing)} weights, the first is {missing[0]}; copy it again"
            )
        model = getattr(model, "vision_model", model)  # of CLIP and its like only the picture side is needed
        self._model = model.float().eval().to(device)
        self._processor = self._open_processor()
        side = options.size
        self.size = (side, side) if side is not None else self._own_size()

    def _open_processor(self) -> Any:
        has_file = any((self._folder / name).is_file() for name in PREPROCESSOR_FILES)
        if not has_file and (self._options.mean is None or self._options.std is None):
            raise InputError(
                f"--backbone {self._folder} has no {PREPROCESSOR_FILES[0]}, which says how pictures are prepared; copy "
                "it there, or give --mean and --std"
            )
        if not has_file:
            return None
        if self._options.mean is not None or self._options.std is not None:
            raise InputError(f"--mean and --std are told by {self._folder / PREPROCESSOR_FILES[0]}; leave them out")
        with _quietly(self._folder):
            return AutoImageProcessor.from_pretrained(self._folder, local_files_only=True, trust_remote_code=False)

    def _own_size(self) -> tuple[int, int]:
        """Return the size that the folder's files tell."""
        processor, config = self._processor, self._model.config
        told = [getattr(processor, "crop_size", None)] if getattr(processor, "do_center_crop", False) else []
        for size in (*told, getattr(processor, "size", None), getattr(config, "image_size", None)):
            if isinstance(size, int):
                return size, size
            if isinstance(size, (list, tuple)) and len(size) == 2:
                return int(size[0]), int(size[1])
            values = dict(size) if size else {}
            if values.get("height") and values.get("width"):
                return int(values["height"]), int(values["width"])
            if values.get("shortest_edge"):
                return int(values["shortest_edge"]), int(values["shortest_edge"])
        raise InputError(f"--backbone {self._folder} does not tell the size of its pictures; give --size")

    def maps(self, pixels: np.ndarray) -> np.ndarray:
        """Compute feature maps of pictures (B, H, W, 3) uint8: (B, h, w, C) float32."""
        with _quietly(self._folder), torch.inference_mode():
            output = self._model(pixel_values=self._prepared(pixels).to(self._device))
        hidden = getattr(output, "last_hidden_state", None)
        if hidden is None:
            raise InputError(f"--backbone {self._folder} gives no last_hidden_state; take a vision backbone")
        return as_maps(hidden.float().cpu().numpy(), str(self._folder))

    def _prepared(self, pixels: np.ndarray) -> torch.Tensor:
        if self._processor is None:
            assert self._options.mean is not None and self._options.std is not None
            values = normalised(pixels, self._options.mean, self._options.std)
            return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))
        settings = {"do_resize": False, "do_center_crop": False, "do_pad": False, "return_tensors": "pt"}
        known = {
            name: value
            for name, value in settings.items()
            if name == "return_tensors" or hasattr(self._processor, name)
        }
        return self._processor(list(pixels), input_data_format="channels_last", **known)["pixel_values"]


@contextlib.contextmanager
def _quietly(folder: Path) -> Iterator[None]:
    """Keep the library's remarks and bars off the terminal, and turn whatever goes wrong in it into one line."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except Exception as error:  # it runs the code of hundreds of architectures
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"--backbone {folder} is no vision backbone that can be run: {reason}") from None
