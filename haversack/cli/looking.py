"""Commands that only look: what a network needs, what would suit it, which devices are known."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from haversack.cli.options import (
    AsJson,
    DeviceName,
    Energy,
    Flash,
    Latency,
    MaxDrop,
    Ram,
    Score,
    TaskPath,
    budget_of,
    target_of,
)
from haversack.cli.running import loaded, print_json

if TYPE_CHECKING:
    from haversack.device import Device
    from haversack.graph.cost import Cost
    from haversack.measurement import Measurement
    from haversack.model import Model


def weigh(  # noqa: PLR0913 - one argument an option
    task: TaskPath,
    device: DeviceName = "host",
    flash: Flash = None,
    ram: Ram = None,
    latency: Latency = None,
    energy: Energy = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Size, MACs, memory and a per-layer table, without training; whether it fits, and which limit fails."""
    target = target_of(device)
    budget = budget_of(flash, ram, latency, energy).within(target)
    _, found, weighings = _weighed(task, target, "float32", "int8")
    if as_json:
        missed = {name: [asdict(miss) for miss in each.misses(budget)] for name, each in weighings.items()}
        unjudged = {
            name: [limit.limit for limit in each.judged(budget) if limit.state == "unjudged"]
            for name, each in weighings.items()
        }
        figures = {name: each.to_json() for name, each in weighings.items()}
        print_json({**asdict(found), "weighings": figures, "misses": missed, "unjudged": unjudged})
        return
    from haversack.report.text import weighed

    typer.echo(weighed(found, list(weighings.items()), target, budget))


def advise(  # noqa: PLR0913 - one argument an option
    task: TaskPath,
    device: DeviceName = "host",
    flash: Flash = None,
    ram: Ram = None,
    latency: Latency = None,
    energy: Energy = None,
    max_drop: MaxDrop = None,
    score: Score = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Which techniques suit this network on this device, with reasons in numbers; without training."""
    target = target_of(device)
    budget = budget_of(flash, ram, latency, energy, None, max_drop, score).within(target)
    _, found, weighings = _weighed(task, target, "float32", "int8", "int4")
    from haversack.plan.advise import advise as ranked
    from haversack.report.text import advised

    advice = ranked(found, weighings, target, budget)
    limits = {"flash": flash, "ram": ram, "latency": latency, "energy": energy, "max-drop": max_drop, "score": score}
    given = [word for name, text in limits.items() if text is not None for word in (f"--{name}", text)]
    command = ("haversack", "pack", str(task), "--device", device, *given)
    if as_json:
        print_json([{**asdict(each), "command": each.command(command)} for each in advice])
    else:
        typer.echo(advised(advice, target, command))


def list_devices(*, as_json: AsJson = False) -> None:
    """All devices with what is known of them."""
    from haversack.device import device_names, find_device
    from haversack.report.devices import device_table

    found = [find_device(name) for name in device_names()]
    if as_json:
        print_json([asdict(each) for each in found])
    else:
        typer.echo(device_table(found))


def show_device(name: str, *, as_json: AsJson = False) -> None:
    """Every fact of a device with its source, and what pays there."""
    from haversack.device import find_device
    from haversack.report.devices import device_card

    found = find_device(name)
    if as_json:
        print_json(asdict(found))
    else:
        typer.echo(device_card(found))


def _weighed(path: Path, device: Device, *formats: str) -> tuple[Model, Cost, dict[str, Measurement]]:
    from haversack.door import checked_model
    from haversack.graph.cost import cost
    from haversack.graph.trace import trace
    from haversack.measure.estimate import weigh as estimated

    file = loaded(path)
    model = checked_model(file.fresh_network(), file.task)
    found = cost(trace(model.module, model.example))
    return model, found, {name: estimated(found, device, name) for name in formats}
