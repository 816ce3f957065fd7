"""Pictures as CLIP wants them: resize, centre crop, rescale, normalise, as a folder's preprocessor_config.json says.

In torch by hand, since the library's own fast processor needs torchvision. A picture is resized and cropped in 8 bits
(antialiased, as Pillow does it), so that prepared pictures are small enough to be kept, and normalised by the batch.
Legend: B pictures of a batch, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data_utils.pictures import Pictures
from runtime.checkpoint import write_json
from runtime.errors import InputError
from runtime.json_text import parse_json

FILE = "preprocessor_config.json"
NESTED_FILE, NESTED = "processor_config.json", "image_processor"
"""Where newer versions of transformers write the same."""
RESAMPLING = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers."""
LARGEST_SIDE = 4096
"""Pixels of a prepared picture's side."""
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def _are_three(values: Any) -> bool:
    return (
        isinstance(values, list | tuple)
        and len(values) == 3
        and all(isinstance(v, (int, float)) and math.isfinite(v) for v in values)
    )


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes a model's input.

    Attributes:
        resize: length of the shorter side, or (height, width).
        crop: (height, width) cut from the middle; None cuts nothing.
        scale: what 8-bit values are multiplied by.
        mean: of each channel, subtracted after scaling.
        std: of each channel.
        mode: bilinear or bicubic.
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int] | None = None
    scale: float = 1 / 255
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    mode: str = "bicubic"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a prepared picture."""
        if self.crop is not None:
            return self.crop
        return (self.resize, self.resize) if isinstance(self.resize, int) else self.resize

    def prepare(self, pixels: np.ndarray) -> Tensor:
        """Resize and crop (H, W, 3) uint8 to (3, height, width) uint8."""
        picture = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        height, width = picture.shape[2:]
        target = self.resize
        if isinstance(target, int):
            short, long = min(height, width), max(height, width)
            sizes = target, int(target * long / short)
            target = sizes if height <= width else (sizes[1], sizes[0])
        if target != (height, width):
            picture = F.interpolate(picture, size=target, mode=self.mode, antialias=True, align_corners=False)
        top, left = ((have - want) // 2 for have, want in zip(picture.shape[2:], self.size, strict=True))
        return picture[0, :, top : top + self.size[0], left : left + self.size[1]].contiguous()

    def normalise(self, pictures: Tensor) -> Tensor:
        """Turn (B, 3, height, width) uint8 into float32."""
        mean, std = (torch.tensor(v, device=pictures.device)[:, None, None] for v in (self.mean, self.std))
        return (pictures.float() * self.scale - mean) / std

    def save(self, folder: Path) -> None:
        """Write preprocessor_config.json, readable by transformers."""
        height, width = self.size
        square = isinstance(self.resize, int)
        content = {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": self.resize} if square else {"height": height, "width": width},
            "resample": next(number for number, name in RESAMPLING.items() if name == self.mode),
            "do_center_crop": self.crop is not None or square,
            "crop_size": {"height": height, "width": width},
            "do_rescale": True,
            "rescale_factor": self.scale,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }
        write_json(folder / FILE, content)

    @classmethod
    def load(cls, folder: Path) -> Preprocessing:
        """Read a model folder's settings.

        Raises:
            InputError: no such file, or settings that this suite does not follow.
        """
        path = folder / FILE
        if not path.is_file():
            path = folder / NESTED_FILE
        try:
            content = parse_json(path.read_bytes())
            content = content.get(NESTED, content)
            return cls._from_settings(content, path)
        except InputError:
            raise
        except OSError:
            raise InputError(f"{folder} has no {FILE}, which says how pictures are prepared; copy it there") from None
        except (ValueError, AttributeError, KeyError, TypeError, IndexError, OverflowError) as error:
            raise InputError(f"{path} is no description of preprocessing ({error!r})") from None

    @classmethod
    def _from_settings(cls, content: dict[str, Any], path: Path) -> Preprocessing:
        if not content.get("do_resize", True):
            raise InputError(f"{path}: do_resize is off; a model takes pictures of one size, so turn it on")
        size = content["size"]
        if isinstance(size, dict):
            size = size["shortest_edge"] if "shortest_edge" in size else (int(size["height"]), int(size["width"]))
        crop = None
        if content.get("do_center_crop", True):
            crop = content["crop_size"]
            crop = (int(crop["height"]), int(crop["width"])) if isinstance(crop, dict) else (int(crop), int(crop))
            smallest = (size, size) if isinstance(size, int) else size
            if crop[0] > smallest[0] or crop[1] > smallest[1]:
                raise InputError(f"{path}: crop_size {crop} is larger than size {size}; raise size")
        elif isinstance(size, int):
            raise InputError(f"{path}: without do_center_crop, size needs a height and a width")
        if content.get("resample", 3) not in RESAMPLING:
            raise InputError(f"{path}: resample {content['resample']} is unknown; known: 2 (bilinear), 3 (bicubic)")
        normalises = content.get("do_normalize", True)
        for side in (*((size,) if isinstance(size, int) else size), *(crop or ())):
            if type(side) is not int or not 1 <= side <= LARGEST_SIDE:
                raise InputError(f"{path}: a side of {side!r} pixels is not one of 1 .. {LARGEST_SIDE}")
        for name in ("image_mean", "image_std"):
            if normalises and not _are_three(content.get(name, CLIP_MEAN)):
                raise InputError(f"{path}: {name} is {content[name]!r}; it must be three numbers")
        return cls(
            resize=size,
            crop=crop,
            scale=float(content.get("rescale_factor", 1 / 255)) if content.get("do_rescale", True) else 1.0,
            mean=tuple(content.get("image_mean", CLIP_MEAN)) if normalises else (0.0, 0.0, 0.0),
            std=tuple(content.get("image_std", CLIP_STD)) if normalises else (1.0, 1.0, 1.0),
            mode=RESAMPLING[content.get("resample", 3)],
        )


class PreparedPictures:
    """Prepared pictures by number, kept once they were asked for if all of them are small enough together.

    Args:
        pictures: I of them.
        preprocessing: how they are prepared.
        cache_bytes: prepared pictures are kept if all of them take no more.
        workers: threads that decode; 0 decodes in the caller's.
    """

    def __init__(
        self, pictures: Pictures, preprocessing: Preprocessing, *, cache_bytes: int = 2**30, workers: int = 0
    ) -> None:
        self.pictures, self.preprocessing = pictures, preprocessing
        shape = (len(pictures), 3, *preprocessing.size)
        self._kept = torch.empty(shape, dtype=torch.uint8) if np.prod(shape) <= cache_bytes else None
        self._is_kept = np.zeros(len(pictures), dtype=bool)
        self._pool = ThreadPoolExecutor(workers) if workers else None

    def _decode(self, numbers: Iterable[int]) -> list[Tensor]:
        def one(number: int) -> Tensor:
            return self.preprocessing.prepare(self.pictures.pixels(number))

        return list(self._pool.map(one, numbers) if self._pool is not None else map(one, numbers))

    def batch(self, numbers: np.ndarray) -> Tensor:
        """Return pictures (B, 3, height, width) uint8 for numbers (B,); equal numbers are decoded once."""
        if self._kept is None:
            unique, inverse = np.unique(numbers, return_inverse=True)
            return torch.stack(self._decode(unique.tolist()))[torch.from_numpy(inverse)]
        new = np.unique(numbers[~self._is_kept[numbers]])
        if len(new):
            self._kept[torch.from_numpy(new)] = torch.stack(self._decode(new.tolist()))
            self._is_kept[new] = True
        return self._kept[torch.from_numpy(numbers)]

    def batches(self, parts: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield each part of numbers with its pictures; with workers, the next part is decoded meanwhile."""
        if self._pool is None:
            yield from ((part, self.batch(part)) for part in parts)
            return
        with ThreadPoolExecutor(1) as ahead:
            waiting: list[tuple[np.ndarray, Future[Tensor]]] = []
            for part in parts:
                waiting.append((part, ahead.submit(self.batch, part)))
                if len(waiting) > 1:
                    first, future = waiting.pop(0)
                    yield first, future.result()
            for first, future in waiting:
                yield first, future.result()
