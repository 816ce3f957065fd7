"""The texts beside the data: LICENSES and README.md."""

from collections.abc import Mapping, Sequence

from data_utils.emoji_builder.sources import ARTISTS, NAMES, NEAR
from data_utils.set_builder.documents import artists_table, files_table, regions_text
from data_utils.set_builder.sources import WEIGHTS, licence_lines

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
    lines += licence_lines((*ARTISTS.values(), NAMES, WEIGHTS))
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


def readme_text(
    counts: Mapping[str, int], artists: Mapping[str, Sequence[int]], concepts: int, figures: Mapping[str, float]
) -> str:
    """Describe the set.

    Args:
        counts: Pictures of each split.
        artists: For each artist the pictures in train, dev and test.
        concepts: Number of concepts.
        figures: "dims", "kept" (share of variance) and the signal-to-noise ratios "snr_train", "snr_dev" and
            "snr_test".

    Returns:
        The text of README.md.
    """
    return f"""# emoji_precomp

Real pictures by five emoji artists with names that people gave them: {counts["train"]} training,
{counts["dev"]} dev and {counts["test"]} test pictures of {concepts} concepts, five captions a picture.
Captions are CLDR names, shortcodes and keyword phrases, not sentences. Skin tones, flags, clock faces,
keycaps and letters in boxes are left out.

{files_table(round(figures["dims"]), "five", "code points", "Unicode group")}

{artists_table(artists)}

Dev and test hold one picture a concept, by an artist whose drawing of that concept is not in train; at
least one other artist's drawing of it is. Pictures with a mean absolute difference under {NEAR} grey levels at
16 x 16 are near-duplicates: they never straddle splits, and of two for one concept only one is kept. A
drawing that an artist reuses for several concepts is kept for the first of them.

{regions_text(figures)}

Built from pinned packages (needs npm; nobody has to do this to use the set):

    pip install -r data_utils/emoji_builder/requirements.txt
    python -m data_utils.emoji_builder --output data/emoji_precomp
"""
