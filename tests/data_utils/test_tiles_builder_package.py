"""The Debian package of the tiles set: fetching, checking and unpacking."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from data_utils.tiles_builder import package
from tests.data_utils.tiny_game import debian_package, member, write_game


def fake_apt(folder: Path, script: str) -> None:
    """Put a program called apt-get into a folder."""
    folder.mkdir()
    path = folder / "apt-get"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_unpacks_the_game_alone(tmp_path: Path) -> None:
    write_game(tmp_path / "files")
    (tmp_path / "files" / "usr" / "other").mkdir()
    (tmp_path / "files" / "usr" / "other" / "file").write_text("x")
    archive = tmp_path / "game.deb"
    archive.write_bytes(debian_package(tmp_path / "files"))
    root = package.unpack(archive, tmp_path / "unpacked")
    assert root == tmp_path / "unpacked" / package.ROOT
    assert sorted(p.name for p in root.iterdir()) == ["gfx", "json"]
    assert not (tmp_path / "unpacked" / "usr" / "other").exists()
    archive.unlink()
    assert package.unpack(archive, tmp_path / "unpacked") == root  # it is there: nothing is read


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\3\4", "no Debian package"),
        (b"!<arch>\n" + member("data.tar.xz", b"")[:30], "cut off"),
        (b"!<arch>\n" + member("debian-binary", b"2.0\n"), "cannot be unpacked"),
        (b"!<arch>\n" + member("data.tar.zst", b"odd"), "cannot be unpacked"),
    ],
)
def test_what_is_no_package(tmp_path: Path, content: bytes, message: str) -> None:
    archive = tmp_path / "game.deb"
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        package.unpack(archive, tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()


def test_a_damaged_package(tmp_path: Path) -> None:
    write_game(tmp_path / "files")
    whole = debian_package(tmp_path / "files")
    archive = tmp_path / "game.deb"
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be unpacked"):
        package.unpack(archive, tmp_path / "unpacked")


def test_a_package_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "files" / "usr").mkdir(parents=True)
    archive = tmp_path / "game.deb"
    archive.write_bytes(debian_package(tmp_path / "files"))
    with pytest.raises(ValueError, match="holds no usr/share/games/cataclysm-dda/json and"):
        package.unpack(archive, tmp_path / "unpacked")


def test_only_the_pinned_package_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "game.deb"
    with pytest.raises(ValueError, match="--package .*game.deb cannot be read: No such file"):
        package.check(archive)
    archive.write_bytes(b"another")
    with pytest.raises(ValueError, match=r"is not cataclysm-dda-data_0.F-3-9_all.deb: its SHA-256 is .*--package"):
        package.check(archive)
    monkeypatch.setattr(package, "SHA256", hashlib.sha256(b"another").hexdigest())
    package.check(archive)


def test_fetches_the_pinned_version_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_apt(tmp_path / "bin", f'echo "$@" > {package.FILE}')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/bin{os.pathsep}/usr/bin")
    found = package.fetch(tmp_path)
    assert found.read_text() == "download cataclysm-dda-data=0.F-3-9\n"
    monkeypatch.setenv("PATH", "")
    assert package.fetch(tmp_path) == found


def test_fetching_fails_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"apt-get cannot be run \(No such file.*give it as --package"):
        package.fetch(tmp_path)
    fake_apt(tmp_path / "bin", "echo W: odd >&2; echo E: Unable to locate package >&2; exit 100")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/bin")
    with pytest.raises(ValueError, match=r"failed \(E: Unable to locate package\); download cataclysm.*--package"):
        package.fetch(tmp_path)
