"""Channel order: in which order channels can go, and what that costs, from the curvature of what reads them.

A channel that others can stand in for is cheap to lose, however large it is. That shows in the inputs of the layers
that read it: their covariance tells how far the other columns, refitted by least squares, make up for its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, fx, nn

from haversack.calibration.currency import curvatures
from haversack.calibration.least_squares import Moments
from haversack.calibration.patches import Patches
from haversack.calibration.sweep import Lane
from haversack.channels.group import ChannelGroup, Member
from haversack.graph.folded import Folded
from haversack.graph.inference import inference
from haversack.graph.ops import FoldedLayer, Trait, channel_dim, layer_at, traits_of
from haversack.graph.run import Batches
from haversack.model import Model
from haversack.progress import note, track
from haversack.task import Kind
from haversack.techniques.prune_channels.importance import Ranking, Scores, l2

_RIDGE = 1e-2
_MOST_POSITIONS = 50_000
# So many rounds of elimination at most: wide groups lose several channels in each.
_ROUNDS = 128


# A search asks for many fractions of one network.
_found: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], list[Ranking]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class ReadingLayer:
    """A layer that reads the channels of a group, one tuple of its flattened weight's columns a channel."""

    layer: FoldedLayer
    columns: tuple[tuple[int, ...], ...]


def readings(folded: Folded, group: ChannelGroup) -> tuple[ReadingLayer, ...] | None:
    """The layers of the folded graph that read the group's channels; None where some of them cannot be cut."""
    merged = {kernel for branches in folded.merged.values() for kernel in branches.kernels}
    found = [_reading(folded, member) for member in group.members if member.reads and member.tensor not in merged]
    whole = tuple(each for each in found if each is not None)
    return whole if whole and len(whole) == len(found) else None


def second_order(model: Model, groups: Sequence[ChannelGroup], batches: Batches) -> list[Ranking]:
    """The ranking of each group.

    Channels go one by one, always the one whose loss the other columns of its readers can make up for best (the Optimal
    Brain Surgeon, Hassibi 1993, for blocks of columns: Kurtic et al. 2022, Frantar and Alistarh 2022). What that costs
    is the squared error left in the readers' outputs, relative to the variance of the values that they complete: sums,
    in a residual network. So the losses of different groups may be held against each other (ResNet-20 at half of its
    multiply-accumulates, refitted: 91.1 % of held-back images, 85.7 % where each block loses half of its inner channels
    in the same order).

    Groups that something other than a convolution or a linear layer reads are ranked by their kernels' norms; the
    listener hears which. Raises TaskError where the network computes NaN or infinity.
    """
    known = _found.setdefault(model.module, {})
    tensors = (*model.module.parameters(), *(value for batch in batches for value in batch))
    asked = (tuple(groups), tuple(map(_sum, tensors)))
    if asked not in known:
        known[asked] = _rankings(model, groups, batches)
    return known[asked]


def lost_nats(model: Model, groups: Sequence[ChannelGroup], batches: Batches, kind: Kind) -> list[Ranking | None]:
    """For each group the order of `second_order`, and what it costs in nats that the first channels are gone.

    Each error left in a reader's outputs counts by the curvature of the network's outputs there (see
    calibration/currency.py). None for groups that something other than a convolution or a linear layer reads.
    """
    folded = inference(model)
    found = {place: reads for place, group in enumerate(groups) if (reads := readings(folded, group))}
    if not found:
        return [None] * len(groups)
    nodes = {each.layer.node for reads in found.values() for each in reads}
    ranked = _ranked(folded, found, batches, curvatures(folded, batches, kind, nodes))
    return [ranked.get(place) for place in range(len(groups))]


def _rankings(model: Model, groups: Sequence[ChannelGroup], batches: Batches) -> list[Ranking]:
    folded = inference(model)
    found = {place: reads for place, group in enumerate(groups) if (reads := readings(folded, group))}
    ranked = _ranked(folded, found, batches)
    others = [group for place, group in enumerate(groups) if place not in found]
    if others:
        note(f"ranked by their kernels' norms: the channels of {', '.join(each.name for each in others)}.")
    norms = iter(l2(model.module, others))
    whole = float(np.mean([each.losses[-1] for each in ranked.values()])) if ranked else 1.0
    return [ranked[place] if place in ranked else _by_norm(next(norms), whole) for place in range(len(groups))]


def _sum(values: Tensor) -> float:
    """What tells one tensor from another for our purposes."""
    return float(values.detach().double().square().sum())


def _by_norm(norms: Scores, whole: float) -> Ranking:
    """Squared norms, together as dear as all channels of a group usually are."""
    squares = norms**2
    return Ranking.of(squares * (whole / max(float(squares.sum()), 1e-30)))


def _ranked(
    folded: Folded,
    found: Mapping[int, Sequence[ReadingLayer]],
    batches: Batches,
    counted: Mapping[fx.Node, Tensor] | None = None,
) -> dict[int, Ranking]:
    """The ranking of each group; its losses in nats where `counted` says what an error of each reader's rows costs."""
    order = {node: place for place, node in enumerate(folded.graph.nodes)}
    readers = {each.layer.node: each.layer for reads in found.values() for each in reads}
    layers = [readers[node] for node in sorted(readers, key=order.__getitem__)]
    left = {place: list(reads) for place, reads in found.items()}
    parts: dict[int, list[_Weighed]] = {place: [] for place in found}
    ranked: dict[int, Ranking] = {}
    powers = _powers(folded, [layer.node for layer in layers], batches)
    for node, weight, curvature in _curvatures(folded, layers, batches):
        for place, reads in left.items():
            for each in [each for each in reads if each.layer.node is node]:
                power = max(powers[node], 1e-30)
                rows = torch.ones(len(weight)) if counted is None else counted[node] * (power / 2)
                parts[place].append(_part(weight / math.sqrt(power), curvature, rows, each.columns))
                reads.remove(each)
            if not reads and place not in ranked:
                ranked[place] = _eliminated(parts.pop(place))
    return ranked


@dataclass
class _Weighed:
    """One reader's weight (rows, columns) and inverse curvature, a channel's columns side by side, channels first.

    `rows` says how much a row's error counts in what is lost; for the order, all count alike.
    """

    weight: Tensor
    inverse: Tensor
    rows: Tensor
    channels: int
    width: int

    def costs(self) -> Tensor:
        """What each channel's going adds to the error, and to what is lost; (2, channels)."""
        size, shape = self.channels * self.width, (self.channels, self.width)
        blocks = self.inverse[:size, :size].view(*shape, *shape).diagonal(dim1=0, dim2=2).movedim(-1, 0)
        weights = self.weight[:, :size].view(-1, *shape).movedim(1, 0)
        errors = (torch.linalg.solve(blocks, weights.mT).mT * weights).sum(2)
        return torch.stack([errors.sum(1), errors @ self.rows.to(errors)])

    def remove(self, channels: Tensor) -> None:
        """Eliminates the channels: the other columns make up for them, as far as they can."""
        gone = (channels.view(-1, 1) * self.width + torch.arange(self.width)).flatten()
        across = self.inverse[:, gone]
        scaled = torch.linalg.solve(across[gone], across.T)
        self.weight -= self.weight[:, gone] @ scaled
        self.inverse -= across @ scaled
        # What is gone has no part in anything any more, and its block still has an inverse.
        self.weight[:, gone] = 0
        self.inverse[gone] = 0
        self.inverse[:, gone] = 0
        self.inverse[gone, gone] = 1


def _eliminated(parts: Sequence[_Weighed]) -> Ranking:
    size = parts[0].channels
    each = max(1, size // _ROUNDS)
    alive = torch.ones(size, dtype=torch.bool)
    order: list[int] = []
    losses = [0.0]
    while alive.any():
        costs, lost = torch.stack([part.costs() for part in parts]).sum(0).clamp_min(0)
        costs[~alive] = math.inf
        gone = costs.topk(min(each, int(alive.sum())), largest=False).indices
        for part in parts:
            part.remove(gone)
        alive[gone] = False
        order += gone.tolist()
        losses += (losses[-1] + lost[gone].cumsum(0)).tolist()
    return Ranking(tuple(order), tuple(losses))


def _part(weight: Tensor, curvature: Tensor, rows: Tensor, columns: tuple[tuple[int, ...], ...]) -> _Weighed:
    taken = [column for each in columns for column in each]
    rest = sorted(set(range(weight.shape[1])) - set(taken))
    order = torch.tensor([*taken, *rest])
    return _Weighed(weight[:, order], torch.linalg.inv(curvature[order][:, order]), rows, len(columns), len(columns[0]))


def _curvatures(
    folded: Folded, layers: Sequence[FoldedLayer], batches: Batches
) -> Iterator[tuple[fx.Node, Tensor, Tensor]]:
    """Each layer with its flattened weight and the curvature of its squared error, its bias free to follow."""
    lane, total = Lane(folded.module, batches), sum(len(batch[0]) for batch in batches)
    for layer in track(layers, "curvatures", len(layers)):
        node, weight = layer.node, folded.tensor(layer.weight)
        moments = Moments(node, weight, centred=True)
        with torch.no_grad():
            for place, batch in enumerate(batches):
                lane.run(place, node, inclusive=False)
                inputs = lane.read(place, layer.inputs)
                lane.run(place, node, inclusive=True)
                moments.add(inputs, lane.read(place, node), _MOST_POSITIONS * len(batch[0]) // total)
        fit = moments.fit(weight, None, ridge=_RIDGE)
        yield node, fit.start[0], fit.curvature[0]


def _powers(folded: Folded, nodes: Sequence[fx.Node], batches: Batches) -> dict[fx.Node, float]:
    """The variance of what each layer completes, summed over the channels."""
    completed = {node: _completed(node) for node in nodes}
    sums: dict[fx.Node, Tensor] = {}
    for batch in batches:
        lane = Lane(folded.module, [batch], completed.values())
        with torch.no_grad():
            lane.run(0, folded.graph.output_node(), inclusive=False)
        values = {value: lane.take(0, value) for value in set(completed.values())}
        for node, value in completed.items():
            rows = values[value].double().movedim(channel_dim(node), 0).flatten(1)
            found = torch.stack([torch.full((len(rows),), rows.shape[1]), rows.sum(1), rows.square().sum(1)])
            sums[node] = sums[node] + found if node in sums else found
    return {node: float((squares / count - (sum_ / count) ** 2).sum()) for node, (count, sum_, squares) in sums.items()}


def _completed(layer: fx.Node) -> fx.Node:
    """The sum that the layer completes, where nothing else reads it; otherwise the layer."""
    reader = next(iter(layer.users))
    return reader if len(layer.users) == 1 and traits_of(reader) & Trait.SUM else layer


def _reading(folded: Folded, member: Member) -> ReadingLayer | None:
    users = [user for node in folded.graph.find_nodes(op="get_attr", target=member.tensor) for user in node.users]
    if len(users) != 1 or member.dim != 1 or not Patches.know(users[0]):
        return None
    layer = layer_at(users[0])
    if layer is None or layer.groups != 1 or layer.weight != member.tensor:
        return None
    kernel = math.prod(folded.tensor(layer.weight).shape[2:])
    columns = tuple(
        tuple(index * kernel + offset for index in indices for offset in range(kernel)) for indices in member.indices
    )
    return ReadingLayer(layer, columns)
