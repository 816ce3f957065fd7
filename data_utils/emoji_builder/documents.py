"""The texts beside the data: LICENSES and README.md."""

from collections.abc import Mapping, Sequence

from data_utils.emoji_builder.sources import ARTISTS, NAMES, WEIGHTS

LICENCE_HOMES = {
    "Apache-2.0": "Apache License 2.0, www.apache.org/licenses/LICENSE-2.0",
    "CC-BY-4.0": "Creative Commons Attribution 4.0 International, creativecommons.org/licenses/by/4.0",
    "MIT": "MIT License, text below",
}

MIT_TEXT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial
portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES
OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def licences_text() -> str:
    """Write who made what, under which licence, and what was changed.

    Returns:
        The text of the LICENSES file.
    """
    lines = [
        "The emoji set is derived from the works below. Changed: the drawings were rendered on white, shrunk",
        "to thumbnails and turned into region features; the names were lower-cased, spelled in ASCII and",
        "joined.",
        "",
    ]
    for source in (*ARTISTS.values(), NAMES, WEIGHTS):
        lines += [
            f"{source.package} {source.version}",
            f"  what:     {source.title}",
            f"  author:   {source.author}",
            f"  licence:  {source.licence} ({LICENCE_HOMES[source.licence]})",
            f"  homepage: {source.homepage}",
            "",
        ]
    lines += [
        "Copyright notices of the MIT-licensed works:",
        "  Fluent Emoji: Copyright (c) Microsoft Corporation.",
        "  emojibase-data: Copyright (c) 2017-2019 Miles Johnson.",
        "Names and keywords from CLDR: Copyright (c) Unicode, Inc., Unicode License V3",
        "(www.unicode.org/license.txt).",
        "",
        "MIT License",
        "",
    ]
    return "\n".join(lines) + MIT_TEXT


def readme_text(counts: Mapping[str, int], artists: Mapping[str, Sequence[int]], figures: Mapping[str, float]) -> str:
    """Describe the set.

    Args:
        counts: Pictures of each split.
        artists: For each artist the pictures in train, dev and test.
        figures: "concepts", "dims", "kept" (share of variance) and the signal-to-noise ratios
            "snr_train", "snr_dev" and "snr_test".

    Returns:
        The text of README.md.
    """
    rows = "\n".join(f"| {name} | " + " | ".join(map(str, own)) + " |" for name, own in artists.items())
    concepts, dims, kept = f"{figures['concepts']:.0f}", f"{figures['dims']:.0f}", f"{figures['kept']:.1%}"
    noise = {split: f"{figures[f'snr_{split}']:.1f}" for split in counts}
    return f"""# emoji_precomp

Real pictures by five emoji artists with names that people gave them: {counts["train"]} training,
{counts["dev"]} dev and {counts["test"]} test pictures of {concepts} concepts, five captions a picture.
Captions are CLDR names, shortcodes and keyword phrases, not sentences. Skin tones, flags, clock faces,
keycaps and letters in boxes are left out.

| file | holds |
| --- | --- |
| `{{split}}_ims.h5` | `features` int8 (pictures, 36, {dims}), `scales` float32 ({dims},) |
| `{{split}}_caps.txt` | captions, one a line, five consecutive lines a picture, in the features' order |
| `pictures.json` | for each split and row the concept (code points), label, artist and Unicode group |
| `thumbnails.h5` | for each split WebP pictures of 72 x 72 and `grey16`, 16 x 16 grey images |
| `LICENSES` | sources, versions, authors and licences |

A region feature is `features * scales`; WebP file i is `bytes[offsets[i]:offsets[i + 1]]`.

| artist | train | dev | test |
| --- | --- | --- | --- |
{rows}

Dev and test hold one picture a concept, by an artist whose drawing of that concept is not in train; at
least one other artist's drawing of it is. Pictures with a mean absolute difference under 8 grey levels at
16 x 16 are near-duplicates: they never straddle splits, and of two for one concept only one is kept. A
drawing that an artist reuses for several concepts is kept for the first of them.

Regions are the 6 x 6 cells of the last feature map of EfficientNet-Lite0 (ImageNet weights) at 192 x 192,
reduced from 1280 to {dims} dimensions by a PCA fitted on train, which keeps {kept} of the variance.
The mean square over train is 1. Rounding to 8 bits leaves a signal-to-noise ratio of
{noise["train"]} dB (train), {noise["dev"]} dB (dev) and {noise["test"]} dB (test).

Built from pinned packages (needs npm; nobody has to do this to use the set):

    pip install -r data_utils/emoji_builder/requirements.txt
    python -m data_utils.emoji_builder --output data/emoji_precomp
"""
