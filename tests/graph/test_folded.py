import pytest
import torch
from quantizable_networks import NETWORKS, build, convolution, model_of
from torch import nn
from torch.nn import functional as F

from haversack.graph.inference import inference
from haversack.graph.ops import layer_at
from haversack.model import Model

aten = torch.ops.aten


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_the_inference_graph_computes_what_the_network_computes(name):
    model, x = build(name)
    torch.testing.assert_close(inference(model)(x), model.module(x), rtol=1e-4, atol=1e-5)


def test_a_clamp_behind_a_max_pool_moves_before_it():
    model, x = model_of(lambda x, layer: F.relu(F.max_pool2d(F.max_pool2d(layer(x), 2), 2)), convolution())
    graph = inference(model)
    order = [n.target for n in graph.graph.nodes if n.op == "call_function"]
    assert [str(target).split(".")[1] for target in order] == ["conv2d", "relu", "max_pool2d", "max_pool2d"]
    assert torch.equal(graph(x), model.module(x))


def test_a_layer_is_read_by_the_names_of_its_arguments():
    graph = torch.fx.Graph()
    x, weight, bias = graph.placeholder("x"), graph.get_attr("w"), graph.get_attr("b")
    for node in (x, weight, bias):
        node.meta["val"] = torch.empty(2, 4, 4, 4, device="meta")
    layer = graph.call_function(aten.conv2d.default, (x,), {"groups": 2, "bias": bias, "weight": weight})
    found = layer_at(layer)
    assert (found.inputs, found.weight, found.bias, found.groups, found.transposed) == (x, "w", "b", 2, False)
    assert not found.computes_bias


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.ConvTranspose2d(3, 4, 2, 2), nn.Conv2d(4, 6, 3, bias=False)
        self.scale = nn.Parameter(torch.rand(4))

    def forward(self, x):
        x = self.down(self.up(x))
        return F.linear(x.mean((2, 3)), torch.ones(4, 6) * x.sum(), self.scale)


def test_layers_are_those_with_weights_of_their_own_transposed_ones_last():
    graph = inference(Model(Layers().eval(), (torch.rand(1, 3, 4, 4),)))
    assert [(each.weight, each.bias) for each in graph.layers()] == [("down.weight", "")]
    every = [(each.weight, each.bias, each.axis) for each in graph.layers(transposed=True)]
    assert every == [("down.weight", "", 0), ("up.weight", "up.bias", 1)]


def test_other_tensors_change_a_copy_that_shares_the_rest():
    model, x = build("padded residual")
    graph = inference(model)
    before, name = graph(x), next(layer.weight for layer in graph.layers())
    changed = graph.with_tensors({name: graph.tensor(name) * 2, "no such name": x})
    assert torch.equal(graph(x), before)
    assert not torch.equal(changed(x), before)
    assert all(changed.tensor(each) is tensor for each, tensor in graph.tensors.items() if each != name)
    assert changed.tensors.keys() == graph.tensors.keys()
