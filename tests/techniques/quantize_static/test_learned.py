from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.calibration.blocks import blocks, run, sizes_of
from haversack.calibration.ranges import observe
from haversack.graph.inference import inference, lower
from haversack.graph.ops import points
from haversack.graph.write_back import written_back
from haversack.model import Model
from haversack.techniques.quantize_static.learned import round_learned


class Residual(nn.Module):
    """Two residual blocks, the second with a shortcut that slices and pads, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.a1, self.norm, self.a2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1)
        self.b1, self.b2 = nn.Conv2d(6, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.a2(F.relu(self.norm(self.a1(x)))) + x)
        x = F.relu(self.b2(F.relu(self.b1(x))) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)))
        return self.head(F.avg_pool2d(x, 4).view(x.size(0), -1))


class Concatenated(nn.Module):
    """A dense block, in which every map is read again at the end."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(7, 4, 3, padding=1)
        self.last = nn.Conv2d(11, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = torch.cat([x, F.relu(self.first(x))], 1)
        return self.last(torch.cat([one, F.relu(self.second(one))], 1)).mean((2, 3))


class Branched(nn.Module):
    """Two branches of the input, which meet at the end."""

    def __init__(self):
        super().__init__()
        self.short, self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.short(x), self.second(F.relu(self.first(x)))], 1).mean((2, 3))


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Flatten(),
        nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4),
    )  # fmt: skip


NETWORKS = {"residual": Residual, "concatenated": Concatenated, "branched": Branched, "plain": plain}


class Case:
    def __init__(self, name: str, bits: int = 4):
        torch.manual_seed(0)
        self.inputs = torch.randn(64, 3, 8, 8)
        self.model = Model(NETWORKS[name]().eval(), (self.inputs[:1],))
        self.network = inference(self.model)
        self.batches = [(part,) for part in self.inputs.split(32)]
        seen = observe(self.network, points(self.network.graph), self.batches)
        self.grids = {value: each.grid("min_max") for value, each in seen.items()}
        self.bits = dict.fromkeys((layer.weight for layer in self.network.layers()), bits)

    def rounded(self, iterations: int = 60, folded=None, **settings):
        return round_learned(
            folded or self.network, self.grids, self.bits, self.batches, iterations=iterations, **settings
        )

    def settled(self, rounded) -> Model:
        return replace(
            written_back(self.model, inference(self.model), rounded.tensors), grids={**self.grids, **rounded.grids}
        )

    def error(self, rounded) -> float:
        with torch.no_grad():
            outputs = lower(self.settled(rounded))(self.inputs)
            return float(F.mse_loss(outputs, self.network(self.inputs)))


def pieces_of(name: str) -> list[set[str]]:
    case = Case(name)
    lowered = case.network.lowered(case.grids)
    return [{weight.removesuffix(".weight") for weight in each.weights} for each in blocks(lowered.graph, case.bits)]


def test_a_block_ends_after_every_sum_of_a_residual_network():
    assert pieces_of("residual") == [{"stem"}, {"a1", "a2"}, {"b1", "b2"}, {"head"}]


def test_each_layer_of_a_plain_network_is_a_block():
    assert pieces_of("plain") == [{"0"}, {"3"}, {"6"}, {"8"}]


def test_a_block_ends_after_every_concatenation_of_all_that_is_read_later():
    assert pieces_of("concatenated") == [{"first"}, {"second"}, {"last"}]


def test_a_network_that_no_value_cuts_is_one_block():
    assert pieces_of("branched") == [{"short", "first", "second"}]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rounded", [False, True])
def test_one_block_after_another_computes_what_the_network_computes(name, rounded):
    case = Case(name)
    lowered = case.network.lowered(case.grids)
    tensors = {node.target: lowered.get_buffer(node.target) for node in lowered.graph.find_nodes(op="get_attr")}
    values = (case.inputs,)
    sizes = sizes_of(lowered.graph, values, tensors)
    for piece in blocks(lowered.graph, case.bits):
        assert len(piece.writes) == 1
        values = run(piece, values, tensors, sizes, rounded=rounded)
    wanted = (lowered if rounded else case.network)(case.inputs)
    torch.testing.assert_close(values[0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_weights_lie_on_points_of_grids_with_so_many_bits(name, bits):
    case = Case(name, bits)
    rounded = case.rounded(8)
    assert rounded.grids.keys() == case.bits.keys()
    for weight, grid in rounded.grids.items():
        assert (grid.bits, grid.qmax, set(grid.zero_point)) == (bits, 2 ** (bits - 1) - 1, {0})
        assert torch.equal(grid.round(rounded.tensors[weight]), rounded.tensors[weight])


@pytest.mark.parametrize("name", NETWORKS)
def test_learned_rounding_ends_nearer_to_float_than_rounding_to_nearest(name):
    case = Case(name, 3)
    assert case.error(case.rounded(60)) < 0.7 * case.error(case.rounded(0))


def test_a_block_is_no_further_from_float_than_with_every_weight_rounded_to_nearest(monkeypatch):
    case = Case("branched")
    nearest = case.error(case.rounded(0))
    monkeypatch.setattr("haversack.techniques.quantize_static.learned._WEIGHT_RATE", 100.0)
    assert case.error(case.rounded(10)) <= nearest * 1.0001


def test_without_iterations_every_weight_is_rounded_to_nearest():
    case = Case("residual")
    rounded = case.rounded(0)
    for weight, grid in rounded.grids.items():
        torch.testing.assert_close(rounded.tensors[weight], grid.round(case.network.tensor(weight)))


def test_the_same_seed_gives_the_same_numbers():
    case = Case("residual")
    one, two, other = case.rounded(15, seed=3), case.rounded(15, seed=3), case.rounded(15, seed=4)
    assert one.grids == two.grids != other.grids
    assert all(torch.equal(tensor, two.tensors[name]) for name, tensor in one.tensors.items())


def test_the_network_is_left_alone():
    case = Case("residual")
    before = {name: tensor.clone() for name, tensor in case.network.tensors.items()}
    case.rounded(10)
    assert all(torch.equal(tensor, before[name]) for name, tensor in case.network.tensors.items())
    assert not any(tensor.grad is not None for tensor in case.network.tensors.values())


def test_what_is_not_writable_gets_a_grid_and_keeps_its_values():
    case = Case("residual")
    free = {name: tensor for name, tensor in case.network.own.items() if name not in {"a1.weight", "b1.bias"}}
    rounded = case.rounded(10, replace(case.network, own=free))
    assert case.network.writable - rounded.tensors.keys() == {"a1.weight", "b1.bias"}
    assert "a1.weight" in rounded.grids
    nearest = case.rounded(0).grids["a1.weight"]
    assert rounded.grids["a1.weight"] == nearest


def test_weights_that_bits_does_not_name_stay_as_they_are():
    case = Case("plain")
    case.bits = {"3.weight": 4}
    rounded = case.rounded(10)
    assert rounded.tensors.keys() == {"3.weight", "3.bias"}
    assert rounded.grids.keys() == {"3.weight"}


def test_the_graph_that_files_are_written_from_has_the_chosen_integers():
    case = Case("residual")
    rounded = case.rounded(20)
    buffers = dict(lower(case.settled(rounded)).named_buffers())
    for weight, grid in rounded.grids.items():
        (integers,) = (tensor for name, tensor in buffers.items() if name.startswith(f"{weight}_integers"))
        assert torch.equal(integers.int(), grid.quantize(rounded.tensors[weight]))


def test_weights_are_rounded_alone_where_no_value_has_a_grid():
    case = Case("residual", 3)
    case.grids = {}
    assert case.error(case.rounded(60)) < 0.7 * case.error(case.rounded(0))


def test_few_samples_are_one_chunk():
    case = Case("plain")
    case.batches = [(case.inputs[:5],)]
    assert case.rounded(5).grids


def test_of_inputs_of_several_shapes_the_commonest_are_learned_from():
    case = Case("residual")
    alone = case.rounded(5)
    case.batches = [(torch.randn(4, 3, 16, 16),), *case.batches]
    assert case.rounded(5).tensors.keys() == alone.tensors.keys()
    assert all(torch.equal(value, alone.tensors[name]) for name, value in case.rounded(5).tensors.items())
