"""What the set is made from and by: a Debian package, fetched and unpacked without Debian's tools, and the split."""

import hashlib
import io
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data_utils.set_builder.sources import Source
from data_utils.set_builder.splits import SplitRule

RULE = SplitRule(dev=500, test=1000, seed="tiles-precomp-1")
NEAR = 8
"""Grey levels: mean absolute difference of 16 x 16 grey images below which two pictures are twins."""

GAME = Source(
    "cataclysm-dda-data",
    "0.F-3-9",
    "Cataclysm: Dark Days Ahead: tilesets, names and descriptions",
    "Kevin Granade, BevapDin, Angela Graves, Coolthulhu, Christian Buskirk, KA101, Whales and many other contributors",
    "CC-BY-SA-3.0",
    "github.com/CleverRaven/Cataclysm-DDA",
)
FILE = f"{GAME.package}_{GAME.version}_all.deb"
SHA256 = "cd0c097169fe364fdb6bcdab77663d24920a063387ce2fbf1b5d3be01c141105"
BY_HAND = f"download {FILE} by hand (snapshot.debian.org/package/cataclysm-dda) and give it as --package"

ROOT = "usr/share/games/cataclysm-dda"
"""The game's folder in the package."""
PARTS = (f"{ROOT}/json", f"{ROOT}/gfx")
"""What is unpacked of it."""
HEADER = 60
"""Bytes before each member of an ar archive."""


def fetch(work: Path) -> Path:
    """Download the package with apt-get, unless the work folder holds it already.

    Args:
        work: Folder for downloaded files.

    Returns:
        The package.

    Raises:
        ValueError: If apt-get is missing or knows no such package.
    """
    path = work / FILE
    if not path.exists():
        wanted = f"{GAME.package}={GAME.version}"
        try:
            done = subprocess.run(["apt-get", "download", wanted], cwd=work, capture_output=True, text=True)
        except OSError as error:
            raise ValueError(f"apt-get cannot be run ({error.strerror}); {BY_HAND}") from None
        if done.returncode or not path.exists():
            faults = [line for line in done.stderr.splitlines() if line.startswith("E:")]
            reason = faults[-1] if faults else f"exit code {done.returncode}"
            raise ValueError(f"apt-get download {wanted} failed ({reason}); {BY_HAND}")
    return path


def check(path: Path) -> None:
    """Make sure that a file is the pinned package.

    Args:
        path: The file.

    Raises:
        ValueError: If it cannot be read or is another one.
    """
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"--package {path} cannot be read: {error.strerror or error}") from None
    if found != SHA256:
        raise ValueError(f"{path} is not {FILE}: its SHA-256 is {found}, not {SHA256}; {BY_HAND}")


def members(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """List the members of an ar archive, which a Debian package is.

    Args:
        file: The archive; stands at the start of each member's content when it is told.

    Yields:
        Name and size of each member.

    Raises:
        ValueError: If it is no such archive.
    """
    if file.read(8) != b"!<arch>\n":
        raise ValueError("no Debian package")
    while header := file.read(HEADER):
        if len(header) < HEADER or header[58:] != b"`\n":
            raise ValueError("a Debian package that is cut off")
        size = int(header[48:58])
        after = file.tell() + size + size % 2
        yield header[:16].decode("ascii").strip().rstrip("/"), size
        file.seek(after)


def unpack(path: Path, folder: Path) -> Path:
    """Unpack the game's data, unless the folder holds it already.

    Args:
        path: The package.
        folder: Where to.

    Returns:
        The folder with `json` and `gfx`.

    Raises:
        ValueError: If the file is no Debian package or holds no such data.
    """
    if not folder.exists():
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        try:
            with path.open("rb") as file:
                sizes = (size for name, size in members(file) if name.startswith("data.tar"))
                content = io.BytesIO(file.read(next(sizes, 0)))
            with tarfile.open(fileobj=content) as tar:
                wanted = [m for m in tar.getmembers() if m.name.removeprefix("./").startswith(PARTS)]
                tar.extractall(part, wanted, filter="data")
        except (ValueError, tarfile.TarError, EOFError) as error:
            raise ValueError(f"{path} cannot be unpacked: {error}") from None
        if not all((part / name).is_dir() for name in PARTS):
            raise ValueError(f"{path} holds no {' and '.join(PARTS)}")
        part.rename(folder)
    return folder / ROOT
