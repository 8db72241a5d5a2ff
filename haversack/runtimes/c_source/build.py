"""Build: C for a board becomes an ELF file, by GCC where one for it is installed, or by Zig, which pip installs."""

from __future__ import annotations

import importlib.util
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import numpy as np

from haversack.errors import MeasureError
from haversack.integer import Array
from haversack.runtimes.c_source.cores import AARCH64, THUMB, Board
from haversack.runtimes.c_source.write import CModel

_GCC = {THUMB: ("arm-none-eabi-gcc",), AARCH64: ("aarch64-none-elf-gcc", "aarch64-linux-gnu-gcc")}
"""GCC's programs for cores of a kind, the first one best."""
_ALONE = ("-nostdlib", "-ffreestanding", "-fno-builtin", "-I.")
_STATIC = ("-static", "-fno-pic", "-fno-pie", "-fno-stack-protector")
_FLAGS = (
    "-O2",
    "-std=gnu99",
    "-ffunction-sections",
    "-fdata-sections",
    "-Wl,--gc-sections",
    "-Wl,-e,reset",
    "-T",
    "link.ld",
)
_TIMEOUT_S = 300.0
INSTALL = "pip install 'haversack[mcu]'"


@dataclass(frozen=True)
class Segment:
    """Bytes of an ELF file that are loaded, and where they are found when it runs."""

    stored: int
    address: int
    content: bytes
    size_bytes: int


@dataclass(frozen=True)
class Firmware:
    """A program for a board."""

    board: Board
    compiler: str
    entry: int
    segments: tuple[Segment, ...]
    elf: bytes = field(repr=False)
    """The file that all of it is in."""

    @property
    def flash_bytes(self) -> int:
        """Code, constants and initial values."""
        return sum(len(segment.content) for segment in self.segments)

    @property
    def static_bytes(self) -> int:
        """RAM that is taken all the time."""
        ram = self.board.ram
        within = range(ram.origin, ram.origin + ram.size_bytes + 1)
        return sum(segment.size_bytes for segment in self.segments if segment.address in within)


def compilers(board: Board) -> dict[str, tuple[str, ...]]:
    """The compilers for the board's core that are installed here, by name, each with its first words."""
    found, executes = {}, board.core.executes
    gcc = next((program for program in _GCC.get(executes, ()) if shutil.which(program)), None)
    if gcc and executes == THUMB:
        found["gcc"] = (gcc, *board.core.gcc, "-nostartfiles", "--specs=nano.specs")
    elif gcc:
        found["gcc"] = (gcc, *board.core.gcc, *_ALONE, *_STATIC)
    if executes == AARCH64 and shutil.which("clang") and shutil.which("ld.lld"):
        found["clang"] = ("clang", "--target=aarch64-none-elf", "-fuse-ld=lld", *board.core.gcc, *_ALONE, *_STATIC)
    if importlib.util.find_spec("ziglang"):
        found["zig"] = (sys.executable, "-m", "ziglang", "cc", *board.core.zig, "-nostdlib", "-fno-builtin", "-I.")
        found["zig"] += ("-lcompiler_rt",) if board.core.needs_library else ()
    return found


def built(model: CModel, board: Board, folder: Path, compiler: str = "") -> Firmware:
    """The network as a program for the board, compiled in `folder`.

    Raises MeasureError where no compiler is installed, and where the program does not fit the board's memory.
    """
    known = compilers(board)
    if not known or (compiler and compiler not in known):
        raise MeasureError(
            f"no compiler for {board.core.name} is installed.",
            mend=" or install ".join((INSTALL, *(_GCC.get(board.core.executes, ())))) + ".",
        )
    name = compiler or next(iter(known))
    has_library = name == "gcc" and board.core.executes == THUMB
    sources = _sources(model, board, own_library=not has_library)
    for file, text in sources.items():
        (folder / file).write_bytes(text)
    program = [file for file in sources if file.endswith(".c")]
    command = [*known[name], *_FLAGS, *program, *(["-lc", "-lgcc"] if has_library else []), "-o", "firmware.elf"]
    done = _ran(command, folder)
    if done.returncode:
        raise _refused(done.stderr.decode(errors="replace"), board, name)
    return _read((folder / "firmware.elf").read_bytes(), board, name)


def host_compilers() -> dict[str, tuple[str, ...]]:
    """The compilers for this host that are installed, by name, each with its first words."""
    found: dict[str, tuple[str, ...]] = {name: (name,) for name in ("gcc", "clang", "cc") if shutil.which(name)}
    if importlib.util.find_spec("ziglang"):
        found["zig"] = (sys.executable, "-m", "ziglang", "cc")
    return found


def run_on_host(
    model: CModel, inputs: Sequence[Array], folder: Path, flags: Sequence[str] = ("-O2",), compiler: str = ""
) -> list[Array]:
    """The outputs for each sample of a program for this host, compiled in `folder`.

    Raises MeasureError where no compiler is installed, where that refuses the code, and where the program fails.
    """
    known = host_compilers()
    if not known or (compiler and compiler not in known):
        raise MeasureError("no C compiler for this host is installed.", mend=f"{INSTALL}, or install gcc or clang.")
    name = compiler or next(iter(known))
    for file, content in {**model.files, **model.around()}.items():
        (folder / file).write_bytes(content)
    program = folder / "model.exe"
    done = _ran([*known[name], "-std=c99", *flags, "main.c", "model.c", "-o", str(program)], folder)
    if done.returncode:
        raise MeasureError(f"{name} refuses it: {_first(done.stderr.decode())}")
    samples = zip(*(np.ascontiguousarray(array) for array in inputs), strict=True)
    done = _ran([str(program)], folder, b"".join(array.tobytes() for sample in samples for array in sample))
    if done.returncode or done.stderr:
        raise MeasureError(f"the compiled network fails: {_first(done.stderr.decode(errors='replace'))}")
    return _outputs(model, done.stdout)


def _outputs(model: CModel, written: bytes) -> list[Array]:
    """Each output of all samples, out of what the program wrote, sample by sample."""
    kinds = np.dtype([(port.name, port.value.dtype, port.shape) for port in model.outputs])
    made = np.frombuffer(written, kinds)
    return [np.ascontiguousarray(made[port.name]) for port in model.outputs]


def _ran(command: Sequence[str], folder: Path, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, input=given, timeout=_TIMEOUT_S, check=False)  # noqa: S603 - a compiler, or what it made
    except subprocess.TimeoutExpired as error:
        raise MeasureError(f"{Path(command[0]).name} did not come back within {_TIMEOUT_S:g} s.") from error


def _sources(model: CModel, board: Board, *, own_library: bool) -> Mapping[str, bytes]:
    """The files to compile, and those that are read with them."""
    texts = {name: (files(__package__) / "board" / name).read_bytes() for name in ("boot.c", "link.ld")}
    places = {"flash": board.flash, "ram": board.ram}
    for name, region in places.items():
        texts["link.ld"] = texts["link.ld"].replace(b"{%b_origin}" % name.encode(), b"0x%X" % region.origin)
        texts["link.ld"] = texts["link.ld"].replace(b"{%b_bytes}" % name.encode(), b"0x%X" % region.size_bytes)
    run = f"haversack_model_run({', '.join(f'haversack_model_{port.name}()' for port in model.ports)})"
    first = f"haversack_model_{model.inputs[0].name}()"
    head = f"#define HAVERSACK_MODEL_FIRST {first}\n#define HAVERSACK_MODEL_RUN {run}\n"
    texts["boot.c"] = head.encode() + texts["boot.c"]
    library = ("memory.c", "string.h") if own_library else ()
    return {**model.files, **texts, **{name: (files(__package__) / "board" / name).read_bytes() for name in library}}


def _refused(said: str, board: Board, compiler: str) -> MeasureError:
    """Why there is no program: what does not fit, or what the compiler says."""
    over = [(region, int(count)) for region, count in _OVER.findall(said)]
    if over:
        much = " and ".join(f"{count:,} bytes more {region} than it has" for region, count in dict(over).items())
        return MeasureError(
            f"{board.name} cannot hold it: it needs {much}.", mend="choose a larger device, or limit --flash and --ram."
        )
    if re.search(r"will not fit|overflow|out of range|cannot place", said):
        return MeasureError(f"{board.name} cannot hold it: {_first(said)}", mend="choose a larger device.")
    return MeasureError(f"{compiler} refuses it for {board.core.name}: {_first(said)}")


_OVER = re.compile(r"region `(\w+)' overflowed by (\d+) bytes")


def _first(said: str) -> str:
    lines = [line for line in said.splitlines() if "error" in line.lower()] or said.splitlines() or ["nothing is said"]
    return lines[0].strip()


_LOAD, _WIDE = 1, 2
_CLASS_PLACE = 4


def _read(elf: bytes, board: Board, compiler: str) -> Firmware:
    """What of an ELF file of 32 or 64 bits is loaded (Tool Interface Standard, ELF 1.2, chapter 2)."""
    wide = elf[_CLASS_PLACE] == _WIDE
    head = struct.unpack_from("<16sHHIQQQIHHHHHH" if wide else "<16sHHIIIIIHHHHHH", elf)
    entry, table, size, count = head[4], head[5], head[9], head[10]
    places = [table + size * place for place in range(count)]
    return Firmware(board, compiler, entry, tuple(_segments(elf, places, wide=wide)), elf)


def _segments(elf: bytes, places: Sequence[int], *, wide: bool) -> Iterator[Segment]:
    for place in places:
        fields = struct.unpack_from("<IIQQQQQQ" if wide else "<IIIIIIII", elf, place)
        kind, (start, address, stored, length, whole) = fields[0], fields[2:7] if wide else fields[1:6]
        if kind == _LOAD and whole:
            yield Segment(stored, address, elf[start : start + length], whole)
