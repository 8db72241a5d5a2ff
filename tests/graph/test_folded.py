import pytest
import torch
from quantizable_networks import NETWORKS, build, convolution, model_of
from torch.nn import functional as F

from haversack.graph.inference import inference


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
