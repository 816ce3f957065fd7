"""The model: from random weights, to a folder and back; its tokeniser and preparation; folders that do not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file

from runtime.errors import InputError
from runtime.seed import generator
from tests.tools.clip_tuning.made_up import CAPTIONS, SIDE, tiny_clip, tiny_config
from tools.clip_tuning import model as model_module
from tools.clip_tuning.model import (
    END,
    MIN_TOKENS,
    SETTINGS,
    Clip,
    CLIPModel,
    Preprocessing,
    load_clip,
    load_tokenizer,
    open_clip,
    tokenize,
    train_tokenizer,
)

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


# -- captions --------------------------------------------------------------------------------

TEXTS = ["a red dog", "the Red Dogs", "no bicycles", "red reddish redder", "café 漢字 12", "dog's bowl"]


def test_the_tokeniser_is_trained_alike_every_time_and_leaves_nothing_unknown() -> None:
    one, two = (train_tokenizer(TEXTS * 3, MIN_TOKENS + 30) for _ in range(2))
    assert one.backend_tokenizer.to_str() == two.backend_tokenizer.to_str()
    assert MIN_TOKENS < len(one) <= MIN_TOKENS + 30 and one.convert_tokens_to_ids("red" + END) > 1
    ids = tokenize(one, ["ÿ unseen 漢 ✂"], 77).ids[0]
    assert (ids[1:-1] > 1).all()  # neither start nor end, which also stands for unknown
    assert one.decode(ids, skip_special_tokens=True).split() == "ÿ unseen 漢 ✂".split()
    assert tokenize(one, ["RED dogs"], 77).ids.tolist() == tokenize(one, ["red Dogs"], 77).ids.tolist()


def test_equally_frequent_pairs_are_merged_in_one_order() -> None:
    """Every pair of letters twice: which come first may not depend on a hash table."""
    captions = [f"{a}{b}" for a in "abcdefghijklmnop" for b in "qrstuvwxyz"] * 2
    merges = train_tokenizer(captions, MIN_TOKENS + 8).backend_tokenizer.model
    assert json.loads(merges.__getstate__())["merges"] == [["a", f"{b}{END}"] for b in "qrstuvwx"]


def test_a_tokeniser_saved_and_loaded_and_one_of_another_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tokeniser that can be loaded"):
        load_tokenizer(tmp_path, vocab_size=600, end=1)
    tokenizer = train_tokenizer(TEXTS, MIN_TOKENS + 20)
    tokenizer.save_pretrained(tmp_path)
    size, end = len(tokenizer), tokenizer.eos_token_id
    loaded = load_tokenizer(tmp_path, vocab_size=size, end=end)
    assert torch.equal(tokenize(tokenizer, TEXTS, 12).ids, tokenize(loaded, TEXTS, 12).ids)
    for vocab_size, pooled, message in (
        (size - 1, end, f"has {size} tokens, the model {size - 1}"),
        (size, 7, f"pools captions at token 7, but the tokeniser ends them with {end}"),
        (size, 2, f"pools captions at token {size - 1}"),
    ):
        with pytest.raises(InputError, match=message):
            load_tokenizer(tmp_path, vocab_size=vocab_size, end=pooled)


# -- pictures -------------------------------------------------------------------------------------------------------


def smooth(height: int, width: int) -> np.ndarray:
    """Return a picture (height, width, 3) with structure, uint8."""
    small = np.random.RandomState(0).randint(0, 256, (7, 7, 3)).astype(np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("changes", [{}, {"do_normalize": False}, {"do_rescale": False}, {"resample": 2}])
@pytest.mark.parametrize("size", [(30, 50), (50, 30), (24, 24), (3, 33)])
def test_in_two_steps_as_the_librarys_in_one(size: tuple[int, int], changes: dict[str, object]) -> None:
    ours = Preprocessing.square(24)
    for name, value in changes.items():
        setattr(ours.processor, name, value)
    pixels = smooth(*size)
    prepared = ours.prepare(pixels)
    assert prepared.shape == (3, 24, 24) and prepared.dtype == torch.uint8
    theirs = ours.processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(ours.normalise(prepared[None]), theirs.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_a_folder(tmp_path: Path, name: str) -> None:
    """Older folders give sizes as numbers and leave out what was not optional then; newer ones nest them."""
    content = {"size": 224, "crop_size": 224, "resample": 3, "do_normalize": False}
    (tmp_path / name).write_text(json.dumps(content if name == SETTINGS[0] else {"image_processor": content}))
    found = Preprocessing.load(tmp_path, 224)
    white = found.normalise(found.prepare(np.full((300, 400, 3), 255, np.uint8)))
    assert white.shape == (3, 224, 224) and torch.equal(white, torch.ones_like(white))


WHOLE = {"size": 24, "crop_size": 24}
BAD = {
    "no resizing": ({**WHOLE, "do_resize": False}, "leaves pictures with a border"),
    "larger crop": ({"size": 20, "crop_size": 24}, "leaves pictures with a border"),
    "smaller crop": ({"size": 24, "crop_size": 20}, r"the model takes pictures of 24 x 24, .* makes them \(20, 20\)"),
    "no crop": ({"size": 24, "do_center_crop": False}, r"makes them \(24, 48\)"),
    "resampling": ({**WHOLE, "resample": 99}, "cannot be followed"),
    "two means": ({**WHOLE, "image_mean": [0.5, 0.5]}, "cannot be followed"),
    "no deviation": ({**WHOLE, "image_std": [0, 1, 1]}, "no finite numbers"),
    "huge": ({"size": 10**9, "crop_size": 24}, r"cannot be followed \(sides of .* are not all of 1 \.\. 4096"),
    "huge border": ({**WHOLE, "do_pad": True, "pad_size": {"height": 10**6, "width": 10**6}}, "cannot be followed"),
    "no size": ({}, r"makes them \(224, 224\)"),
    "no object": ([], "cannot be followed"),
}


@pytest.mark.parametrize("case", BAD)
def test_settings_that_cannot_be_followed(tmp_path: Path, case: str) -> None:
    content, message = BAD[case]
    (tmp_path / SETTINGS[0]).write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        Preprocessing.load(tmp_path, 24)
