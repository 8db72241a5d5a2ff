import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from haversack.calibration.ranges import Observed, limits_for_bias, limits_of_least_error, value_grids, weight_grids
from haversack.calibration.rewrite import bits_by_weight, leaving_float
from haversack.errors import RecipeError
from haversack.graph.inference import inference
from haversack.graph.ops import points
from haversack.grid import symmetric
from haversack.model import Model


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.gate = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return torch.sigmoid(self.gate(torch.cat([self.first(x), F.relu(self.second(x))], 1)))


@pytest.fixture(scope="module")
def joined():
    torch.manual_seed(0)
    return inference(Model(Joined().eval(), (torch.randn(1, 3, 4, 4),)))


def test_a_concatenation_shares_a_grid_with_all_it_reads_but_what_a_relu_cut(joined):
    seen = {name: Observed(-1, 2) for name in points(joined.graph)}
    seen |= {"relu": Observed(0, 7), "cat": Observed(-1, 6)}
    grids = value_grids(joined, seen, "min_max", "int8")
    assert grids["conv2d"] == grids["cat"]
    assert (grids["cat"].low, grids["cat"].high) == pytest.approx((-1, 7), abs=0.04)
    assert grids["relu"].zero_point == (-128,)
    assert grids["sigmoid"].scale == (1 / 256,)
    positive = value_grids(joined, {**seen, "conv2d": Observed(0, 3), "cat": Observed(0, 6)}, "min_max", "uint8")
    assert positive["conv2d"] == positive["relu"] == positive["cat"]


@settings(max_examples=25)
@given(st.integers(0, 999), st.integers(2, 8), st.floats(0.5, 3))
def test_no_channel_is_rounded_worse_than_on_the_grid_that_holds_all_of_it(seed, bits, shape):
    torch.manual_seed(seed)
    linear = nn.Linear(30, 6, bias=False).eval()
    with torch.no_grad():
        linear.weight.copy_(torch.randn(6, 30).sign() * torch.randn(6, 30).abs() ** shape)
    network = CACHE.setdefault("linear", inference(Model(nn.Linear(30, 6, bias=False).eval(), (torch.randn(1, 30),))))
    changed = network.with_tensors({"weight": linear.weight.detach()})
    values = value_grids(changed, {name: Observed(-1, 1) for name in points(changed.graph)}, "min_max", "int8")
    grid = weight_grids(changed, values, {"weight": bits})["weight"]
    weight = linear.weight.detach()
    whole = symmetric(weight.abs().amax(1), axis=0, bits=bits)
    errors = [(each.round(weight) - weight).square().sum(1) for each in (grid, whole)]
    assert (errors[0] <= errors[1] * (1 + 1e-5)).all()
    assert (grid.bits, grid.qmax) == (bits, 2 ** (bits - 1) - 1)


CACHE: dict = {}


def test_a_bias_leaves_its_32_bits_half_free(joined):
    changed = joined.with_tensors({"first.bias": torch.tensor([1e6, 1.0, 0.0, -1e6])})
    values = value_grids(changed, {name: Observed(-1, 2) for name in points(changed.graph)}, "min_max", "int8")
    limits = limits_for_bias(changed, "first.bias", values["x"], 8)
    steps = limits / 127 * values["x"].scale[0]
    assert (torch.tensor([1e6, 1.0, 0.0, 1e6]) / steps.clamp_min(1e-30)).max() == pytest.approx(2**30, rel=1e-4)


def test_weights_that_are_no_numbers_are_refused_by_name(joined):
    changed = joined.with_tensors({"first.weight": torch.full((4, 3, 1, 1), torch.nan)})
    values = value_grids(changed, {name: Observed(-1, 2) for name in points(changed.graph)}, "min_max", "int8")
    with pytest.raises(RecipeError, match=r"first.weight: .*NaN"):
        weight_grids(changed, values, {"first.weight": 8})


def test_leaving_layers_float_changes_neither_the_graph_given_nor_what_it_computes(joined):
    x = torch.randn(2, 3, 4, 4)
    changed = leaving_float(joined, ["first", "gate"])
    assert torch.equal(changed(x), joined(x))
    assert {"first.weight", "gate.weight"}.isdisjoint(bits_by_weight(changed, 8, {}))
    assert bits_by_weight(joined, 8, {"gate.weight": 4}) == {"first.weight": 8, "second.weight": 8, "gate.weight": 4}
    assert leaving_float(joined, ()) is joined


def test_a_part_of_a_name_is_no_path(joined):
    with pytest.raises(RecipeError, match="'fir'") as caught:
        bits_by_weight(joined, 8, {"fir": 4})
    assert "first, second, gate" in caught.value.mend


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("columns", [5, 32, 4611])
def test_the_limits_of_least_error_are_those_of_a_search_through_all_shares(bits, columns):
    torch.manual_seed(0)
    rows = torch.cat([torch.randn(60, columns), torch.rand(60, columns) - 0.3, torch.randn(60, columns) ** 5])
    rows[7] = 0
    shares = [share / 100 for share in range(100, 39, -2)]
    limits = torch.stack([rows.abs().amax(1) * share for share in shares])
    rounded = [symmetric(each, axis=0, bits=bits).round(rows) for each in limits]
    errors = torch.stack([(each - rows).square().sum(1) for each in rounded])
    wanted = limits.gather(0, errors.argmin(0, keepdim=True))[0]
    assert torch.equal(limits_of_least_error(rows, bits, shares), wanted)
