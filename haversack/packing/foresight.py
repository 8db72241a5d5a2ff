"""Foresight: what could be made of a network on a device, predicted as `pack` does before it builds anything."""

from __future__ import annotations

from dataclasses import replace

from haversack.device import Device
from haversack.errors import HaversackError
from haversack.interrupt import is_pressed
from haversack.limits import Budget
from haversack.packing.bench import Bench, Network, Settings
from haversack.packing.candidates import Offers
from haversack.packing.spaces import Readings
from haversack.packing.workspace import cache_folder
from haversack.plan.forecast import Forecast, forecasts
from haversack.plan.found import Trial
from haversack.plan.goal import Goal
from haversack.progress import Status, phase, tell
from haversack.recipe import Recipe
from haversack.task import Task

_BRIEFLY = 0.3
"""So many seconds the network itself is timed where no limit asks for its time."""


def foreseen(
    network: Network, task: Task, device: Device, budget: Budget, settings: Settings | None = None
) -> dict[str, Forecast]:
    """By family of techniques what is predicted of the plan that loses least within the limits; nothing is built.

    The network is measured as it is, its score only where the least score is limited; layers are timed where a time is.
    Nothing is kept but their times. Empty where no limit is set, or, which is said, the network cannot be packed.
    """
    within, settings = budget.within(device), settings or Settings()
    if not within.asked:
        return {}
    try:
        with cache_folder(settings.cache) as cache:
            return _foreseen(Bench.set_up(network, task, device, settings, cache), within, settings)
    except HaversackError as error:
        if is_pressed():
            raise KeyboardInterrupt from error
        why = f"{error.where}: {error.what}" if error.where else error.what
        tell(f"nothing is predicted, advice is from counts alone: {why}")
        return {}


def _foreseen(bench: Bench, limits: Budget, settings: Settings) -> dict[str, Forecast]:
    timed = limits.is_timed_for(bench.device)
    if not timed:  # and a brief timing is not kept for `pack`
        bench = replace(bench, gauge=replace(bench.gauge, seconds=_BRIEFLY, times=None))
    baseline = bench.candidate(Trial(Recipe(), scored=limits.score_at_least is not None))
    phase(Status("looking for choices"))
    offers, times = Offers(settings.techniques, settings.seed, settings.epochs), bench.gauge.times
    measured = baseline.measurement
    counts, most = bench.counts(limits), limits.ram_bytes
    readings = Readings(
        bench.original, bench.task, bench.device, offers, measured, bench.workspace, times, counts=counts, most_ram=most
    )
    spaces = readings.spaces(sparse=limits.update_bytes is not None)
    phase(Status("solving for the limits, a family at a time"))
    return forecasts(spaces, Goal(limits, baseline), scores=bench.task.kind == "classification")
