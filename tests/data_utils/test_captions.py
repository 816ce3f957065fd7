"""Caption files."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_utils.captions import captions_file, read_caption_file, read_captions
from runtime.errors import InputError


def write(folder: Path, content: bytes, name: str = "train_caps.txt") -> Path:
    (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    "content",
    [
        b"a dog\nein Hund\xc3\xbc\n",
        b"a dog\nein Hund\xc3\xbc",
        b"\xef\xbb\xbfa dog\r\nein Hund\xc3\xbc\r\n",
        b"  a dog \nein Hund\xc3\xbc\t\n",
    ],
    ids=["plain", "no last line end", "BOM and Windows line ends", "spaces around"],
)
def test_captions(tmp_path: Path, content: bytes) -> None:
    assert read_captions(write(tmp_path, content), "train") == ["a dog", "ein Hundü"]


def test_tsv(tmp_path: Path) -> None:
    write(tmp_path, b"\xef\xbb\xbf17\ta dog\r\n 18 \ta cat\t\r\n17\tdogs", "train_caps.tsv")
    found = read_caption_file(tmp_path, "train")
    assert (found.texts, found.ids, found.has_addresses) == (["a dog", "a cat", "dogs"], ["17", "18", "17"], False)
    assert found.path == captions_file(tmp_path, "train") == tmp_path / "train_caps.tsv"


def test_an_address_on_every_line_of_a_tsv_is_ignored(tmp_path: Path) -> None:
    """As in NCR's public list of cc152k."""
    write(tmp_path, b"17\ta dog\thttps://x.example/1?a=b\n18\ta cat\tHTTP://x.example/2\n", "train_caps.tsv")
    found = read_caption_file(tmp_path, "train")
    assert (found.texts, found.ids, found.has_addresses) == (["a dog", "a cat"], ["17", "18"], True)


def test_a_txt_has_no_ids(tmp_path: Path) -> None:
    found = read_caption_file(write(tmp_path, b"17\ta dog\n"), "train")
    assert (found.texts, found.ids) == (["17\ta dog"], None)


def test_unicode_line_separators_do_not_split_a_caption(tmp_path: Path) -> None:
    text = "a\u2028b\nc\x0bd\n"
    assert read_captions(write(tmp_path, text.encode()), "train") == ["a\u2028b", "c\x0bd"]


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"", "train_caps.txt", "is empty"),
        (b"\n", "train_caps.txt", "line 1 holds an empty caption"),
        (b"a\n\nb\n", "train_caps.txt", "line 2 holds an empty caption"),
        (b"a\nb\n\n\n", "train_caps.txt", "line 3 holds an empty caption"),
        (b"a\nb\xff\n", "train_caps.txt", "line 2 is not UTF-8"),
        (b"1\ta\n2 b\n", "train_caps.tsv", "line 2 has no tab"),
        (b"1\ta\n2\t \n", "train_caps.tsv", "line 2"),
        (b"1\ta\n\tb\n", "train_caps.tsv", "line 2 has no tab"),
        (b"1\ta\n2\tb\twith a tab\n", "train_caps.tsv", "line 2 has a third field, 'with a tab'; a line is: image id"),
        (b"1\ta\thttp://x\ty\n", "train_caps.tsv", "line 1 has 4 fields; a line is"),
        (b"1\ta\thttp://x\n2\tb\n", "train_caps.tsv", "line 2 has 2 fields, line 1 has 3"),
        (b"1\ta\n2\tb\thttp://x\n", "train_caps.tsv", "line 2 has 3 fields, line 1 has 2"),
    ],
)
def test_faults_name_file_and_line(tmp_path: Path, content: bytes, name: str, message: str) -> None:
    write(tmp_path, content, name)
    with pytest.raises(InputError, match=f"{name}.*{message}"):
        read_captions(tmp_path, "train")


def test_a_missing_file_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dev_caps.txt nor dev_caps.tsv"):
        read_captions(tmp_path, "dev")
