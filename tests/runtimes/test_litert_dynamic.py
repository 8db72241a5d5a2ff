"""Layers of integers in LiteRT that round what they read as it comes, row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from encoders import TOKENS, Encoder
from test_recurrent_integers import KINDS, built
from torch import Tensor, nn

from haversack.device import find_device
from haversack.errors import ExportError
from haversack.graph.inference import lower
from haversack.graph.row_by_row import row_by_row
from haversack.integer import IntegerGraph
from haversack.integer.read import read
from haversack.integer.reference import run
from haversack.integer.shapes import check_shapes
from haversack.model import Model
from haversack.packing import Settings, apply
from haversack.proving.prove import Effort, prove
from haversack.recipe import Recipe
from haversack.runtimes import host, named
from haversack.runtimes.tflite.read import read as read_file
from haversack.task import Task
from haversack.techniques.quantize_dynamic import QuantizeDynamic

LITERT, MICRO = named("litert"), named("tflite-micro")
TASK = Task(train=list, calibrate=lambda: [TOKENS], score=lambda _: 0.0, kind="regression")


class Products(nn.Module):
    """Rows times a constant, and a layer that rounds the same rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight, self.layer = nn.Parameter(torch.randn(24, 8)), nn.Linear(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(x)) + x @ self.weight


def packed(module: nn.Module, inputs: Tensor, step: QuantizeDynamic | None = None) -> Model:
    return (step or QuantizeDynamic()).apply(Model(module.eval(), (inputs[:1],)), TASK)


def graph_of(model: Model) -> IntegerGraph:
    graph = read(row_by_row(lower(model)))
    check_shapes(graph)
    return graph


def weights(graph: IntegerGraph) -> dict[str, str]:
    """The types of the weights of all layers, by path."""
    layers = (each for each in graph.operations if each.kind == "FULLY_CONNECTED")
    return {each.path: graph.values[each.input("weight")].dtype for each in layers}


def in_litert(model: Model, inputs: Tensor, *, optimized: bool = True) -> Tensor:
    lowered = lower(model)
    content, orders = LITERT.write(lowered), LITERT.orders(lowered)
    return host.load(content, 1, runtime="litert", orders=orders, optimized=optimized)(inputs)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("optimized", [True, False], ids=["xnnpack", "plain"])
def test_litert_and_the_reference_compute_what_torch_does_row_by_row(bits, optimized):
    torch.manual_seed(1)
    x = torch.randn(6, 5, 24) * torch.rand(6, 5, 1).add(0.1) * 4 + 0.5
    model = packed(Products(), x, QuantizeDynamic(weight_bits=bits))
    with torch.no_grad():
        wanted, at_once = LITERT.computed(lower(model))(x), lower(model)(x)
    torch.testing.assert_close(in_litert(model, x, optimized=optimized), wanted, atol=1e-4, rtol=1e-4)
    graph = graph_of(model)
    torch.testing.assert_close(torch.from_numpy(run(graph, [x.numpy()])[0]), wanted, atol=1e-4, rtol=1e-4)
    assert float((at_once - wanted).abs().max()) > 1e-2
    copy = read_file(LITERT.write(lower(model)))
    torch.testing.assert_close(torch.from_numpy(run(copy, [x.numpy()])[0]), wanted, atol=1e-4, rtol=1e-4)


def test_rows_are_nearer_to_the_float_network_than_all_at_once():
    x = torch.randn(32, 5, 24, generator=torch.Generator().manual_seed(2))
    x[:, 0] *= 20
    model = packed(Products(), x)
    with torch.no_grad():
        whole, rows, at_once = model.module(x), LITERT.computed(lower(model))(x), lower(model)(x)
    assert float((rows - whole)[:, 1:].abs().max()) < float((at_once - whole)[:, 1:].abs().max()) / 5


@torch.no_grad()
def test_an_encoder_is_of_integers_but_for_what_is_left_float():
    model = packed(Encoder(), TOKENS)
    assert set(weights(graph_of(model)).values()) == {"int8"}
    wanted = LITERT.computed(lower(model))(TOKENS)
    torch.testing.assert_close(in_litert(model, TOKENS), wanted, atol=0.01, rtol=0)
    assert float((wanted - model.module(TOKENS)).abs().max()) < 0.05
    some = weights(graph_of(packed(Encoder(), TOKENS, QuantizeDynamic(leave_float=("up", "query")))))
    assert {path for path, dtype in some.items() if dtype == "float32"} == {"up", "query"}


def test_weights_of_4_bits_take_half_a_byte_and_those_of_8_a_byte():
    network = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 128))
    x = torch.randn(1, 128)
    sizes = {bits: len(LITERT.write(lower(packed(network, x, QuantizeDynamic(weight_bits=bits))))) for bits in (8, 4)}
    whole = len(LITERT.write(lower(Model(network.eval(), (x,)))))
    assert whole - sizes[8] == pytest.approx(3 * 2 * 128 * 128, abs=4000)
    assert sizes[8] - sizes[4] == pytest.approx(128 * 128, abs=200)


def test_tflite_micro_has_no_such_layers_and_is_not_offered_any():
    model = Model(nn.Linear(8, 4).eval(), (torch.randn(1, 8),))
    with pytest.raises(ExportError, match=r"(?s)integer weights and real activations.*quantize_static"):
        MICRO.write(lower(QuantizeDynamic().apply(model, TASK)))
    devices = {name: replace(find_device("host"), runtime=name) for name in ("onnx", "litert", "tflite-micro")}
    offered = {name: list(QuantizeDynamic.options(model, device)) for name, device in devices.items()}
    assert [name for name, steps in offered.items() if steps] == ["onnx", "litert"]
    assert offered["litert"] == [QuantizeDynamic(8)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}])
@torch.no_grad()
def test_recurrent_layers_are_such_layers_step_by_step(kind, settings):
    model, x = built(KINDS[kind], batch=8, units=16, length=5, **settings)
    small = QuantizeDynamic().apply(model, TASK)
    wanted = LITERT.computed(lower(small))(x)
    # A number that rounds the other way moves those behind it by a step.
    torch.testing.assert_close(in_litert(small, x), wanted, atol=5e-3, rtol=0)
    assert 0 < float((wanted - model.module(x)).abs().max()) < 0.05
    assert set(weights(graph_of(small)).values()) == {"int8"}


@torch.no_grad()
def test_a_layer_that_has_no_form_of_integers_as_a_whole_is_real_where_it_is_one_operation():
    model, x = built(nn.GRU, batch=8, units=16, length=5)
    lowered = lower(QuantizeDynamic(leave_float=("head",)).apply(model, TASK))
    torch.testing.assert_close(lowered(x), model.module(x), atol=0.02, rtol=0)
    with pytest.raises(ExportError, match="layer layer: the integer graph does not know"):
        read(lowered)


@pytest.mark.parametrize("runtime", ["onnx", "litert"])
def test_files_are_held_against_the_network_as_their_runtime_rounds_and_proved_so(runtime, tmp_path):
    network, device = Encoder(), replace(find_device("host"), runtime=runtime)
    task = replace(TASK, calibrate=lambda: [TOKENS] * 8, score=lambda predict: float(predict(TOKENS).std()))
    settings = Settings(out=tmp_path / "out", cache=tmp_path / "cache", seconds=0.05)
    made = apply(Recipe((QuantizeDynamic(),)), network, task, device, settings)
    measured = made.artifact.measurement
    assert measured.parity.max_steps < 0.03
    assert measured.score.runtime == runtime
    proof = prove(tmp_path / "out", network, task, Effort(samples=4, patience_s=1.0))
    assert not proof.broken
    assert proof.reference == {"onnx": "torch", "litert": "integer reference"}[runtime]
    assert {witness.name for witness in proof.witnesses} >= {"torch", "ONNX Runtime"}
    assert ("row by row" in proof.absent.get("LiteRT", "")) == (runtime == "onnx")
