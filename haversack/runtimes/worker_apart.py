"""The process that holds one file in its runtime: a frame that says which, then a frame with inputs for each run.

It imports NumPy, the runtime and what of ours opens a file, and never torch. `apart.py` starts it and talks to it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

if not __package__:  # before ours is looked for
    sys.path.append(str(Path(__file__).parents[2]))

from haversack.errors import MeasureError
from haversack.runtimes import Opened, rows
from haversack.runtimes.apart import Array, received, send
from haversack.runtimes.host import outputs


def main() -> None:
    """Answers frames until there are no more."""
    frames, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a runtime prints is no answer
    opened: Opened | None = None

    def answer(head: dict[str, Any], arrays: list[Array]) -> tuple[dict[str, Any], list[Array]]:
        nonlocal opened
        if opened is None:
            opened = _opened(head, arrays)
            return {"inputs": opened.inputs}, []
        return {}, outputs(opened, arrays, "")

    while _answered(frames, answers, answer):
        pass


def _answered(
    frames: IO[bytes],
    answers: IO[bytes],
    answer: Callable[[dict[str, Any], list[Array]], tuple[dict[str, Any], list[Array]]],
) -> bool:
    """Whether there was a frame; what a user can mend comes back as an answer too, not as a traceback."""
    try:
        head, arrays = received(frames)
    except EOFError:
        return False
    try:
        send(answers, *answer(head, arrays))
    except MeasureError as error:
        send(answers, {"refused": error.what, "mend": error.mend})
    return True


def _opened(head: dict[str, Any], arrays: list[Array]) -> Opened:
    """The file at the path, or the one whose bytes came along."""
    file = Path(head["path"]) if head["path"] else arrays[0].tobytes()
    orders = head["orders"] and tuple([tuple(order) for order in each] for each in head["orders"])
    (runtime,) = (row for row in rows() if row.name == head["runtime"])
    return runtime.open(file, head["threads"], orders, optimized=head["optimized"])


if __name__ == "__main__":
    main()
