"""Device: what the target has, each fact with its source."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from haversack.errors import DeviceError, UntrustedError
from haversack.untrusted import parse_toml, read_text

_FOLDER = Path(__file__).parent / "devices"
_MICROCONTROLLER_RAM_BYTES = 16 * 2**20
"""Devices with less memory than this have no operating system, and run a microcontroller's kernels."""


@dataclass(frozen=True)
class Device:
    """Facts about a target. None (or empty) means that no source states it; nothing is guessed."""

    name: str
    title: str
    runtime: str
    why: str = ""
    """What pays on this device, in a few sentences."""
    flash_bytes: int | None = None
    ram_bytes: int | None = None
    cores: int | None = None
    clock_hz: float | None = None
    flash_origin: int | None = None
    """The address where flash begins, and where RAM does."""
    ram_origin: int | None = None
    core: str = ""
    """The processor core as its maker calls it, such as cortex-m4; of microcontrollers."""
    isa: str = ""
    simd: str = ""
    number_formats: tuple[str, ...] = ()
    """Formats that are faster or smaller here than float32, best first."""
    channel_multiple: int = 1
    """Channel counts that the kernels fill completely are multiples of this."""
    macs_per_cycle_float32: float | None = None
    macs_per_cycle_int8: float | None = None
    cycles_per_instruction: tuple[float, float] | None = None
    """Fewest and most cycles that an instruction of a network takes on average; of cores whose programs are counted."""
    nanojoules_per_cycle: tuple[float, float] | None = None
    """Least and most that a cycle takes, of whole boards that somebody measured."""
    memory_bandwidth: float | None = None
    """Bytes a second."""
    active_power_w: float | None = None
    link: str = ""
    link_bits_per_second: float | None = None
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def is_host(self) -> bool:
        """Whether this is the machine that we run on, so that time is measured, not estimated."""
        return self.name == "host"

    @property
    def takes_codebooks(self) -> bool:
        """Whether its runtime's files can hold a weight as places in a codebook, or with a step for each group."""
        return self.runtime == "onnx"

    @property
    def takes_weights_alone(self) -> bool:
        """Whether its runtime computes in float with weights of fewer bits: a microcontroller's does not."""
        return self.runtime not in ("tflite-micro", "c")

    @property
    def rounds_as_it_comes(self) -> bool:
        """Whether its runtime has layers of integers that round what they read at run time."""
        return self.runtime in ("onnx", "litert")

    @property
    def loads_weights(self) -> bool:
        """Whether an operating system's runtime loads the weights into RAM; a microcontroller reads them from flash.

        Then the activations alone, which is all that an estimate of RAM counts, are a part of what a network takes.
        """
        return self.ram_bytes is None or self.ram_bytes >= _MICROCONTROLLER_RAM_BYTES

    @property
    def signed_activations(self) -> bool:
        """S8 on Arm and microcontrollers; U8 on x86, whose byte multiply takes one unsigned operand."""
        return not self.isa.startswith("x86")

    @property
    def weight_bits(self) -> int:
        """Bits of a weight with which its kernels compute exactly, 8 but for one kind of processor.

        On x86 without VNNI ONNX Runtime adds two products in 16 bits, which saturate unless weights have 7.
        """
        saturates = self.isa.startswith("x86") and self.simd and "vnni" not in self.simd
        return 7 if saturates and self.runtime == "onnx" else 8


def device_names() -> tuple[str, ...]:
    """The devices that come with haversack, and `host`."""
    return ("host", *sorted(path.stem for path in _FOLDER.glob("*.toml")))


def find_device(name: str) -> Device:
    """The device called `name`, or the one that the TOML file at the path `name` describes."""
    if name == "host":
        return _host()
    if name.endswith(".toml") or os.sep in name:
        return _read(Path(name))
    if name not in device_names():
        raise DeviceError(
            f"unknown device '{name}'.", mend=f"choose one of {', '.join(device_names())}, or give a TOML file."
        )
    return _read(_FOLDER / f"{name}.toml")


def _read(path: Path) -> Device:
    """Every key is either plain text (name, title, runtime, why) or a table {value, source}."""
    where = str(path)
    try:
        table = parse_toml(read_text(path), where)
    except UntrustedError as error:
        raise DeviceError(
            error.what, where=where, mend="see `haversack devices show` for what a device has."
        ) from error
    plain = {key: table.pop(key) for key in _PLAIN if key in table}
    if not {"name", "title", "runtime"} <= plain.keys():
        raise DeviceError("it needs the keys name, title and runtime.", where=where)
    for key, text in plain.items():
        if not isinstance(text, str) or not text.strip():
            raise DeviceError(f"'{key}' is {text!r}.", where=where, mend=f'write {key} = "..." without a table.')
    facts: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for key, fact in table.items():
        facts[key], sources[key] = _fact(key, fact, where)
    return Device(**plain, **facts, sources=sources)


_PLAIN = ("name", "title", "runtime", "why")
_TEXTS = ("core", "isa", "simd", "link")
_WHOLE = ("flash_bytes", "ram_bytes", "cores", "channel_multiple")
_RATES = (
    *("clock_hz", "macs_per_cycle_float32", "macs_per_cycle_int8", "memory_bandwidth"),
    *("active_power_w", "link_bits_per_second"),
)
_LEAST, _MOST = 1e-6, 1e15
"""No device is slower or faster, smaller or larger; products and quotients of such numbers stay finite."""
_RANGES = ("cycles_per_instruction", "nanojoules_per_cycle")
_ADDRESSES = ("flash_origin", "ram_origin")
_LAST_ADDRESS = 2**32 - 1
_FACTS = (*_TEXTS, *_ADDRESSES, *_WHOLE, *_RATES, *_RANGES, "number_formats")


def _fact(key: str, fact: object, where: str) -> tuple[Any, str]:
    """The value and the source of one fact, checked."""
    if key not in _FACTS:
        known = ", ".join((*_PLAIN, *_FACTS))
        raise DeviceError(f"unknown key '{key}'.", where=where, mend=f"known: {known}.")
    table = fact if isinstance(fact, dict) else {}
    source = table.get("source")
    if not isinstance(source, str) or not source.strip():
        raise DeviceError(f"'{key}' states no source.", where=where, mend=f"[{key}] needs value = ... and source = ...")
    if table.keys() != {"value", "source"}:
        raise DeviceError(f"[{key}] must hold value and source, and nothing else.", where=where)
    return _value(key, table["value"], where), source


def _value(key: str, value: object, where: str) -> object:
    """`value` when it is what `key` takes; a list becomes a tuple."""
    if key == "number_formats":
        if isinstance(value, list) and value and all(isinstance(each, str) and each for each in value):
            return tuple(value)
        raise DeviceError(f"'{key}' is {value!r}.", where=where, mend='write a list of names, such as ["int8"].')
    if key in _RANGES:
        ends = value if isinstance(value, list) else []
        if len(ends) == 2 and all(map(_is_rate, ends)) and ends[0] <= ends[1]:
            return float(ends[0]), float(ends[1])
        raise DeviceError(f"'{key}' is {value!r}.", where=where, mend="write a range, as in [1.1, 1.6].")
    if key in _TEXTS:
        if isinstance(value, str) and value.strip():
            return value
        raise DeviceError(f"'{key}' is {value!r}.", where=where, mend="write a text, or leave it out.")
    if key in _ADDRESSES:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LAST_ADDRESS:
            return value
        raise DeviceError(f"'{key}' is {value!r}.", where=where, mend="write an address, such as 0x20000000.")
    fits = isinstance(value, int) or key not in _WHOLE
    least = 1 if key in _WHOLE else _LEAST
    if fits and _is_rate(value, least):
        return value
    kind = "whole number" if key in _WHOLE else "number"
    mend = f"write a {kind} from {least:g} to {_MOST:g}, or leave it out."
    raise DeviceError(f"'{key}' is {value!r}.", where=where, mend=mend)


def _is_rate(value: object, least: float = _LEAST) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= _MOST


def _host() -> Device:
    """This machine, read off itself: its time is measured, so no rates are needed."""
    import psutil

    flags = _cpu_flags()
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
    simd = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "asimd", "asimddp") if name in flags]
    return Device(
        name="host",
        title=f"this machine ({platform.machine()}, {os.cpu_count()} cores)",
        runtime="onnx",
        why="Latency is measured here. int8 pays where the processor multiplies bytes (VNNI, dot product).",
        ram_bytes=int(psutil.virtual_memory().total),
        cores=os.cpu_count(),
        isa="x86-64" if x86 else platform.machine(),
        simd=" ".join(simd),
        number_formats=("int8", "float32"),
        channel_multiple=16 if "avx512f" in flags else 8 if x86 else 4,
        sources={"ram_bytes": "psutil", "cores": "os.cpu_count", "isa": "platform.machine", "simd": "/proc/cpuinfo"},
    )


def _cpu_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    lines = (line for line in text.splitlines() if line.startswith(("flags", "Features")))
    return frozenset(next(lines, "").split())
