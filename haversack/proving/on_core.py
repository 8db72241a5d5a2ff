"""A network in plain C on an emulated core, with the memory of a device, against the integer reference byte by byte."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from haversack.device import device_names, find_device
from haversack.errors import DeviceError, MeasureError, ParityError
from haversack.integer import Array, IntegerGraph
from haversack.integer.passes import with_integer_ports
from haversack.integer.reference import run
from haversack.progress import say
from haversack.proof import CoreProof, SecondOpinion
from haversack.quantity import show_bytes
from haversack.runtimes.c_source import qemu
from haversack.runtimes.c_source.build import Firmware, built, host_compilers, run_on_host
from haversack.runtimes.c_source.cores import CORES, Board, core_board, device_board
from haversack.runtimes.c_source.emulator import EmulatedCore
from haversack.runtimes.c_source.inputs import differing_bytes, random_inputs
from haversack.runtimes.c_source.program import STACK_BYTES
from haversack.runtimes.c_source.write import CModel, write


@dataclass(frozen=True)
class CoreEffort:
    """So many samples on the emulated core, and on this host; which compiler, where it is not the first found."""

    samples: int = 3
    host_samples: int = 300
    seed: int = 0
    compiler: str = ""
    qemu: bool = False
    """Whether QEMU is asked for a second opinion."""


def board_named(name: str, ram_bytes: int | None = None) -> Board:
    """The board of a device, or a core, of this name, with no more RAM than that. Raises DeviceError for any other."""
    if name in CORES:
        return core_board(name).within(ram_bytes)
    if name not in device_names() and not name.endswith(".toml"):
        raise DeviceError(
            f"there is no core or device '{name}'.",
            mend=f"choose {', '.join(CORES)}, or one of `haversack devices list`.",
        )
    return device_board(find_device(name)).within(ram_bytes)


def prove_on_core(
    source: str,
    graph: IntegerGraph,
    board: Board,
    inputs: Sequence[Array] | None = None,
    effort: CoreEffort | None = None,
) -> tuple[CModel, CoreProof]:
    """The C of an integer graph, and what it does on that board for these inputs, or for random ones.

    Layers are computed in strips where the board has no room for whole maps and the stack. Raises MeasureError where it
    does not fit the board even so, before anything is compiled if that is plain; where it faults, saying why; and where
    no compiler or emulator is installed. Raises DeviceError where QEMU is asked, and has no such core.
    """
    effort, graph = effort or CoreEffort(), with_integer_ports(graph)
    model = _written(graph, board, effort)
    rows = (
        list(inputs)
        if inputs is not None
        else random_inputs(graph, max(effort.samples, effort.host_samples), effort.seed)
    )
    expected = run(graph, rows)
    with tempfile.TemporaryDirectory() as folder:
        say(f"compiling for {board.core.name}")
        firmware = built(model, board, Path(folder), effort.compiler)
        say(f"running on an emulated {board.name}")
        ran = EmulatedCore(firmware, model).run([row[: effort.samples] for row in rows])
        second = _second(model, firmware, [row[: effort.samples] for row in rows], expected) if effort.qemu else None
        on_host, wrong_on_host = 0, 0
        if host_compilers() and effort.host_samples:
            given = [row[: effort.host_samples] for row in rows]
            on_host, wrong_on_host = len(given[0]), differing_bytes(run_on_host(model, given, Path(folder)), expected)
    proof = CoreProof(
        source,
        board.name,
        board.core.name,
        firmware.compiler,
        len(ran.instructions),
        differing_bytes(ran.outputs, expected),
        on_host,
        wrong_on_host,
        firmware.flash_bytes,
        firmware.static_bytes,
        ran.stack_bytes,
        max(ran.instructions),
        board.flash.size_bytes if board.is_limited else None,
        board.ram.size_bytes if board.is_limited or board.ram != core_board(board.core.name).ram else None,
        second,
    )
    return model, proof


def _second(model: CModel, firmware: Firmware, rows: Sequence[Array], expected: Sequence[Array]) -> SecondOpinion:
    """What QEMU makes of the same program, which is linked anew only where its board has memory in other places."""
    board = qemu.machine_board(firmware.board)
    say(f"running on {board.name}")
    same = (board.flash, board.ram) == (firmware.board.flash, firmware.board.ram)
    with tempfile.TemporaryDirectory() as folder:
        here = replace(firmware, board=board) if same else built(model, board, Path(folder), firmware.compiler)
    with qemu.running(here) as processor:
        ran = EmulatedCore(here, model, processor).run(rows)
    machine = qemu.machine_of(board)
    return SecondOpinion(
        f"QEMU {qemu.version_of(board)}",
        machine.name,
        machine.core or machine.runs,
        board.flash.origin,
        board.ram.origin,
        len(ran.instructions),
        differing_bytes(ran.outputs, expected),
        ran.stack_bytes,
    )


def _written(graph: IntegerGraph, board: Board, effort: CoreEffort) -> CModel:
    """The C, which the board has room for, as far as that is known before it is compiled."""
    places = [board, *([qemu.machine_board(board)] if effort.qemu else [])]
    room = min(place.ram.size_bytes for place in places) - STACK_BYTES
    model = write(graph, room)
    for place in places:
        require_room(model, place)
    if effort.qemu:
        qemu.program_of(board)
    if model.layers_in_strips:
        say(f"{model.layers_in_strips} layers are computed in strips of rows")
    return model


def require_room(model: CModel, board: Board) -> None:
    """Nothing, or a MeasureError where constants or the arena alone are larger than the board's memory."""
    short = [
        f"{show_bytes(wanted)} of {name}, {show_bytes(wanted - there)} more than there is"
        for name, wanted, there in (
            ("flash for its constants", model.constant_bytes, board.flash.size_bytes),
            (
                f"RAM for its arena{' in strips' * bool(model.layers_in_strips)}",
                model.arena_bytes,
                board.ram.size_bytes,
            ),
        )
        if wanted > there
    ]
    if short:
        raise MeasureError(
            f"{board.name} cannot hold it: it needs {' and '.join(short)}.",
            mend="choose a larger device, or pack it with smaller --flash and --ram.",
        )


def require_exact(proof: CoreProof) -> None:
    """Nothing, or a ParityError where any byte differs."""
    if proof.wrong_bytes:
        raise ParityError(
            f"{proof.wrong_bytes} bytes of its outputs are not the integer reference's.",
            where=f"{proof.source} on {proof.board}",
            mend="do not ship it, and please report it with the network.",
        )
