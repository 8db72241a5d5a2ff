"""What networks write in place: the graph computes the same, and batch norms are folded either way."""

import weakref

import pytest
import torch
from torch import nn

from haversack.graph import structure
from haversack.graph.inference import inference
from haversack.model import Model
from haversack.runtimes import host
from haversack.runtimes.onnx.write import write

IMAGES = torch.randn(2, 3, 8, 8)


def a_slice(y):
    z = y[:, :4]
    z += 1
    return z.relu()


def a_part_of_what_is_read_later(y):
    y[:, :4] += 1
    return y.relu()


def a_part_set_to_a_number(y):
    y[:, 1] = 0.5
    return y * 2


def what_a_view_shows_later(y):
    rows = y.flatten(2)
    y.mul_(2)
    return rows + y.flatten(2)


def what_a_view_showed_before(y):
    rows = y.flatten(2) * 1.5
    y.mul_(2)
    return rows + y.flatten(2)


def a_half_and_its_whole(y):
    first, second = y[:, :4], y[:, 4:]
    first.add_(second)
    return torch.cat([first, y], 1)


def a_view_twice(y):
    z = y.permute(0, 2, 3, 1)
    z.add_(1)
    z.mul_(2)
    return z


def a_part_of_what_is_turned_and_laid_out_anew(y):
    y[:, :4] += 1
    return y.transpose(1, 2).reshape(y.shape[0], -1)


class Writing(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.layer, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        return self.function(self.norm(self.layer(x)))


ALONE = [a_slice, what_a_view_showed_before, a_view_twice]
SEEN = [
    *(a_part_of_what_is_read_later, a_part_set_to_a_number, what_a_view_shows_later, a_half_and_its_whole),
    a_part_of_what_is_turned_and_laid_out_anew,
]


@pytest.mark.parametrize(("function", "again"), [*((each, 0) for each in ALONE), *((each, 1) for each in SEEN)])
def test_what_writes_in_place_is_written_as_torch_computes_it(function, again, monkeypatch):
    monkeypatch.setattr(structure, "_KNOWN", weakref.WeakValueDictionary())
    calls, run = [], torch.export.ExportedProgram.run_decompositions
    monkeypatch.setattr(
        torch.export.ExportedProgram, "run_decompositions", lambda *words: calls.append(words) or run(*words)
    )
    network = Writing(function).eval()
    module = inference(Model(network, (IMAGES,))).module
    assert len(calls) == again
    assert not [node for node in module.graph.nodes if "batch_norm" in str(node.target)]
    with torch.no_grad():
        wanted = network(IMAGES)
        torch.testing.assert_close(module(IMAGES), wanted)
    torch.testing.assert_close(host.load(write(module), threads=1)(IMAGES), wanted, atol=1e-5, rtol=1e-5)


def test_passes_know_what_is_written_in_place_as_they_know_the_rest():
    """A clamp by another operator object of the same name is one that nothing is known of."""
    layers = [nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.LeakyReLU]
    graphs = []
    for in_place in (True, False):
        several = [nn.Conv2d(3, 3, 1), *(each(inplace=in_place) for each in layers), nn.Dropout(0.5, inplace=in_place)]
        graphs.append(inference(Model(nn.Sequential(*several).eval(), (IMAGES,))).graph)
    ours, plain = ([node.target for node in graph.nodes if node.op == "call_function"] for graph in graphs)
    assert len(ours) == 1 + len(layers)
    assert ours == plain
