"""Runtimes: files written for what runs them, run there, compared and timed. The folder is the list of runtimes.

A folder in here defines `ROWS`, a row each for the runtimes that it knows, first the one that its files are for; or
`over`, which makes rows out of those of others. No list names them: whoever needs a runtime goes through `rows()`. A
row imports nothing heavy before it is called.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Protocol

from haversack.errors import DeviceError

if TYPE_CHECKING:
    import numpy as np
    from torch import fx

    from haversack.device import Device

    Array = np.ndarray[Any, Any]

File = bytes | Path
Arrays = Sequence["Array"]
Orders = tuple[Sequence[tuple[int, ...]], Sequence[tuple[int, ...]]]
"""For each input and each output of a file: which of torch's dimensions stand along its axes."""


@dataclass(frozen=True)
class Opened:
    """A file opened in its runtime within this process.

    `prepare` makes of torch's arrays what the file wants, `run` makes real numbers in torch's layout of them: an array
    an output.
    """

    inputs: int
    batch: int | None
    """How many samples `run` takes at once; None where that is free."""
    prepare: Callable[[Arrays], list[Array]]
    run: Callable[[Arrays], list[Array]]


@dataclass(frozen=True)
class Contents:
    """What stands in a file and what its runtime makes of it: each operator's name and how often."""

    operators: dict[str, int]
    as_run: dict[str, int]
    integer: int
    """Operators as run that compute on integers; conversions are not counted."""
    integer_layers: int
    """Those of them that multiply by weights."""
    disk_bytes: int
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Around:
    """Bytes of a file beside its numbers: for a layer in float, for one in integers, for a channel's zero point.

    Layers of as many channels have their zero points together: `zero_points` is what that takes beside them. With
    `derived_steps` the steps of a bias follow from those of a weight in 4 bits. Where layers round what they read as it
    comes, a channel has a step of `dynamic_step` bytes, and a row of an embedding one of `row_step`.
    """

    float_layer: int
    integer_layer: int
    zero_point: int
    zero_points: int = 0
    derived_steps: bool = False
    dynamic_step: int = 2
    row_step: int = 1


@dataclass(frozen=True)
class WithoutZeros:
    """Bytes of weights that are stored without their zeros: for each of the others, and for each row of them."""

    weight: float
    row: float
    most_left: float
    """The share of others up to which that is done."""


@dataclass(frozen=True)
class FileFormat:
    """Files of one kind, and how they are measured: in the runtime whose row comes first."""

    file: str
    """What such a file is called in a result: model.onnx."""
    kind: str
    """What people call such files: ONNX, .tflite."""
    worker: Path
    """The program that measures them in a process of its own; it imports nothing of ours but `turns`."""
    empty: Callable[[], bytes]
    """A file that does next to nothing: what its memory is, is the runtime's."""
    contents: Callable[[Path, int], Contents]
    mark: bytes = b""
    """A pattern for how they begin; empty where that is like nothing: what no other format knows is taken for one."""
    opaque: bool = False
    """It is not told how a file is run, nor what memory it takes: `empty` and `contents` raise, saying why."""


@dataclass(frozen=True)
class Program:
    """What a network takes as a program of its own on a device's core, read off a run on that core, emulated."""

    flash_bytes: int
    """Code and constants, all that the device stores."""
    ram_bytes: int
    """What is taken all the time, and the most of the stack."""
    instructions: int
    """Executed for one sample."""


@dataclass(frozen=True)
class Source:
    """A network as the source of a program, and what is known of that before it is compiled."""

    files: Mapping[str, bytes]
    constant_bytes: int
    """Of flash, beside the code."""
    ram_bytes: int
    """With room for the stack."""


@dataclass(frozen=True)
class Programs:
    """How networks of integers become programs."""

    on_a_host: Runtime
    """What computes the same there from a file, to the bit."""
    cores: frozenset[str]
    """As devices name them."""
    source: Callable[[fx.GraphModule, int | None], Source]
    """A graph as source, within so many bytes of RAM where that can be."""
    run: Callable[[fx.GraphModule, Device, int | None], Program]
    """What that program takes on the device's core. Raises MeasureError where it fails or nothing can compile or
    run it, and ParityError where outputs are off by a byte."""
    version: Callable[[], str]
    """What counted instructions hold for: the code as it is written, and who compiles it."""


class Opener(Protocol):
    """Opens a file here. Without `optimized` it runs as it stands, where the runtime can be told to."""

    def __call__(  # noqa: D102 - said above
        self, file: File, threads: int | None, orders: Orders | None = None, /, *, optimized: bool = True
    ) -> Opened: ...


@dataclass(frozen=True)
class Runtime:
    """What runs files, on a device or here: a row of facts and functions, not a class tree."""

    name: str
    """As a device, a figure and --runtime name it."""
    title: str
    """What it calls itself."""
    format: FileFormat
    number_formats: frozenset[str]
    write: Callable[[fx.GraphModule], bytes]
    """The file of a lowered graph, for this runtime."""
    open: Opener
    packages: tuple[str, ...] = ()
    """The modules that running a file takes; each may be missing."""
    install: str = ""
    """The command that gets them."""
    orders: Callable[[fx.GraphModule], Orders] | None = None
    """How the files' inputs and outputs lie; None where that is torch's layout."""
    around: Around | None = None
    """What estimates of a file's size add for all that is no weight; nothing where no files were counted."""
    host_only: bool = False
    """No device has it: it is asked here, as a second opinion on files that are for another."""
    optional: bool = False
    """Spoken of only where it is installed: it is large, and nobody has to have it."""
    exact: bool = False
    """It computes integers as the reference does, to the bit."""
    credulous: bool = False
    """It believes every number in a file, and so runs each in a process of its own."""
    signed_mend: str = ""
    """What to do where x86 computes a quantized file with signed activations partly in float; empty if it does not."""
    integer_ports: bool = False
    """Files may have integers as inputs and outputs in the graph that they are written from."""
    maps_channels_last: bool = False
    """It turns maps of integers so that their channels come last, at both ends of what it computes so."""
    code_bits: frozenset[int] = frozenset({4})
    """So many bits of a weight, fewer than 8, are stored as such; others take what the next more of these take."""
    without_zeros: WithoutZeros | None = None
    """What weights take of which many are zero; None where each of them is stored like any other."""
    unpacks: bool = False
    """Weights of 4 bits are spread to bytes in every run, and not once for all: that takes time."""
    rounds_rows: bool = False
    """What layers round as it comes has a step for each row, and not one for all of it."""
    free_lengths: bool = False
    """Its files take inputs of any length."""
    programs: Programs | None = None
    """How what its files compute is a program on a device, which ships in their place; None where files are run."""
    remark: str = ""
    """What a device's card says beside the name."""

    @property
    def is_installed(self) -> bool:
        """Whether files can be run in it here."""
        return all(importlib.util.find_spec(package) for package in self.packages)

    @property
    def one_size(self) -> str:
        """What its files are called, where they take inputs of one length; empty where they take any."""
        return "" if self.free_lengths else f"a {self.format.kind} file"

    def flash_bytes(self, lowered: fx.GraphModule) -> int:
        """The bytes that the device stores of a network of integers; of a program its code aside."""
        return self.programs.source(lowered, None).constant_bytes if self.programs else len(self.write(lowered))

    def computed(self, lowered: fx.GraphModule) -> fx.GraphModule:
        """The graph as it computes it: what files are held against."""
        from haversack.graph.row_by_row import row_by_row

        return row_by_row(lowered) if self.rounds_rows else lowered

    @property
    def first(self) -> Runtime:
        """The runtime that files of its format are for and are measured in where they do not tell: itself, mostly."""
        return next(row for row in rows() if row.format == self.format)


@functools.cache
def rows() -> tuple[Runtime, ...]:
    """All runtimes, by folder; those that nobody has to have come last."""
    folders = [importlib.import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__) if found.ispkg]
    known: list[Runtime] = [row for folder in folders for row in getattr(folder, "ROWS", ())]
    known += [row for folder in folders if hasattr(folder, "over") for row in folder.over(known)]
    return tuple(sorted(known, key=lambda row: row.optional))


def formats() -> tuple[FileFormat, ...]:
    """Each format once."""
    return tuple(dict.fromkeys(row.format for row in rows()))


def device_names() -> tuple[str, ...]:
    """What a device may name as its runtime and be packed for."""
    return tuple(row.name for row in rows() if not row.host_only)


def named(name: str) -> Runtime | None:
    """The runtime of that name, if there is one."""
    return next((row for row in rows() if row.name == name), None)


def title(name: str) -> str:
    """What the runtime calls itself, or its name where only that is known."""
    row = named(name)
    return row.title if row else name


def find_runtime(device: Device) -> Runtime:
    """The runtime whose files this device runs."""
    row = named(device.runtime)
    if row is None or row.host_only:
        raise DeviceError(
            f"{device.name} runs {device.runtime}, and there is no writer for that yet.",
            mend=f"`weigh` and `advise` work for it; to pack for it, choose a --runtime: {', '.join(device_names())}.",
        )
    if row.programs and device.core not in row.programs.cores:
        raise DeviceError(
            f"{device.name} has no core that can be emulated, so no program of a network can be run for it.",
            mend=f"choose a microcontroller, such as stm32f405, or give a device file with core: {_cores(row)}.",
        )
    return row


def _cores(row: Runtime) -> str:
    return ", ".join(sorted(row.programs.cores)) if row.programs else ""
