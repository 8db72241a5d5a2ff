import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prunable_networks import NETWORKS, PaddedBlock, build, conv
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.channels.group import edits_for
from haversack.channels.groups import ChannelGroup, Groups, Member, channel_groups, components
from haversack.channels.trial import trials
from haversack.graph.trace import trace
from haversack.surgery.edit import edit


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


def test_heads_as_wide_as_the_stream_shrink_with_it() -> None:
    """The code splits 16 channels into 4 heads and writes as many back; nn.MultiheadAttention demands it."""
    module, x = build("transformer")
    found = by_name(groups_of(module, x))
    assert set(found) == {"embed", "mlp.0", "layer.linear1"}
    taken = {(member.tensor, member.dim): member.indices[1] for member in found["embed"].members}
    assert taken["embed.weight", 0] == taken["out.weight", 1] == (1, 5, 9, 13)
    assert taken["qkv.weight", 0] == taken["layer.self_attn.in_proj_weight", 0] == (*range(1, 48, 4),)


def test_whole_heads_go_where_their_number_is_what_is_left_and_all_shrink_where_their_size_is() -> None:
    module, x = build("whole heads")
    found = by_name(groups_of(module, x))
    rows = {(member.tensor, member.dim): member.indices for member in (*found["q"].members, *found["qkv"].members)}
    assert found["q"].size == 5
    assert rows["q.weight", 0][1] == rows["k.weight", 0][1] == rows["out.weight", 1][1] == (4, 5, 6, 7)
    assert found["qkv"].size == 6
    assert rows["qkv.weight", 0][0] == (0, 6, 12, 18, 24, 30)


def test_a_hidden_unit_goes_with_its_gates_in_all_layers_and_directions() -> None:
    module, x = build("recurrent")
    found = by_name(groups_of(module, x))
    rows = {(member.tensor, member.dim): member.indices[2] for member in found["lstm"].members}
    assert rows["lstm.weight_ih_l0", 0] == rows["lstm.bias_hh_l1_reverse", 0] == (2, 8, 14, 20)
    assert rows["lstm.weight_hh_l1", 1] == (2,)
    assert rows["lstm.weight_ih_l1", 1] == rows["gru.weight_ih_l0", 1] == (2, 8)
    assert {"into", "gru", "rnn"} < set(found)


class Cell(nn.Module):
    """A recurrent cell in a loop that starts from zeros of a size that `size` tells."""

    def __init__(self, size: object) -> None:
        super().__init__()
        self.cell, self.out, self.size = nn.GRUCell(6, 8), nn.Linear(8, 2), size

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], self.size(self.cell))
        for step in range(3):
            state = self.cell(x[:, step], state)
        return self.out(state)


def test_first_states_may_be_as_wide_as_the_layer_says_but_not_as_the_code_says() -> None:
    x = torch.randn(2, 3, 6)
    assert [group.name for group in groups_of(Cell(lambda cell: cell.hidden_size), x).groups] == ["cell"]
    spelled = groups_of(Cell(lambda _: 8), x)
    assert not spelled.groups
    assert any("spells the size" in each.reason for each in spelled.pinned)


@pytest.mark.parametrize(
    ("between", "width"),
    [
        (lambda x: x.view(x.shape[0], x.shape[1] * 16), 128),
        (lambda x: x.mean((2, 3)).view(-1, x.shape[1], 1, 1).squeeze(3).squeeze(2), 8),
        (lambda x: x[:, : x.shape[1] // 2].mean((2, 3)), 4),
        (lambda x: torch.cat([x[:, x.shape[1] // 2 :], x[:, : x.shape[1] // 2]], 1).mean((2, 3)), 8),
        (lambda x: x.split(x.shape[1] // 4, 1)[2].mean((2, 3)), 2),
        (lambda x: (x.chunk(2, 1)[0] * x.chunk(2, 1)[1]).mean((2, 3)), 4),
        (lambda x: x.unflatten(1, (2, x.shape[1] // 2)).mean((1, 3, 4)), 4),
        (lambda x: F.glu(x, 1).mean((2, 3)), 4),
        (lambda x: F.pixel_shuffle(x, 2).mean((2, 3)), 2),
        (lambda x: F.pixel_unshuffle(x, 2).mean((2, 3)), 32),
        (lambda x: F.channel_shuffle(x, 2).mean((2, 3)), 8),
        (lambda x: x.mean((2, 3), keepdim=True).expand(-1, x.shape[1], 4, 4).amax((2, 3)), 8),
        (lambda x: F.layer_norm(x.mean((2, 3)), x.shape[1:2]), 8),
    ],
)
def test_channels_that_the_code_counts_anew_can_go(between: object, width: int) -> None:
    module, x = Lambda(between, nn.Linear(width, 2)).eval(), torch.randn(2, 3, 4, 4)
    found = groups_of(module, x).groups
    assert [group.name for group in found] == ["first"]
    kept = [range(group.size - 1) for group in found]
    assert edit(module, edits_for(module, found, kept))(x).shape == (2, 2)


def test_some_trial_tells_any_two_groups_of_one_size_apart() -> None:
    sizes = [8] * 30 + [3] * 2 + [2] * 4
    groups = [ChannelGroup(str(i), (Member("w", 0, tuple((c,) for c in range(n))),)) for i, n in enumerate(sizes)]
    left = list(zip(*([len(stay) for stay in trial] for trial in trials(groups)), strict=True))
    assert len(set(left[:30])) == 30
    assert all(0 < count < size for counts, size in zip(left, sizes, strict=True) for count in counts)


@pytest.mark.parametrize(
    ("between", "head", "reason"),
    [
        (lambda x: x.view(-1, 8 * 16), nn.Linear(128, 2), "spells the size"),
        (lambda x: x[:, :4], nn.Conv2d(4, 2, 1), "spells the size"),
        (lambda x: x[:, :3], nn.Conv2d(3, 2, 1), "picks channels"),
        (lambda x: x.split(4, 1)[0] * x.split(4, 1)[1], nn.Conv2d(4, 2, 1), "spells the size"),
        (lambda x: x.split((2, 6), 1)[1], nn.Conv2d(6, 2, 1), "unevenly"),
        (lambda x: x.unbind(1)[0][:, None], nn.Conv2d(1, 2, 1), "splits channels"),
        (lambda x: x.sort(1).values, nn.Conv2d(8, 2, 1), "not known"),
        (lambda x: F.conv2d(x, torch.ones(8, 1, 3, 3), groups=8), nn.Conv2d(8, 2, 1), "fixed size"),
        (lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (8,)), nn.Linear(8, 2), "spells the size"),
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


def test_an_lstm_with_a_projection_pins_what_flows_in_and_out() -> None:
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.lstm = nn.Linear(4, 6), nn.LSTM(6, 8, batch_first=True, proj_size=5)
            self.hidden, self.out = nn.Linear(5, 7), nn.Linear(7, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.relu(self.hidden(self.lstm(self.into(x))[0][:, -1])))

    found = groups_of(Projected(), torch.randn(2, 3, 4))
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
@settings(max_examples=30)
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
