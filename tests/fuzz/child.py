"""The process in which cases are run, one after the other: `SUBJECT SEED NUMBER` a line in, a JSON object a line out.

Memory is measured from where each case begins, writing is seen by Python's audit hook, and both are bounded for good
by the limit on addresses and by the folder's neighbours being looked at afterwards.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import random
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from haversack.cli import main
from tests.fuzz.mutations import CANARY
from tests.fuzz.subjects import SUBJECTS, TASK, Case

PACKAGE = Path(sys.modules["haversack"].__file__ or "").parent
MEMORY_BYTES = 500 << 20
_HEADROOM_BYTES = 3 * MEMORY_BYTES
"""Addresses beyond those at the start: what asks for more gets a MemoryError, not the machine."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGING = {"os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink", "os.truncate", "os.chmod"}


@dataclass
class Watch:
    """Hears what Python opens and changes while a case runs."""

    allowed: list[str] = field(default_factory=list)
    on: bool = False
    seen: list[str] = field(default_factory=list)

    def hear(self, event: str, values: tuple[object, ...]) -> None:
        """An audit hook: notes what is written elsewhere than allowed, and each touch of the canary."""
        if not self.on:
            return
        if event == "open" and isinstance(values[0], str | bytes):
            flags = values[2] if isinstance(values[2], int) else 0
            self._judge(event, os.fsdecode(values[0]), writes=bool(flags & _WRITING))
        elif event in _CHANGING:
            # A rename tells both names and then their folders.
            paths = [each for each in values if isinstance(each, str | bytes)]
            folders = [each for each in values[len(paths) :] if isinstance(each, int)] or [-1]
            for path, folder in zip(paths, [*folders, -1][: len(paths)], strict=False):
                known = f"/proc/self/fd/{folder}" if folder >= 0 and event != "os.mkdir" else "."
                self._judge(event, os.path.join(known, os.fsdecode(path)), writes=True)  # noqa: PTH118

    def _judge(self, event: str, path: str, *, writes: bool) -> None:
        # Opening follows a link; what moves or removes one does not.
        head, tail = os.path.split(path)
        follows = event in ("open", "os.truncate", "os.chmod")
        real = os.path.realpath(path) if follows else os.path.join(os.path.realpath(head or "."), tail)  # noqa: PTH118
        inside = any(real == each or real.startswith(each + os.sep) for each in self.allowed)
        if os.path.basename(path) == CANARY or (writes and not inside and not real.startswith("/dev/")):  # noqa: PTH119
            self.seen.append(f"{event} {path}")


class Runner:
    """Runs cases in a sandbox, of which only `case/` and `tmp/` may change."""

    def __init__(self, sandbox: Path, seeds: Path) -> None:
        self.sandbox, self.seeds, self.watch = sandbox, seeds, Watch()
        self.canary = sandbox / CANARY
        self.canary.write_text("{}")
        self.run(Case(["weigh", str(TASK)]))
        bound = _status("VmSize") + _HEADROOM_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
        sys.addaudithook(self.watch.hear)

    def case(self, subject: str, seed: str, number: str) -> dict[str, object]:
        """What came of one case."""
        folder = self.sandbox / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        case = SUBJECTS[subject](random.Random(f"{subject} {seed} {number}"), folder, self.seeds)
        os.chdir(folder)
        self.watch.allowed = [str(self.sandbox / "tmp"), *(os.path.realpath(folder / each) for each in case.writes)]
        found = self.run(case)
        os.chdir(self.sandbox)
        if sorted(each.name for each in self.sandbox.iterdir()) != [CANARY, "case", "tmp"]:
            found["wrong"] = f"{found['wrong']} wrote beside its folder"
        if self.canary.read_text() != "{}":
            found["wrong"] = f"{found['wrong']} wrote into the canary"
            self.canary.write_text("{}")
        return found

    def run(self, case: Case) -> dict[str, object]:
        """How the command ended, what it took, and what is wrong with that; "" where nothing is."""
        out, err, begin = io.StringIO(), io.StringIO(), time.process_time()
        _forget_peak()
        before, spawned = _status("VmRSS"), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        self.watch.seen, self.watch.on = [], True
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                ended, trace = _ended(case)
        finally:
            self.watch.on = False
        gc.unfreeze()
        grown = max(_status("VmHWM") - before, 0)
        after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        grown = max(grown, after << 10 if after > spawned else 0)
        wrong = [*([ended] if trace else []), *self.watch.seen[:1]]
        wrong += ["a traceback is printed"] * ("Traceback" in err.getvalue())
        wrong += ["ends without a word"] * (ended != "0" and not trace and not err.getvalue().strip())
        wrong += [f"takes more than {MEMORY_BYTES >> 20} MB"] * (grown > MEMORY_BYTES)
        said = (out.getvalue() + err.getvalue())[-4000:]
        seconds = round(time.process_time() - begin, 2)
        words = " ".join(each if len(each) < 80 else f"{each[:80]}..." for each in case.words)
        return {
            "words": words.encode(errors="replace").decode(),
            "ended": ended,
            "wrong": "; ".join(wrong),
            "trace": trace,
            "said": said.encode(errors="replace").decode(),
            "grown_mb": grown >> 20,
            "seconds": seconds,
        }


def _ended(case: Case) -> tuple[str, str]:
    """The exit code, and no trace; or the exception with its place in haversack, and the trace."""
    try:
        (case.run or main)(case.words)
    except SystemExit as end:
        return (str(end.code or 0), "") if end.code in (None, 0, 2) else (f"exit code {end.code}", f"exit {end.code}")
    except BaseException as error:  # noqa: BLE001 - that is what is looked for
        frames = traceback.extract_tb(error.__traceback__)
        ours = [each for each in frames if Path(each.filename).is_relative_to(PACKAGE)]
        place = f"{Path(ours[-1].filename).relative_to(PACKAGE)}:{ours[-1].name}" if ours else "nowhere"
        return f"{type(error).__name__} in {place}", "".join(traceback.format_exception(error))[-6000:]
    return "0", ""


def _status(key: str) -> int:
    """Bytes in this line of the process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{key}:"))


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _requests() -> Iterator[list[str]]:
    for line in sys.stdin:
        yield line.split()


def serve(sandbox: Path, seeds: Path) -> None:
    """Answers requests; the answers have the standard output for themselves."""
    answers = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.chdir(sandbox)
    runner = Runner(sandbox, seeds)
    print("{}", file=answers, flush=True)
    for words in _requests():
        print(json.dumps(runner.case(*words)), file=answers, flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]))
