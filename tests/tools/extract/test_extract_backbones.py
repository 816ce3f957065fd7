"""Backbones, against what their maps should be, and cells against slow twins."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.errors import InputError
from tools.extract import backbones
from tools.extract.backbones import IMAGENET_MEAN, IMAGENET_STD, BackboneOptions, Lite0, ModelFolder, OnnxFile, as_maps
from tools.extract.regions import Regions, grid_of, resized

CPU, FLOAT = torch.device("cpu"), 1  # ONNX's number of the type


def pictures(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (count, height, width, 3)).astype(np.uint8)


# -- a tiny ONNX file, by hand ---------------------------------------------------------------------------------------


def field(number: int, value: int | str | bytes) -> bytes:
    """Encode a field of a protocol buffer: a number, or something with a length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def tensor_info(name: str, kind: int, shape: tuple[int | str, ...]) -> bytes:
    dims = b"".join(field(1, field(2, side) if isinstance(side, str) else field(1, side)) for side in shape)
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, dims)))


def node(kind: str, source: str, target: str, **numbers: tuple[int, ...] | int) -> bytes:
    attributes = b""
    for name, value in numbers.items():
        if isinstance(value, int):
            attributes += field(5, field(1, name) + field(3, value) + field(20, 2))
        else:
            attributes += field(5, field(1, name) + b"".join(field(8, v) for v in value) + field(20, 7))
    return field(1, source) + field(2, target) + field(4, kind) + attributes


def write_onnx(
    path: Path,
    nodes: list[bytes],
    inputs: Mapping[str, tuple[int, tuple[int | str, ...]]],
    outputs: Mapping[str, tuple[int | str, ...]],
) -> Path:
    """Write a graph without weights; outputs are float32."""
    graph = b"".join(field(1, one) for one in nodes) + field(2, "tiny")
    graph += b"".join(field(11, tensor_info(name, kind, shape)) for name, (kind, shape) in inputs.items())
    graph += b"".join(field(12, tensor_info(name, FLOAT, shape)) for name, shape in outputs.items())
    path.write_bytes(field(1, 8) + field(7, graph) + field(8, field(2, 13)))
    return path


def pooling_onnx(path: Path, batch: int | str = "n", side: int | str = "s") -> Path:
    """Write a model whose first output is the mean of each 4 x 4 pixels, the second the mean of all."""
    nodes = [
        node("AveragePool", "pixels", "map", kernel_shape=(4, 4), strides=(4, 4)),
        node("GlobalAveragePool", "pixels", "all"),
        node("Flatten", "all", "vector", axis=1),
    ]
    cells_side = side // 4 if isinstance(side, int) else "c"
    return write_onnx(
        path,
        nodes,
        {"pixels": (FLOAT, (batch, 3, side, side))},
        {"map": (batch, 3, cells_side, cells_side), "vector": (batch, 3)},
    )


def block_means(values: np.ndarray) -> np.ndarray:
    count, height, width, channels = values.shape
    return values.reshape(count, height // 4, 4, width // 4, 4, channels).mean(axis=(2, 4))


class TestOnnx:
    @pytest.fixture(autouse=True)
    def _needs_onnxruntime(self) -> None:
        pytest.importorskip("onnxruntime")

    @pytest.mark.parametrize(("batch", "side"), [("n", "s"), (1, 16), (4, 16), ("n", 16)])
    def test_maps(self, tmp_path: Path, batch: int | str, side: int | str) -> None:
        backbone = OnnxFile(pooling_onnx(tmp_path / "x.onnx", batch, side), BackboneOptions(size=16))
        pixels = pictures(5, 16, 16)
        expected = block_means((pixels / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD))
        assert backbone.size == (16, 16)
        maps = backbone.maps(pixels)
        assert maps.shape == (5, 4, 4, 3) and maps.dtype == np.float32
        np.testing.assert_allclose(maps, expected, atol=1e-5)

    def test_its_mean_and_deviation_and_another_output(self, tmp_path: Path) -> None:
        path = pooling_onnx(tmp_path / "x.onnx")
        options = BackboneOptions(size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 1.0), output="vector")
        pixels = pictures(2, 16, 16)
        expected = ((pixels / 255 - 0.5) / np.array([0.5, 0.25, 1.0])).mean(axis=(1, 2))
        np.testing.assert_allclose(OnnxFile(path, options).maps(pixels)[:, 0, 0], expected, atol=1e-5)
        with pytest.raises(InputError, match="--onnx_output 'x' is unknown; .* has: map, vector"):
            OnnxFile(path, BackboneOptions(output="x"))

    def test_files_that_are_not_onnx(self, tmp_path: Path) -> None:
        (tmp_path / "x.onnx").write_bytes(b"not a model")
        with pytest.raises(InputError, match="x.onnx is no ONNX file that can be run") as caught:
            OnnxFile(tmp_path / "x.onnx", BackboneOptions())
        assert "\n" not in str(caught.value)


# -- transformers ----------------------------------------------------------------------------------------------------

SETTINGS: dict[str, Any] = {
    "do_resize": True,
    "size": {"height": 32, "width": 32},
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.25, 1.0],
}


def vit(folder: Path, **changes: Any) -> Any:
    """Save and return a random transformer of 4 x 4 patches and a class token."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=32, patch_size=8)).eval()
    return save(model, folder, {"image_processor_type": "ViTImageProcessor", **SETTINGS, **changes})


def save(model: Any, folder: Path, settings: dict[str, Any]) -> Any:
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return model


def prepared(pixels: np.ndarray) -> torch.Tensor:
    """Return what a model with `SETTINGS` should get."""
    values = (pixels / 255 - np.array(SETTINGS["image_mean"])) / np.array(SETTINGS["image_std"])
    return torch.tensor(values.transpose(0, 3, 1, 2), dtype=torch.float32)


class TestModelFolder:
    def test_a_transformers_patches_without_its_class_token(self, tmp_path: Path) -> None:
        model, pixels = vit(tmp_path), pictures(3, 32, 32)
        backbone = ModelFolder(tmp_path, CPU, BackboneOptions())
        with torch.no_grad():
            hidden = model(pixel_values=prepared(pixels)).last_hidden_state
        assert backbone.size == (32, 32) and hidden.shape == (3, 17, 16)
        np.testing.assert_allclose(backbone.maps(pixels), hidden[:, 1:].reshape(3, 4, 4, 16).numpy(), atol=1e-5)

    def test_a_convolutional_networks_map(self, tmp_path: Path) -> None:
        transformers = pytest.importorskip("transformers")
        torch.manual_seed(0)
        config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        model = transformers.ResNetModel(config).eval()
        sizes = {"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": {"height": 48, "width": 32}}
        save(model, tmp_path, {"image_processor_type": "ViTImageProcessor", **SETTINGS, "size": sizes["size"]})
        assert ModelFolder(tmp_path, CPU, BackboneOptions()).size == (40, 40)
        save(model, tmp_path, {"image_processor_type": "CLIPImageProcessor", **SETTINGS, **sizes})
        backbone, pixels = ModelFolder(tmp_path, CPU, BackboneOptions()), pictures(2, 48, 32)
        with torch.no_grad():
            hidden = model(pixel_values=prepared(pixels)).last_hidden_state
        assert backbone.size == (48, 32) and hidden.shape == (2, 16, 6, 4)
        np.testing.assert_allclose(backbone.maps(pixels), hidden.permute(0, 2, 3, 1).numpy(), atol=1e-5)

    def test_the_picture_side_of_clip(self, tmp_path: Path) -> None:
        transformers = pytest.importorskip("transformers")
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        vision, text = {**sizes, "image_size": 32, "patch_size": 8}, {**sizes, "vocab_size": 20}
        model = transformers.CLIPModel(transformers.CLIPConfig(vision_config=vision, text_config=text)).eval()
        save(model, tmp_path, {"image_processor_type": "CLIPImageProcessor", **SETTINGS})
        pixels = pictures(2, 32, 32)
        with torch.no_grad():
            hidden = model.vision_model(pixel_values=prepared(pixels)).last_hidden_state
        maps = ModelFolder(tmp_path, CPU, BackboneOptions()).maps(pixels)
        np.testing.assert_allclose(maps, hidden[:, 1:].reshape(2, 4, 4, 16).numpy(), atol=1e-5)

    def test_preparation_may_be_told(self, tmp_path: Path) -> None:
        vit(tmp_path)
        pixels = pictures(2, 32, 32)
        expected = ModelFolder(tmp_path, CPU, BackboneOptions()).maps(pixels)
        told = BackboneOptions(mean=tuple(SETTINGS["image_mean"]), std=tuple(SETTINGS["image_std"]))
        with pytest.raises(InputError, match="--mean and --std are told by .*preprocessor_config.json"):
            ModelFolder(tmp_path, CPU, told)
        (tmp_path / "preprocessor_config.json").unlink()
        with pytest.raises(InputError, match="has no preprocessor_config.json.* or give --mean and --std"):
            ModelFolder(tmp_path, CPU, BackboneOptions())
        backbone = ModelFolder(tmp_path, CPU, told)
        assert backbone.size == (32, 32)
        np.testing.assert_allclose(backbone.maps(pixels), expected, atol=1e-5)

    def test_missing_weights_are_told(self, tmp_path: Path) -> None:
        safetensors = pytest.importorskip("safetensors.torch")
        vit(tmp_path)
        path = tmp_path / "model.safetensors"
        weights = safetensors.load_file(path)
        pooler = [key for key in weights if "pooler" in key]
        safetensors.save_file({k: v for k, v in weights.items() if k not in pooler}, path, metadata={"format": "pt"})
        ModelFolder(tmp_path, CPU, BackboneOptions())  # not used here, and often not there
        key = next(key for key in weights if key.endswith("layernorm.weight"))
        safetensors.save_file({k: v for k, v in weights.items() if k != key}, path, metadata={"format": "pt"})
        with pytest.raises(InputError, match=f"lacks 1 weights, the first is {key}"):
            ModelFolder(tmp_path, CPU, BackboneOptions())

    @pytest.mark.parametrize("content", [None, "{}", '{"model_type": "no-such-model"}', '{"model_type": "vit"}', "x"])
    def test_folders_without_a_model(self, tmp_path: Path, content: str | None) -> None:
        pytest.importorskip("transformers")
        if content is not None:
            (tmp_path / "config.json").write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match="is no vision backbone that can be run") as caught:
            ModelFolder(tmp_path, CPU, BackboneOptions())
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


# -- EfficientNet-Lite0 ----------------------------------------------------------------------------------------------


def test_lite0_is_what_the_embedded_set_was_computed_with() -> None:
    """The network's feature map of values scaled as it was trained, and nearly the builder's double precision."""
    pytest.importorskip("efficientnet_lite_pytorch")
    backbone, pixels = Lite0(CPU), pictures(2, 192, 192)
    maps = backbone.maps(pixels)
    assert backbone.size == (192, 192) and maps.shape == (2, 6, 6, backbones.CHANNELS) and maps.dtype == np.float32
    network = backbone._network
    values = torch.tensor((pixels.astype(np.float32) - 127) / 128).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = network.extract_features(values).permute(0, 2, 3, 1)
    np.testing.assert_allclose(maps, expected.numpy(), atol=1e-5)
    double = Lite0(CPU, torch.float64).maps(pixels[:1])
    np.testing.assert_allclose(maps[:1], double, atol=1e-3)
    assert 0.1 < maps.std() < 10


# -- cells -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [16, 17, 18, 21, 49, 197, 261])
def test_the_last_square_of_tokens_is_the_map(tokens: int) -> None:
    output = np.random.RandomState(0).randn(2, tokens, 3)
    side = int(tokens**0.5)
    maps = as_maps(output, "x")
    assert maps.shape == (2, side, side, 3) and maps.dtype == np.float32
    assert np.array_equal(maps.reshape(2, -1, 3), np.float32(output[:, tokens - side * side :]))


@pytest.mark.parametrize("shape", [(2, 91, 3), (2,), (2, 3, 4, 5, 6), (2, 3, 0, 4), (2, 0, 3)])
def test_outputs_that_are_no_map(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="--backbone x gives"):
        as_maps(np.zeros(shape), "x")


@pytest.mark.parametrize(("height", "width", "grid"), [(4, 4, 4), (4, 4, 2), (7, 7, 6), (5, 8, 3), (6, 6, 1)])
def test_a_grids_cells_are_means_of_the_maps(height: int, width: int, grid: int) -> None:
    maps = np.random.RandomState(0).randn(2, height, width, 3).astype(np.float32)
    rows = []
    for i in range(grid):
        for j in range(grid):
            top, bottom = i * height // grid, -(-(i + 1) * height // grid)
            left, right = j * width // grid, -(-(j + 1) * width // grid)
            rows.append(maps[:, top:bottom, left:right].mean(axis=(1, 2)))
    found = grid_of(maps, grid, "x")
    np.testing.assert_allclose(found, np.stack(rows, axis=1), atol=1e-6)
    if (height, width) == (grid, grid):
        assert np.array_equal(found, maps.reshape(2, -1, 3)), "nothing is computed"


class Pixels:
    """A backbone whose map is the picture."""

    size = (4, 6)

    def __init__(self) -> None:
        self.seen: list[int] = []

    def maps(self, given: np.ndarray) -> np.ndarray:
        self.seen.append(len(given))
        return given.astype(np.float32)


def test_regions_whatever_the_batch() -> None:
    pytest.importorskip("PIL")
    own, box = pictures(5, 4, 6), np.array([[3, 2, 6, 4]])
    own[:, 2:, 3:] = (10, 20, 30)
    for batch_size in (1, 2, 7):
        backbone = Pixels()
        found_in = Regions(backbone, "x", grid=2, batch_size=batch_size)
        assert found_in.shape == (4, 3) and backbone.seen == [1]
        inputs = np.concatenate([found_in.inputs_of(picture, None) for picture in own])
        assert np.array_equal(found_in.compute(inputs, 5), grid_of(own.astype(np.float32), 2, "x"))
        assert max(backbone.seen) <= batch_size
        found_in = Regions(backbone, "x", grid=None, batch_size=batch_size)
        inputs = np.concatenate([found_in.inputs_of(picture, box) for picture in own])
        assert found_in.shape == (1, 3), "a box sees nothing of what is around it"
        assert (found_in.compute(inputs, 5) == np.array([10, 20, 30])).all()


def test_resizing() -> None:
    pytest.importorskip("PIL")
    picture = pictures(1, 5, 9)[0]
    assert resized(picture, (5, 9)) is picture
    assert resized(picture, (3, 4)).shape == (3, 4, 3)
    for box in ([0.0, 0.0, 9.0, 5.0], [0.4, 0.6, 8.1, 4.9]):
        assert np.array_equal(resized(picture, (3, 4), np.array(box)), resized(picture, (3, 4)))
    assert np.array_equal(resized(picture, (2, 3), np.array([4.0, 1.0, 7.0, 3.0])), picture[1:3, 4:7])
    split = np.zeros((4, 8, 3), dtype=np.uint8)
    split[:, 4:] = 200
    assert (resized(split, (2, 2), np.array([4.0, 0.0, 8.0, 4.0])) == 200).all()
    assert abs(int(resized(split, (1, 1))[0, 0, 0]) - 100) <= 1
