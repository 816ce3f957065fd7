"""A run on a small disk that is really full for a while: a file system in memory, in a mount namespace of its own.

    unshare --map-root-user --mount python -m tests.soak.full_disk DATA MOUNT_POINT KEPT

The disk is filled after the first warm-up epoch and has room again once the run has complained a few times; what the
run leaves is copied to KEPT, since the disk goes with the process.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.soak.kinds import Kind
from tests.soak.outcome import outcome
from tests.soak.victims import ROOT, Victim
from tests.soak.write_errors import compared

KIND = Kind(("--num_epochs", "2", "--noisy_start", "0.5", "--save_minutes", "0.001"))
MEBIBYTES = 16
COMPLAINTS = 4
"""Lines of the run after which there is room again."""
FILLED_AFTER = "warm-up 1/"


def run_on_a_full_disk(data: Path, folder: Path, say: Callable[[str], None]) -> bool:
    """Compare a run whose disk is full for a while with one that has room; tell whether they are the same.

    Where mounting is not permitted this is said, and counts as well.
    """
    folder.mkdir()
    (folder / "disk").mkdir()
    command = ["unshare", "--map-root-user", "--mount", sys.executable, "-m", "tests.soak.full_disk"]
    trial = subprocess.run([*command[:3], "mount", "-t", "tmpfs", "tmpfs", folder / "disk"], capture_output=True)
    if trial.returncode:
        say("a disk that is really full: left out, as mounting is not permitted here")
        return True
    clean = Victim(KIND.argv(data, folder / "clean"), folder / "clean's notes")
    assert clean.wait() == 0, clean.said()
    ended = subprocess.run(
        [*command, data, folder / "disk", folder / "kept"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    said = ended.stdout.splitlines()
    told = [line for line in said if "No space left" in line]
    problems = [f"exit code {ended.returncode}: {ended.stderr[-300:]}"] if ended.returncode else []
    problems += [] if len(told) >= COMPLAINTS else [f"only {len(told)} complaints"]
    if not problems:
        problems += compared(next((folder / "kept").iterdir()), outcome(next((folder / "clean").iterdir())))
    problems += ["a traceback"] if any(line.startswith("Traceback") for line in said) else []
    for line in told:
        say(f"  {line.replace(str(folder / 'disk'), 'disk')}")
    say(f"a disk of {MEBIBYTES} MiB, full for a while: " + ("; ".join(problems) or "the run ends as the clean one"))
    return not problems


def _fill(ballast: Path) -> None:
    """Write until nothing fits any more."""
    with open(ballast, "wb", buffering=0) as file:
        for size in (2**16, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


def main(data: Path, disk: Path, kept: Path) -> None:
    """Mount the disk, run on it, copy what is left; print what the run said."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={MEBIBYTES}m", "tmpfs", disk], check=True)
    ballast, output = disk / "ballast", disk / "output"
    victim = Victim(KIND.argv(data, output), kept.with_name("notes"))
    _wait_for(victim, lambda lines: any(line.startswith(FILLED_AFTER) for line in lines))
    _fill(ballast)
    _wait_for(victim, lambda lines: sum("No space left" in line for line in lines) >= COMPLAINTS)
    ballast.unlink()
    code, said = victim.wait(), victim.said()
    if code == 2:  # the disk was full to the end
        again = Victim(KIND.argv(data, output), kept.with_name("notes again"))
        code, said = again.wait(), said + again.said()
    print("\n".join(said))
    shutil.copytree(output, kept)
    sys.exit(code)


def _wait_for(victim: Victim, is_met: Callable[[list[str]], Any]) -> None:
    while victim.is_running() and not is_met(victim.said()):
        time.sleep(0.001)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
