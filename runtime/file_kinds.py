"""What a file really is that bears another's name: an error then says so, and what to do."""

from __future__ import annotations

from pathlib import Path

HEAD_BYTES = 256
"""So many first bytes tell a file's kind."""

NPY, HDF5, ZIP = b"\x93NUMPY", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"
OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""What torch.save began files with before it wrote archives."""


def not_fetched(head: bytes) -> str | None:
    """Return what a file is that was not downloaded, or not rightly, and what to do, in words that follow its name.

    Args:
        head: its first bytes.

    Returns:
        None for a file of which nothing of that kind is known.
    """
    if head.startswith(b"version https://git-lfs.github.com/"):
        return "is a git-lfs pointer, not the file itself; fetch that: git lfs pull"
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page, not the file; download it again"
    return None


def foreign_kind(head: bytes, wanted: bytes | None = None) -> str | None:
    """Return what a file is that should be of another kind, and what to do, in words that follow its name.

    Args:
        head: its first bytes.
        wanted: what a file of the kind that is looked for begins with; None for text.

    Returns:
        None for a file of the wanted kind, and for one of which nothing is known.
    """
    if wanted is not None and head.startswith(wanted):
        return None
    if head.startswith(OLD_TORCH) or (head.startswith(ZIP) and b"/data.pkl" in head):
        return "is a file of torch.save; save its tensor as an array: numpy.save(FILE, tensor.numpy())"
    if head.startswith(ZIP):
        return "is an archive (zip, or npz); take out what is needed"
    if head.startswith(HDF5):
        return "is an HDF5 file; such a file is read if its name ends in .h5"
    if head.startswith(NPY):
        return "is an npy file; such a file is read if its name ends in .npy"
    return not_fetched(head)


def kind_of_file(path: Path, wanted: bytes | None = None) -> str | None:
    """Return what `foreign_kind` says of a file; None too if it cannot be read."""
    return foreign_kind(head_of(path), wanted)


def head_of(path: Path) -> bytes:
    """Return a file's first bytes; none of one that cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""
