"""Transformers of static int8 in LiteRT: integer layers between norms, attention and sums of real numbers."""

from collections import Counter

import pytest
import torch
from encoders import TOKENS, WORDS, Encoder

from haversack.errors import RecipeError
from haversack.graph.inference import lower
from haversack.integer.read import read
from haversack.integer.reference import run
from haversack.integer.shapes import check_shapes
from haversack.model import Model
from haversack.progress import noted
from haversack.runtimes import host, named
from haversack.task import Task
from haversack.techniques.quantize_static import QuantizeStatic

LITERT = named("litert")
SEEN = torch.randint(0, WORDS, (64, TOKENS.shape[1]), generator=torch.Generator().manual_seed(3))
SEEN[:, 0] = 1
TASK = Task(train=list, calibrate=lambda: [SEEN], score=lambda _: 0.0, kind="regression")


def encoder(**settings) -> Model:
    return QuantizeStatic(activations="int8", **settings).apply(Model(Encoder().eval(), (TOKENS[:1],)), TASK)


@torch.no_grad()
@pytest.mark.parametrize("optimized", [True, False], ids=["xnnpack", "plain"])
def test_litert_and_the_reference_compute_integer_layers_among_real_numbers(optimized):
    model = encoder()
    lowered = lower(model)
    graph = read(lowered)
    check_shapes(graph)
    wanted = lowered(TOKENS)
    orders = LITERT.orders(lowered)
    found = host.load(LITERT.write(lowered), 1, runtime="litert", orders=orders, optimized=optimized)(TOKENS)
    exact = torch.from_numpy(run(graph, [TOKENS.numpy().astype("int32")])[0])
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0)
    torch.testing.assert_close(exact, wanted, atol=0.02, rtol=0)
    assert float((wanted - model.module(TOKENS)).abs().max()) < 0.1


@torch.no_grad()
def test_tflite_micro_computes_the_same_where_there_is_no_gelu():
    micro = named("tflite-micro")
    if not micro.is_installed:
        pytest.skip(micro.install)
    model = QuantizeStatic(activations="int8").apply(Model(Encoder("relu").eval(), (TOKENS[:1],)), TASK)
    lowered = lower(model)
    found = host.load(micro.write(lowered), 1, runtime="tflite-micro", orders=micro.orders(lowered))(TOKENS)
    torch.testing.assert_close(found, lowered(TOKENS), atol=0.02, rtol=0)


def computed(model: Model) -> dict[str, Counter[str]]:
    """How often each kind is computed on integers and on real numbers."""
    graph = read(lower(model))
    kinds: dict[str, Counter[str]] = {"int8": Counter(), "float32": Counter()}
    for each in graph.operations:
        kinds[graph.values[each.outputs[0]].dtype][each.kind] += 1
    return kinds


def test_layers_are_integers_and_sums_norms_and_attention_are_not():
    kinds = computed(encoder())
    assert kinds["int8"]["FULLY_CONNECTED"] == 6
    assert kinds["float32"]["FULLY_CONNECTED"] == 0
    assert not {"ADD", "SUB", "MUL", "SOFTMAX", "MEAN"} & kinds["int8"].keys()
    # What a norm gives is rounded once for all layers that read it, and each layer's result is made real once.
    assert kinds["int8"]["QUANTIZE"] <= 5


def test_any_layer_may_be_left_float():
    kinds = computed(encoder(leave_float=("query", "up")))
    assert (kinds["int8"]["FULLY_CONNECTED"], kinds["float32"]["FULLY_CONNECTED"]) == (4, 2)


def test_embeddings_are_looked_up_as_integers():
    graph = read(lower(encoder()))
    tables = [graph.values[each.inputs[0]] for each in graph.operations if each.kind == "GATHER"]
    assert [each.dtype for each in tables] == ["int8", "float32"]
    assert tables[1].shape == (WORDS, 1)


def test_any_module_may_be_named_and_what_is_float_already_is_said():
    with noted() as notes:
        kinds = computed(encoder(leave_float=("first", "down")))
    assert kinds["int8"]["FULLY_CONNECTED"] == 5
    assert "float already: first." in notes
    with pytest.raises(RecipeError, match="'third'"):
        encoder(leave_float=("third",))
