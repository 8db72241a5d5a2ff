"""Recurrent layers in LiteRT, where they are written step by step, beside torch's own."""

import pytest
import torch
from quantizable_networks import task_on
from test_recurrent_integers import KINDS, STEPS, built
from torch import nn

from haversack.graph.inference import inference, lower
from haversack.graph.unroll import unrolled
from haversack.model import Model
from haversack.runtimes import host
from haversack.runtimes.tflite import LITERT

SETTINGS = [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False, "bidirectional": True}]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_layer_written_step_by_step_computes_the_same(kind, settings):
    model, x = built(KINDS[kind], length=5, **settings)
    plain = unrolled(inference(model).module)
    assert not any(str(node.target).endswith(f"{kind}.input") for node in plain.graph.nodes)
    torch.testing.assert_close(plain(x), model.module(x), rtol=1e-5, atol=1e-6)


class States(nn.Module):
    """A layer's outputs and its last states."""

    def __init__(self, kind) -> None:
        super().__init__()
        self.layer = kind(8, 12, 2, bidirectional=True)

    def forward(self, x):
        outputs, last = self.layer(x)
        return (outputs, *last) if isinstance(last, tuple) else (outputs, last)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_last_states_are_those_of_the_layer(kind):
    torch.manual_seed(0)
    x = torch.randn(5, 3, 8)
    model = Model(States(KINDS[kind]).eval(), (x,))
    for found, wanted in zip(unrolled(inference(model).module)(x), model.module(x), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("step", [None, STEPS["weights"], STEPS["static"]], ids=["float", "weights", "static"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_litert_computes_what_the_graph_does(kind, step):
    model, x = built(KINDS[kind], batch=32, units=32, length=6)
    lowered = lower(step.apply(model, task_on(x)) if step else model)
    found, wanted = host.load(LITERT.write(lowered), 1)(x), lowered(x)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 if step is not STEPS["static"] else 0.02)


def test_matrices_of_integers_make_the_file_smaller_by_what_they_save():
    model, x = built(nn.LSTM, units=64, length=6)
    small = LITERT.write(lower(STEPS["weights"].apply(model, task_on(x))))
    count = sum(each.numel() for name, each in model.module.named_parameters() if "weight" in name)
    assert len(LITERT.write(lower(model))) - len(small) > 2.5 * count


def test_a_network_without_recurrent_layers_is_left_as_it_is():
    module = inference(Model(nn.Linear(4, 3).eval(), (torch.zeros(1, 4),))).module
    assert unrolled(module) is module
