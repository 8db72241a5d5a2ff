"""Channel order: in which order channels can go, and what that costs, from the curvature of what reads them.

A channel that others can stand in for is cheap to lose, however large it is. That shows in the inputs of the layers
that read it: their covariance tells how far the other columns, refitted by least squares, make up for its own.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, fx, nn

from haversack.calibration.lane import Lane
from haversack.calibration.least_squares import Fit, Moments
from haversack.calibration.patches import Patches
from haversack.channels.group import ChannelGroup, Member
from haversack.graph.folded import Folded
from haversack.graph.inference import inference
from haversack.graph.ops import FoldedLayer, Trait, channel_dim, layer_at, traits_of
from haversack.graph.run import Batches, Tensors
from haversack.model import Model
from haversack.progress import note, track
from haversack.techniques.prune_channels.importance import Ranking, Scores, l2

_RIDGE = 1e-2
_MOST_POSITIONS, _FEWER_POSITIONS = 50_000, 20_000
"""Of a layer: for an order that is kept, and for one that only tells what is lost."""
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


@dataclass(frozen=True)
class Elimination:
    """A group's ranking, and what its readers' weights and biases become when some numbers of channels are gone."""

    ranking: Ranking
    refitted: Mapping[int, Tensors]


def eliminations(
    folded: Folded, groups: Sequence[ChannelGroup], batches: Batches, stops: Sequence[Collection[int]]
) -> list[Elimination | None]:
    """The elimination of each group, whose readers are told of at its `stops`: so many channels gone.

    In the order of `second_order`. What is gone counts for nothing in the readers, whose other columns make up for it
    on the inputs. None for groups that something other than a convolution or a linear layer reads.
    """
    reads = {place: each for place, group in enumerate(groups) if (each := readings(folded, group))}
    ranked = _eliminations(folded, reads, batches, dict(enumerate(stops)), _FEWER_POSITIONS) if reads else {}
    return [ranked.get(place) for place in range(len(groups))]


def _rankings(model: Model, groups: Sequence[ChannelGroup], batches: Batches) -> list[Ranking]:
    folded = inference(model)
    found = {place: reads for place, group in enumerate(groups) if (reads := readings(folded, group))}
    ranked = {place: each.ranking for place, each in _eliminations(folded, found, batches, {}).items()}
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


def _eliminations(
    folded: Folded,
    found: Mapping[int, Sequence[ReadingLayer]],
    batches: Batches,
    stops: Mapping[int, Collection[int]],
    most: int = _MOST_POSITIONS,
) -> dict[int, Elimination]:
    """The elimination of each group, each as soon as its last reader's curvature is known."""
    order = {node: place for place, node in enumerate(folded.graph.nodes)}
    readers = {each.layer.node: each.layer for reads in found.values() for each in reads}
    layers = [readers[node] for node in sorted(readers, key=order.__getitem__)]
    left = {place: list(reads) for place, reads in found.items()}
    parts: dict[int, list[_Weighed]] = {place: [] for place in found}
    eliminated: dict[int, Elimination] = {}
    powers = _powers(folded, [layer.node for layer in layers], batches)
    for layer, fit in _fits(folded, layers, batches, most):
        for place, reads in left.items():
            for each in [each for each in reads if each.layer.node is layer.node]:
                parts[place].append(_part(each, fit, math.sqrt(max(powers[layer.node], 1e-30))))
                reads.remove(each)
            if not reads and place not in eliminated:
                eliminated[place] = _eliminated(folded, parts.pop(place), stops.get(place, ()))
    return eliminated


@dataclass
class _Weighed:
    """One reader's weight (rows, columns) and inverse curvature, a channel's columns side by side, channels first.

    `columns` says which of the layer's own columns they are, `unit` in what its outputs are measured.
    """

    reader: ReadingLayer
    fit: Fit
    columns: Tensor
    unit: float
    weight: Tensor
    inverse: Tensor

    @property
    def _shape(self) -> tuple[int, int]:
        return len(self.reader.columns), len(self.reader.columns[0])

    def costs(self) -> Tensor:
        """What each channel's going adds to the error."""
        shape = self._shape
        size = math.prod(shape)
        blocks = self.inverse[:size, :size].view(*shape, *shape).diagonal(dim1=0, dim2=2).movedim(-1, 0)
        weights = self.weight[:, :size].view(-1, *shape).movedim(1, 0)
        errors: Tensor = (torch.linalg.solve(blocks, weights.mT).mT * weights).sum((1, 2))
        return errors

    def remove(self, channels: Tensor) -> None:
        """Eliminates the channels: the other columns make up for them, as far as they can."""
        width = self._shape[1]
        gone = (channels.view(-1, 1) * width + torch.arange(width)).flatten()
        across = self.inverse[:, gone]
        scaled = torch.linalg.solve(across[gone], across.T)
        self.weight -= self.weight[:, gone] @ scaled
        self.inverse -= across @ scaled
        # What is gone has no part in anything any more, and its block still has an inverse.
        self.weight[:, gone] = 0
        self.inverse[gone] = 0
        self.inverse[:, gone] = 0
        self.inverse[gone, gone] = 1

    def tensors(self, folded: Folded) -> Tensors:
        """The layer's weight as it is by now, and the bias that goes with it, where it has one of its own."""
        layer, weight = self.reader.layer, torch.empty_like(self.weight)
        weight[:, self.columns] = self.weight * self.unit
        new = {layer.weight: weight}
        if folded.readers[layer.bias] == 1:
            new[layer.bias] = self.fit.bias(weight.unsqueeze(0))
        return {name: value.reshape(folded.tensor(name).shape).to(folded.tensor(name)) for name, value in new.items()}


def _eliminated(folded: Folded, parts: Sequence[_Weighed], stops: Collection[int]) -> Elimination:
    size = len(parts[0].reader.columns)
    alive = torch.ones(size, dtype=torch.bool)
    order: list[int] = []
    losses, refitted = [0.0], dict[int, Tensors]()
    for end in sorted({*range(0, size, max(1, size // _ROUNDS)), *stops, size} - {0}):
        costs = torch.stack([part.costs() for part in parts]).sum(0).clamp_min(0)
        costs[~alive] = math.inf
        gone = costs.topk(end - len(order), largest=False).indices
        for part in parts:
            part.remove(gone)
        alive[gone] = False
        order += gone.tolist()
        losses += (losses[-1] + costs[gone].cumsum(0)).tolist()
        if end in stops:
            refitted[end] = {name: tensor for part in parts for name, tensor in part.tensors(folded).items()}
    return Elimination(Ranking(tuple(order), tuple(losses)), refitted)


def _part(reader: ReadingLayer, fit: Fit, unit: float) -> _Weighed:
    taken = [column for columns in reader.columns for column in columns]
    weight, curvature = fit.start[0] / unit, fit.curvature[0]
    order = torch.tensor([*taken, *sorted(set(range(weight.shape[1])) - set(taken))])
    return _Weighed(reader, fit, order, unit, weight[:, order], torch.linalg.inv(curvature[order][:, order]))


def _fits(
    folded: Folded, layers: Sequence[FoldedLayer], batches: Batches, most: int
) -> Iterator[tuple[FoldedLayer, Fit]]:
    """Each layer with its weight and the curvature of its squared error; a bias is free to follow."""
    lane, total = Lane(folded.module, batches), sum(len(batch[0]) for batch in batches)
    for layer in track(layers, "curvatures", len(layers)):
        node, weight = layer.node, folded.tensor(layer.weight)
        moments = Moments(node, weight, centred=True)
        with torch.no_grad():
            for place, batch in enumerate(batches):
                lane.run(place, node, inclusive=False)
                inputs = lane.read(place, layer.inputs)
                lane.run(place, node, inclusive=True)
                moments.add(inputs, lane.read(place, node), most * len(batch[0]) // total)
        yield layer, moments.fit(weight, None, ridge=_RIDGE)


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
