"""The sweep: sets of cases of which `make test` tries some, and `make sweep` all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
WHOLE = os.environ.get("HAVERSACK_SWEEP") == "whole"


def count(some: int, whole: int) -> int:
    """How many random cases are tried: `some`, or in the sweep `whole`."""
    return whole if WHOLE else some


def part(cases: Sequence[T], always: Sequence[T], every: int) -> list[T]:
    """One in `every` case and those in `always`, or in the sweep all, in order."""
    return [case for number, case in enumerate(cases) if WHOLE or case in always or number % every == 0]
