import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prunable_networks import NETWORKS, PaddedBlock, build, conv
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.graph.groups import ChannelGroup, Groups, channel_groups, components
from haversack.graph.trace import trace


def groups_of(module: nn.Module, *example: Tensor) -> Groups:
    module.eval()
    return channel_groups(trace(module, example), module)


def by_name(found: Groups) -> dict[str, ChannelGroup]:
    return {group.name: group for group in found.groups}


def dims(group: ChannelGroup) -> set[tuple[str, int]]:
    return {(member.tensor, member.dim) for member in group.members}


class Lambda(nn.Module):
    """A convolution of 8 channels, something in between, and a head of another convolution or linear layer."""

    def __init__(self, between: object, head: nn.Module) -> None:
        super().__init__()
        self.first, self.head, self.between = nn.Conv2d(3, 8, 3, padding=1), head, between

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self.first(x)))


def test_a_residual_stream_with_padded_zero_channels_stays_prunable_where_no_zero_was_added() -> None:
    module, x = build("padded residual")
    found = groups_of(module, x)
    stream = by_name(found)["stem.0"]
    assert stream.size == 8
    # The padded block shifts the stream by its zero channels: 4 in the second stage, 4 + 8 in the third.
    rows = {member.tensor: member.indices[0] for member in stream.members if member.dim == 0}
    assert rows["stem.0.weight"] == (0,)
    assert rows["blocks.1.conv2.weight"] == (4,)
    assert rows["blocks.2.conv2.weight"] == (12,)
    assert {(each.layer, each.channels) for each in found.pinned} == {
        ("blocks.1.conv2", 8),
        ("blocks.2.conv2", 16),
        ("head", 5),
    }
    assert any("zero channels" in each.reason for each in found.pinned)


def test_a_depthwise_convolution_goes_with_its_inputs_channels() -> None:
    module, x = build("mobile")
    inner = by_name(groups_of(module, x))["1.expand.0"]
    assert {("1.expand.0.weight", 0), ("1.depthwise.0.weight", 0), ("1.project.0.weight", 1)} <= dims(inner)
    assert ("1.depthwise.0.weight", 1) not in dims(inner)


def test_a_depthwise_multiplier_takes_several_filters_a_channel() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 12, 3, groups=4), nn.Conv2d(12, 2, 1))
    (group,) = groups_of(module, torch.randn(2, 3, 5, 5)).groups
    filters = next(member for member in group.members if member.tensor == "1.weight")
    assert filters.indices == ((0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 10, 11))


def test_a_grouped_convolution_shrinks_every_group_alike() -> None:
    module, x = build("grouped")
    found = by_name(groups_of(module, x))
    rows = {member.tensor: member for member in found["0.0"].members}
    assert rows["0.0.weight"].indices[1] == (1, 5, 9)
    assert rows["1.0.weight"].dim == 1
    assert found["0.0"].least == 2


def test_flattening_takes_a_channels_pixels_along() -> None:
    module, x = build("signal")
    group = by_name(groups_of(module, x))["4"]
    columns = next(member for member in group.members if member.tensor == "7.weight")
    assert (columns.dim, columns.indices[2]) == (1, (6, 7, 8))


def test_concatenated_channels_keep_their_places() -> None:
    module, x = build("dense")
    found = by_name(groups_of(module, x))
    places = {member.tensor: member.indices for member in found["convs.1"].members if member.dim == 1}
    assert places["head.weight"] == ((10,), (11,), (12,), (13,))


def test_only_the_hidden_channels_of_a_transformer_can_go() -> None:
    module, x = build("transformer")
    found = groups_of(module, x)
    assert set(by_name(found)) == {"mlp.0", "layer.linear1"}
    assert any(each.layer == "embed" and "attention" in each.reason for each in found.pinned)
    assert any(each.layer == "qkv" for each in found.pinned)


@pytest.mark.parametrize(
    ("between", "head", "reason"),
    [
        (lambda x: x.view(-1, 8 * 16), nn.Linear(128, 2), "spells the size"),
        (lambda x: x[:, :4], nn.Conv2d(4, 2, 1), "picks channels"),
        (lambda x: x.split(4, 1)[0] * x.split(4, 1)[1], nn.Conv2d(4, 2, 1), "splits channels"),
        (lambda x: F.pixel_shuffle(x, 2), nn.Conv2d(2, 2, 1), "not known"),
        (lambda x: F.conv2d(x, torch.ones(8, 1, 3, 3), groups=8), nn.Conv2d(8, 2, 1), "fixed size"),
        (lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (8,)), nn.Linear(8, 2), "normalised shape"),
        (lambda x: x.expand(2, 8, 4, 4), nn.Conv2d(8, 2, 1), "spells the size"),
        (lambda x: x + torch.arange(8.0)[:, None, None], nn.Conv2d(8, 2, 1), "fixed size"),
    ],
)
def test_channels_that_the_code_counts_must_stay(between: object, head: nn.Module, reason: str) -> None:
    found = groups_of(Lambda(between, head), torch.randn(2, 3, 4, 4))
    assert not found.groups
    assert any(each.layer == "first" and reason in each.reason for each in found.pinned), found.pinned


@pytest.mark.parametrize(
    ("between", "head"),
    [
        (lambda x: x.flatten(1), nn.Linear(128, 2)),
        (lambda x: x.reshape(x.shape[0], -1), nn.Linear(128, 2)),
        (lambda x: x.flatten(2).transpose(1, 2), nn.Linear(8, 2)),
        (lambda x: x.permute(0, 2, 3, 1).contiguous(), nn.Linear(8, 2)),
        (lambda x: x.mean((2, 3), keepdim=True).squeeze(-1).squeeze(-1), nn.Linear(8, 2)),
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), nn.Conv2d(8, 2, 1)),
        (lambda x: x[:, :, 1:, ::2].clamp(0, 6), nn.Conv2d(8, 2, 1)),
        (lambda x: torch.where(x > 0, x, 0.1 * x), nn.Conv2d(8, 2, 1)),
        (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), nn.Conv2d(8, 2, 1)),
        (lambda x: x * x.amax(1, keepdim=True).sigmoid(), nn.Conv2d(8, 2, 1)),
        (lambda x: x.softmax(1).to(torch.float64).to(torch.float32), nn.Conv2d(8, 2, 1)),
        (lambda x: torch.einsum("nchw,nc->nchw", x, x.mean((2, 3))), nn.Conv2d(8, 2, 1)),
        (lambda x: F.max_pool2d(x, 2, return_indices=True)[0], nn.Conv2d(8, 2, 1)),
        (lambda x: torch.stack([x, x.relu()], 1).sum(1), nn.Conv2d(8, 2, 1)),
    ],
)
def test_channels_that_only_pass_through_can_go(between: object, head: nn.Module) -> None:
    (group,) = groups_of(Lambda(between, head), torch.randn(2, 3, 4, 4)).groups
    assert (group.name, group.size) == ("first", 8)
    assert ("head.weight", 1) in dims(group)


def test_a_recurrent_layer_pins_what_flows_in_and_out() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.lstm = nn.Linear(4, 6), nn.LSTM(6, 5, batch_first=True)
            self.hidden, self.out = nn.Linear(5, 7), nn.Linear(7, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.relu(self.hidden(self.lstm(self.into(x))[0][:, -1])))

    found = groups_of(Recurrent(), torch.randn(2, 3, 4))
    assert set(by_name(found)) == {"hidden"}
    assert any(each.layer == "into" and "lstm in layer lstm" in each.reason for each in found.pinned)


def test_a_layer_used_twice_is_pruned_once() -> None:
    module, x = build("upscale")
    group = by_name(groups_of(module, x))["down"]
    assert {("shared.weight", 0), ("shared.weight", 1), ("act.weight", 0), ("end.weight", 1)} <= dims(group)


def test_an_embeddings_width_can_go_and_its_vocabulary_stays() -> None:
    module = nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    found = by_name(groups_of(module, torch.randint(0, 11, (2, 3))))
    assert dims(found["0"]) == {("0.weight", 1), ("1.weight", 1)}


def test_raw_parameters_of_ones_own_layer_are_followed() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.out = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(6, 2))
            self.scale = nn.Parameter(torch.ones(6))

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x @ self.into * self.scale) @ self.out

    (group,) = groups_of(Own(), torch.randn(2, 4)).groups
    assert dims(group) == {("into", 1), ("scale", 0), ("out", 0)}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_slice_belongs_to_at_most_one_channel(name: str) -> None:
    module, x = build(name)
    seen: set[tuple[str, int, int]] = set()
    for group in groups_of(module, x).groups:
        for member in group.members:
            for indices in member.indices:
                for index in indices:
                    assert (member.tensor, member.dim, index) not in seen
                    seen.add((member.tensor, member.dim, index))


@given(st.integers(1, 60), st.data())
@settings(deadline=None, max_examples=30)
def test_components_agree_with_scipy(count: int, data: st.DataObject) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    pairs = data.draw(st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=80))
    same = [(np.array([a], dtype=np.int64), np.array([b], dtype=np.int64)) for a, b in pairs]
    ours = components(count, same)
    graph = sparse.coo_matrix(([1] * len(pairs), tuple(zip(*pairs, strict=True)) or ([], [])), (count, count))
    _, theirs = sparse.csgraph.connected_components(graph, directed=False)
    assert len({*zip(ours.tolist(), theirs.tolist(), strict=True)}) == len({*ours.tolist()}) == len({*theirs.tolist()})


@pytest.mark.slow
def test_two_hundred_layers_are_grouped_in_five_seconds() -> None:
    module = nn.Sequential(conv(3, 64), *(PaddedBlock(64, 64, 1) for _ in range(100)), nn.Conv2d(64, 2, 1))
    read = trace(module.eval(), (torch.randn(2, 3, 8, 8),))
    start = time.perf_counter()
    assert len(channel_groups(read, module).groups) == 101
    assert time.perf_counter() - start < 5
