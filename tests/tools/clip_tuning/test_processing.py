"""The trained tokeniser, token ids, pictures as the library prepares them, and settings that cannot be followed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("transformers")

from runtime.errors import InputError
from tools.clip_tuning.model import (
    END,
    MIN_TOKENS,
    SETTINGS,
    Preprocessing,
    load_tokenizer,
    tokenize,
    train_tokenizer,
)

CAPTIONS = ["a red dog", "the Red Dogs", "no bicycles", "red reddish redder", "café 漢字 12", "dog's bowl"]


def test_the_tokeniser_is_trained_alike_every_time_and_leaves_nothing_unknown() -> None:
    one, two = (train_tokenizer(CAPTIONS * 3, MIN_TOKENS + 30) for _ in range(2))
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
    tokenizer = train_tokenizer(CAPTIONS, MIN_TOKENS + 20)
    tokenizer.save_pretrained(tmp_path)
    size, end = len(tokenizer), tokenizer.eos_token_id
    loaded = load_tokenizer(tmp_path, vocab_size=size, end=end)
    assert torch.equal(tokenize(tokenizer, CAPTIONS, 12).ids, tokenize(loaded, CAPTIONS, 12).ids)
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
