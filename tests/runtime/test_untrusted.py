"""Files of strangers: what they claim is checked before it is allocated, and their names lead nowhere else."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from models.ensemble import restore
from runtime.checkpoint import load_checkpoint
from runtime.errors import InputError, exit_on_input_error, one_line
from runtime.flags import OneLineParser
from runtime.log import METRICS, RunLog
from runtime.torch_file import read_torch_file
from tests.fuzz.readers import our_content, torch_bytes
from training.checkpointing import choose_folder, claim
from training.config import parse_args

CONTENT: dict[str, Any] = {"a": torch.zeros(6), "b": [1, "text"]}
NUMBERS = b"cpuq\x06K\x06"  # where the pickle says of how many numbers the storage is
SHAPE = b"K\x00K\x06\x85"  # ... the offset and the shape of the tensor
HUGE = b"\x8a\x07\x00\x80\xc6\xa4\x7e\x8d\x03"
"""10**15, as a pickle has it."""


def repacked(content: bytes, compression: int = zipfile.ZIP_STORED, **changed: bytes) -> bytes:
    """Return an archive with the members `changed` (by the end of their names), all checksums right."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            end = info.filename.rpartition("/")[2].partition(".")[0]
            new.writestr(zipfile.ZipInfo(info.filename), changed.get(end, old.read(info)), compression)
    return target.getvalue()


def pickle_in(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read("archive/data.pkl")


def refusal(content: bytes) -> str:
    with pytest.raises(InputError) as caught:
        read_torch_file(content, "x.pth.tar")
    assert str(caught.value).startswith("x.pth.tar is not a checkpoint")
    return str(caught.value)


def test_a_storage_of_more_numbers_than_there_are() -> None:
    content = torch_bytes(CONTENT)
    data = pickle_in(content).replace(NUMBERS, NUMBERS[:-2] + HUGE)
    assert f"its storage 0 claims {4 * 10**15} bytes, the file has 24 of it" in refusal(repacked(content, data=data))
    old = torch_bytes(CONTENT, old=True)
    assert f"its storages claim {4 * 10**15} bytes, it has {len(old) + 7}" in refusal(
        old.replace(b"cpuq\x06K\x06", b"cpuq\x06" + HUGE)
    )


@pytest.mark.parametrize("old", [False, True])
def test_a_tensor_of_more_numbers_than_its_storage(old: bool) -> None:
    """torch would make a storage of the older format larger, and a stride of 0 makes any shape of one number."""
    for tensor in (CONTENT["a"], torch.zeros(1).expand(10**9)):
        content = torch_bytes({"a": tensor}, old=old)
        changed = content if old else pickle_in(content)
        changed = changed.replace(SHAPE, b"K\x00" + HUGE + b"\x85")
        assert "a tensor of shape" in refusal(changed if old else repacked(content, data=changed))


def test_a_packed_archive() -> None:
    """A few bytes may unpack to any number."""
    content = torch_bytes({"a": torch.zeros(2**20)})
    small = repacked(content, zipfile.ZIP_DEFLATED)
    assert len(small) < len(content) / 100
    assert "packed" in refusal(small)
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            kind = zipfile.ZIP_DEFLATED if info.filename.endswith("data/0") else zipfile.ZIP_STORED
            new.writestr(zipfile.ZipInfo(info.filename), old.read(info), kind)
    assert "it is packed, which torch.save never does" in refusal(target.getvalue())


def test_an_archive_with_two_pickles_or_two_parts_of_one_name() -> None:
    for name, told in (("other/data.pkl", "more than one pickle"), ("archive/data/0", "two parts of one name")):
        target = io.BytesIO(torch_bytes(CONTENT))
        with warnings.catch_warnings(), zipfile.ZipFile(target, "a") as archive:
            warnings.simplefilter("ignore")
            archive.writestr(name, b"N.")
        assert told in refusal(target.getvalue())


def test_parts_of_a_pickle_with_huge_numbers() -> None:
    """Python's reader would make room for 2**31 parts."""
    content = torch_bytes(CONTENT)
    data = pickle_in(content).replace(b"}q\x00", b"}r\xff\xff\xff\x7f")
    assert torch.equal(read_torch_file(repacked(content, data=data))["a"], CONTENT["a"])


def test_lists_of_themselves_and_of_too_many() -> None:
    own: list[Any] = []
    own.append(own)
    many: list[Any] = [1]
    for _ in range(40):
        many = [many, many]
    for value, message in ((own, "nests deeper than 64"), (many, "more than 5000000 lists")):
        assert message in refusal(torch_bytes({"a": value}))


def test_hooks_of_a_tensor_are_refused() -> None:
    tensor = torch.zeros(3, requires_grad=True)
    content = torch_bytes({"a": tensor})
    data = pickle_in(content)
    empty = b"\x88ccollections\nOrderedDict\nq"
    assert empty in data
    place = data.index(empty) + 1
    changed = data[:place] + b"K\x07" + data[data.index(b"R", place) + 1 :]
    refusal(repacked(content, data=changed))


# -- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("shape", "vocabulary_size", 10**15),
        ("shape", "vocabulary_size", 10**8),
        ("shape", "region_dim", -1),
        ("matcher", "embed_size", 10**15),
        ("matcher", "num_layers", 10**9),
        ("matcher", "word_dim", 2.5),
        ("matcher", "module_name", ["VSE"]),
        ("matcher", "dropout", "0.5"),
    ],
)
def test_dimensions_of_a_checkpoint_that_its_weights_do_not_have(
    tmp_path: Path, section: str, name: str, value: Any
) -> None:
    content = our_content()
    content["config"][section][name] = value
    path = tmp_path / "c.pth.tar"
    path.write_bytes(torch_bytes(content))
    with pytest.raises(InputError, match="c.pth.tar (is damaged|holds a network that this suite does not have)"):
        restore(load_checkpoint(path), str(path))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("epoch",), "3", "epoch is '3'"),
        (("networks",), [], "its networks are no tensors with names"),
        (("networks",), [{"a": 1}], "its networks are no tensors with names"),
        (("config", "data"), [], r"config, data is \[\]"),
        (("config", "shape", "num_regions"), None, "config, shape, num_regions is missing"),
        (("config", "training", "seed"), {}, "config, training, seed is {}"),
        (("config", "noise_report", "asked_ratio"), "0.2", "config, noise_report, asked_ratio is '0.2'"),
        (("dev",), {"A": 3}, "no rSum of A"),
    ],
)
def test_fields_of_a_checkpoint(tmp_path: Path, place: tuple[str, ...], value: Any, message: str) -> None:
    content: dict[str, Any] = our_content()
    inner = content
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    path = tmp_path / "c.pth.tar"
    path.write_bytes(torch_bytes(content))
    with pytest.raises(InputError, match=f"c.pth.tar is damaged: .*{message}"):
        load_checkpoint(path)


# -- names that lead elsewhere --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "a\\b", "x\ny", "\x1b[2J", "x" * 300])
def test_a_run_stays_in_its_output_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="cannot name a run's folder"):
        claim(tmp_path / "out", f"run_{name}")
    for more in ([], ["--resume"]):
        with pytest.raises(InputError, match="cannot name a run's folder"):
            choose_folder(parse_args(["--output_dir", str(tmp_path / "out"), "--id", name, *more]))
    assert list(tmp_path.rglob("*")) == [tmp_path / "out"]


def test_a_saved_state_cuts_no_other_files(tmp_path: Path) -> None:
    """A state says how long each log is; what it calls a log need not be one."""
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "precious").write_text("kept", encoding="utf-8")
    (folder / "config.json").write_text("kept", encoding="utf-8")
    (folder / METRICS).write_text("one\ntwo\n", encoding="utf-8")
    RunLog(folder, {"../precious": 0, str(tmp_path / "precious"): 0, "config.json": 0, METRICS: 4}).close()
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "kept"
    assert (folder / "config.json").read_text(encoding="utf-8") == "kept"
    assert (folder / METRICS).read_text(encoding="utf-8") == "one\n"


# -- messages and argument files ------------------------------------------------------------------------------------


def test_a_message_is_one_short_line_that_can_be_seen() -> None:
    assert one_line("a\n  b\x1b[2J\x00\u202e") == r"a b\x1b[2J\x00\u202e"
    long = one_line("start" + "x" * 10**6 + "end")
    assert len(one_line("\x01" * 10**4)) < 1000
    assert len(long) < 1000 and long.startswith("start") and long.endswith("end")
    assert str(InputError("a\nb")) == "a b"


def test_a_name_that_no_file_has(capsys: pytest.CaptureFixture[str]) -> None:
    @exit_on_input_error
    def main() -> None:
        open("x" * 5000)

    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"@{self}", "argument files name each other without end"),
        (b"--seed \xff\xfe", "cannot be read: it is not UTF-8"),
        (b"--seed 1 " * 1001, "holds 2002 arguments; 2000 at most"),
        (b"@{self}.nowhere", "no argument file at"),
        (b"@/dev/zero", "no argument file at"),
    ],
)
def test_argument_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str) -> None:
    path = tmp_path / "x.args"
    path.write_bytes(content.replace(b"{self}", str(path).encode()))
    parser = OneLineParser(prog="x")
    parser.add_argument("--seed")
    with pytest.raises(SystemExit) as stop:
        parser.parse_args([f"@{path}"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1


def test_argument_files_name_others(tmp_path: Path) -> None:
    (tmp_path / "inner.args").write_text("\ufeff--seed 3 # three\n", encoding="utf-8")
    (tmp_path / "outer.args").write_text(f"# first\n@{tmp_path / 'inner.args'}\n--id x\n", encoding="utf-8")
    parser = OneLineParser(prog="x")
    for name in ("--seed", "--id"):
        parser.add_argument(name)
    found = parser.parse_args([f"@{tmp_path / 'outer.args'}"])
    assert (found.seed, found.id) == ("3", "x")


def test_nothing_in_a_checkpoint_is_allocated(tmp_path: Path) -> None:
    """In a process with 1 GiB beyond what it has: 10**15 numbers would end it, 10**9 too."""
    content = torch_bytes(CONTENT)
    for number, claim_of in enumerate((HUGE, b"J\x00\xca\x9a\x3b")):
        data = pickle_in(content).replace(NUMBERS, NUMBERS[:-2] + claim_of)
        (tmp_path / f"{number}.pth.tar").write_bytes(repacked(content, data=data))
    program = (
        "import resource, sys; from pathlib import Path; from runtime.torch_file import read_torch_file\n"
        "from runtime.errors import InputError\n"
        "import re; status = Path('/proc/self/status').read_text()\n"
        "size = int(re.search(r'VmSize:\\s+(\\d+)', status).group(1)) * 1024\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + 2**30,) * 2)\n"
        "for name in sys.argv[1:]:\n"
        "    try: read_torch_file(Path(name))\n"
        "    except InputError as error: print('claims' in str(error))\n"
    )
    names = [str(path) for path in sorted(tmp_path.iterdir())]
    done = subprocess.run([sys.executable, "-c", program, *names], capture_output=True, text=True, env={**os.environ})
    assert done.stdout == "True\nTrue\n", done.stderr
