"""Cores: how code is compiled for them, how they are emulated, and the memory of a board."""

from __future__ import annotations

from dataclasses import dataclass, replace

from haversack.device import Device
from haversack.errors import DeviceError

_FLASH_BYTES, _RAM_BYTES = 1 << 22, 1 << 20
_STACK_ALIGNMENT = 16


@dataclass(frozen=True)
class InstructionSet:
    """What a family of cores executes, as the emulator calls it."""

    unicorn: str
    """How its constants begin."""
    modes: tuple[str, ...]
    registers: tuple[str, str, str]
    """Of a function's first and second argument, and of where it returns to."""
    vectors_bytes: int = 0
    """At the beginning of flash, before the place where programs halt."""
    entry_bit: int = 0
    """Set in the addresses of code."""


THUMB = InstructionSet("ARM", ("THUMB", "MCLASS"), ("R0", "R1", "LR"), 16, 1)
RISCV = InstructionSet("RISCV", ("RISCV32",), ("A0", "A1", "RA"))
AARCH64 = InstructionSet("ARM64", ("ARM",), ("X0", "X1", "LR"))


@dataclass(frozen=True)
class Core:
    """A processor core, as compilers and the emulator call it."""

    name: str
    executes: InstructionSet
    gcc: tuple[str, ...]
    """What GCC is told, and Clang where there is one for it; empty where neither is asked."""
    zig: tuple[str, ...]
    unicorn: str
    """The emulator's constant of the model; empty where there is but one."""
    needs_library: bool = False
    """Whether it multiplies and divides by functions that Zig has to make first."""


_THUMB = "thumb-freestanding-eabi"
CORES = {
    core.name: core
    for core in (
        Core(
            "cortex-m0",
            THUMB,
            ("-mcpu=cortex-m0",),
            ("-target", _THUMB, "-mcpu=cortex_m0"),
            "UC_CPU_ARM_CORTEX_M0",
            needs_library=True,
        ),
        Core("cortex-m3", THUMB, ("-mcpu=cortex-m3",), ("-target", _THUMB, "-mcpu=cortex_m3"), "UC_CPU_ARM_CORTEX_M3"),
        Core(
            "cortex-m4",
            THUMB,
            ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"),
            ("-target", f"{_THUMB}hf", "-mcpu=cortex_m4"),
            "UC_CPU_ARM_CORTEX_M4",
        ),
        Core(
            "cortex-m7",
            THUMB,
            ("-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"),
            ("-target", f"{_THUMB}hf", "-mcpu=cortex_m7"),
            "UC_CPU_ARM_CORTEX_M7",
        ),
        Core(
            "cortex-m33",
            THUMB,
            ("-mcpu=cortex-m33", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"),
            ("-target", f"{_THUMB}hf", "-mcpu=cortex_m33+dsp"),
            "UC_CPU_ARM_CORTEX_M33",
        ),
        Core("riscv32", RISCV, (), ("-target", "riscv32-freestanding-none", "-mcpu=generic_rv32+m+c"), ""),
        Core(
            "aarch64",
            AARCH64,
            ("-mcpu=cortex-a53",),
            ("-target", "aarch64-freestanding-none", "-mcpu=cortex_a53"),
            "UC_CPU_ARM64_A53",
        ),
    )
}
_ORIGINS = {THUMB: (0x0, 0x20000000), RISCV: (0x20400000, 0x80000000), AARCH64: (0x0, 0x40000000)}
"""Where flash begins and RAM does: on Arm's own boards, SiFive's FE310, and Arm's virtual machine."""


@dataclass(frozen=True)
class Region:
    """Memory from an address on."""

    origin: int
    size_bytes: int


@dataclass(frozen=True)
class Board:
    """A core with its memory."""

    name: str
    core: Core
    flash: Region
    ram: Region

    @property
    def is_limited(self) -> bool:
        """Whether the memory is that of a device."""
        return self.name != self.core.name

    def within(self, ram_bytes: int | None) -> Board:
        """The board with no more RAM than that, whose end the stack can begin at."""
        most = self.ram.size_bytes if ram_bytes is None else min(ram_bytes, self.ram.size_bytes)
        return replace(self, ram=Region(self.ram.origin, most // _STACK_ALIGNMENT * _STACK_ALIGNMENT))


def core_board(name: str) -> Board:
    """A core of this name with plenty of memory."""
    core = CORES[name]
    flash, ram = _ORIGINS[core.executes]
    return Board(name, core, Region(flash, _FLASH_BYTES), Region(ram, _RAM_BYTES))


def device_board(device: Device) -> Board:
    """The board of a device. Raises DeviceError where it does not state its core and its memory's places."""
    core, flash, ram = CORES.get(device.core), device.flash_origin, device.ram_origin
    if core is None or flash is None or ram is None or not device.flash_bytes or not device.ram_bytes:
        raise DeviceError(
            f"{device.name} has no core that can be emulated, or does not say where its memory lies.",
            mend=f"choose {', '.join(CORES)}, or a device that states core, flash_origin and ram_origin.",
        )
    return Board(device.name, core, Region(flash, device.flash_bytes), Region(ram, device.ram_bytes))


def board_of(device: Device) -> Board:
    """The board of a device, or where it does not say where its memory lies, its core with plenty."""
    stated = device.flash_origin is not None and device.ram_origin is not None
    return device_board(device) if stated else core_board(device.core)
