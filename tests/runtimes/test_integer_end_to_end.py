"""Random networks from torch to every runtime: the files compute what the integer reference and torch compute."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st
from onnx_files import WEIGHT_BITS
from quantizable_networks import task_on
from random_networks import network
from torch import Tensor, fx

from haversack.errors import ExportError, NothingChangedError
from haversack.graph.inference import lower
from haversack.graph.pairs import output_step
from haversack.integer import IntegerGraph
from haversack.integer.read import read
from haversack.integer.reference import run
from haversack.model import Model
from haversack.runtimes import host
from haversack.runtimes.onnx import ONNX
from haversack.runtimes.tflite import LITERT, MICRO
from haversack.techniques.quantize_static import QuantizeStatic
from tests.sweep import count

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

FEW = settings(max_examples=4, derandomize=True, suppress_health_check=list(HealthCheck))
MANY = settings(FEW, max_examples=count(25, 300))


@st.composite
def networks(draw):
    """A float model and 24 inputs."""
    module, shape = network(lambda choices: choices[draw(st.integers(0, len(choices) - 1))])
    note(f"{module} on {shape}")
    x = torch.randn(24, *shape, generator=torch.Generator().manual_seed(1))
    return Model(module, (x[:1],)), x


@dataclass(frozen=True)
class Case:
    """A network on its way to files, and inputs that lie on the grid of its input."""

    lowered: fx.GraphModule
    graph: IntegerGraph
    x: Tensor
    expected: Tensor

    @property
    def orders(self):
        return self.graph.input_orders, self.graph.output_orders

    def unit(self, bits: int) -> float:
        """The output's step, or what would be one."""
        return output_step(self.lowered) or float(self.expected.abs().max()) / (1 << bits) or 1.0

    def referred(self) -> Tensor:
        """What the NumPy reference computes, in torch's order of dimensions."""
        given = self.x.permute(self.orders[0][0]).contiguous().numpy()
        result = run(self.graph, [given.reshape(-1, *self.graph.values[self.graph.inputs[0]].shape[1:])])[0]
        return torch.from_numpy(result).permute(*np.argsort(self.orders[1][0]).tolist())


def floating(model: Model, x: Tensor) -> Case:
    lowered = lower(model)
    with torch.no_grad():
        return Case(lowered, read(lowered), x, model.module(x))


def quantized(model: Model, x: Tensor, activations: str, weight_bits: int = 8) -> Case:
    try:
        model = QuantizeStatic(weight_bits, activations, "min_max").apply(model, task_on(x))
    except NothingChangedError:
        assume(False)
    lowered = lower(model)
    graph = read(lowered)
    for operation in graph.operations:
        if operation.kind == "QUANTIZE" and operation.inputs[0] == graph.inputs[0]:
            grid = graph.values[operation.outputs[0]].grid
            x = grid.dequantize(grid.quantize(x))
    with torch.no_grad():
        return Case(lowered, graph, x, lowered(x))


def on_integers(graph: IntegerGraph) -> bool:
    computing = (each for each in graph.operations if each.kind not in ("QUANTIZE", "DEQUANTIZE"))
    return all(graph.values[name].grid is not None for each in computing for name in each.outputs)


def answer(content: bytes, case: Case, runtime: str | None = None) -> Tensor:
    return host.load(content, 1, runtime=runtime, orders=case.orders)(case.x)


def answer_of_micro(case: Case) -> Tensor | None:
    """None where LiteRT for Microcontrollers has no such kernel: REDUCE_MAX on int16."""
    try:
        content = MICRO.write(case.lowered)
    except ExportError:
        assert any(each.kind == "REDUCE_MAX" for each in case.graph.operations)
        return None
    return answer(content, case, "tflite-micro")


def assert_few_steps(found: Tensor, case: Case, bits: int) -> None:
    """Most are within 3 steps of 8 bits; a product of values on coarse grids may turn one step into many."""
    assert found.shape == case.expected.shape
    steps = (found - case.expected).abs() / case.unit(bits) / (1 << bits - 8)
    assert float(steps.square().mean().sqrt()) <= 3
    assert float(steps.flatten().quantile(0.9)) <= 3


def check_float(model: Model, x: Tensor) -> None:
    case = floating(model, x)
    largest = max(1e-3, float(case.expected.abs().max()))
    for found in (case.referred(), *(answer(runtime.write(case.lowered), case) for runtime in (LITERT, ONNX))):
        assert found.shape == case.expected.shape
        assert float((found - case.expected).abs().max()) <= 1e-4 * largest


def check_integers(model: Model, x: Tensor, activations: str) -> None:
    case, bits = quantized(model, x, activations), int(activations.removeprefix("int"))
    reference = case.referred()
    micro = answer_of_micro(case)
    if micro is not None and on_integers(case.graph):
        assert int((micro != reference).sum()) == 0
    if micro is not None:
        assert_few_steps(micro, case, bits)
    assert_few_steps(reference, case, bits)
    assert_few_steps(answer(LITERT.write(case.lowered), case), case, bits)
    if bits == 8:
        exact = case if WEIGHT_BITS == 8 else quantized(model, x, activations, WEIGHT_BITS)
        assert_few_steps(answer(ONNX.write(exact.lowered), exact), exact, bits)


@FEW
@given(networks())
def test_float_files_compute_what_torch_computes(drawn):
    check_float(*drawn)


@pytest.mark.parametrize("activations", ["int8", "int16"])
@FEW
@given(networks())
def test_integer_files_compute_what_the_reference_and_torch_compute(activations, drawn):
    check_integers(*drawn, activations)


@pytest.mark.slow
@pytest.mark.sweep
@MANY
@given(networks(), st.sampled_from(["int8", "int8", "int16"]))
def test_many_networks_compute_the_same_everywhere(drawn, activations):
    check_float(*drawn)
    check_integers(*drawn, activations)
