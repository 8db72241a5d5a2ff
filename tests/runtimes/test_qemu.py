"""QEMU's boards run the C of a network as well: the same bytes, from that board's own start."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import integer_graphs
import numpy as np
import pytest

from haversack.device import device_names, find_device
from haversack.errors import DeviceError, MeasureError, ParityError
from haversack.integer import IntegerGraph
from haversack.integer.reference import run
from haversack.proving.on_core import CoreEffort, board_named, prove_on_core, require_exact
from haversack.report.proved import proved_on_core
from haversack.runtimes.c_source import emulator, qemu
from haversack.runtimes.c_source.build import built, compilers
from haversack.runtimes.c_source.cores import CORES, Region, core_board
from haversack.runtimes.c_source.emulator import EmulatedCore
from haversack.runtimes.c_source.qemu import MACHINES, machine_board, machine_of, program_of, running
from haversack.runtimes.c_source.write import write

ROWS = 2


def network() -> tuple[IntegerGraph, list[np.ndarray]]:
    draft, graph = integer_graphs.every_layer()
    return graph, [np.concatenate(draft.rows(ROWS))]


def here(name: str) -> str:
    """The core, where all is installed that runs it, and quick."""
    board = core_board(name)
    found = compilers(board)
    if not found or (board.core.needs_library and "gcc" not in found):
        pytest.skip(f"no quick compiler for {name} is installed")
    try:
        program_of(board)
    except MeasureError as error:
        pytest.skip(error.what)
    return name


@pytest.mark.parametrize("name", sorted({machine.runs for machine in MACHINES}))
def test_a_board_of_qemu_gives_the_reference_s_bytes_and_unicorn_s_stack(name: str, tmp_path: Path) -> None:
    graph, rows = network()
    model, board = write(graph), machine_board(core_board(here(name)))
    firmware = built(model, board, tmp_path)
    with running(firmware) as processor:
        found = EmulatedCore(firmware, model, processor).run(rows)
    assert np.array_equal(found.outputs[0], run(graph, rows)[0])
    if emulator.is_installed():
        assert found.stack_bytes == EmulatedCore(firmware, model).run(rows).stack_bytes


@pytest.mark.parametrize(
    ("device", "machine", "core", "same"),
    [
        ("stm32f405", "netduinoplus2", "cortex-m4", True),
        ("nrf52840", "mps2-an386", "cortex-m4", True),
        ("stm32h743", "mps2-an500", "cortex-m7", False),
        ("microbit-v1", "microbit", "cortex-m0", True),
        ("rp2040", "mps2-an385", "cortex-m3", False),
    ],
)
def test_a_proof_says_on_which_board_and_with_which_memory_the_second_opinion_was(
    device: str, machine: str, core: str, *, same: bool
) -> None:
    board = board_named(device)
    if not emulator.is_installed():
        pytest.skip("unicorn is not installed")
    here(board.core.name)
    graph, rows = network()
    _, proof = prove_on_core("net", graph, board, rows, CoreEffort(samples=ROWS, host_samples=0, qemu=True))
    second = proof.second
    assert second is not None
    assert second.emulator.startswith("QEMU ")
    assert (second.machine, second.samples, second.mismatching_bytes) == (machine, ROWS, 0)
    assert ((second.flash_origin, second.ram_origin) == (board.flash.origin, board.ram.origin)) == same
    assert f"{machine} ({core}) with flash at 0x{second.flash_origin:X}" in str(proved_on_core(proof))
    require_exact(proof)
    with pytest.raises(ParityError, match="3 bytes"):
        require_exact(replace(proof, second=replace(second, mismatching_bytes=3)))


@pytest.mark.parametrize("name", [*CORES, *(name for name in device_names() if find_device(name).core)])
def test_a_board_of_qemu_has_as_much_memory_as_the_device_and_stays_the_one_that_is_meant(name: str) -> None:
    board = board_named(name)
    if board.core.name not in {machine.runs for machine in MACHINES}:
        pytest.skip("QEMU has no board with such a core")
    there = machine_board(board)
    assert (there.flash.size_bytes, there.ram.size_bytes) == (board.flash.size_bytes, board.ram.size_bytes)
    assert machine_of(there) == machine_of(board)


def test_a_program_that_runs_out_of_its_stack_ends_with_the_reason(tmp_path: Path) -> None:
    graph, rows = network()
    model, board = write(graph), machine_board(core_board(here("cortex-m4")))
    firmware = built(model, board, tmp_path)
    with running(firmware) as processor:
        taken = firmware.static_bytes + EmulatedCore(firmware, model, processor).run(rows).stack_bytes
    firmware = built(model, replace(board, ram=Region(board.ram.origin, taken - 8)), tmp_path)
    with running(firmware) as processor, pytest.raises(MeasureError, match=r"stack needs more than the \d+ bytes"):
        EmulatedCore(firmware, model, processor).run(rows)


def test_a_core_that_faults_is_told_in_qemu_s_words(tmp_path: Path) -> None:
    graph, rows = network()
    model, board = write(graph), machine_board(core_board(here("cortex-m4")))
    tight = replace(board, ram=Region(board.ram.origin, model.arena_bytes + 16))
    firmware = built(model, tight, tmp_path)
    with running(firmware) as processor, pytest.raises(MeasureError, match=r"mps2-an386: qemu: fatal: Lockup"):
        EmulatedCore(firmware, model, processor).run(rows)


def test_a_core_that_does_not_come_back_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    graph, _ = network()
    model, board = write(graph), machine_board(core_board(here("cortex-m4")))
    monkeypatch.setattr(qemu, "_TIMEOUT_S", 0.2)
    with running(built(model, board, tmp_path)) as processor:
        processor._ask("z1,10,2")  # it no longer stops where it halts
        with pytest.raises(MeasureError, match=r"nothing came back within 0\.2 s"):
            processor.go()


def test_what_qemu_has_no_board_for_is_refused_before_anything_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something was compiled"))
    graph, rows = network()
    model = write(graph)
    with pytest.raises(DeviceError, match="no board with a riscv32 core"):
        prove_on_core("net", graph, core_board("riscv32"), rows, CoreEffort(qemu=True))
    monkeypatch.setattr(qemu.shutil, "which", lambda _: None)
    with pytest.raises(MeasureError, match=r"(?s)qemu-system-arm is not installed.*--qemu"):
        prove_on_core("net", graph, core_board("cortex-m4"), rows, CoreEffort(qemu=True))
    huge = replace(core_board("cortex-m4"), ram=Region(1 << 29, 1 << 25))
    monkeypatch.setattr("haversack.proving.on_core.write", lambda *_: replace(model, arena_bytes=5 << 20))
    with pytest.raises(MeasureError, match=r"cortex-m4 as QEMU's mps2-an386 cannot hold it: .* of RAM"):
        prove_on_core("net", graph, huge, rows, CoreEffort(qemu=True))


def test_each_machine_is_of_a_core_that_there_is() -> None:
    assert {machine.runs for machine in MACHINES} == {*CORES} - {"riscv32"}
    assert {machine.core for machine in MACHINES} <= {"", *CORES}
