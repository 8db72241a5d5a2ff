"""Layers in strips of rows: the bytes are those of the integer reference, in less memory than whole maps take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from c_warnings import OF_C
from integer_graphs import Draft

from haversack.errors import MeasureError
from haversack.integer import IntegerGraph
from haversack.integer.reference import run
from haversack.proving.on_core import CoreEffort, board_named, prove_on_core
from haversack.runtimes.c_source import emulator
from haversack.runtimes.c_source import write as writing
from haversack.runtimes.c_source.build import compilers, host_compilers, run_on_host
from haversack.runtimes.c_source.cores import core_board
from haversack.runtimes.c_source.inputs import random_inputs
from haversack.runtimes.c_source.strips.schedule import RowGraph, StripRun
from haversack.runtimes.c_source.write import write
from haversack.runtimes.tflite.read import read
from tests.sweep import count

DATA = Path(__file__).parents[3] / "shared/data/mlperf-tiny"

SANITIZED = (*OF_C, "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
ROWS = 3


class Network(Draft):
    """A random network of maps: windows of all kinds, sums of both ends of a branch, borders, functions of numbers."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        sizes = (self.size(1, 20), self.size(1, 7)) if self.size(0, 3) else (1, self.size(8, 40))
        super().__init__((1, *sizes, self.size(1, 6)), self.pick("int8", "int8", "int16"))
        self.made = [self.input]

    def size(self, low: int, high: int) -> int:
        return int(self.draw.integers(low, high + 1))

    def pick(self, *choices):
        return choices[self.size(0, len(choices) - 1)]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.values[name].shape

    def add(self) -> None:
        """One operation more, mostly on what was made last."""
        x = self.made[-1] if self.size(0, 3) else self.pick(*self.made)
        kind = self.pick(
            "window",
            "window",
            "window",
            "depthwise",
            "depthwise",
            "pool",
            "sum",
            "sum",
            "number",
            "pad",
            "join",
            "scale",
        )
        self.made.append(getattr(self, kind)(x))

    def window(self, x: str) -> str:
        groups = self.pick(1, 1, 2) if self.shape(x)[3] % 2 == 0 else 1
        channels = self.size(1, 4) * groups
        options, out, kernel = self.windows(x)
        weights = self.weights((channels, *kernel, self.shape(x)[3] // groups), 0, self.pick(8, 8, 4))
        return self.then("CONV_2D", [x, *weights], (1, *out, channels), activation=self.pick("NONE", "RELU"), **options)

    def depthwise(self, x: str) -> str:
        channels = self.shape(x)[3] * self.pick(1, 1, 1, 2)
        options, out, kernel = self.windows(x)
        weights, multiplier = self.weights((1, *kernel, channels), 3), channels // self.shape(x)[3]
        return self.then(
            "DEPTHWISE_CONV_2D", [x, *weights], (1, *out, channels), depth_multiplier=multiplier, **options
        )

    def pool(self, x: str) -> str:
        options, out, kernel = self.windows(x, dilate=False)
        kind = self.pick("AVERAGE_POOL_2D", "MAX_POOL_2D")
        return self.then(kind, [x], (1, *out, self.shape(x)[3]), filter=kernel, **options)

    def sum(self, x: str) -> str:
        others = [name for name in self.made if self.shape(name) == self.shape(x)]
        kind = self.pick("ADD", "ADD", "SUB", "MUL", "MAXIMUM")
        return self.then(kind, [x, self.pick(*others[:-1] or others)], self.shape(x))

    def scale(self, x: str) -> str:
        """A product by a number for each channel, which is computed or a constant."""
        if self.size(0, 1):
            axes = self.constant(np.array([1, 2], np.int32))
            y = self.then("MEAN", [x, axes], (1, 1, 1, self.shape(x)[3]), keep_dims=True)
        else:
            numbers = self.draw.integers(-128, 128, (1, 1, 1, self.shape(x)[3]))
            y = self.constant(numbers.astype(self.dtype), self.values[x].grid)
        return self.then("MUL", [x, y], self.shape(x))

    def number(self, x: str) -> str:
        return self.then(self.pick("RELU", "LOGISTIC", "TANH"), [x], self.shape(x))

    def pad(self, x: str) -> str:
        sides = self.draw.integers(0, 3, (2, 2))
        out = [size + int(sides[axis].sum()) for axis, size in enumerate(self.shape(x)[1:3])]
        constant = self.constant(np.array([[0, 0], *sides, [0, 0]], np.int32))
        return self.then("PAD", [x, constant], (1, *out, self.shape(x)[3]))

    def join(self, x: str) -> str:
        others = [name for name in self.made if self.shape(name)[:3] == self.shape(x)[:3]]
        other = self.pick(*others)
        return self.then(
            "CONCATENATION", [x, other], (*self.shape(x)[:3], self.shape(x)[3] + self.shape(other)[3]), axis=3
        )

    def windows(self, x: str, *, dilate: bool = True):
        sizes, padding = self.shape(x)[1:3], self.pick("SAME", "SAME", "VALID")
        most = (min(size, 4) if padding == "VALID" or (size == 1 and self.size(0, 5)) else 4 for size in sizes)
        kernel = tuple(self.size(1, each) for each in most)
        stride = self.pick((1, 1), (1, 1), (1, 1), (2, 2), (2, 1), (1, 2), (3, 2))
        dilation = (1, 1)
        if dilate and stride == (1, 1) and not self.size(0, 3):
            dilation = tuple(
                self.pick(1, 2) if padding == "SAME" or 2 * k - 1 <= s else 1
                for k, s in zip(kernel, sizes, strict=True)
            )
        out = [
            -(-size // step) if padding == "SAME" else (size - (k - 1) * rate - 1) // step + 1
            for size, k, step, rate in zip(sizes, kernel, stride, dilation, strict=True)
        ]
        return {"stride": stride, "padding": padding, **({"dilation": dilation} if dilate else {})}, out, kernel

    def finished(self) -> IntegerGraph:
        """With what nothing reads as outputs, and now and then something that is read as well."""
        read = {name for operation in self.operations for name in operation.inputs}
        outputs = [name for name in self.made[1:] if name not in read or not self.size(0, 5)]
        return self.graph(*outputs)


def network(seed: int, operations: int = 9) -> tuple[IntegerGraph, list[np.ndarray]]:
    draft = Network(seed)
    for _ in range(operations):
        draft.add()
    return draft.finished(), [np.concatenate(draft.rows(ROWS))]


def every_run(graph: IntegerGraph) -> list[StripRun]:
    rows_of = RowGraph(graph)
    return [found for last in range(len(graph.operations)) for rows in (1, 2, 3) for found in rows_of.runs(last, rows)]


def drawn(graph: IntegerGraph, seed: int) -> tuple[StripRun, ...]:
    """Runs one behind the other, of any length."""
    draw, runs, end = np.random.default_rng(seed), list[StripRun](), 0
    while left := [each for each in every_run(graph) if each.first >= end]:
        runs.append(left[int(draw.integers(len(left)))])
        end = runs[-1].last + 1
    return tuple(runs)


@pytest.mark.sweep
def test_random_networks_in_strips_equal_the_reference_to_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "gcc" not in host_compilers():
        pytest.skip("gcc is not installed, whose sanitizers look at the memory")
    for seed in range(count(6, 300)):
        graph, rows = network(seed)
        runs = drawn(graph, seed)
        monkeypatch.setattr(writing, "runs_within", lambda *_, runs=runs: runs)
        found = run_on_host(write(graph, 1), rows, tmp_path, SANITIZED, "gcc")
        assert all(map(np.array_equal, found, run(graph, rows))), (seed, [(each.first, each.last) for each in runs])


def residual(height: int = 24, width: int = 12, channels: int = 8) -> IntegerGraph:
    """Blocks of two convolutions beside what they are added to, as ResNets have them."""
    shape = (1, height, width, channels)
    draft, settings = Draft(shape), {"stride": (1, 1), "padding": "SAME"}
    x, kernel = draft.input, (min(height, 3), 3)
    for _ in range(2):
        y = x
        for _ in range(2):
            y = draft.then("CONV_2D", [y, *draft.weights((channels, *kernel, channels), 0)], shape, **settings)
        x = draft.then("ADD", [x, y], shape)
    return draft.graph(x)


def test_the_fewest_strips_that_fit_are_chosen_and_none_where_whole_maps_do() -> None:
    graph = residual()
    whole, least = write(graph), write(graph, 1)
    assert write(graph, whole.arena_bytes).files == whole.files
    assert (whole.layers_in_strips, "keep(" in whole.files["model.c"].decode()) == (0, False)
    assert least.arena_bytes < 0.7 * whole.arena_bytes
    for limit in range(least.arena_bytes, whole.arena_bytes, 500):
        model = write(graph, limit)
        assert model.arena_bytes <= limit
        assert model.files == write(graph, limit).files
        assert 0 < model.layers_in_strips <= least.layers_in_strips


@pytest.mark.parametrize(("height", "width"), [(48, 12), (1, 576)])
def test_a_residual_block_is_streamed_over_what_it_reads_also_one_over_time(height: int, width: int) -> None:
    """Two maps lie where one does, and few rows beside them; a map of one row has columns."""
    graph, one = residual(height, width), 48 * 12 * 8
    assert write(graph).arena_bytes > 2 * one
    assert write(graph, 1).arena_bytes < 1.35 * one


def test_only_layers_whose_whole_result_there_is_are_told_of() -> None:
    source = write(residual(), 1).files["model.c"].decode()
    told = [int(text.partition(",")[0]) for text in source.split("HAVERSACK_MODEL_AFTER(")[1:] if text[0].isdigit()]
    assert told == [2, 5]


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data/mlperf-tiny")
@pytest.mark.parametrize(("name", "most"), [("ic_resnet8", 20_736), ("vww_96", 28_020)])
def test_mlperf_tiny_s_networks_take_little_more_than_their_largest_map(name: str, most: int, tmp_path: Path) -> None:
    graph = read((DATA / f"{name}_int8.tflite").read_bytes())
    model, rows = write(graph, 1), random_inputs(graph, ROWS, 0)
    assert model.arena_bytes <= most
    found = run_on_host(model, rows, tmp_path, ("-O2",))
    assert np.array_equal(found[0], run(graph, rows)[0])


def test_a_board_without_room_for_whole_maps_gets_strips_and_one_without_room_for_strips_is_refused() -> None:
    if not emulator.is_installed() or not compilers(core_board("cortex-m4")):
        pytest.skip("no emulator or compiler is installed")
    graph, effort = residual(48), CoreEffort(1, 2)
    model, proof = prove_on_core("net", graph, board_named("cortex-m4", 8_000), effort=effort)
    assert model.layers_in_strips
    assert proof.ram_bytes <= proof.board_ram_bytes == 8_000
    assert (proof.mismatching_bytes, proof.host_mismatching_bytes) == (0, 0)
    with pytest.raises(MeasureError, match=r"cannot hold it: .* for its arena in strips, .* more than there is"):
        prove_on_core("net", graph, board_named("cortex-m4", 5_000), effort=effort)
