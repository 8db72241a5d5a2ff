"""Cores: how code is compiled for them, how they are emulated, and the memory of a board."""

from __future__ import annotations

from dataclasses import dataclass

from haversack.device import Device
from haversack.errors import DeviceError

_FLASH_BYTES, _RAM_BYTES = 1 << 22, 1 << 20


@dataclass(frozen=True)
class Core:
    """A processor core, as both compilers and the emulator call it."""

    name: str
    gcc: tuple[str, ...]
    """What arm-none-eabi-gcc is told; empty where it is no Arm core."""
    zig: tuple[str, ...]
    unicorn: str
    """The emulator's constant of the model; empty where there is but one."""
    needs_library: bool = False
    """Whether it multiplies and divides by functions that Zig has to make first."""

    @property
    def is_arm(self) -> bool:
        """Whether it is an Arm core."""
        return bool(self.gcc)


_THUMB = "thumb-freestanding-eabi"
CORES = {
    core.name: core
    for core in (
        Core(
            "cortex-m0",
            ("-mcpu=cortex-m0",),
            ("-target", _THUMB, "-mcpu=cortex_m0"),
            "UC_CPU_ARM_CORTEX_M0",
            needs_library=True,
        ),
        Core("cortex-m3", ("-mcpu=cortex-m3",), ("-target", _THUMB, "-mcpu=cortex_m3"), "UC_CPU_ARM_CORTEX_M3"),
        Core(
            "cortex-m4",
            ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"),
            ("-target", f"{_THUMB}hf", "-mcpu=cortex_m4"),
            "UC_CPU_ARM_CORTEX_M4",
        ),
        Core(
            "cortex-m7",
            ("-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"),
            ("-target", f"{_THUMB}hf", "-mcpu=cortex_m7"),
            "UC_CPU_ARM_CORTEX_M7",
        ),
        Core(
            "cortex-m33",
            ("-mcpu=cortex-m33", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"),
            ("-target", f"{_THUMB}hf", "-mcpu=cortex_m33+dsp"),
            "UC_CPU_ARM_CORTEX_M33",
        ),
        Core("riscv32", (), ("-target", "riscv32-freestanding-none", "-mcpu=generic_rv32+m+c"), ""),
    )
}


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


def core_board(name: str) -> Board:
    """A core of this name with plenty of memory."""
    core = CORES[name]
    flash, ram = (0x0, 0x20000000) if core.is_arm else (0x20400000, 0x80000000)
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
