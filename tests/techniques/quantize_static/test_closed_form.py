import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from haversack.calibration.closest import closest
from haversack.calibration.least_squares import Fit
from haversack.calibration.ranges import observe
from haversack.errors import RecipeError, TaskError
from haversack.graph.inference import inference, lower
from haversack.graph.ops import points
from haversack.graph.write_back import written_back
from haversack.grid import symmetric
from haversack.model import Model
from haversack.techniques.quantize_static.closed_form import round_closed_form

LAYERS = {
    "conv": (lambda: nn.Conv2d(4, 6, 3, padding=1), (4, 6, 6)),
    "strided": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(0, 1)), (4, 7, 6)),
    "dilated": (lambda: nn.Conv2d(4, 6, 3, padding="same", dilation=2), (4, 6, 6)),
    "even": (lambda: nn.Conv2d(4, 6, (2, 4), padding="same"), (4, 6, 6)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (4, 6, 6)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4, padding=1), (4, 6, 6)),
    "one dimension": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (4, 12)),
    "one dimension, same": (lambda: nn.Conv1d(4, 6, 4, padding="same", groups=2), (4, 12)),
    "linear": (lambda: nn.Linear(12, 6), (12,)),
    "linear on tokens": (lambda: nn.Linear(12, 6), (5, 12)),
    "no bias": (lambda: nn.Conv2d(4, 6, 3, bias=False), (4, 6, 6)),
}


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.linear = nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        x = F.relu(self.b(F.relu(self.a(x))) + x)
        return self.linear(x.mean((2, 3)))


class Case:
    """A network, inputs whose numbers depend on each other as those of images do, and its value grids."""

    def __init__(self, network, shape, *, seed=0, samples=48, bits=4):
        torch.manual_seed(seed)
        for parameter in network.parameters():
            parameter.data = torch.randn_like(parameter) / math.sqrt(max(parameter[0].numel(), 1))
        mixing = torch.eye(shape[-1]) + torch.randn(shape[-1], shape[-1]) * 0.5
        self.x = F.relu(torch.randn(samples, *shape) @ mixing + 0.3)
        self.batches = [(part,) for part in self.x.split(20)]
        self.model = Model(network.eval(), (self.x[:1],))
        self.network = inference(self.model)
        seen = observe(self.network, points(self.network.graph), self.batches)
        self.grids = {name: each.grid("min_max") for name, each in seen.items()}
        self.bits = dict.fromkeys((layer.weight for layer in self.network.layers()), bits)

    def rounded(self, **changes):
        given = {"folded": self.network, "grids": self.grids, "bits": self.bits, "batches": self.batches}
        return round_closed_form(**{**given, **changes})

    def nearest(self):
        weights = {name: self.network.tensor(name) for name in self.bits}
        return {n: symmetric(w.abs().flatten(1).amax(1), axis=0, bits=self.bits[n]) for n, w in weights.items()}

    def error(self, tensors, grids):
        """The mean squared output error on the calibration inputs."""
        with torch.no_grad():
            network = lower(
                replace(written_back(self.model, inference(self.model), tensors), grids={**self.grids, **grids})
            )
            return float((network(self.x) - self.network(self.x)).square().mean())


@pytest.fixture
def residual():
    return Case(Residual(), (3, 6, 6))


@given(st.sampled_from(sorted(LAYERS)), st.integers(2, 8), st.integers(0, 1000))
@settings(max_examples=15)
def test_the_output_error_is_no_larger_than_that_of_rounding_to_nearest(kind, bits, seed):
    build, shape = LAYERS[kind]
    case = Case(build(), shape, seed=seed, bits=bits)
    found = case.rounded()
    # The output's own grid and the pull towards the trained weights may cost a little.
    least = max(grid.scale[0] ** 2 for grid in case.grids.values())
    assert case.error(found.tensors, found.grids) <= case.error({}, case.nearest()) * 1.03 + least / 50


@pytest.mark.parametrize("kind", sorted(LAYERS))
def test_at_three_bits_the_error_is_well_below_that_of_rounding_to_nearest(kind):
    build, shape = LAYERS[kind]
    case = Case(build(), shape, bits=3)
    found = case.rounded()
    assert case.error(found.tensors, found.grids) < 0.75 * case.error({}, case.nearest())


@given(st.integers(2, 8), st.integers(0, 1000))
@settings(max_examples=4)
def test_the_weights_lie_exactly_on_their_grids(bits, seed):
    case = Case(Residual(), (3, 6, 6), seed=seed, bits=bits)
    found = case.rounded()
    assert found.grids.keys() == case.bits.keys()
    for name, grid in found.grids.items():
        assert grid.bits == bits
        assert grid.axis == 0
        assert grid.qmin == -grid.qmax
        assert torch.equal(grid.round(found.tensors[name]), found.tensors[name])


def test_a_whole_network_on_four_bits_stays_far_closer_than_rounded_to_nearest(residual):
    found = residual.rounded()
    assert residual.error(found.tensors, found.grids) < 0.3 * residual.error({}, residual.nearest())


def test_on_eight_bits_nearly_all_that_is_left_is_the_error_of_the_values(residual):
    eight = Case(Residual(), (3, 6, 6), bits=8)
    found = eight.rounded()
    assert eight.error(found.tensors, found.grids) < 1.5 * eight.error({}, {})


def test_the_mean_outputs_of_a_layer_are_those_of_the_float_network():
    case = Case(nn.Conv2d(4, 6, 3, padding=1), (4, 6, 6), bits=2)
    found = case.rounded()
    rounded = written_back(case.model, inference(case.model), found.tensors).module
    x = next(iter(case.grids.values())).round(case.x)
    with torch.no_grad():
        means = (rounded(x) - case.model.module(case.x)).mean((0, 2, 3))
    assert means.abs().max() < 1e-5


def test_a_rounded_layer_repairs_what_the_other_summand_lost(residual):
    grid = residual.grids["relu"]
    coarse = {"relu": replace(grid, scale=(grid.scale[0] * 30,))}
    found = residual.rounded(grids=coarse)
    with torch.no_grad():
        network = lower(
            replace(
                written_back(residual.model, inference(residual.model), found.tensors), grids={**coarse, **found.grids}
            )
        )
        sums = [run(each, residual.x, "add") for each in (network, residual.network.module)]
        first = run(residual.network.module, residual.x, "relu")
        lost = coarse["relu"].round(first) - first
    # What is left is the rounding of the biases, in steps of input step x weight step.
    assert (sums[0] - sums[1]).mean((0, 2, 3)).abs().max() < lost.mean((0, 2, 3)).abs().max() / 3


def run(network, x, name):
    class Until(torch.fx.Interpreter):
        def run_node(self, n):
            value = super().run_node(n)
            if n.name == name:
                self.found = value
            return value

    interpreter = Until(network)
    interpreter.run(x)
    return interpreter.found


def test_two_runs_choose_the_same_numbers(residual):
    first, second = residual.rounded(), residual.rounded()
    assert first.grids == second.grids
    assert all(torch.equal(tensor, second.tensors[name]) for name, tensor in first.tensors.items())


def test_how_the_inputs_are_split_into_batches_changes_next_to_nothing(residual):
    whole = residual.rounded(batches=[(residual.x,)])
    parts = residual.rounded()
    errors = [residual.error(each.tensors, each.grids) for each in (whole, parts)]
    assert errors[0] == pytest.approx(errors[1], rel=0.2)


def test_values_may_stay_float(residual):
    found = residual.rounded(grids={})
    residual.grids = {}
    assert residual.error(found.tensors, found.grids) < 0.3 * residual.error({}, residual.nearest())


def test_weights_without_bits_are_left_alone(residual):
    found = residual.rounded(bits={"a.weight": 4})
    assert found.tensors.keys() == {"a.weight", "a.bias"}
    assert found.grids.keys() == {"a.weight"}


def test_what_cannot_be_written_is_rounded_to_nearest_and_the_others_make_up_for_it(residual):
    closed = {"a.weight", "a.bias", "b.bias"}
    free = {name: tensor for name, tensor in residual.network.own.items() if name not in closed}
    found = residual.rounded(folded=replace(residual.network, own=free))
    assert found.grids.keys() == residual.bits.keys()
    assert {"a.weight", "a.bias", "b.bias"}.isdisjoint(found.tensors)
    assert residual.error(found.tensors, found.grids) < 0.6 * residual.error({}, residual.nearest())


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x):
        return self.linear(F.relu(self.conv(F.relu(self.conv(x)))).mean((2, 3)))


def test_a_weight_that_two_layers_share_keeps_its_value_and_one_grid():
    case = Case(Twice(), (4, 6, 6))
    found = case.rounded()
    assert found.tensors.keys() == {"linear.weight", "linear.bias"}
    assert found.grids.keys() == {"conv.weight", "linear.weight"}
    case.error(found.tensors, found.grids)


class Dead(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4)

    def forward(self, x):
        return self.b(F.relu(self.a(x)))


def test_channels_that_are_always_zero_keep_their_bias():
    case = Case(Dead(), (3, 6, 6))
    with torch.no_grad():
        case.model.module.a.weight[1] = 0
        case.model.module.a.bias[1] = -1
    dead = Case.__new__(Case)
    dead.__dict__ = {**case.__dict__, "network": inference(case.model)}
    found = dead.rounded()
    assert all(tensor.isfinite().all() for tensor in found.tensors.values())
    assert float(found.tensors["b.bias"][1]) == pytest.approx(float(dead.network.tensor("b.bias")[1]), abs=1e-5)
    assert float(found.tensors["a.bias"][1]) == pytest.approx(-1, abs=1e-5)


def test_a_small_spread_around_a_large_mean_is_no_obstacle():
    case = Case(nn.Linear(12, 6), (12,))
    case.x += 1000
    case.batches, case.grids = [(part,) for part in case.x.split(20)], {}
    found = case.rounded()
    spread = case.network(case.x).var(0).mean()
    assert case.error(found.tensors, found.grids) < 0.05 * float(spread)


def test_weights_that_hold_nan_are_refused_by_name(residual):
    with torch.no_grad():
        residual.network.tensor("a.weight")[0, 0, 0, 0] = math.nan
    with pytest.raises(RecipeError, match=r"a\.weight: the weights hold NaN"):
        residual.rounded()


def test_no_inputs_and_inputs_that_hold_nan_are_refused(residual):
    with pytest.raises(TaskError, match="no calibration inputs"):
        residual.rounded(batches=[])
    with pytest.raises(TaskError, match="NaN or infinity"):
        residual.rounded(batches=[(residual.x * math.nan,)])


def pruned(case, share=0.5):
    """The case with some of its weights at zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name in case.bits:
            weight = dict(case.model.module.named_parameters())[name]
            weight *= torch.rand(weight.shape, generator=generator) > share
    case.network = inference(case.model)
    return case


@pytest.mark.parametrize("kind", ["conv", "depthwise", "linear"])
def test_zeros_of_a_pruned_weight_stay_and_the_others_make_up_for_each_other_all_the_same(kind):
    build, shape = LAYERS[kind]
    case = pruned(Case(build(), shape, bits=3))
    found = case.rounded(sparse=case.bits.keys())
    for name in case.bits:
        assert not found.tensors[name][case.network.tensor(name) == 0].any()
    assert case.error(found.tensors, found.grids) < 0.75 * case.error({}, case.nearest())


def test_zeros_are_left_out_as_if_their_columns_were_not_there():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 12, generator=generator, dtype=torch.float64) @ torch.randn(
        12, 12, generator=generator, dtype=torch.float64
    )
    curvature = (x.T @ x / 300 + 0.01 * torch.eye(12))[None]
    weight = torch.randn(1, 4, 12, generator=generator, dtype=torch.float64)
    kept = torch.rand(1, 4, 12, generator=generator) > 0.5
    least = torch.full((1, 4), 1e-8, dtype=torch.float64)
    whole = Fit(weight * kept, weight, curvature, torch.zeros(1, 4), torch.zeros(1, 12))
    codes, steps = closest(whole, 3, least, kept)
    assert not codes[~kept].any()
    for row in range(4):
        some = kept[0, row].nonzero()[:, 0]
        inner = curvature[:, some][:, :, some]
        best = torch.linalg.solve(inner[0], (weight[0, row] @ curvature[0])[some])[None, None]
        start = weight[:, row : row + 1, some]
        alone = Fit(start, best, inner, torch.zeros(1, 1), torch.zeros(1, len(some)))
        wanted, step = closest(alone, 3, least[:, :1])
        assert torch.equal(codes[0, row, some], wanted[0, 0])
        assert steps[0, row] == pytest.approx(float(step))
