"""The demo with all techniques, from reading its file, which trains the network, to the report."""

from __future__ import annotations

import time
from pathlib import Path

from pareto import dominates
from planner_job import Job, Outcome, meeting, merits
from torch import nn

from haversack.device import find_device
from haversack.graph.inference import lower
from haversack.limits import Budget
from haversack.packing import Packed, Settings
from haversack.packing.check import checked_model
from haversack.packing.foresight import foreseen
from haversack.runtimes import find_runtime, host
from haversack.task import read_task_file

LIMITS = Budget(flash_bytes=20_000, latency_ms=1.0, max_drop=0.01)
DEVICE = "raspberry-pi-zero-2w"
SECONDS = 3.0
EXAMPLE = Path(__file__).parent.parent / "examples" / "digits.py"


def job() -> Job:
    """What `make demo` packs."""
    file = read_task_file(EXAMPLE)
    return Job(file.fresh_network, file.task, DEVICE, LIMITS, Settings(seconds=0.5))


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """The demo's figures; it is as quick as it is. `dominating` counts what was tried, fits and beats the answer."""
    del data, quick
    started = time.monotonic()
    wanted = job()
    outcome = Outcome.of(wanted)
    seconds = time.monotonic() - started
    answer = merits(outcome.packed.artifact.measurement)
    better = [each for each in meeting(outcome.packed) if dominates(merits(each.measurement), answer)]
    for each in better:
        print(f"does better than the answer: {each.recipe}")
    return {
        "demo.latency_ratio": _here(outcome.packed, wanted),
        **outcome.figures("demo"),
        "demo.seconds": seconds,
        "demo.dominating": len(better),
        **_advised(outcome.packed, wanted),
    }


def _advised(packed: Packed, wanted: Job) -> dict[str, object]:
    """Whether `advise` names the plan that was built first, and how far off that plan's flash it predicts."""
    network = wanted.network if isinstance(wanted.network, nn.Module) else wanted.network()
    told = foreseen(network, wanted.task, find_device(DEVICE), LIMITS)["combination"]
    first = packed.found.verdicts[0].candidate
    flash = first.measurement.flash_bytes.value
    return {
        "demo.advised": int(told.recipe == first.recipe),
        "demo.advised_flash_error": abs(told.figures["flash_bytes"] / flash - 1),
    }


def _here(packed: Packed, wanted: Job) -> float:
    """The answer's time on this host over the original's, which `pack` does not tell of another device's integers."""
    runtime, network = find_runtime(find_device(DEVICE)), wanted.network
    original = runtime.write(
        lower(checked_model(network if isinstance(network, nn.Module) else network(), wanted.task))
    )
    answer = packed.artifact.files[runtime.format.file]
    return host.time_files([original, answer], threads=1, seconds=SECONDS)[1].ratio.value
