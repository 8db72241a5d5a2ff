"""Programs in processes of their own, forked from one that has imported torch and done nothing else.

Importing all that a trace needs takes four seconds of a core, and most of these programs a fraction of one. Where it is
the start of a process that is tested, or its command line, `subprocess` stays the right way.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["torch", "torch._dynamo", "onnxruntime", "haversack.cli.packing", "haversack.packing", "haversack.training"]
)


class Program:
    """What `python -c CODE WORDS` would be: it reads nothing, and what it prints is there when it has ended.

    It may be waited for, killed and asked as a subprocess.Popen may; `communicate` removes what it printed.
    """

    def __init__(self, code: str, *words: object, **environment: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="haversack-warm-"))
        self._printed = [self._folder / name for name in ("stdout", "stderr")]
        for each in self._printed:
            each.touch()
        places = [str(each) for each in self._printed]
        arguments = (code, [str(each) for each in words], {**os.environ, **environment}, os.getcwd(), places)  # noqa: PTH109
        self._process = _CONTEXT.Process(target=_run, args=arguments)
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """Its exit code, the number of the signal that ended it below zero, or None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Its exit code so far."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended. Raises subprocess.TimeoutExpired where it has not by then."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("python", timeout or 0)
        return self.returncode

    def wait_for(self, line: str) -> None:
        """Returns once it has printed this line, or has ended."""
        while line not in self._printed[0].read_text().splitlines() and self.poll() is None:
            time.sleep(0.005)

    def send_signal(self, number: int) -> None:
        """Sends it a signal."""
        os.kill(self._process.pid or 0, number)

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it printed, to stdout and to stderr, once it has ended."""
        self.wait(timeout)
        said, wrong = (each.read_text() for each in self._printed)
        shutil.rmtree(self._folder)
        return said, wrong


def run(code: str, *words: object, **environment: str) -> str:
    """What a program prints that ends well."""
    program = Program(code, *words, **environment)
    said, wrong = program.communicate(timeout=240)
    assert program.returncode == 0, wrong
    return said


def _run(code: str, words: list[str], environment: dict[str, str], folder: str, places: list[str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, place in enumerate(places, 1):
        opened = os.open(place, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = ["-c", *words]
    exec(compile(code, "<a warm program>", "exec"), {"__name__": "__main__"})
