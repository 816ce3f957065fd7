"""What the emoji set is made from and by: packages with pinned versions and licences, fetching, the split."""

import subprocess
import tarfile
from pathlib import Path

from data_utils.set_builder.sources import Source
from data_utils.set_builder.splits import SplitRule

RULE = SplitRule(dev=500, test=1000, seed="emoji-precomp-1")
NEAR = 8
"""Grey levels: mean absolute difference of 16 x 16 grey images below which two pictures are twins."""

# The order matters: it numbers the artists, and of two twin pictures the earlier artist's is kept.
ARTISTS: dict[str, Source] = {
    "noto": Source(
        "@iconify-json/noto",
        "1.2.9",
        "Noto Emoji",
        "Google Inc.",
        "Apache-2.0",
        "github.com/googlefonts/noto-emoji",
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


def fetch(source: Source, work: Path) -> Path:
    """Fetch and unpack one npm package, unless the work folder holds it already.

    Args:
        source: The package.
        work: Folder for downloaded files.

    Returns:
        The folder with the package's files.

    Raises:
        ValueError: If `npm pack` is missing or fails.
    """
    stem = f"{source.package.lstrip('@').replace('/', '-')}-{source.version}"
    folder = work / stem
    if not (folder / "package" / "package.json").exists():
        archive = work / f"{stem}.tgz"
        if not archive.exists():
            command = ["npm", "pack", "--silent", f"{source.package}@{source.version}"]
            try:
                subprocess.run(command, cwd=work, check=True, stdout=subprocess.DEVNULL)
            except (OSError, subprocess.CalledProcessError) as error:
                package = f"{source.package}@{source.version}"
                raise ValueError(f"cannot fetch {package} with npm: {error}") from error
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    return folder / "package"
