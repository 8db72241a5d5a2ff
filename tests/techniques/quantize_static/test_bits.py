import pytest
import torch
from torch import nn

from haversack.graph.inference import inference
from haversack.model import Model
from haversack.techniques.quantize_static.bits import sensitivity, spent


def test_bits_are_spent_where_they_save_most():
    losses = {"a": {4: 9.0, 8: 0.0}, "b": {4: 5.0, 8: 0.0}, "c": {4: 1.0, 8: 0.0}}
    assert spent(losses, {"a": 10, "b": 1, "c": 1}, 60) == {"a": 4, "b": 8, "c": 8}
    assert spent(losses, {"a": 10, "b": 1, "c": 1}, 88) == {"a": 8, "b": 4, "c": 4}
    assert set(spent(losses, {"a": 10, "b": 1, "c": 1}, 1).values()) == {4}


@pytest.fixture(scope="module")
def measured():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 5))
    with torch.no_grad():
        network[2].weight[:, :, 0, 0] *= 30  # one large weight a channel leaves the others few steps
    x = torch.randn(64, 3, 6, 6)
    found = inference(Model(network.eval(), (x[:1],)))
    return found, sensitivity(found, (4, 8), [(x,)])


def test_fewer_bits_lose_more_in_every_layer(measured):
    _, losses = measured
    assert set(losses) == {"0.weight", "2.weight", "4.weight"}
    assert all(each[4] > 10 * each[8] > 0 for each in losses.values())


def test_the_network_is_left_as_it_was(measured):
    network, _ = measured
    assert not [node for node in network.graph.nodes if "quantize" in str(node.target)]
