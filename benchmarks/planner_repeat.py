"""The same answer each time: three runs, each a process of its own, the last one beside a process that never rests.

All three share the table of timed layers, which the first one fills, and no finished candidate.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from multiprocessing import get_context
from pathlib import Path

import planner_demo
import planner_resnet
import torch
from planner_job import fresh_tables
from rows import THREADS

from haversack.cli.terminal import Bars
from haversack.progress import say, shown_by

JOBS = ("demo", "resnet20")
RUNS = 3


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """Whether all recipes of a job are the same to the byte."""
    figures = dict[str, object]()
    for name in JOBS:
        with fresh_tables():
            recipes = list(_recipes(name, data, quick=quick))
        figures[f"repeat.{name}_same"] = int(len(set(recipes)) == 1)
        figures[f"repeat.{name}_recipes"] = sorted(set(recipes))
    return {"repeat.same": int(all(figures[f"repeat.{name}_same"] for name in JOBS)), **figures}


def recipe(name: str, data: Path, quick: bool) -> str:  # noqa: FBT001 - arguments of a process
    """The recipe that a job ends with."""
    torch.set_num_threads(THREADS)
    job = planner_demo.job() if name == "demo" else planner_resnet.job(data, name, quick=quick)
    with Bars() as bars, shown_by(bars):
        return job.packed().artifact.recipe.to_toml()


def _recipes(name: str, data: Path, *, quick: bool) -> Iterator[str]:
    for number in range(RUNS):
        last = number == RUNS - 1
        say(f"{name}: run {number + 1} of {RUNS}{', on a busy machine' if last else ''}")
        with _busy() if last else nullcontext(), ProcessPoolExecutor(1, get_context("spawn")) as pool:
            yield pool.submit(recipe, name, data, quick).result()


@contextmanager
def _busy() -> Iterator[None]:
    """Within this block a process takes a core for itself."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spinning:
        try:
            yield
        finally:
            spinning.kill()
