"""Runs cases in processes that may die or hang, and gathers what is wrong."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
HANGS_S = 10.0
"""Seconds of processor time that no case may take, with what it starts; of a quiet machine's clock it is no more."""
_WAITS_S = 60.0
"""Seconds by the clock after which it does not matter what it waits for."""
_STARTS_S = 300.0
"""The same before the first case, while torch is imported."""
_CASES_A_PROCESS = 400


@dataclass(frozen=True)
class Id:
    """Which case: it can be made again from this."""

    subject: str
    seed: int
    number: int

    def __str__(self) -> str:
        return f"{self.subject}:{self.seed}:{self.number}"


@dataclass(frozen=True)
class Finding:
    """A case that went wrong, and how."""

    id: Id
    wrong: str
    words: str = ""
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.id}  {self.wrong}\n    haversack {self.words}"


class Hung(Exception):  # noqa: N818 - what happened
    """The process gave no answer in time."""


class Child:
    """A process that runs cases, and its sandbox."""

    def __init__(self, seeds: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="haversack-fuzz-"))
        (self.folder / "tmp").mkdir()
        environment = {
            **os.environ,
            "TMPDIR": str(self.folder / "tmp"),
            "HAVERSACK_CACHE": str(self.folder / "tmp" / "tables"),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-B", "-m", "tests.fuzz.child", str(self.folder), str(seeds)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.answers: Queue[str] = Queue()
        self.cases = 0
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self._answer(begin_s=0.0)

    def ask(self, case: Id) -> dict[str, Any]:
        """The answer to a case. Raises Hung, or EOFError where the process died."""
        assert self.process.stdin is not None
        self.cases += 1
        begin_s = self._used_s()
        try:
            self.process.stdin.write(f"{case.subject} {case.seed} {case.number}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise EOFError from None
        return self._answer(begin_s)

    def end(self) -> None:
        """Ends the process with all that it started, and removes its sandbox."""
        for each in self._family():
            each.kill()
        self.process.wait()
        self.reader.join()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answer(self, begin_s: float) -> dict[str, Any]:
        begin = time.monotonic()
        while True:
            try:
                line = self.answers.get(timeout=0.5)
            except Empty:
                waited = time.monotonic() - begin
                if waited > _STARTS_S or (self.cases and (self._used_s() - begin_s > HANGS_S or waited > _WAITS_S)):
                    raise Hung from None
                continue
            if not line:
                raise EOFError
            answer: dict[str, Any] = json.loads(line)
            return answer

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.answers.put(line)
        self.answers.put("")

    def _family(self) -> list[psutil.Process]:
        try:
            own = psutil.Process(self.process.pid)
            return [*own.children(recursive=True), own]
        except psutil.NoSuchProcess:
            return []

    def _used_s(self) -> float:
        """Processor time of the process, of those that it started and of those that have ended."""
        used = 0.0
        for each in self._family():
            try:
                times = each.cpu_times()
            except psutil.NoSuchProcess:
                continue
            used += times.user + times.system + times.children_user + times.children_system
        return used


@dataclass
class Tally:
    """How many cases each subject had, and how long they took."""

    cases: dict[str, int]
    seconds: dict[str, float]

    @classmethod
    def of(cls, subjects: Iterable[str]) -> Tally:
        """Nothing yet."""
        return cls(dict.fromkeys(subjects, 0), dict.fromkeys(subjects, 0.0))


def fuzz(cases: Iterator[Id], tally: Tally, seeds: Path, processes: int = 2) -> list[Finding]:
    """What is wrong, in so many processes beside one another; `seeds` is what `grow` filled."""
    lock, found = threading.Lock(), list[Finding]()

    def work() -> None:
        child: Child | None = None
        while True:
            with lock:
                case = next(cases, None)
            if child is not None and (case is None or child.cases >= _CASES_A_PROCESS):
                child.end()
                child = None
            if case is None:
                return
            child = child or Child(seeds)
            begin = time.monotonic()
            finding, alive = _tried(child, case)
            if not alive:
                child.end()
                child = None
            with lock:
                tally.cases[case.subject] += 1
                tally.seconds[case.subject] += time.monotonic() - begin
                found.extend([finding] if finding else [])

    with ThreadPoolExecutor(processes) as pool:
        for each in [pool.submit(work) for _ in range(processes)]:
            each.result()
    return found


def grown() -> Path:
    """A folder of seeds; whoever asks removes it."""
    folder = Path(tempfile.mkdtemp(prefix="haversack-fuzz-seeds-"))
    command = [sys.executable, "-B", "-m", "tests.fuzz.subjects", str(folder)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    return folder


def _tried(child: Child, case: Id) -> tuple[Finding | None, bool]:
    """What is wrong with a case, and whether its process lives."""
    try:
        answer = child.ask(case)
    except Hung:
        return Finding(case, f"hangs: more than {HANGS_S:g} s", _line(child)), False
    except EOFError:
        return Finding(case, f"dies: the process ends with {child.process.wait()}", _line(child)), False
    if answer["wrong"]:
        return Finding(case, answer["wrong"], answer["words"], answer["trace"] or answer["said"]), True
    return None, True


def _line(child: Child) -> str:
    """The files of the case, where the command line is not told."""
    case = child.folder / "case"
    return f"... on {', '.join(sorted(each.name for each in case.iterdir()))}" if case.is_dir() else "..."


def in_turn(subjects: Iterable[str], seed: int, counts: dict[str, int]) -> Iterator[Id]:
    """So many cases of each subject, mixed."""
    names = list(subjects)
    for number in range(max(counts[each] for each in names)):
        yield from (Id(each, seed, number) for each in names if number < counts[each])


def for_minutes(minutes: float, seed: int, tally: Tally) -> Iterator[Id]:
    """Cases until the time is up: always of the subject that had the least of it."""
    end = time.monotonic() + 60 * minutes
    given = dict.fromkeys(tally.cases, 0)
    while time.monotonic() < end:
        name = min(given, key=lambda each: (tally.seconds[each], given[each]))
        yield Id(name, seed, given[name])
        given[name] += 1
