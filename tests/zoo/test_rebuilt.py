"""A network of the zoo that took another's place is data: it is saved, and rebuilt on the other, without pickle."""

import pytest
import torch
from torch import nn

from haversack import zoo
from haversack.model import Edits, Layer, Model, Slices, Swap
from haversack.surgery.save import load, save


@pytest.mark.parametrize("name", zoo.names())
def test_a_network_of_the_zoo_is_rebuilt_in_place_of_the_users(tmp_path, name):
    settings = {"channels": 1, "outputs": 4, "width": 0.25, "depth": 0.5, "downsampling": 2}
    example = (torch.randn(1, 1, *(32,) * zoo.family(name).dimensions),)
    network = zoo.family(name)(**settings).eval()
    kind = f"{name}.{type(network).__name__}"
    save(Model(network, example, Edits((Swap("", (Layer(kind, settings),)),))), tmp_path)
    again = load(nn.Linear(2, 2), tmp_path, example).module
    assert torch.equal(again(*example), network(*example))


def test_nothing_is_left_of_cuts_in_a_network_that_was_replaced():
    cut = Slices({"weight": {0: (0,)}})
    assert Edits((cut, Swap("", (Layer("Identity"),)))).kept == {}
