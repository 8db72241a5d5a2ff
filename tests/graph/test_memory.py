"""The planner is held against its own definition; MLPerf Tiny's networks against what ran on an emulated board."""

import itertools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.graph.cost import cost
from haversack.graph.memory import Buffer, MemoryPlan, Overlap, plan
from haversack.graph.trace import trace

SPANS = st.tuples(st.integers(0, 12), st.integers(0, 5), st.integers(0, 64))
BUFFERS = st.lists(SPANS, max_size=14).map(
    lambda spans: [Buffer(f"b{i}", size, first, first + length) for i, (first, length, size) in enumerate(spans)]
)


def planned(network: nn.Module, *shape: int) -> MemoryPlan:
    return cost(trace(network, (torch.zeros(1, *shape),)), bytes_per_element=1).memory


@given(BUFFERS)
@settings(max_examples=60)
def test_buffers_that_are_alive_together_never_overlap(buffers: list[Buffer]) -> None:
    found = plan(buffers, tries=50)
    for one in buffers:
        for other in buffers:
            if one != other and one.meets(other):
                start, theirs = found.offsets[one.name], found.offsets[other.name]
                assert start + one.size_bytes <= theirs or theirs + other.size_bytes <= start


@given(BUFFERS)
@settings(max_examples=60)
def test_the_peak_lies_between_the_liveness_bound_and_the_greedy_plan(buffers: list[Buffer]) -> None:
    found, greedy = plan(buffers, tries=50), plan(buffers, tries=0)
    alive = [sum(b.size_bytes for b in buffers if b.first <= step <= b.last) for step in range(20)]
    assert found.bound_bytes == greedy.bound_bytes == max(alive)
    assert found.bound_bytes <= found.peak_bytes <= greedy.peak_bytes
    ends = [found.offsets[buffer.name] + buffer.size_bytes for buffer in buffers]
    assert found.peak_bytes == max(ends, default=0)


@given(BUFFERS)
@settings(max_examples=20)
def test_the_same_buffers_get_the_same_plan(buffers: list[Buffer]) -> None:
    assert plan(buffers, tries=50) == plan(buffers, tries=50)


@given(BUFFERS, st.lists(st.tuples(st.integers(0, 70), st.booleans()), min_size=14, max_size=14))
@settings(max_examples=100)
def test_what_is_made_lies_over_what_is_read_only_as_it_may(
    buffers: list[Buffer], ways: list[tuple[int, bool]]
) -> None:
    pairs = [(one, other) for one, other in itertools.permutations(buffers, 2) if one.first < other.first <= one.last]
    overlaps = [
        Overlap(one.name, other.name, 0 if exact else distance, exact)
        for (one, other), (distance, exact) in zip(pairs, ways, strict=False)
    ]
    found, apart = plan(buffers, tries=50, overlaps=overlaps), plan(buffers, tries=50)
    allowed = {frozenset((each.read, each.made)): each for each in overlaps}
    for one, other in itertools.combinations(buffers, 2):
        start, theirs = found.offsets[one.name], found.offsets[other.name]
        disjoint = start + one.size_bytes <= theirs or theirs + other.size_bytes <= start
        way = allowed.get(frozenset((one.name, other.name)))
        if way is not None and not disjoint:
            ahead = found.offsets[way.read] - found.offsets[way.made]
            assert ahead == 0 if way.exact else ahead >= way.distance
        elif one.meets(other):
            assert disjoint
    assert found.bound_bytes <= found.peak_bytes
    assert found.bound_bytes <= apart.bound_bytes


def test_a_chain_of_equal_buffers_that_may_lie_over_each_other_takes_one() -> None:
    buffers = [Buffer(str(step), 100, step, step + 1) for step in range(5)]
    overlaps = [Overlap(str(step), str(step + 1), exact=step % 2 == 0) for step in range(4)]
    assert plan(buffers).peak_bytes == 200
    assert plan(buffers, overlaps=overlaps).peak_bytes == plan(buffers, overlaps=overlaps).bound_bytes == 100


def test_the_search_finds_what_greedy_misses() -> None:
    chance = random.Random(4)
    better = 0
    for _ in range(30):
        firsts = [chance.randrange(8) for _ in range(10)]
        buffers = [Buffer(str(i), chance.randrange(1, 50), f, f + chance.randrange(4)) for i, f in enumerate(firsts)]
        better += plan(buffers).peak_bytes < plan(buffers, tries=0).peak_bytes
    assert better >= 3


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    padding = kernel // 2
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups)
    return [layer, nn.BatchNorm2d(outputs), nn.ReLU()]


def separable(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [*conv(inputs, inputs, stride=stride, groups=inputs), *conv(inputs, outputs, kernel=1)]


def ds_cnn() -> nn.Module:
    first = [nn.Conv2d(1, 64, (10, 4), 2, (5, 1)), nn.BatchNorm2d(64), nn.ReLU(), nn.Dropout(0.2)]
    blocks = [layer for _ in range(4) for layer in separable(64, 64)]
    return nn.Sequential(*first, *blocks, nn.AvgPool2d((25, 5)), nn.Flatten(), nn.Linear(64, 12))


def mobilenet() -> nn.Module:
    widths = [8, 16, 32, 32, 64, 64, 128, 128, 128, 128, 128, 128, 256, 256]
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
    blocks = [
        layer
        for inputs, outputs, stride in zip(widths, widths[1:], strides, strict=False)
        for layer in separable(inputs, outputs, stride)
    ]
    return nn.Sequential(*conv(3, 8, stride=2), *blocks, nn.AvgPool2d(3), nn.Flatten(), nn.Linear(256, 2))


def autoencoder() -> nn.Module:
    widths = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128]
    layers = [
        layer
        for inputs, outputs in itertools.pairwise(widths)
        for layer in (nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU())
    ]
    return nn.Sequential(*layers, nn.Linear(128, 640))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*conv(inputs, outputs, stride=stride), *conv(outputs, outputs)[:2])
        self.skip = nn.Conv2d(inputs, outputs, 1, stride) if stride != 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


def resnet8() -> nn.Module:
    blocks = [Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)]
    return nn.Sequential(*conv(3, 16), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


@pytest.mark.parametrize(
    ("network", "shape", "best"),
    [
        (ds_cnn, (1, 49, 10), 16_000),
        (resnet8, (3, 32, 32), 49_152),
        (mobilenet, (3, 96, 96), 55_296),
        (autoencoder, (640,), 768),
    ],
)
def test_mlperf_tiny_networks_need_as_much_memory_as_on_the_board(network, shape, best) -> None:
    found = planned(network(), *shape)
    assert plan(found.buffers, tries=0).peak_bytes == best
    assert found.peak_bytes == found.bound_bytes == best


def test_a_batch_norm_and_an_activation_after_a_convolution_take_no_memory() -> None:
    found = planned(nn.Sequential(*conv(3, 8), nn.Conv2d(8, 4, 1)), 3, 6, 6)
    assert [buffer.size_bytes for buffer in found.buffers] == [3 * 36, 8 * 36, 4 * 36]


class Branching(nn.Module):
    """What the convolution wrote is read after the ReLU as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return F.relu(y).flatten(1) + y.flatten(1)


def test_an_activation_gets_its_own_memory_where_its_input_is_needed_again() -> None:
    found = planned(Branching(), 3, 4, 4)
    assert len(found.buffers) == 4
    assert found.peak_bytes == 3 * 8 * 16


class Leftovers(nn.Module):
    """Constants, a result that nobody reads, and views."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 6))

    def forward(self, x: Tensor) -> Tensor:
        torch.softmax(x, dim=1)
        return (x[:].reshape(-1, 2, 3).flatten(1) + self.position * 2).unsqueeze(1)


def test_constants_views_and_unread_results_take_no_memory() -> None:
    found = planned(Leftovers(), 6)
    assert [buffer.size_bytes for buffer in found.buffers] == [6, 6]


def test_a_network_input_is_alive_from_the_start_and_an_output_to_the_end() -> None:
    found = planned(nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 2)), 4)
    assert found.buffers[0].first == 0
    assert found.buffers[-1].last == max(buffer.last for buffer in found.buffers)
    assert [buffer.size_bytes for buffer in found.buffers] == [4, 8, 2]
