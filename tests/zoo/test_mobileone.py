"""MobileOne against what is published of it: in its files it is a plain chain of layers."""

import pytest
import torch

from haversack.graph.cost import cost
from haversack.graph.inference import inference
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.zoo.mobileone import Branched, MobileOne


@pytest.mark.slow
def test_mobileone_s0_weighs_what_the_paper_says():
    with torch.device("meta"):
        network, x = MobileOne(), torch.zeros(2, 3, 224, 224)
    found = cost(trace(network, (x,)))
    assert round(found.macs / 1e6) == 275
    assert round(found.parameters / 1e6, 1) == 2.1
    assert sum(each.numel() for each in network.parameters()) > 2 * found.parameters, "what only learns is not counted"


def test_a_branched_layer_has_the_papers_branches():
    def kinds(layer: Branched) -> list[tuple[int, ...]]:
        branches = [each[0].kernel_size if isinstance(each, torch.nn.Sequential) else () for each in layer.branches]
        return sorted(branches)

    assert kinds(Branched(8, 8, branches=2)) == [(), (1, 1), (3, 3), (3, 3)]
    assert kinds(Branched(8, 8, stride=2, branches=1)) == [(1, 1), (3, 3)]
    assert kinds(Branched(8, 16, kernel=1, branches=3)) == [(1, 1)] * 3


def test_every_layer_of_mobileone_is_one_convolution_in_its_files():
    torch.manual_seed(0)
    network, x = MobileOne(width=0.25, depth=0.1, downsampling=4, outputs=4).eval(), torch.randn(2, 3, 16, 16)
    written = inference(Model(network, (x,)))
    operations = [str(node.target) for node in written.graph.nodes if node.op == "call_function"]
    assert operations.count("aten.conv2d.default") == sum(isinstance(each, Branched) for each in network.modules())
    assert not any("add" in each for each in operations)
    with torch.no_grad():
        torch.testing.assert_close(written(x), network(x), rtol=1e-5, atol=1e-5)
