"""Jobs beside one another: two processes of one thread run a benchmark's small trainings faster than two threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TypeVar

import torch

from haversack.progress import track

Found = TypeVar("Found")


def side_by_side(jobs: Mapping[str, tuple[Callable[..., Found], tuple[object, ...]]]) -> dict[str, Found]:
    """What each job gives, a function and its arguments; it runs in a process of its own."""
    with ProcessPoolExecutor(2, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        waited = {name: pool.submit(function, *arguments) for name, (function, arguments) in jobs.items()}
        for _ in track(as_completed(waited.values()), "jobs side by side", len(waited)):
            pass
        return {name: each.result() for name, each in waited.items()}
