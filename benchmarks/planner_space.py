"""ResNet-20 as the planner sees it: what can be done to it on this host, by whole plans, and what that truly gives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from planner_resnet import job

from haversack.device import find_device
from haversack.measurement import Measurement
from haversack.packing import Bench, Settings
from haversack.packing.candidates import Offers
from haversack.packing.spaces import Readings
from haversack.plan.found import Trial
from haversack.plan.space import FORBIDDEN, Chosen, Space
from haversack.recipe import Recipe
from haversack.training import outputs_kept

TECHNIQUES = ("prune_channels", "prune_layers", "quantize_static")
"""Widths, removals and bits."""


@dataclass(frozen=True)
class Ground:
    """A network in one runtime: its spaces, and a bench that measures plans."""

    bench: Bench
    spaces: dict[str, Space]
    baseline: Measurement

    @classmethod
    @contextmanager
    def of(cls, data: Path, cache: Path, runtime: str, seconds: float) -> Iterator[Ground]:
        """ResNet-20 on this host in that runtime, each candidate being timed for so many seconds."""
        wanted, device = job(data, "resnet20", quick=False), replace(find_device("host"), runtime=runtime)
        with outputs_kept():
            settings = Settings(cache=cache, seconds=seconds, techniques=TECHNIQUES)
            bench = Bench.set_up(wanted.network, wanted.task, device, settings, cache)
            baseline = bench.candidate(Trial(Recipe())).measurement
            readings = Readings(
                bench.original, bench.task, device, Offers(TECHNIQUES), baseline, bench.workspace, bench.gauge.times
            )
            yield cls(bench, {space.name: space for space in readings.spaces(sparse=False)}, baseline)


def nothing(space: Space) -> Chosen:
    """The plan that leaves everything as it is, but for the space's numbers."""
    return (0,) * len(space.sites)


def possible(space: Space, plan: Chosen) -> Chosen:
    """The plan without what cannot be made of it: of two choices that exclude each other the later one goes."""
    chosen = list(space.said(plan))
    for term in space.losses:
        if term.of(chosen) >= FORBIDDEN:
            chosen[term.sites[-1]] = 0
    return tuple(chosen)
