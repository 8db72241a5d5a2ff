"""Jobs beside one another: two processes of one thread run a benchmark's small trainings faster than two threads.

And what one way of training gains over another, seed by seed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
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


def compared(row: str, found: Mapping[str, Sequence[float]], way: str, over: str) -> dict[str, object]:
    """The scores of two ways, their means and how far seeds are apart, and what `way` gains `over` the other."""
    figures = dict[str, object]()
    for each in (over, way):
        scores = found[each]
        figures[f"{row}.{each}_scores"] = scores
        figures[f"{row}.{each}_score"] = round(statistics.mean(scores), 4)
        figures[f"{row}.{each}_spread"] = round(max(scores) - min(scores), 4)
    gains = [there - here for there, here in zip(found[way], found[over], strict=True)]
    figures[f"{row}.gain"] = round(statistics.mean(gains), 4)
    return figures | {f"{row}.gains": [round(gain, 4) for gain in gains], f"{row}.seeds": len(gains)}
