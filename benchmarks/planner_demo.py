"""The demo with all techniques, from reading its file, which trains the network, to the report."""

from __future__ import annotations

import time
from pathlib import Path

from pareto import dominates
from planner_job import Job, Outcome, meeting, merits

from haversack.limits import Budget
from haversack.packing import Settings
from haversack.task import read_task_file

LIMITS = Budget(flash_bytes=20_000, latency_ms=1.0, max_drop=0.01)
DEVICE = "raspberry-pi-zero-2w"
EXAMPLE = Path(__file__).parent.parent / "examples" / "digits.py"


def job() -> Job:
    """What `make demo` packs."""
    file = read_task_file(EXAMPLE)
    return Job(file.fresh_network, file.task, DEVICE, LIMITS, Settings(seconds=0.5))


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """The demo's figures; it is as quick as it is. `dominating` counts what was tried, fits and beats the answer."""
    del data, quick
    started = time.monotonic()
    outcome = Outcome.of(job())
    seconds = time.monotonic() - started
    answer = merits(outcome.packed.artifact.measurement)
    better = [each for each in meeting(outcome.packed) if dominates(merits(each.measurement), answer)]
    for each in better:
        print(f"does better than the answer: {each.recipe}")
    return {
        **outcome.figures("demo"),
        "demo.seconds": seconds,
        "demo.dominating": len(better),
    }
