"""Devices as plain text: every fact with its source, and a table of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from haversack.device import Device
from haversack.quantity import show_bytes
from haversack.report.blocks import Document, Lines, Paragraph, Rows, document
from haversack.runtimes import named
from haversack.runtimes.timing_tables import TableFile

_FACTS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "flash_bytes": ("flash", show_bytes),
    "ram_bytes": ("RAM", show_bytes),
    "flash_origin": ("flash begins at", "0x{:08x}".format),
    "ram_origin": ("RAM begins at", "0x{:08x}".format),
    "core": ("core", str),
    "cores": ("cores", str),
    "clock_hz": ("clock", lambda hertz: f"{hertz / 1e6:,.0f} MHz"),
    "isa": ("instruction set", str),
    "simd": ("SIMD", str),
    "number_formats": ("number formats", ", ".join),
    "channel_multiple": ("channel multiple", str),
    "macs_per_cycle_float32": ("float32 MACs a cycle", "{:g}".format),
    "macs_per_cycle_int8": ("int8 MACs a cycle", "{:g}".format),
    "cycles_per_instruction": ("cycles an instruction", lambda ends: "{:g} to {:g}".format(*ends)),
    "nanojoules_per_cycle": ("nJ a cycle", lambda ends: "{:g} to {:g}".format(*ends)),
    "memory_bandwidth": ("memory bandwidth", lambda rate: f"{rate / 1e9:.3g} GB/s"),
    "active_power_w": ("active power", lambda watts: f"{watts:.3g} W"),
    "link": ("link", str),
    "link_bits_per_second": ("link rate", lambda rate: f"{rate / 1e6:.3g} Mbit/s"),
}
"""The facts of a device: what each is called and how it is written."""
_NOT_STATED = "not stated"


def device_card(device: Device) -> Document:
    """Every fact of a device with its source, what nobody states, and what pays there."""
    told = {name: _fact(device, name) for name in _FACTS}
    facts = [
        Lines((f"{_FACTS[name][0]}: {value}", Paragraph(device.sources.get(name, "no source is given"), "    ")))
        for name, value in told.items()
        if value
    ]
    runtime = named(device.runtime)
    missing = ", ".join(_FACTS[name][0] for name, value in told.items() if not value)
    return document(
        f"{device.name}: {device.title}",
        f"runtime: {device.runtime}{f' ({runtime.remark})' if runtime and runtime.remark else ''}",
        Paragraph(device.why),
        Lines(facts),
        Paragraph(missing, f"{_NOT_STATED}: ", "  "),
    )


def device_table(devices: Sequence[Device]) -> Rows:
    """The devices, one a line."""
    names = ("flash_bytes", "ram_bytes", "cores", "clock_hz", "number_formats")
    rows = [(each.name, *(_fact(each, name) or _NOT_STATED for name in names), each.runtime) for each in devices]
    head = ("device", *(_FACTS[name][0] for name in names), "runtime")
    return Rows(head, rows, right=("flash", "RAM", "cores", "clock"))


def timing_table(kept: Sequence[TableFile], folder: Path) -> Document:
    """The tables of times of layers, one a line, and the folder that they are in."""
    rows = [
        (
            *(table.runtime, table.version, str(table.threads)),
            *(str(len(table.pieces)), str(len(table.files)), table.date, table.processor),
        )
        for table in (each.table for each in kept)
        if table
    ]
    head = ("runtime", "version", "threads", "layers", "files", "last added to", "processor")
    wrong = [f"{each.path.name}: ignored: {each.wrong}" for each in kept if each.table is None]
    shown = [Rows(head, rows, right=("threads", "layers", "files"))] if rows else []
    return document(f"{folder}: {len(rows)} tables", *shown, Lines(wrong))


def _fact(device: Device, name: str) -> str:
    """A fact as people write it; empty where it is not stated."""
    value = getattr(device, name)
    # One is also what an unknown multiple is taken for.
    assumed = name == "channel_multiple" and value == 1 and name not in device.sources
    return "" if value in (None, "", ()) or assumed else _FACTS[name][1](value)
