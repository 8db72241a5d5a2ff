"""QEMU: the same program on a board that QEMU has, started as the board would start it; a second opinion on its bytes.

QEMU is driven as a debugger drives it (https://sourceware.org/gdb/current/onlinedocs/gdb.html/Remote-Protocol.html):
it stops where programs halt, and its memory is read and written there. Nothing is counted.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from haversack.errors import DeviceError, MeasureError
from haversack.runtimes.c_source.build import Firmware
from haversack.runtimes.c_source.cores import AARCH64, THUMB, Board, InstructionSet, Region

_TIMEOUT_S = 300.0
_KIB, _MIB = 1 << 10, 1 << 20
_MOST = 1024
"""Bytes that are read or written at once."""


@dataclass(frozen=True)
class Machine:
    """A board that QEMU has, with the memory that programs may use there."""

    name: str
    runs: str
    """The core whose programs it runs."""
    flash: Region
    ram: Region
    core: str = ""
    """Its own, where it is another one that executes all that this core does."""
    words: tuple[str, ...] = ()
    """More that QEMU is told for it."""


MACHINES = (
    Machine("microbit", "cortex-m0", Region(0x0, 256 * _KIB), Region(0x20000000, 16 * _KIB)),
    Machine("mps2-an385", "cortex-m0", Region(0x0, 4 * _MIB), Region(0x20000000, 4 * _MIB), core="cortex-m3"),
    Machine("mps2-an385", "cortex-m3", Region(0x0, 4 * _MIB), Region(0x20000000, 4 * _MIB)),
    Machine("netduino2", "cortex-m3", Region(0x08000000, _MIB), Region(0x20000000, 128 * _KIB)),
    Machine("mps2-an386", "cortex-m4", Region(0x0, 4 * _MIB), Region(0x20000000, 4 * _MIB)),
    Machine("netduinoplus2", "cortex-m4", Region(0x08000000, _MIB), Region(0x20000000, 128 * _KIB)),
    Machine("mps2-an500", "cortex-m7", Region(0x0, 4 * _MIB), Region(0x20000000, 4 * _MIB)),
    Machine("mps2-an505", "cortex-m33", Region(0x10000000, 4 * _MIB), Region(0x38000000, 2 * _MIB)),
    Machine(
        "virt", "aarch64", Region(0x40200000, 4 * _MIB), Region(0x41000000, 4 * _MIB), words=("-cpu", "cortex-a53")
    ),
)
"""https://www.qemu.org/docs/master/system/target-arm.html; the memory of each stands in its source, hw/arm/NAME.c."""


def program_of(board: Board) -> str:
    """QEMU's program for the board's core, as it is found here.

    Raises DeviceError where QEMU has no board with such a core, and MeasureError where it is not installed.
    """
    machine_of(board)
    name = _PROGRAMS[board.core.executes]
    program = shutil.which(name)
    if program is None:
        raise MeasureError(f"{name} is not installed.", mend="apt-get install qemu-system-arm, or leave --qemu out.")
    return program


_PROGRAMS = {THUMB: "qemu-system-arm", AARCH64: "qemu-system-aarch64"}


def version_of(board: Board) -> str:
    """The version of QEMU that is installed."""
    said = subprocess.run([program_of(board), "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603 - QEMU
    return said.partition("version ")[2].partition(" ")[0].strip()


def machine_of(board: Board) -> Machine:
    """The machine that is most like a board: with the same places of memory, or else with enough of it elsewhere.

    Raises DeviceError where there is none for the core.
    """
    alike = [machine for machine in MACHINES if machine.runs == board.core.name]
    if not alike:
        raise DeviceError(f"QEMU has no board with a {board.core.name} core here.", mend="leave --qemu out.")
    large = [
        machine
        for machine in alike
        if all(there.size_bytes >= own.size_bytes for there, own in _memory(machine, board))
    ]
    same = [machine for machine in large if all(there.origin == own.origin for there, own in _memory(machine, board))]
    return next(iter((*same, *large, *alike)))


def _memory(machine: Machine, board: Board) -> tuple[tuple[Region, Region], ...]:
    return ((machine.flash, board.flash), (machine.ram, board.ram))


def machine_board(board: Board) -> Board:
    """The board as that machine has it: with the machine's places of memory, and no more of it than the board has."""
    machine = machine_of(board)
    flash, ram = (Region(there.origin, min(there.size_bytes, own.size_bytes)) for there, own in _memory(machine, board))
    return replace(board, name=f"{board.name} as QEMU's {machine.name}", flash=flash, ram=ram)


@contextmanager
def running(firmware: Firmware) -> Iterator[Qemu]:
    """A process of QEMU with the program on its board, which ends with the block. Raises what `program_of` does."""
    board = firmware.board
    with tempfile.TemporaryDirectory() as folder:
        elf = Path(folder) / "firmware.elf"
        elf.write_bytes(firmware.elf)
        machine = machine_of(board)
        vectors = board.core.executes == THUMB  # others start at an address that they are told
        load = ["-kernel", str(elf)] if vectors else ["-device", f"loader,file={elf},cpu-num=0"]
        with subprocess.Popen(  # noqa: S603 - QEMU
            [program_of(board), "-M", machine.name, *machine.words, *load, *_QUIET],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
        ) as process:
            try:
                yield Qemu(process, board)
            finally:
                process.kill()


class Qemu:
    """A core in a process of QEMU."""

    def __init__(self, process: subprocess.Popen[bytes], board: Board) -> None:
        self._process, self._board, self._executes = process, board, board.core.executes
        self._numbers = _NUMBERS[self._executes]
        self._next: int | None = None
        halt = board.flash.origin + self._executes.vectors_bytes
        self._ask("qXfer:features:read:target.xml:0,400")  # without, it does not tell single registers
        self._ask(f"Z1,{halt:x},{self._numbers.kind}")

    def go(self) -> int:
        """Goes on to the next halt; nothing is counted."""
        if self._next is not None:
            self._ask(f"P{self._numbers.counter:x}={self._hexadecimal(self._next & ~self._executes.entry_bit)}")
        timer = threading.Timer(_TIMEOUT_S, self._process.kill)
        timer.start()
        try:
            self._ask("c")
        finally:
            timer.cancel()
        self._next = self._register(self._numbers.link)
        return 0

    def argument(self, place: int) -> int:
        """What the function that it halts in was called with."""
        return self._register(place)

    def read(self, address: int, size_bytes: int) -> bytes:
        """What is in its memory."""
        places = range(address, address + size_bytes, _MOST)
        return b"".join(
            bytes.fromhex(self._ask(f"m{place:x},{min(_MOST, address + size_bytes - place):x}")) for place in places
        )

    def write(self, address: int, content: bytes) -> None:
        """Puts that into its memory."""
        for start in range(0, len(content), _MOST):
            part = content[start : start + _MOST]
            self._ask(f"M{address + start:x},{len(part):x}:{part.hex()}")

    def _register(self, number: int) -> int:
        return int.from_bytes(bytes.fromhex(self._ask(f"p{number:x}")), "little")

    def _hexadecimal(self, value: int) -> str:
        return value.to_bytes(self._numbers.size_bytes, "little").hex()

    def _ask(self, words: str) -> str:
        """What it answers. Raises MeasureError where it ends instead, or does not do it."""
        given, taken = self._process.stdin, self._process.stdout
        if given is None or taken is None:
            raise MeasureError("QEMU was started without its pipes.", mend=_MEND)
        try:
            given.write(f"+${words}#{sum(words.encode()) % 256:02x}".encode())
            given.flush()
            answer = _answer(taken)
        except OSError:
            answer = None
        if not answer or answer.startswith(("E", "W", "X")):
            raise MeasureError(f"it fails on an emulated {self._board.name}: {self._why(words, answer)}.", mend=_MEND)
        return answer

    def _why(self, words: str, answer: str | None) -> str:
        if answer is not None:
            return f"QEMU answers '{answer}' to '{words[:20]}'"
        lines = self._process.communicate()[1].decode(errors="replace").splitlines()
        said = [line for line in lines if "warning:" not in line]
        return said[0] if said else f"nothing came back within {_TIMEOUT_S:g} s"


@dataclass(frozen=True)
class _Numbers:
    """How debuggers number registers: those of arguments from 0 on."""

    link: int
    counter: int
    size_bytes: int
    kind: int
    """Of a breakpoint: the size of an instruction."""


_NUMBERS: dict[InstructionSet, _Numbers] = {THUMB: _Numbers(14, 15, 4, 2), AARCH64: _Numbers(30, 32, 8, 4)}
_QUIET = ("-S", "-gdb", "stdio", "-display", "none", "-monitor", "none", "-serial", "none", "-nic", "none")
_MEND = "leave --qemu out, and please report it with the network."


def _answer(taken: IO[bytes]) -> str | None:
    """The next packet, `$text#checksum`, without what is around it; None where there is none any more."""
    byte = taken.read(1)
    while byte and byte != b"$":
        byte = taken.read(1)
    text = bytearray()
    while byte and (byte := taken.read(1)) != b"#":
        text += byte
    taken.read(2)
    return text.decode() if byte else None
