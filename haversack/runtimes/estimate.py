"""Estimates for a device that is not this machine, from the rates that its description states."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

from haversack.device import Device
from haversack.errors import BudgetError, DeviceError
from haversack.graph.cost import Cost
from haversack.limits import Budget
from haversack.measurement import Conditions, Figure, Measurement
from haversack.progress import tell
from haversack.quantity import show_bytes
from haversack.runtimes import named

_BITS = {"float32": 32, "float16": 16, "int16": 16, "int8": 8, "int4": 4}
_COMPUTED_AS = {"int4": "int8"}
"""Weights in 4 bits are a way to store: runtimes unpack them, and activations keep 8."""
_WEIGHT_BITS = {"int16": 8}
"""Activations in 16 bits go with weights of 8."""


_MICROCONTROLLER = (0.05, 0.35)
"""Share of the stated peak that a whole network reaches, lowest and highest.

Cortex-M4 (STM32L4R5, peak 2 MAC a cycle), six engines on the four int8 networks of MLPerf Tiny v1.1: 0.077 (microTVM,
keyword spotting) to 0.32 (Plumerai, visual wake words). ESP32-S3 (peak 16), ESP-NN's own table: 0.055 for a 1x1
convolution.
"""
_PROCESSOR = (0.1, 0.85)
"""The same for a processor with caches and wide vectors.

XNNPACK's README of February 2020 and 2022, all four cores: float32 from 0.110 (MobileNet v3 Small on the Cortex-A53 of
a Raspberry Pi 3+) to 0.33 (v1 on a Raspberry Pi 4), int8 from 0.33 to 0.49; one core of a Pixel 3a: 0.40. CIFAR
ResNet-20 and ResNet-56 in ONNX Runtime on one Zen 4 core: 0.74 to 0.85 in float32, 0.5 to 0.6 in int8.
"""


def weigh(cost: Cost, device: Device, number_format: str) -> Measurement:
    """Every figure that can be known before a file is written; None where the device states too little for it.

    `int4` is int8 whose weights are stored in 4 bits.
    `flash_bytes` is the weights in `number_format`, those that have no integer form in float32, and what our files of
    the device's runtime hold beside them. Code of the runtime is not counted.
    """
    weight_bytes = _weight_bytes(cost, number_format)
    number_format = _COMPUTED_AS.get(number_format, number_format)
    latency = None if _missing_rates(device, number_format) else latency_ms(cost, device, number_format)
    return Measurement(
        flash_bytes=Figure(weight_bytes + _written_around(cost, device, number_format), "estimated"),
        ram_bytes=replace(ram_bytes(cost, number_format), part=device.loads_weights),
        latency_ms=latency,
        conditions=Conditions(device.name, device.runtime, threads=1, machine=device.title),
        energy_mj=energy_mj(latency, device) if latency else None,
    )


def check_judgeable(budget: Budget, device: Device, number_formats: Collection[str]) -> None:
    """Raises BudgetError where a limit could be judged in none of the formats that a network may end in.

    Bytes, scores and ratios are measured. Milliseconds need this host or the rates of the device, energy its power too,
    and memory this host or a device that reads its weights from flash.
    """
    if budget.ram_bytes is not None and device.loads_weights and not device.is_host:
        raise BudgetError(
            f"of the RAM that a network takes on {device.name} a part alone is known: its activations, but not its "
            "weights and the runtime.",
            mend="limit --flash, which holds the weights, or pack for a device that is measured (--device host); for a "
            "microcontroller give a device file with ram_bytes.",
        )
    runtime = named(device.runtime)
    if budget.instructions is not None and (runtime is None or runtime.programs is None):
        raise BudgetError(
            f"instructions are counted where a network is a program of its own, and {device.runtime} runs files.",
            mend="add --runtime c, for a microcontroller, or limit --latency.",
        )
    if budget.latency_ratio is not None and runtime is not None and runtime.programs:
        raise BudgetError(
            f"a ratio is of files that are timed here, and on {device.name} runs a program.",
            mend="limit --instructions, or --latency in milliseconds.",
        )
    by_cycles = runtime is not None and runtime.programs and instructions_mj(1, device)
    if budget.energy_mj is not None and device.active_power_w is None and not by_cycles:
        raise BudgetError(
            f"no source states the power of {device.name}, so an energy limit cannot be judged.",
            mend="drop --energy, or give a device file with active_power_w.",
        )
    if budget.energy_mj is None and (budget.latency_ms is None or device.is_host):
        return
    if runtime is not None and runtime.programs and instructions_ms(1, device):
        return
    missing = {name: _missing_rates(device, name) for name in sorted(number_formats)}
    if all(missing.values()):
        facts = " and ".join(dict.fromkeys(rate for each in missing.values() for rate in each))
        raise BudgetError(
            f"no source states how fast {device.name} computes {' or '.join(missing)}, so a limit on its milliseconds "
            "or energy cannot be judged.",
            mend=f"write a ratio, such as --latency 0.5x (timed on this host), or give a device file with {facts}."
            + _other_formats(device, number_formats),
        )
    for name, rates in missing.items():
        if rates:
            tell(
                f"{device.name} states no {' and no '.join(rates)}: a network in {name} is never said to be fast enough"
            )


def check_possible(budget: Budget, device: Device, inputs: int, number_formats: Collection[str]) -> None:
    """Raises BudgetError where less memory is allowed than the `inputs` numbers of one sample take.

    They are in memory while the first layer runs, whatever is done to the network. Memory that is measured, on this
    host, has no such floor: it counts what is added to an empty session. Says where the device has less than a limit
    allows.
    """
    for limit, allowed in budget.asked.items():
        fact = getattr(device, limit.field, None)
        if fact is not None and fact < allowed:
            tell(
                f"{device.name} has {limit.show(fact)} of {limit.measure}: that is the limit, not {limit.show(allowed)}"
            )
    if budget.ram_bytes is None or device.is_host:
        return
    least = math.ceil(inputs * min(map(_bits, number_formats)) / 8)
    if budget.ram_bytes < least:
        raise BudgetError(
            f"the network's inputs alone take {show_bytes(least)} of RAM, and {show_bytes(budget.ram_bytes)} are "
            "allowed.",
            mend="raise --ram, or give the network smaller inputs: no step changes those.",
        )


def _other_formats(device: Device, tried: Collection[str]) -> str:
    """The format in which the device could be judged, where no step that is tried leads there."""
    known = [name for name in ("int8", "float32") if name not in tried and not _missing_rates(device, name)]
    return f" In {known[0]} its time is known, but no step that is tried leads there." if known else ""


def _weight_bytes(cost: Cost, number_format: str) -> int:
    """The numbers of the network's files: integers where they have that form, else real numbers whatever the format."""
    held, bits = cost.stored, _WEIGHT_BITS.get(number_format, _bits(number_format))
    if bits > 8:
        return math.ceil(held.numbers * bits / 8)
    return math.ceil(held.integers * bits / 8) + held.tables + 2 * held.steps + 4 * held.reals


def _written_around(cost: Cost, device: Device, number_format: str) -> int:
    """Bytes of nodes, names, scales and zero points, as many as our files of nine networks have."""
    runtime = named(device.runtime)
    if runtime is None or runtime.around is None:
        return 0
    around = runtime.around
    # A layer whose weight another one has too brings no parameters, and so has no bias.
    layers = [layer for layer in cost.layers if layer.macs and (layer.parameters or layer.operation == "linear")]
    if _bits(number_format) > 8 and number_format not in _WEIGHT_BITS:
        return around.float_layer * len(layers)
    channels = [layer.output_shape[1 if layer.operation.startswith("conv") else -1] for layer in layers]
    steps = sum((8 if layer.parameters else 4) * count for layer, count in zip(layers, channels, strict=True))
    # Zero points are zeros, which stand once for all layers of as many channels; of steps, weights and biases have one.
    return around.integer_layer * len(layers) + steps + around.zero_point * sum(set(channels))


def latency_ms(cost: Cost, device: Device, number_format: str) -> Figure:
    """The time of one sample on one core, as a range; its value is the geometric mean of the two ends.

    A roofline (Williams, Waterman and Patterson 2009): the larger of the time to compute, at the share of the peak that
    real kernels were seen to reach, and the time to read weights and activations once, where the device states its
    memory bandwidth. float16 and int16 count as float32. What is not a multiply-accumulate is in that share, so that a
    network of little else takes longer. Raises DeviceError where the device states no rate; nothing is guessed.
    """
    peak = _macs_per_second(device, number_format)
    memory_ms = 0.0
    if device.memory_bandwidth is not None:
        memory_ms = 1e3 * _traffic_bytes(cost, number_format) / device.memory_bandwidth
    worst, best = _efficiency(device)
    low = max(memory_ms, 1e3 * cost.macs / (peak * best))
    high = max(memory_ms, 1e3 * cost.macs / (peak * worst))
    return Figure(math.sqrt(low * high), "estimated", low, high)


def instructions_ms(instructions: float, device: Device) -> Figure | None:
    """The time of so many instructions, at the least and the most cycles that one takes; None where it is not stated.

    Its value is the geometric mean of the two ends.
    """
    if device.cycles_per_instruction is None or device.clock_hz is None:
        return None
    return _between(*(1e3 * instructions * cycles / device.clock_hz for cycles in device.cycles_per_instruction))


def instructions_mj(instructions: float, device: Device) -> Figure | None:
    """The energy of so many instructions: their cycles, at the least and the most that one takes; None if not stated.

    Where a device states its active power instead, that is the energy of their time.
    """
    if device.cycles_per_instruction is None:
        return None
    if device.nanojoules_per_cycle is None:
        time = instructions_ms(instructions, device)
        return energy_mj(time, device) if time else None
    ends = zip(device.cycles_per_instruction, device.nanojoules_per_cycle, strict=True)
    return _between(*(1e-6 * instructions * cycles * nanojoules for cycles, nanojoules in ends))


def _between(low: float, high: float) -> Figure:
    return Figure(math.sqrt(low * high), "estimated", low, high)


def ram_bytes(cost: Cost, number_format: str) -> Figure:
    """The planned activation peak with every activation in `number_format`; the runtime's own memory is not in it.

    Where `Device.loads_weights`, this is a part of what the network takes (`weigh` says so): weights are in RAM too.
    """
    return Figure(_activation_bytes(cost, cost.memory.peak_bytes, number_format), "estimated")


def energy_mj(latency: Figure, device: Device) -> Figure | None:
    """The energy at the device's stated active power, with the range of `latency`; None where no power is stated."""
    power = device.active_power_w
    if power is None:
        return None
    low, high = (None if end is None else end * power for end in (latency.low, latency.high))
    return Figure(latency.value * power, "estimated", low, high)


def _macs_per_second(device: Device, number_format: str) -> float:
    missing = _missing_rates(device, number_format)
    if missing:
        raise DeviceError(
            f"it states no {' and no '.join(missing)}, so the time of a {number_format} network cannot be estimated.",
            where=f"device {device.name}",
            mend=f"give a device file with {' and '.join(missing)}, or measure on the device.",
        )
    return math.prod(rate for rate in _rates(device, number_format).values() if rate is not None)


def _missing_rates(device: Device, number_format: str) -> list[str]:
    """The facts that an estimate of time lacks."""
    return [name for name, rate in _rates(device, number_format).items() if rate is None]


def _rates(device: Device, number_format: str) -> dict[str, float | None]:
    if _bits(number_format) == 8:
        return {"clock_hz": device.clock_hz, "macs_per_cycle_int8": device.macs_per_cycle_int8}
    return {"clock_hz": device.clock_hz, "macs_per_cycle_float32": device.macs_per_cycle_float32}


def _efficiency(device: Device) -> tuple[float, float]:
    """The lowest and the highest share of the peak; both kinds' where it is unknown what the device is."""
    if device.ram_bytes is None:
        return _MICROCONTROLLER[0], _PROCESSOR[1]
    return _PROCESSOR if device.loads_weights else _MICROCONTROLLER


def _traffic_bytes(cost: Cost, number_format: str) -> float:
    activations = sum(buffer.size_bytes for buffer in cost.memory.buffers)
    return _weight_bytes(cost, number_format) + _activation_bytes(cost, activations, number_format)


def _activation_bytes(cost: Cost, planned_bytes: int, number_format: str) -> int:
    return math.ceil(planned_bytes / cost.bytes_per_element * _bits(number_format) / 8)


def _bits(number_format: str) -> int:
    if number_format not in _BITS:
        raise DeviceError(f"unknown number format '{number_format}'.", mend=f"choose one of {', '.join(_BITS)}.")
    return _BITS[number_format]
