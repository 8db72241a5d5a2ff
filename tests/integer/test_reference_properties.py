"""Random graphs of one operation: the NumPy reference against tflite-micro, or LiteRT's reference kernels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from single_operations import RECIPES, Draft, graph_of, rows_for
from tflite_files import Micro, mismatching

from haversack.grid import Grid
from haversack.integer import IntegerGraph
from haversack.integer.passes import with_float_ports
from haversack.integer.reference import run
from haversack.runtimes.tflite.write import write
from tests.sweep import count

ROWS = 2
# tflite-micro has no kernel for these; LiteRT's reference kernels have, but for HARD_SWISH of 16 bits.
LITERT_ONLY = [("RELU_N1_TO_1", "int8"), ("REDUCE_MAX", "int16")]
MICRO = [
    (kind, dtype)
    for kind in RECIPES
    for dtype in ("int8", "int16")
    if (kind, dtype) not in LITERT_ONLY
    and (kind, dtype) not in {("RELU_N1_TO_1", "int16"), ("HARD_SWISH", "int16"), ("GATHER", "int16")}
]


def mismatches_with_micro(graph: IntegerGraph, inputs: list[np.ndarray], data: bytes = b"") -> int:
    found, micro = run(graph, inputs), Micro(data or write(graph))
    bad = 0
    for row in range(len(inputs[0])):
        wanted = micro.outputs([array[row : row + 1] for array in inputs], len(graph.outputs))
        bad += sum(mismatching(a[row], b) for a, b in zip(found, wanted, strict=True))
    return bad


def mismatches_with_litert(graph: IntegerGraph, inputs: list[np.ndarray]) -> int:
    interpreters = pytest.importorskip("ai_edge_litert.interpreter")
    kernels = interpreters.OpResolverType.BUILTIN_REF
    litert = interpreters.Interpreter(model_content=write(graph), experimental_op_resolver_type=kernels)
    litert.allocate_tensors()
    ports, bad = litert.get_input_details(), 0
    found = run(graph, inputs)
    for row in range(len(inputs[0])):
        for port, array in zip(ports, inputs, strict=True):
            litert.set_tensor(port["index"], array[row : row + 1])
        litert.invoke()
        for port, array in zip(litert.get_output_details(), found, strict=True):
            bad += mismatching(array[row], litert.get_tensor(port["index"]))
    return bad


@pytest.mark.sweep
@pytest.mark.parametrize(("kind", "dtype"), MICRO, ids=[f"{kind}-{dtype}" for kind, dtype in MICRO])
@settings(max_examples=count(5, 40))
@given(seed=st.integers(0, 2**32 - 1))
def test_an_operation_equals_tflite_micro_to_the_bit(kind: str, dtype: str, seed: int) -> None:
    graph = graph_of(kind, dtype, seed)
    assert mismatches_with_micro(graph, rows_for(graph, ROWS, seed)) == 0


@pytest.mark.sweep
@pytest.mark.parametrize(("kind", "dtype"), LITERT_ONLY, ids=[f"{kind}-{dtype}" for kind, dtype in LITERT_ONLY])
@settings(max_examples=count(5, 40))
@given(seed=st.integers(0, 2**32 - 1))
def test_an_operation_that_tflite_micro_lacks_equals_litert_to_the_bit(kind: str, dtype: str, seed: int) -> None:
    graph = graph_of(kind, dtype, seed)
    assert mismatches_with_litert(graph, rows_for(graph, ROWS, seed)) == 0


@pytest.mark.parametrize("kind", ["LOGISTIC", "TANH"])
def test_all_16_bit_integers_go_through_the_curves_as_in_tflite_micro(kind: str) -> None:
    draft = Draft(0, "int16")
    x = draft.input((1, 65536), Grid(16, True, (8 / 32768 * 1.3,), (0,)))
    graph = draft.finish(kind, [x], (1, 65536), Grid(16, True, (1 / 32768,), (0,)))
    assert mismatches_with_micro(graph, [np.arange(-32768, 32768, dtype=np.int16)[None]]) == 0


@pytest.mark.parametrize("shift", [12, 11])
@pytest.mark.parametrize("kind", ["LOGISTIC", "TANH"])
def test_steps_that_are_powers_of_two_take_their_own_way_through_the_table(kind: str, shift: int) -> None:
    draft = Draft(0, "int16")
    x = draft.input((1, 65536), Grid(16, True, (2.0**-shift,), (0,)))
    graph = draft.finish(kind, [x], (1, 65536), Grid(16, True, (1 / 32768,), (0,)))
    assert mismatches_with_micro(graph, [np.arange(-32768, 32768, dtype=np.int16)[None]]) == 0


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_two_steps_are_multiplied_in_float64_whether_there_is_a_bias_or_not(seed: int, *, with_bias: bool) -> None:
    # The output's step is twice the product rounded to float32: float32 arithmetic would find exactly one half.
    draft = Draft(seed, "int8")
    x = draft.input((1, 1), Grid(8, True, draft.grid().scale, (0,)))
    w = draft.weights((64, 1), 0, per_channel=False)
    inputs = [x, w, *([draft.bias(64, x, w)] if with_bias else [])]
    steps = [np.float32(draft.values[name].grid.scale[0]) for name in (x, w)]
    output = Grid(8, True, (float(2 * steps[0] * steps[1]),), (0,))
    graph = draft.finish("FULLY_CONNECTED", inputs, (1, 64), output, keep_num_dims=False)
    assert mismatches_with_micro(graph, [np.arange(-20, 20, dtype=np.int8)[:, None]]) == 0


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", ["int8", "int16"])
@settings(max_examples=count(5, 40))
@given(seed=st.integers(0, 2**32 - 1))
def test_the_way_from_real_numbers_to_integers_and_back_equals_tflite_micro(dtype: str, seed: int) -> None:
    draft = Draft(seed, dtype)
    graph = draft.finish(
        "RESHAPE", [draft.input((1, 64), grid := draft.grid()), draft.constant([1, 64])], (1, 64), grid
    )
    rng = np.random.default_rng(seed)
    x = (rng.integers(-300, 300, (2, 64)) / 2 * grid.scale[0] * rng.choice([1, 0.9], (2, 64))).astype(np.float32)
    data = write(graph, float_io=True)
    assert mismatches_with_micro(with_float_ports(graph), [x], data) == 0
