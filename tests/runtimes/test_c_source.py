"""Plain C of integer graphs: compiled for this host and for emulated cores, byte by byte beside the reference."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import integer_graphs
import numpy as np
import pytest
from c_warnings import OF_C, OF_CPP
from hypothesis import given, settings
from hypothesis import strategies as st
from single_operations import RECIPES, graph_of, rows_for

from haversack.device import device_names, find_device
from haversack.errors import DeviceError, ExportError, MeasureError, ParityError
from haversack.grid import Grid
from haversack.integer import KINDS, IntegerGraph
from haversack.integer.passes import with_integer_ports
from haversack.integer.reference import run
from haversack.proving import on_core
from haversack.proving.on_core import CoreEffort, board_named, prove_on_core, require_exact
from haversack.runtimes.c_source import build, emulator
from haversack.runtimes.c_source.build import built, compilers, host_compilers, run_on_host
from haversack.runtimes.c_source.cores import CORES, Region, core_board
from haversack.runtimes.c_source.emulator import EmulatedCore
from haversack.runtimes.c_source.layers import storage
from haversack.runtimes.c_source.write import CModel, write
from tests.sweep import count

SANITIZED = (*OF_C, "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
ROWS = 3


def compiler() -> str:
    if not host_compilers():
        pytest.skip("no C compiler is installed: gcc, clang or ziglang")
    return next(iter(host_compilers()))


def every_layer(dtype: str = "int8", bits: int = 8) -> tuple[IntegerGraph, list[np.ndarray]]:
    draft, graph = integer_graphs.every_layer(dtype, bits)
    return graph, [np.concatenate(draft.rows(ROWS))]


NUMBERS = [("int8", 8), ("int8", 4), ("int16", 8), ("int16", 4)]
"""Types of numbers, and bits of weights."""


def exact(model: CModel, graph: IntegerGraph, rows: list[np.ndarray], folder: Path, *flags: str) -> bool:
    wanted = run(with_integer_ports(graph), rows)
    return all(map(np.array_equal, run_on_host(model, rows, folder, flags, compiler()), wanted))


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("kind", "dtype"), [(kind, dtype) for kind in RECIPES for dtype in ("int8", "int16") if dtype in KINDS[kind].dtypes]
)
def test_an_operation_in_c_equals_the_reference_to_the_byte_and_compilers_have_nothing_to_say(
    kind: str, dtype: str, tmp_path: Path
) -> None:
    for seed in range(count(2 if dtype == "int8" else 1, 40)):
        graph = graph_of(kind, dtype, seed)
        rows = rows_for(graph, ROWS, seed)
        assert exact(write(graph), graph, rows, tmp_path, *OF_C, "-O1"), seed


@pytest.mark.parametrize("kind", ["LOGISTIC", "TANH", "LEAKY_RELU"])
def test_all_16_bit_integers_go_through_the_curves_as_in_the_reference(kind: str, tmp_path: Path) -> None:
    draft = integer_graphs.Draft((1, 1 << 14), "int16")
    options = {"alpha": 0.3} if kind == "LEAKY_RELU" else {}
    fixed = KINDS[kind].fixed.get("int16", Grid(16, True, (0.0007,), (0,)))
    for step in (2.0**-12, 0.003):
        draft.values["input"] = replace(draft.values["input"], grid=Grid(16, True, (step,), (0,)))
        draft.operations = []
        graph = draft.graph(draft.then(kind, ["input"], (1, 1 << 14), grid=fixed, **options))
        rows = [np.arange(-32768, 32768, dtype=np.int16).reshape(4, -1)]
        assert exact(write(graph), graph, rows, tmp_path, *SANITIZED), step


def test_numbers_of_8_and_16_bits_go_together(tmp_path: Path) -> None:
    """From 8 bits to 16 and back, with kernels of both, whose sums end in either way."""
    draft = integer_graphs.Draft((1, 5, 5, 3))
    options = {"stride": (1, 1), "padding": "SAME"}
    x = draft.then("CONV_2D", [draft.input, *draft.weights((6, 3, 3, 3), 0)], (1, 5, 5, 6), **options)
    draft.dtype = "int16"
    x = draft.then("QUANTIZE", [x], (1, 5, 5, 6))
    y = draft.then("CONV_2D", [x, *draft.weights((6, 3, 3, 6), 0)], (1, 5, 5, 6), **options)
    weights, bias = draft.weights((6, 1, 1, 6), 0)
    draft.values[bias] = replace(draft.values[bias], dtype="int32", data=draft.values[bias].data.astype(np.int32))
    x = draft.then("ADD", [x, draft.then("CONV_2D", [y, weights, bias], (1, 5, 5, 6), **options)], (1, 5, 5, 6))
    draft.dtype = "int8"
    x = draft.then("QUANTIZE", [x], (1, 5, 5, 6))
    graph = draft.graph(draft.then("MAX_POOL_2D", [x], (1, 4, 4, 6), filter=(2, 2), stride=(1, 1), padding="VALID"))
    assert exact(write(graph), graph, [np.concatenate(draft.rows(ROWS))], tmp_path, *SANITIZED)


@pytest.mark.parametrize("bias", [1 << 31, 1 << 45])
def test_sums_of_16_bit_numbers_may_have_more_than_32_bits(bias: int, tmp_path: Path) -> None:
    """Those of layers with many weights, or of channels with a tiny step and so a huge bias."""
    draft = integer_graphs.Draft((1, 6, 6, 4), "int16")
    biases, options = np.array([bias, 0, 17, -bias]), {"stride": (2, 2), "padding": "SAME"}
    weights = [draft.weights(shape, axis) for shape, axis in (((4, 3, 3, 2), 0), ((1, 3, 2, 4), 3), ((4, 36), 0))]
    for _, name in weights:
        draft.values[name] = replace(draft.values[name], data=biases)
    x = draft.then("CONV_2D", ["input", *weights[0]], (1, 3, 3, 4), **options)
    y = draft.then("DEPTHWISE_CONV_2D", ["input", *weights[1]], (1, 3, 3, 4), **options, depth_multiplier=1)
    x = draft.then("MAXIMUM", [x, y], (1, 3, 3, 4))
    x = draft.then("RESHAPE", [x, draft.constant(np.array([1, 36], np.int32))], (1, 36))
    x = draft.then("FULLY_CONNECTED", [x, *weights[2]], (1, 4))
    graph = draft.graph(draft.then("FULLY_CONNECTED", [x, *draft.weights((2, 4), 0)], (1, 2)))
    model = write(graph)
    assert model.files["model.c"].count(b"convolve_long_16(&") == 3
    assert exact(model, graph, [np.concatenate(draft.rows(ROWS))], tmp_path, *SANITIZED)


def test_sums_that_no_kernel_holds_are_refused() -> None:
    draft = integer_graphs.Draft((1, 4), "int16")
    weights, bias = draft.weights((4, 4), 0)
    draft.values[bias] = replace(draft.values[bias], data=np.full(4, 1 << 47))
    with pytest.raises(ExportError, match=r"net\.0.*FULLY_CONNECTED whose sums may have more than 47 bits"):
        write(draft.graph(draft.then("FULLY_CONNECTED", ["input", weights, bias], (1, 4))))


@pytest.mark.usefixtures("free_code")
@pytest.mark.parametrize(("dtype", "bits"), NUMBERS)
def test_a_network_in_c_stays_within_its_memory_and_in_what_c_defines(dtype: str, bits: int, tmp_path: Path) -> None:
    if not shutil.which("gcc"):
        pytest.skip("gcc is not installed, whose sanitizers look at the memory")
    graph, rows = every_layer(dtype, bits)
    wanted = run(graph, rows)
    assert np.array_equal(run_on_host(write(graph), rows, tmp_path, SANITIZED, "gcc")[0], wanted[0])


CPP = """
#include "model.h"
int main()
{
    haversack_model_run(haversack_model_input(), haversack_model_output());
    return HAVERSACK_MODEL_OUTPUT_SIZE;
}
"""


@pytest.mark.parametrize("name", ["gcc", "clang"])
@pytest.mark.usefixtures("free_code")
@pytest.mark.parametrize(("dtype", "bits"), NUMBERS)
def test_both_compilers_accept_it_without_a_warning_and_as_cpp_its_header(
    name: str, dtype: str, bits: int, tmp_path: Path
) -> None:
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    graph, rows = every_layer(dtype, bits)
    assert run_on_host(write(graph), rows, tmp_path, (*OF_C, "-O2"), name)
    (tmp_path / "program.cpp").write_text(CPP)
    for words in (["-std=c99", "-c", "model.c"], [*OF_CPP, "-c", "program.cpp"], ["model.o", "program.o", "-o", "cpp"]):
        subprocess.run([name, *words], check=True, cwd=tmp_path)
    assert subprocess.run([tmp_path / "cpp"], check=False).returncode == run(graph, rows)[0].size / ROWS


CORES_HERE = [name for name in CORES if "zig" in compilers(core_board(name)) and not CORES[name].needs_library]


def emulated(name: str) -> str:
    if not emulator.is_installed() or not compilers(core_board(name)):
        pytest.skip(f"no emulator or compiler is installed: {build.INSTALL}")
    return name


@contextmanager
def code_is_free() -> Iterator[None]:
    """Code takes no bytes, so that the smallest layers are packed too."""
    free = {kernel: dict.fromkeys(costs, (0, 0)) for kernel, costs in storage.CODE_BYTES.items()}
    with mock.patch.dict(storage.CODE_BYTES, free):
        yield


@pytest.fixture
def free_code() -> Iterator[None]:
    with code_is_free():
        yield


def of_values(graph: IntegerGraph, numbers: np.ndarray, rng: np.random.Generator, zeros: float = 0) -> IntegerGraph:
    """The graph with weights that are drawn from these numbers, but for a share of zeros."""
    names = {each.inputs[1] for each in graph.operations if len(each.inputs) == 3}
    shapes = {name: graph.values[name].shape for name in sorted(names)}
    drawn = {name: rng.choice(numbers, shape) * (rng.random(shape) >= zeros) for name, shape in shapes.items()}
    weights = {name: replace(graph.values[name], data=data.astype(np.int8)) for name, data in drawn.items()}
    return replace(graph, values={**graph.values, **weights})


def windows_and_matrices(rng: np.random.Generator, dtype: str = "int8") -> integer_graphs.Draft:
    """Convolutions of any window, in groups and depthwise, and fully connected layers of one row and of several."""
    height, width, first, second, dilation = (int(rng.integers(low, 7)) for low in (3, 3, 1, 1, 1))
    groups = int(rng.choice([1, first]))
    options = {"stride": (1, 1), "padding": "SAME"}
    draft = integer_graphs.Draft((1, height, width, first), dtype)
    x = draft.then(
        "CONV_2D",
        [draft.input, *draft.weights((groups * second, 3, 2, first // groups), 0)],
        (1, height, width, groups * second),
        **options,
    )
    x = draft.then(
        "DEPTHWISE_CONV_2D",
        [x, *draft.weights((1, 2, 3, groups * second), 3)],
        (1, height, width, groups * second),
        **options,
        dilation=(dilation % 2 + 1,) * 2,
        depth_multiplier=1,
    )
    x = draft.then("FULLY_CONNECTED", [x, *draft.weights((7, groups * second), 0)], (1, height, width, 7),
                   keep_num_dims=True)  # fmt: skip
    x = draft.then("RESHAPE", [x, draft.constant(np.array([1, -1], np.int32))], (1, height * width * 7))
    draft.then("FULLY_CONNECTED", [x, *draft.weights((int(rng.integers(1, 10)), height * width * 7), 0)], (1, 1), "y")
    draft.values["y"] = replace(draft.values["y"], shape=(1, draft.values[draft.operations[-1].inputs[1]].shape[0]))
    return draft


@pytest.mark.parametrize("name", ["gcc", "clang"])
@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.usefixtures("free_code")
def test_both_compilers_accept_weights_without_zeros_without_a_warning(name: str, dtype: str, tmp_path: Path) -> None:
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    rng = np.random.default_rng(0)
    draft = windows_and_matrices(rng, dtype)
    graph = of_values(draft.graph("y"), np.arange(-60, 60, dtype=np.int8), rng, 0.8)
    assert run_on_host(write(graph), [np.concatenate(draft.rows(ROWS))], tmp_path, (*OF_C, "-O2"), name)


@settings(max_examples=count(6, 200), deadline=None)
@given(
    st.integers(0, 1 << 30),
    st.integers(1, 20),
    st.sampled_from([0, 0.5, 0.7, 0.97]),
    st.sampled_from(["int8", "int16"]),
)
def test_packed_weights_are_exact_within_their_memory(seed: int, values: int, zeros: float, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    draft = windows_and_matrices(rng, dtype)
    graph = of_values(draft.graph("y"), rng.integers(-127, 128, values).astype(np.int8), rng, zeros)
    rows = [np.concatenate(draft.rows(ROWS))]
    with code_is_free(), tempfile.TemporaryDirectory() as folder:
        assert exact(write(graph), graph, rows, Path(folder), *SANITIZED)


@pytest.mark.parametrize("name", CORES)
def test_weights_without_zeros_are_exact_on_emulated_cores(name: str, tmp_path: Path) -> None:
    if name not in CORES_HERE and "gcc" not in compilers(core_board(name)):
        pytest.skip(f"{name} takes arm-none-eabi-gcc, or minutes of Zig for a library")
    rng = np.random.default_rng(0)
    draft = windows_and_matrices(rng)
    graph = of_values(draft.graph("y"), np.arange(-60, 60, dtype=np.int8), rng, 0.8)
    with code_is_free():
        model, board = write(graph), core_board(emulated(name))
    source = model.files["model.c"].decode()
    assert "convolve_sparse(&" in source
    assert "connect_sparse(&" in source
    rows = [draft.rows(1)[0]]
    found = EmulatedCore(built(model, board, tmp_path), model).run(rows)
    assert np.array_equal(found.outputs[0], run(graph, rows)[0])


def large_layer(bits: int = 8) -> IntegerGraph:
    """One convolution whose weights outweigh its code."""
    draft = integer_graphs.Draft((1, 4, 4, 32))
    weights = draft.weights((32, 3, 3, 32), 0, bits)
    return draft.graph(draft.then("CONV_2D", [draft.input, *weights], (1, 4, 4, 32), stride=(1, 1), padding="SAME"))


@pytest.mark.parametrize(("values", "bits"), [(16, 4), (7, 3), (4, 2), (2, 1)])
def test_weights_of_few_values_take_so_many_bits_and_the_values(values: int, bits: int, tmp_path: Path) -> None:
    graph, rng = large_layer(), np.random.default_rng(0)
    packed = of_values(graph, np.arange(values, dtype=np.int8) * 9 - 60, rng)
    taken = [write(each).constant_bytes for each in (graph, packed)]
    assert taken[0] - taken[1] == 32 * 3 * 3 * 32 * (8 - bits) / 8 - (1 << bits)
    if bits == 4:
        board = core_board(emulated("cortex-m4"))
        flash = [built(write(each), board, tmp_path).flash_bytes for each in (graph, packed)]
        assert flash[0] - flash[1] > taken[0] - taken[1] - storage.CODE_BYTES["convolve"][storage.CODES][0]


@pytest.mark.parametrize(("values", "two"), [(120, 3), (14, 2)])
def test_weights_of_which_three_quarters_are_zero_take_a_byte_and_a_half_or_less(values: int, two: int) -> None:
    """Between two of them are three zeros; and once more than a row remembers."""
    graph = large_layer()
    weight = graph.values[graph.operations[0].inputs[1]]
    data = np.zeros((32, 288), np.int8)
    data[:, ::4] = 1 + np.arange(72) % values
    data[:, 4:40] = 0
    pruned = replace(graph, values={**graph.values, weight.name: replace(weight, data=data.reshape(weight.shape))})
    left = 72 - 9 + 39 // 16
    table = 16 if two == 2 else 0
    assert (
        write(graph).constant_bytes - write(pruned).constant_bytes == 32 * (288 - 2) - 32 * -(-left // 2) * two - table
    )


def test_weights_are_packed_only_where_all_of_them_save_more_than_the_code() -> None:
    assert ".values =" not in write(every_layer(bits=4)[0]).files["model.c"].decode()
    assert [storage.stored(large_layer(bits))["v3"].form.bits for bits in (8, 4)] == [8, 4]


def test_equal_graphs_give_equal_files_without_a_heap_and_only_with_kernels_that_are_used() -> None:
    integer_graphs.RNG = np.random.default_rng(1)
    first = write(every_layer()[0])
    integer_graphs.RNG = np.random.default_rng(1)
    assert first.files == write(every_layer()[0]).files
    source = first.files["model.c"].decode()
    assert "malloc" not in source
    assert "net.0: CONV_2D, 9x9x4 -> 9x9x8" in source
    assert "convolve_transposed" not in source
    assert "static void convolve_transposed" in write(graph_of("TRANSPOSE_CONV", "int8", 0)).files["model.c"].decode()


def test_layers_of_any_name_get_names_that_c_takes(tmp_path: Path) -> None:
    draft, graph = integer_graphs.every_layer()
    names = ["größe.0", "for", "*/ #error", "3d", "größe.0", "a" * 200, "", "memory", "convolve"]
    operations = tuple(replace(each, path=name) for each, name in zip(graph.operations, [*names, *names], strict=False))
    renamed = replace(graph, operations=operations)
    rows = [np.concatenate(draft.rows(ROWS))]
    assert exact(write(renamed), renamed, rows, tmp_path, *OF_C, "-O1")


def test_results_lie_over_what_they_are_made_of() -> None:
    """A chain of equal maps takes little more than one of them."""
    draft = integer_graphs.Draft((1, 16, 16, 8))
    x = draft.input
    for _ in range(3):
        weights = draft.weights((1, 3, 3, 8), 3)
        settings = {"stride": (1, 1), "padding": "SAME"}
        x = draft.then("DEPTHWISE_CONV_2D", [x, *weights], (1, 16, 16, 8), **settings, depth_multiplier=1)
        x = draft.then("CONV_2D", [x, *draft.weights((8, 1, 1, 8), 0)], (1, 16, 16, 8), **settings)
    assert write(draft.graph(x)).arena_bytes < 1.6 * 16 * 16 * 8


def test_a_layer_that_there_is_no_kernel_for_is_refused_by_name() -> None:
    _, graph = integer_graphs.every_layer("float32")
    with pytest.raises(ExportError, match=r"net.0.*real numbers"):
        write(graph)


def test_maps_too_long_for_16_bits_and_ports_that_are_no_integers_are_refused() -> None:
    draft = integer_graphs.Draft((1, 1, 40_000, 4))
    y = draft.then("CONV_2D", [draft.input, *draft.weights((4, 1, 1, 4), 0)], (1, 1, 40_000, 4), stride=(1, 1),
                   padding="SAME")  # fmt: skip
    with pytest.raises(ExportError, match="32,767 are the most"):
        write(draft.graph(y))
    draft = integer_graphs.Draft((1, 4))
    constant = draft.constant(np.zeros((1, 4), np.int8), integer_graphs.ACTIVATIONS["int8"])
    with pytest.raises(ExportError, match="no input or output that is a constant"):
        write(draft.graph(constant))


@pytest.mark.parametrize("bias", [(1 << 28) - 1, -(1 << 29), (1 << 30) - 5000])
@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D"])
def test_sums_that_need_all_bits_are_exact_or_refused(kind: str, bias: int, tmp_path: Path) -> None:
    """A channel with next to no weights has a tiny step, and so a huge bias."""
    draft = integer_graphs.Draft((1, 4, 4, 4))
    shape, axis = ((4, 3, 3, 4), 0) if kind == "CONV_2D" else ((1, 3, 3, 4), 3)
    weights = draft.weights(shape, axis)
    draft.values[weights[1]].data[:] = (bias, 0, 17, -bias)
    more = {"depth_multiplier": 1} if kind == "DEPTHWISE_CONV_2D" else {}
    y = draft.then(kind, [draft.input, *weights], (1, 4, 4, 4), stride=(1, 1), padding="SAME", **more)
    graph, rows = draft.graph(y), [np.concatenate(draft.rows(ROWS))]
    if kind == "DEPTHWISE_CONV_2D" and abs(bias) >= (1 << 30) - 5000:
        with pytest.raises(ExportError, match="more than 32 bits"):
            write(graph)
        return
    assert exact(write(graph), graph, rows, tmp_path, "-O1", "-fsanitize=undefined", "-fno-sanitize-recover=all")


def test_cmake_builds_it(tmp_path: Path) -> None:
    if not shutil.which("cmake"):
        pytest.skip("cmake is not installed")
    model = write(every_layer()[0])
    for name, content in {**model.files, **model.around()}.items():
        (tmp_path / name).write_bytes(content)
    for words in (["-S", tmp_path, "-B", tmp_path / "build"], ["--build", tmp_path / "build", "--target", "all"]):
        subprocess.run(["cmake", *words], check=True, capture_output=True)
    assert (tmp_path / "build" / "libhaversack_model.a").is_file()


@pytest.mark.parametrize("name", CORES)
@pytest.mark.usefixtures("free_code")
@pytest.mark.parametrize(("dtype", "bits"), NUMBERS[:3])
def test_a_network_on_an_emulated_core_equals_the_reference_to_the_byte(
    name: str, dtype: str, bits: int, tmp_path: Path
) -> None:
    if name not in CORES_HERE and "gcc" not in compilers(core_board(name)):
        pytest.skip(f"{name} takes arm-none-eabi-gcc, or minutes of Zig for a library")
    graph, rows = every_layer(dtype, bits)
    model, board = write(graph), core_board(emulated(name))
    firmware = built(model, board, tmp_path)
    found = EmulatedCore(firmware, model).run(rows)
    assert np.array_equal(found.outputs[0], run(graph, rows)[0])
    assert len(found.instructions) == ROWS
    assert model.constant_bytes < firmware.flash_bytes < model.constant_bytes + 20_000
    assert model.arena_bytes <= firmware.static_bytes < model.arena_bytes + 64
    assert 50 < found.stack_bytes < 1000


@pytest.mark.parametrize("name", ["cortex-m4", "aarch64"])
def test_every_compiler_that_is_here_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    graph, rows = every_layer()
    model, board = write(graph), core_board(emulated(name))
    wanted = run(graph, rows)[0]
    for compiler_name in compilers(board):
        found = EmulatedCore(built(model, board, tmp_path, compiler_name), model).run(rows)
        assert np.array_equal(found.outputs[0], wanted), compiler_name


def test_the_dsp_extension_takes_far_fewer_instructions_for_the_same_bytes(tmp_path: Path) -> None:
    graph, rows = every_layer()
    taken = {}
    for name in ("cortex-m3", "cortex-m4"):
        model, board = write(graph), core_board(emulated(name))
        taken[name] = EmulatedCore(built(model, board, tmp_path), model).run(rows).instructions[0]
    assert taken["cortex-m4"] < 0.7 * taken["cortex-m3"]


def test_a_proof_counts_what_is_used_and_what_there_is() -> None:
    graph, rows = every_layer()
    emulated("cortex-m4")
    _, proof = prove_on_core("net", graph, board_named("nrf52840"), rows, CoreEffort(samples=2, host_samples=3))
    assert (proof.mismatching_bytes, proof.host_mismatching_bytes, proof.samples) == (0, 0, 2)
    assert (proof.board_flash_bytes, proof.board_ram_bytes) == (1 << 20, 1 << 18)
    assert proof.ram_bytes == proof.static_bytes + proof.stack_bytes == proof.to_json()["ram_bytes"]
    require_exact(proof)
    with pytest.raises(ParityError, match="7 bytes"):
        require_exact(replace(proof, host_mismatching_bytes=7))


def test_random_inputs_are_drawn_where_none_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    emulated("cortex-m4")
    seen = []
    monkeypatch.setattr(on_core, "run", lambda graph, rows: seen.append(rows) or run(graph, rows))
    prove_on_core("net", every_layer()[0], board_named("cortex-m4"), None, CoreEffort(samples=1, host_samples=20))
    assert seen[0][0].shape[0] == 20
    assert len(np.unique(seen[0][0])) > 100


def test_what_cannot_fit_is_refused_before_anything_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something was compiled"))
    small = replace(board_named("stm32f405"), name="small", flash=Region(0, 100), ram=Region(1 << 29, 200))
    with pytest.raises(MeasureError, match=r"small cannot hold it: .* of flash .* more than there is and .* of RAM"):
        prove_on_core("net", every_layer()[0], small)


def test_a_network_that_links_but_whose_stack_does_not_fit_fails_with_the_reason(tmp_path: Path) -> None:
    graph, rows = every_layer()
    model, board = write(graph), core_board(emulated("cortex-m4"))
    tight = replace(board, ram=Region(board.ram.origin, model.arena_bytes + 128))
    firmware = built(model, tight, tmp_path)
    with pytest.raises(MeasureError, match=r"stack needs more than the 1\d\d bytes that are left"):
        EmulatedCore(firmware, model).run(rows)


def test_what_the_linker_refuses_is_told_in_bytes(tmp_path: Path) -> None:
    model, board = write(every_layer()[0]), core_board(emulated("cortex-m4"))
    with pytest.raises(MeasureError, match="cortex-m4 cannot hold it"):
        built(model, replace(board, flash=Region(0, model.constant_bytes + 100)), tmp_path)


def test_without_a_compiler_or_an_emulator_it_is_said_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, board = write(every_layer()[0]), core_board("riscv32")
    monkeypatch.setattr(build, "compilers", lambda _: {})
    with pytest.raises(MeasureError, match=r"(?s)no compiler for riscv32.*haversack\[mcu\]"):
        built(model, board, tmp_path)
    monkeypatch.setattr(build, "host_compilers", dict)
    with pytest.raises(MeasureError, match="no C compiler for this host"):
        run_on_host(model, every_layer()[1], tmp_path)


def test_a_compiler_or_a_core_that_does_not_come_back_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, board = write(every_layer()[0]), core_board(emulated("cortex-m4"))
    firmware = built(model, board, tmp_path)
    monkeypatch.setattr(emulator, "_TIMEOUT_S", 1e-5)
    with pytest.raises(MeasureError, match="does not come to an end"):
        EmulatedCore(firmware, model)
    monkeypatch.setattr(build, "_TIMEOUT_S", 1e-4)
    with pytest.raises(MeasureError, match="did not come back"):
        built(model, board, tmp_path)


def test_boards_are_cores_or_devices_that_state_their_memory() -> None:
    stated = {name for name in device_names() if find_device(name).core}
    assert {
        "stm32f103",
        "stm32f405",
        "stm32f746",
        "stm32h743",
        "nrf52840",
        "rp2040",
        "microbit",
        "microbit-v1",
    } <= stated
    for name in stated:
        assert board_named(name).flash.size_bytes == find_device(name).flash_bytes
    with pytest.raises(DeviceError, match="raspberry-pi-5 has no core"):
        board_named("raspberry-pi-5")
    with pytest.raises(DeviceError, match="no core or device 'cortex-m9'"):
        board_named("cortex-m9")


CALLBACK = """
#include <stdio.h>
#include "model.h"
void haversack_model_after(int32_t layer, const void *values)
{
    printf("%d:%d ", (int)layer, (int)*(const int8_t *)values);
}
int main(void)
{
    int8_t output[HAVERSACK_MODEL_OUTPUT_SIZE];
    haversack_model_run(haversack_model_input(), output);
    return 0;
}
"""


def test_a_callback_sees_each_layer_and_an_input_in_place_is_not_copied(tmp_path: Path) -> None:
    graph, _ = every_layer()
    for name, content in write(graph).files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "main.c").write_text(CALLBACK)
    name = host_compilers()[compiler()]
    command = [*name, "-std=c99", "-DHAVERSACK_MODEL_CALLBACK", "main.c", "model.c", "-o", "program"]
    subprocess.run(command, cwd=tmp_path, check=True)
    said = subprocess.run([tmp_path / "program"], capture_output=True, text=True, check=True).stdout.split()
    computed = [place for place, each in enumerate(graph.operations) if each.kind != "RESHAPE"]
    inner = [graph.operations[place].outputs[0] for place in computed]
    zeros = [np.zeros(graph.values["input"].shape, np.int8)]
    firsts = [int(value.reshape(-1)[0]) for value in run(graph, zeros, inner)[1:]]
    assert said == [f"{place}:{first}" for place, first in zip(computed, firsts, strict=True)]
