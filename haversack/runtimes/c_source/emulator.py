"""Emulator: a program runs on an emulated core with a board's own memory; outputs, instructions and stack are read off.

Unicorn (Nguyen and Dang 2015) executes each instruction as the core would, and no pipeline: instructions are counted,
and never called cycles.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from haversack.errors import MeasureError
from haversack.integer import Array
from haversack.runtimes.c_source.build import INSTALL, Firmware
from haversack.runtimes.c_source.cores import AARCH64, THUMB, InstructionSet, Region
from haversack.runtimes.c_source.write import CModel

_PAINT = 0xA5A5A5A5
_PAGE = 1 << 12
_TIMEOUT_S = 300.0


@dataclass(frozen=True, eq=False)
class CoreRun:
    """What became of some inputs on an emulated core."""

    outputs: tuple[Array, ...]
    instructions: tuple[int, ...]
    """Of each input, between the halts."""
    stack_bytes: int
    """The most that was in use."""


class Processor(Protocol):
    """A core with a program in its memory, which halts before each run of it."""

    def go(self) -> int:
        """Goes on to the next halt, and counts the instructions on the way: 0 where they are not counted."""

    def argument(self, place: int) -> int:
        """What the function that it halts in was called with."""

    def read(self, address: int, size_bytes: int) -> bytes:
        """What is in its memory."""

    def write(self, address: int, content: bytes) -> None:
        """Puts that into its memory."""


def is_installed() -> bool:
    """Whether there is an emulator here."""
    return importlib.util.find_spec("unicorn") is not None


class EmulatedCore:
    """A core that has been started, and halts before its first run: Unicorn's, if no other one is given."""

    def __init__(self, firmware: Firmware, model: CModel, processor: Processor | None = None) -> None:
        self._board, self._static_bytes, self._model = firmware.board, firmware.static_bytes, model
        self._processor = processor or Unicorn(firmware)
        self._processor.go()
        values, self._end = (self._processor.argument(place) for place in range(2))
        self._arena = values - model.inputs[0].offset

    def run(self, inputs: Sequence[Array]) -> CoreRun:
        """The network's outputs for each sample, laid out as the graph says.

        Raises MeasureError, saying why, where the core faults or its stack leaves its place.
        """
        found, counts = list[list[Array]](), list[int]()
        for sample in zip(*inputs, strict=True):
            for port, array in zip(self._model.inputs, sample, strict=True):
                self._processor.write(self._arena + port.offset, np.ascontiguousarray(array).tobytes())
            counts.append(self._processor.go())
            found.append(list(self._outputs()))
            self._check_stack()
        return CoreRun(tuple(map(np.stack, zip(*found, strict=True))), tuple(counts), self._stack_bytes())

    def _outputs(self) -> Iterator[Array]:
        for port in self._model.outputs:
            content = self._processor.read(self._arena + port.offset, port.size_bytes)
            yield np.frombuffer(content, port.value.dtype).reshape(port.shape)

    def _check_stack(self) -> None:
        """Raises MeasureError where the stack has reached what lies below it."""
        if int.from_bytes(self._processor.read(self._end, 4), "little") != _PAINT:
            left = self._board.ram.size_bytes - self._static_bytes
            raise MeasureError(
                f"its stack needs more than the {left:,} bytes that are left on an emulated {self._board.name}.",
                mend=_MEND,
            )

    def _stack_bytes(self) -> int:
        """From the top of the memory to the last word that was written."""
        top = self._board.ram.origin + self._board.ram.size_bytes
        words = np.frombuffer(self._processor.read(self._end, top - self._end), "<u4")
        return top - self._end - 4 * int(np.argmax(words != _PAINT))


class Unicorn:
    """A core as Unicorn has it."""

    def __init__(self, firmware: Firmware) -> None:
        if not is_installed():
            raise MeasureError("no emulator is installed.", mend=INSTALL)
        self._unicorn: Any = importlib.import_module("unicorn")
        self._firmware, self._executes = firmware, firmware.board.core.executes
        self._registers: Any = importlib.import_module(f"unicorn.{self._executes.unicorn.lower()}_const")
        self._core = self._new()
        self._next = firmware.entry
        self._counts: dict[tuple[int, int], int] = {}
        self._count = 0

    def _new(self) -> Any:  # noqa: ANN401 - the emulator has no types
        """A core with the program in its memory, and a hook that counts."""
        unicorn, board = self._unicorn, self._firmware.board
        modes = (getattr(unicorn, f"UC_MODE_{mode}") for mode in self._executes.modes)
        core = unicorn.Uc(getattr(unicorn, f"UC_ARCH_{self._executes.unicorn}"), sum(modes))
        if board.core.unicorn:
            core.ctl_set_cpu_model(getattr(self._registers, board.core.unicorn))
        core.mem_map(*_pages(board.flash), unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)
        core.mem_map(*_pages(board.ram), unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE)
        for segment in self._firmware.segments:
            core.mem_write(segment.stored, segment.content)
        core.hook_add(unicorn.UC_HOOK_BLOCK, self._counted)
        return core

    def go(self) -> int:
        """Goes on to the next halt, and counts the instructions on the way."""
        end = self._firmware.board.flash.origin + self._executes.vectors_bytes
        self._count = 0
        try:
            self._core.emu_start(self._next | self._executes.entry_bit, end, timeout=int(_TIMEOUT_S * 1e6))
        except self._unicorn.UcError as error:
            raise MeasureError(f"it faults on {self._where}: {self._fault(error)}.", mend=_MEND) from error
        if self._register("PC") != end:
            raise MeasureError(f"it does not come to an end within {_TIMEOUT_S:g} s on {self._where}.", mend=_MEND)
        self._next = self._register(self._executes.registers[2])
        return self._count

    def argument(self, place: int) -> int:
        """What the function that it halts in was called with."""
        return self._register(self._executes.registers[place])

    def read(self, address: int, size_bytes: int) -> bytes:
        """What is in its memory."""
        return bytes(self._core.mem_read(address, size_bytes))

    def write(self, address: int, content: bytes) -> None:
        """Puts that into its memory."""
        self._core.mem_write(address, content)

    @property
    def _where(self) -> str:
        return f"an emulated {self._firmware.board.name}"

    def _fault(self, error: object) -> str:
        """The reason: a stack that left its memory, or what the emulator says."""
        stack, ram = self._register("SP"), self._firmware.board.ram
        low = ram.origin + self._firmware.static_bytes
        if stack < low:
            return f"its stack needs more than the {ram.size_bytes - self._firmware.static_bytes:,} bytes that are left"
        return f"{error}, at address 0x{self._register('PC'):X}"

    def _register(self, name: str) -> int:
        return int(self._core.reg_read(getattr(self._registers, f"UC_{self._executes.unicorn}_REG_{name}")))

    def _counted(self, core: Any, address: int, size: int, _: object) -> None:  # noqa: ANN401
        """Adds the instructions of a block that begins."""
        key = (address, size)
        if key not in self._counts:
            self._counts[key] = _instructions(bytes(core.mem_read(address, size)), self._executes)
        self._count += self._counts[key]


_MEND = "choose a device with more RAM, or pack it with a smaller --ram."
_WIDE_THUMB = 0b11101
_WIDE_RISCV = 0b11


def _instructions(code: bytes, executes: InstructionSet) -> int:
    """How many instructions these bytes are: 32 bits each, or 16, which the first bits tell."""
    if executes == AARCH64:
        return len(code) // 4
    place = count = 0
    while place < len(code):
        half = int.from_bytes(code[place : place + 2], "little")
        wide = half >> 11 >= _WIDE_THUMB if executes == THUMB else half & _WIDE_RISCV == _WIDE_RISCV
        place += 4 if wide else 2
        count += 1
    return count


def _pages(region: Region) -> tuple[int, int]:
    """A region that the emulator can map: it begins and ends at a page."""
    begin = region.origin // _PAGE * _PAGE
    return begin, -(-(region.origin + region.size_bytes - begin) // _PAGE) * _PAGE
