"""What native libraries write to stderr, past Python."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from haversack.scratch import scratch_folder


@contextmanager
def caught() -> Iterator[BinaryIO]:
    """Within this block stderr goes to the file that it gives, also what libraries write to it on their own."""
    before = os.dup(2)
    try:
        with scratch_folder() as folder, (folder / "stderr").open("w+b") as place:
            os.dup2(place.fileno(), 2)
            try:
                yield place
            finally:
                os.dup2(before, 2)
    finally:
        os.close(before)


def lines(place: BinaryIO) -> list[str]:
    """What was written so far, line by line."""
    place.seek(0)
    return [line.strip() for line in place.read().decode(errors="replace").splitlines() if line.strip()]
