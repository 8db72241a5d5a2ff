"""Kills a `pack` at many random moments, repeats it each time, and holds what comes of it against a run left alone.

`python -m tests.kill --times 50` takes minutes; tests/packing/test_killed.py does it three times.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TASK = Path(__file__).parent / "tasks" / "digits_small.py"
LIMITS = ("--flash", "9kB", "--max-drop", "3%", "--try", "prune_channels,quantize_static")
PROGRAM = "from haversack.cli import main; main()"
Marks = dict[Path, tuple[int, int]]


def words(out: Path, limits: Sequence[str] = LIMITS) -> list[str]:
    """The command line of a `pack` of the tests' digits into `out`."""
    return ["pack", str(TASK), *limits, "--epochs", "2", "--seconds", "0.1", "--out", str(out)]


def started(out: Path, limits: Sequence[str] = LIMITS) -> subprocess.Popen[str]:
    """Such a `pack` in a process of its own."""
    command = [sys.executable, "-c", PROGRAM, *words(out, limits)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def measured(out: Path) -> Marks:
    """What was measured so far, with what changes when it is measured again."""
    entries = out.glob("workspace/*/*.*scored/measurement.json")
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in entries}


def left(out: Path) -> set[str]:
    """The names of all files of a result and its workspace."""
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


@dataclass
class Kills:
    """A run that nobody disturbs, in `folder`, and others that are killed."""

    folder: Path
    limits: Sequence[str] = LIMITS
    start: Callable[[Path, Sequence[str]], Any] = started
    """Starts a run: a subprocess.Popen, or what may be asked as one."""
    seconds: float = 0.0
    """How long the run takes that nobody disturbs."""
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        began = time.monotonic()
        _, said = self.start(self.whole, self.limits).communicate()
        if not (self.whole / "recipe.toml").exists():
            raise RuntimeError(said)
        self.seconds = time.monotonic() - began

    @property
    def whole(self) -> Path:
        """The result of the run that nobody disturbs."""
        return self.folder / "whole"

    def times(self, times: int, seed: int) -> None:
        """Kills so many runs; one that comes to its end first is compared, and begun anew."""
        dice, out, before = random.Random(seed), self.folder / "killed", Marks()
        while times > 0:
            run = self.start(out, self.limits)
            try:
                run.wait(dice.uniform(0, self.seconds))
            except subprocess.TimeoutExpired:
                run.kill()
                times -= 1
            ended = run.wait() == 0
            run.communicate()
            before = self.checked(out, before, ended=ended)
        run = self.start(out, self.limits)
        run.communicate()
        self.checked(out, before, ended=True)

    def checked(self, out: Path, before: Marks, *, ended: bool) -> Marks:
        """What is measured now; what is wrong with it, or with the result of a run that ended, is written down."""
        now = measured(out)
        if not before.items() <= now.items():
            self.wrong.append("something was measured twice")
        if not ended:
            return now
        for name in ("recipe.toml", "model.onnx"):
            if not (out / name).exists() or (out / name).read_bytes() != (self.whole / name).read_bytes():
                self.wrong.append(f"another {name}")
        differing = left(out) ^ left(self.whole)
        if differing:
            self.wrong.append(f"litter, or something missing: {', '.join(sorted(differing))}")
        shutil.rmtree(out)
        return {}


def main() -> int:
    """Reads the command line, kills and prints; the exit code is 1 where anything is wrong."""
    line = argparse.ArgumentParser(prog="python -m tests.kill", description=__doc__)
    line.add_argument("--times", type=int, default=50, help="so often")
    line.add_argument("--seed", type=int, default=0, help="the same seed kills at the same moments")
    asked = line.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HAVERSACK_CACHE"] = str(Path(folder) / "tables")
        kills = Kills(Path(folder))
        kills.times(asked.times, asked.seed)
    print(f"killed {asked.times} times, a run takes {kills.seconds:.0f} s: {'; '.join(kills.wrong) or 'all is well'}")
    return 1 if kills.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
