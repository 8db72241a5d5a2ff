"""MLPerf Tiny's four int8 files, as they are shipped, in plain C.

Inputs: KWS has its evaluation set, ResNet-8 test images of CIFAR-10; the others get random numbers, half of the samples
smooth. Instructions are those of GCC's code where arm-none-eabi-gcc is installed, and of Zig's; the row names both.
`bakenn` is what that package says to the same file where it is installed (`pip install --no-deps --target FOLDER bakenn
tflite`, and FOLDER in PYTHONPATH).
Rows called `_strips` are of the same files in as little RAM as strips of rows take, beside the plain C.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from cifar10 import images
from tflite_micro import runtime as micro

from haversack.integer import Array, IntegerGraph
from haversack.integer.reference import run as reference
from haversack.runtimes.c_source.build import built, compilers, run_on_host
from haversack.runtimes.c_source.cores import CORES, core_board
from haversack.runtimes.c_source.emulator import EmulatedCore
from haversack.runtimes.c_source.inputs import random_inputs
from haversack.runtimes.c_source.write import CModel, write
from haversack.runtimes.tflite.read import read

FILES = {
    "kws": "kws_ref_model_int8.tflite",
    "resnet8": "ic_resnet8_int8.tflite",
    "vww": "vww_96_int8.tflite",
    "ad": "ad01_int8.tflite",
}
SAMPLES, ON_CORES = 300, 3
MEASURED = "cortex-m4"
_STRIPS = "_strips"
SEED = 0


def run(data: Path, *, quick: bool, row: str) -> dict[str, object]:
    """The row's figures."""
    network = row.removesuffix(_STRIPS)
    content = (data / "mlperf-tiny" / FILES[network]).read_bytes()
    graph = read(content)
    started = time.monotonic()
    model = write(graph, None if row == network else 1)
    seconds = time.monotonic() - started
    inputs = _inputs(network, data, graph)[: 20 if quick else SAMPLES]
    expected = reference(graph, [inputs])
    on_cores = dict(_on_cores(model, inputs[:ON_CORES], expected, CORES))
    first = on_cores[_measured()]
    with tempfile.TemporaryDirectory() as folder:
        on_host = run_on_host(model, [inputs], Path(folder))
    wrong = {
        "host": _differing(on_host, expected),
        "tflite-micro": _differing(_micro(content, inputs, expected), expected),
        **{name: int(figures["mismatching_bytes"]) for name, figures in on_cores.items()},
    }
    figures = {
        "flash_bytes": first["flash_bytes"],
        "ram_bytes": first["ram_bytes"],
        "stack_bytes": first["stack_bytes"],
        "instructions": first["instructions"],
        "mismatching_bytes": sum(wrong.values()),
        "compared_bytes": sum(each.nbytes for each in expected),
        "mismatching": wrong,
        "write_seconds": seconds,
        "cores": on_cores,
    }
    if row != network:
        whole = dict(_on_cores(write(graph), inputs[:1], expected, [MEASURED]))[_measured()]
        figures["instructions_ratio"] = first["instructions"] / whole["instructions"]
        figures["whole_ram_bytes"] = whole["ram_bytes"]
    elif find_spec("bakenn"):
        figures["bakenn"] = _said_by_bakenn(data / "mlperf-tiny" / FILES[network])
    return {f"{row}.{name}": value for name, value in figures.items()}


def _said_by_bakenn(file: Path) -> str:
    """The bytes that it plans for the file, or why it refuses it."""
    bakenn = import_module("bakenn")
    with tempfile.TemporaryDirectory() as folder:
        try:
            return str(bakenn.compile_tflite(str(file), folder, name="model").memory_report())
        except bakenn.CompileError as error:
            return f"bakenn {bakenn.__version__} refuses it: {error}"


def _measured() -> str:
    """The core and the compiler that the row's own figures are of."""
    return f"{MEASURED} {next(iter(compilers(core_board(MEASURED))))}"


def _on_cores(
    model: CModel, inputs: Array, expected: list[Array], names: Iterable[str]
) -> Iterator[tuple[str, dict[str, int]]]:
    """The figures of each of these cores and each compiler for it."""
    for name in names:
        board = core_board(name)
        for compiler in compilers(board):
            with tempfile.TemporaryDirectory() as folder:
                firmware = built(model, board, Path(folder), compiler)
            found = EmulatedCore(firmware, model).run([inputs])
            yield (
                f"{name} {compiler}",
                {
                    "flash_bytes": firmware.flash_bytes,
                    "ram_bytes": firmware.static_bytes + found.stack_bytes,
                    "stack_bytes": found.stack_bytes,
                    "instructions": max(found.instructions),
                    "mismatching_bytes": _differing(found.outputs, expected),
                },
            )


def _inputs(row: str, data: Path, graph: IntegerGraph) -> Array:
    """As many inputs as there should be, as the file's integers."""
    value = graph.values[graph.inputs[0]]
    if row == "kws":
        samples = np.load(data / "mlperf-tiny" / "kws01_eval.npz")["x"][:SAMPLES]
        return np.asarray(samples.reshape(-1, *value.shape[1:]))
    if row == "resnet8":
        pixels = images(data)[1].first(SAMPLES).pixels.permute(0, 2, 3, 1).numpy()
        return (pixels.astype(np.int16) - 128).astype(np.int8)
    return random_inputs(graph, SAMPLES, SEED)[0]


def _micro(content: bytes, inputs: Array, expected: list[Array]) -> list[Array]:
    interpreter = micro.Interpreter.from_bytes(content, arena_size=1 << 20)
    made = []
    for sample in inputs:
        interpreter.set_input(sample[None], 0)
        interpreter.invoke()
        made.append(np.array(interpreter.get_output(0)).reshape(expected[0].shape[1:]))
    return [np.stack(made)]


def _differing(ours: list[Array] | tuple[Array, ...], wanted: list[Array]) -> int:
    return sum(int((one != other[: len(one)]).sum()) for one, other in zip(ours, wanted, strict=True))
