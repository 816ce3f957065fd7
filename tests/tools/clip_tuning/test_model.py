"""The model: from random weights, to a folder and back, and folders that do not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file

from runtime.errors import InputError
from runtime.seed import generator
from tests.tools.clip_tuning.made_up import CAPTIONS, SIDE, tiny_clip, tiny_config
from tools.clip_tuning import model as model_module
from tools.clip_tuning.model import Clip, CLIPModel, load_clip, open_clip

WEIGHTS = "model.safetensors"


def pictures(count: int = 3) -> Tensor:
    """Return normalised pictures (count, 3, SIDE, SIDE)."""
    return torch.randn(count, 3, SIDE, SIDE, generator=generator(0, "pictures"))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder; tests only read it."""
    folder = tmp_path_factory.mktemp("model") / "clip"
    tiny_clip().save(folder)
    return folder


@pytest.fixture
def broken(stored: Path, tmp_path: Path) -> Path:
    """A copy of that folder, to be broken."""
    return Path(shutil.copytree(stored, tmp_path / "clip"))


def embeddings(model: Clip) -> tuple[Tensor, Tensor]:
    """Return embeddings of some pictures and captions."""
    model.eval()
    with torch.no_grad():
        return model.embed_pictures(pictures()), model.embed_captions(model.tokens(CAPTIONS).ids)


def test_saved_and_loaded_it_embeds_the_same_and_another_seed_does_not(stored: Path) -> None:
    device = torch.device("cpu")
    folder = open_clip(tiny_config(clip=str(stored)), [], 5, device)
    before, after = embeddings(open_clip(tiny_config(), CAPTIONS, 0, device)), embeddings(folder)
    for one, two in zip(before, after, strict=True):
        assert torch.equal(one, two) and one.shape[1] == 16
        torch.testing.assert_close(one.norm(dim=1), torch.ones(len(one)))
    assert not torch.allclose(before[0], embeddings(tiny_clip(1))[0])


def test_scores_are_those_of_the_library(stored: Path) -> None:
    """With the library's own padding mask, which the causal mask makes superfluous."""
    model = load_clip(stored, "fp32")
    network = CLIPModel.from_pretrained(stored, local_files_only=True).eval()
    tokens = model.tokens(CAPTIONS)
    mask = (torch.arange(tokens.ids.shape[1]) < tokens.lengths[:, None]).long()
    with torch.no_grad():
        expected = network(input_ids=tokens.ids, attention_mask=mask, pixel_values=pictures()).logits_per_image
    images, captions = embeddings(model)
    torch.testing.assert_close(model.scale * images @ captions.T, expected, rtol=1e-5, atol=1e-5)


def test_a_model_in_half_precision_is_loaded_in_float32(broken: Path) -> None:
    CLIPModel.from_pretrained(broken, local_files_only=True, dtype=torch.float16).save_pretrained(broken)
    assert {w.dtype for w in load_file(broken / WEIGHTS).values()} == {torch.float16}
    assert {p.dtype for p in load_clip(broken, "fp32").parameters()} == {torch.float32}


# -- folders that do not fit ------------------------------------------------------------------------


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def test_weights_that_do_not_fit_are_named(broken: Path) -> None:
    def change(weights: dict[str, Tensor]) -> None:
        del weights["text_projection.weight"]
        weights["visual_projection.weight"] = torch.zeros(8, 32)
        weights["foo.bar"] = torch.zeros(2)

    change_weights(broken, change)
    told = (
        r"text_projection\.weight is missing; visual_projection\.weight is \(8, 32\) instead of \(16, 32\); foo\.bar is"
    )
    with pytest.raises(InputError, match=told):
        load_clip(broken, "fp32")
    config = json.loads((broken / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = 3
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"layers\.2\.\S+ is missing; .*\(and 16 more\)"):
        load_clip(broken, "fp32")


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def set_picture_size(folder: Path) -> None:
    content = json.loads((folder / "preprocessor_config.json").read_text())
    content["crop_size"] = {"height": 20, "width": 20}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "is no folder; give one with config.json"),
    "no config": (remove("config.json"), "has no config.json"),
    "broken config": (write("config.json", "{"), "has no config.json"),
    "another model": (write("config.json", '{"model_type": "bert"}'), "of type 'bert'; it must be 'clip'"),
    "impossible config": (write("config.json", '{"model_type": "clip", "projection_dim": "x"}'), "cannot be loaded"),
    "no weights": (remove(WEIGHTS), "holds no safetensors"),
    "broken weights": (write(WEIGHTS, "not safetensors at all"), "cannot be loaded"),
    "no tokeniser": (remove("tokenizer.json"), "no tokeniser|has .* tokens, the model|pools captions"),
    "no preprocessing": (remove("preprocessor_config.json"), r"has no preprocessor_config\.json"),
    "another picture size": (set_picture_size, r"the model takes pictures of 24 x 24, .* makes them \(20, 20\)"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_folder_that_cannot_be_used(broken: Path, case: str) -> None:
    change, message = BROKEN[case]
    change(broken)
    with pytest.raises(InputError, match=message):
        load_clip(broken, "fp32")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, stored: Path) -> None:
    monkeypatch.setattr(model_module, "CLIPModel", None)
    with pytest.raises(InputError, match=r"not installed; run: .*pip install -r requirements-clip\.txt"):
        load_clip(stored, "fp32")
