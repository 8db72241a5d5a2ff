"""Words in, by their places in a vocabulary: .tflite files look rows up as torch does, real and as integers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from haversack.errors import ExportError, MeasureError
from haversack.graph.inference import lower
from haversack.integer.read import read
from haversack.integer.reference import run
from haversack.model import Model
from haversack.progress import noted
from haversack.runtimes import host, named
from haversack.runtimes.tflite.read import read as read_file
from haversack.task import Task
from haversack.techniques.quantize_dynamic import QuantizeDynamic
from haversack.techniques.quantize_static import QuantizeStatic
from haversack.techniques.quantize_weights import QuantizeWeights

LITERT = named("litert")
WORDS = torch.randint(0, 90, (5, 12), generator=torch.Generator().manual_seed(0))


class Text(nn.Module):
    """Words, what stands beside them, and a class."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.beside, self.end = nn.Embedding(90, 16), nn.Conv1d(16, 24, 3, padding=1), nn.Linear(24, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = torch.relu(self.beside(self.words(tokens).transpose(1, 2)))
        return self.end(x.mean(2))


def model_of(module: nn.Module) -> Model:
    return Model(module.eval(), (WORDS[:1],))


def task() -> Task:
    return Task(train=lambda: iter(()), calibrate=lambda: [(WORDS,)], score=lambda _: 0.0)


def in_litert(model: Model) -> Tensor:
    lowered = lower(model)
    return host.load(LITERT.write(lowered), 1, orders=LITERT.orders(lowered))(WORDS)


def test_a_table_of_real_rows_is_looked_up_as_in_torch():
    model = model_of(Text())
    torch.testing.assert_close(in_litert(model), model.module(WORDS), atol=1e-6, rtol=1e-5)
    graph = read(lower(model))
    assert [graph.values[name].dtype for name in graph.inputs] == ["int32"]
    assert graph.inputs == ("tokens",)


@pytest.mark.parametrize("activations", ["int8", "uint8"])
def test_a_table_of_integers_lies_on_the_grid_of_its_values(activations):
    small = QuantizeStatic(activations=activations).apply(model_of(Text()), task())
    lowered = lower(small)
    graph = read(lowered)
    table = graph.values[graph.operations[0].inputs[0]]
    assert (graph.operations[0].kind, table.dtype) == ("GATHER", "int8")
    assert not [operation for operation in graph.operations[:-1] if "QUANTIZE" in operation.kind]
    step = graph.values[graph.operations[-1].inputs[0]].grid.scale[0]
    exact = run(graph, [WORDS.numpy().astype(np.int32)])[0]
    torch.testing.assert_close(torch.from_numpy(exact), lowered(WORDS), atol=2.01 * step, rtol=0)
    torch.testing.assert_close(in_litert(small), torch.from_numpy(exact), atol=1.01 * step, rtol=0)


def test_rows_with_steps_of_their_own_are_stored_as_integers():
    model = model_of(Text())
    small = QuantizeWeights(bits=8, group=0).apply(model, task())
    torch.testing.assert_close(in_litert(small), lower(small)(WORDS), atol=1e-5, rtol=1e-4)
    saved = len(LITERT.write(lower(model))) - len(LITERT.write(lower(small)))
    assert saved > 2.5 * 90 * 16


@pytest.mark.parametrize("step", [QuantizeWeights(4), QuantizeDynamic(embedding_bits=4)], ids=["weights", "dynamic"])
@pytest.mark.parametrize("optimized", [True, False], ids=["xnnpack", "plain"])
def test_rows_of_4_bits_take_half_a_byte_and_are_what_torch_has(step, optimized):
    small = step.apply(model_of(nn.Sequential(nn.Embedding(90, 16), Mean())), task())
    lowered = lower(small)
    content = LITERT.write(lowered)
    whole = len(LITERT.write(lower(replace(small, grids={}))))
    assert whole - len(content) == pytest.approx(90 * (64 - 8 - 4), abs=700)
    found = host.load(content, 1, orders=LITERT.orders(lowered), optimized=optimized)(WORDS)
    torch.testing.assert_close(found, lowered(WORDS), atol=1e-6, rtol=1e-5)
    assert float((lowered(WORDS) - small.module(WORDS)).detach().abs().max()) > 1e-3
    copy = run(read_file(content), [WORDS.numpy().astype(np.int32)])[0]
    torch.testing.assert_close(torch.from_numpy(copy), lowered(WORDS), atol=1e-6, rtol=1e-5)


def test_rows_of_4_bits_take_a_byte_in_tflite_micro_and_that_is_said():
    small = QuantizeWeights(4).apply(model_of(nn.Sequential(nn.Embedding(90, 16), Mean())), task())
    with noted() as notes:
        content = named("tflite-micro").write(lower(small))
    assert any("tflite-micro cannot read these weights in 4 bits" in each for each in notes)
    if named("tflite-micro").is_installed:
        found = host.load(content, 1, runtime="tflite-micro", orders=LITERT.orders(lower(small)))(WORDS)
        torch.testing.assert_close(found, lower(small)(WORDS), atol=1e-6, rtol=1e-5)


class Mean(nn.Module):
    """The mean of all words."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def test_outputs_are_called_as_the_task_calls_them():
    lowered = lower(model_of(Text()))
    lowered.meta["outputs"] = ("topic",)
    assert read(lowered).outputs == ("topic",)
    assert b"topic" in LITERT.write(lowered)


class Shifted(nn.Module):
    """Looks up by numbers that it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(90, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.words(tokens + 1)


def test_what_is_computed_with_whole_numbers_is_refused_and_so_is_a_word_that_is_not_there():
    with pytest.raises(ExportError, match="add"):
        read(lower(Model(Shifted().eval(), (WORDS[:1] // 2,))))
    graph = read(lower(model_of(Text())))
    with pytest.raises(MeasureError, match="row 7 to 90 of a table of 90"):
        run(graph, [np.array([[7] * 11 + [90]], np.int32)])
