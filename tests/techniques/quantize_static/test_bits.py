from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from haversack.graph.folded import inference
from haversack.model import Model
from haversack.techniques.quantize_static.bits import allocate, sensitivity

LOSSES = st.lists(st.tuples(st.floats(0, 5), st.floats(0, 1), st.integers(1, 40)), min_size=1, max_size=6)


@settings(max_examples=60)
@given(layers=LOSSES, share=st.floats(0, 1.2))
def test_the_allocation_is_as_good_as_the_best_of_all_that_fit(layers, share):
    losses = {f"w{i}": {4: four, 8: eight} for i, (four, eight, _) in enumerate(layers)}
    costs = {f"w{i}": {4: count * 4.0, 8: count * 8.0} for i, (*_, count) in enumerate(layers)}
    total = sum(cost[8] for cost in costs.values())
    limit = max(share * total, total / 2)

    def judged(choice):
        return (
            sum(losses[name][bits] for name, bits in choice.items()),
            sum(costs[name][bits] for name, bits in choice.items()),
        )

    loss, cost = judged(allocate(losses, costs, limit))
    assert cost <= limit * (1 + 1e-9)
    # Costs are rounded up to 1 / 4096 of the room, so that a rival may be missed that fills the limit to the brim.
    rivals = (judged(dict(zip(losses, choice, strict=True))) for choice in product((4, 8), repeat=len(layers)))
    brim = limit - (limit - total / 2) * len(layers) / 4096
    assert loss <= min(rival for rival, price in rivals if price <= max(brim, total / 2)) + 1e-9


def test_without_room_every_weight_gets_the_cheapest():
    losses, costs = {"a": {4: 9.0, 8: 0.0}}, {"a": {4: 4.0, 8: 8.0}}
    assert allocate(losses, costs, 1.0) == {"a": 4}


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
