"""`prove --on`: results and any int8 file as C on an emulated core, from the command line, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from litert_files import damaged, file_of, images, network, quantized

from haversack.cli import main
from haversack.device import find_device
from haversack.errors import HaversackError, MeasureError
from haversack.integer.reference import run
from haversack.model import Model
from haversack.proving.on_core import board_named, prove_on_core
from haversack.proving.sources import source_of
from haversack.runtimes.c_source import build, emulator
from haversack.runtimes.c_source.cores import core_board
from haversack.runtimes.c_source.inputs import random_inputs
from haversack.surgery.save import save
from haversack.task import Task

TASK_FILE = """
import torch
from litert_files import images, network
from haversack import Task

def task():
    return Task(train=list, calibrate=lambda: [images(64)], score=lambda predict: 0.0)
"""
TASK = Task(train=list, calibrate=lambda: [images(64)], score=lambda _: 0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result folder with an int8 network, its .tflite file beside it, and a task file."""
    if not emulator.is_installed() or not build.compilers(core_board("cortex-m4")):
        pytest.skip(f"no emulator or compiler is installed: {build.INSTALL}")
    place = tmp_path_factory.mktemp("result")
    model = quantized(network(), images(64))
    save(model, place / "network")
    (place / "model.tflite").write_bytes(file_of(model))
    (place / "task.py").write_text(TASK_FILE)
    return place


def code_of(*words: object) -> object:
    """How `haversack prove` ends with these words."""
    with pytest.raises(SystemExit) as ended:
        main(["prove", *map(str, words)])
    return ended.value.code


def test_a_result_is_proved_for_a_device_and_its_c_is_left(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = code_of(folder, folder / "task.py", "--on", "stm32f405", "--out", tmp_path / "c", "--json")
    proof = json.loads(capsys.readouterr().out)
    assert not code
    assert (proof["mismatching_bytes"], proof["host_mismatching_bytes"]) == (0, 0)
    assert proof["board_flash_bytes"] == find_device("stm32f405").flash_bytes
    assert sorted(each.name for each in (tmp_path / "c").iterdir()) == [
        "CMakeLists.txt",
        "main.c",
        "model.c",
        "model.h",
    ]


def test_a_proof_leaves_a_package_called_like_its_folder(folder: Path, tmp_path: Path) -> None:
    place, kinds = tmp_path / "digits", ["--package", "arduino", "--package", "esp-idf"]
    assert not code_of(folder / "model.tflite", "--on", "cortex-m4", "--out", place, *kinds)
    assert {"library.properties", "idf_component.yml", "src"} <= {each.name for each in place.iterdir()}
    assert (place / "src" / "digits" / "model.c").is_file()


def test_any_int8_file_is_proved_without_a_task_and_the_report_counts_no_cycles(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = code_of(folder / "model.tflite", "--on", "cortex-m4")
    text = capsys.readouterr().out
    assert not code
    assert "All bytes are the reference's." in text
    assert "not cycles" in text
    assert " ms" not in text


def test_a_result_s_inputs_are_the_task_s_and_its_graph_is_that_of_its_file(folder: Path) -> None:
    ours, file = source_of(folder, network(), TASK), source_of(folder / "model.tflite")
    assert ours.inputs is not None
    assert file.inputs is None
    assert all(map(np.array_equal, run(ours.graph, ours.inputs), run(file.graph, ours.inputs)))
    assert len(ours.inputs[0]) == 64


def test_random_inputs_fill_the_range_and_half_of_them_are_smooth(folder: Path) -> None:
    (rows,) = random_inputs(source_of(folder / "model.tflite").graph, 40, 0)
    assert (rows.min(), rows.max()) == (-128, 127)
    spread = rows.reshape(40, -1).astype(float).std(axis=1)
    assert spread[1::2].min() > 2 * spread[::2].max()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["{folder}", "{folder}/task.py", "--on", "cortex-m9"], "no core or device 'cortex-m9'"),
        (["{folder}", "{folder}/task.py", "--on", "raspberry-pi-5"], "no core that can be emulated"),
        (["{folder}", "--on", "cortex-m4"], "TASK.py is missing"),
        (["{folder}"], "TASK.py is missing"),
        (["{folder}", "{folder}/task.py", "--out", "c"], "--out is for the C"),
        (["{folder}", "{folder}/task.py", "--package", "zephyr"], "--package is for the C"),
        (["{folder}", "{folder}/task.py", "--qemu"], "--qemu is for the C"),
        (["{folder}/model.tflite", "--on", "riscv32", "--qemu"], "no board with a riscv32 core"),
        (["{folder}/model.tflite", "--on", "cortex-m4", "--package", "zephyr"], "add --out NAME"),
        (["{folder}/model.tflite", "--on", "cortex-m4", "--out", "c", "--package", "mbed"], "no package 'mbed'"),
        (["{folder}/model.tflite", "--on", "cortex-m4", "--out", "1st", "--package", "zephyr"], "called '1st'"),
        (["{folder}/model.tflite", "--on", "cortex-m4", "--out", "{folder}", "--package", "zephyr"], "it holds "),
        (["{folder}/task.py", "--on", "cortex-m4"], "not a .tflite file"),
        (["{folder}/none.tflite", "--on", "cortex-m4"], "TASK.py is missing"),
        (["{folder}/model.tflite", "--on", "cortex-m4", "--out", "{folder}/task.py/c"], "task.py"),
        (["{folder}/damaged.tflite", "--on", "cortex-m4"], "damaged.tflite"),
        (["{folder}/float.tflite", "--on", "cortex-m4"], "real numbers"),
    ],
)
def test_what_cannot_be_proved_is_one_message(
    folder: Path, words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "damaged.tflite").write_bytes(damaged())
    (folder / "float.tflite").write_bytes(file_of(Model(network(), (images(1),))))
    code = code_of(*(word.format(folder=folder) for word in words))
    error = capsys.readouterr().err
    assert code == 2
    assert complaint in error
    assert "Traceback" not in error


def test_an_unquantized_result_is_refused_with_the_way_out(folder: Path, tmp_path: Path) -> None:
    save(Model(network(), (images(1),)), tmp_path / "network")
    source = source_of(tmp_path, network(), TASK)
    with pytest.raises(HaversackError, match="real numbers"):
        prove_on_core("float", source.graph, board_named("cortex-m4"), source.inputs)


def test_without_the_emulator_it_is_said_how_to_get_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "unicorn", None)
    monkeypatch.setattr(emulator, "is_installed", lambda: False)
    source = source_of(folder / "model.tflite")
    with pytest.raises(MeasureError, match=r"(?s)no emulator is installed.*haversack\[mcu\]"):
        prove_on_core("net", source.graph, board_named("cortex-m4"))


def test_torch_s_generator_is_left_alone(folder: Path) -> None:
    before = torch.random.get_rng_state()
    random_inputs(source_of(folder / "model.tflite").graph, 4, 0)
    assert torch.equal(before, torch.random.get_rng_state())
