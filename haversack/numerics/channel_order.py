"""Channel order: in which order channels can go, and what that costs, from the curvature of what reads them.

A channel that others can stand in for is cheap to lose, however large it is. That shows in the inputs of the layers
that read it: their covariance tells how far the other columns, refitted by least squares, make up for its own.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx

from haversack.errors import TaskError
from haversack.graph.groups import ChannelGroup, Member
from haversack.graph.importance import Ranking
from haversack.graph.observe import Batches
from haversack.numerics.lane import Lane
from haversack.numerics.least_squares import Moments
from haversack.numerics.patches import Patches
from haversack.progress import track
from haversack.task import Kind

aten = torch.ops.aten

_RIDGE = 1e-2
_MOST_POSITIONS = 50_000
_FISHER_SAMPLES, _FISHER_BATCH = 256, 32
# So many rounds of elimination at most: wide groups lose several channels in each.
_ROUNDS = 128


@dataclass(frozen=True)
class Reading:
    """A layer that reads the channels of a group, one tuple of its flattened weight's columns a channel."""

    node: fx.Node
    columns: tuple[tuple[int, ...], ...]


def readings(network: fx.GraphModule, group: ChannelGroup) -> tuple[Reading, ...] | None:
    """The layers of the folded graph that read the group's channels; None where some of them cannot be cut."""
    found = [_reading(network, member) for member in group.members if member.reads]
    whole = tuple(each for each in found if each is not None)
    return whole if whole and len(whole) == len(found) else None


def second_order(
    network: fx.GraphModule, groups: Sequence[ChannelGroup], batches: Batches, kind: Kind, seed: int
) -> dict[int, Ranking]:
    """The ranking of each group, by its place, whose readers are all convolutions or linear layers.

    Channels go one by one, always the one whose loss the other columns of its readers can make up for best (the Optimal
    Brain Surgeon, Hassibi 1993, for blocks of columns: Kurtic et al. 2022, Frantar and Alistarh 2022). The squared
    error of a reader's outputs is weighed with the Fisher information of the network's outputs, which is taken from
    its own predictions and needs no labels, so that costs of different groups are of one unit: nats a sample.

    `network` is the float inference graph. Raises TaskError where it computes NaN or infinity.
    """
    found = {place: reads for place, group in enumerate(groups) if (reads := readings(network, group))}
    order = {node: place for place, node in enumerate(network.graph.nodes)}
    nodes = sorted({each.node for reads in found.values() for each in reads}, key=order.__getitem__)
    fisher = _fisher(network, nodes, batches, kind, seed)
    left = {place: list(reads) for place, reads in found.items()}
    parts: dict[int, list[_Part]] = {place: [] for place in found}
    ranked: dict[int, Ranking] = {}
    for node, weight, curvature in _curvatures(network, nodes, batches):
        for place, reads in left.items():
            for each in [each for each in reads if each.node is node]:
                parts[place].append(_part(weight, curvature, fisher[node], each.columns))
                reads.remove(each)
            if not reads and place not in ranked:
                ranked[place] = _eliminated(parts.pop(place))
    return ranked


@dataclass
class _Part:
    """One reader's weight (rows, columns) and inverse curvature, a channel's columns side by side, channels first."""

    weight: Tensor
    inverse: Tensor
    channels: int
    width: int

    def costs(self) -> Tensor:
        """What each channel's going adds to the error."""
        size, shape = self.channels * self.width, (self.channels, self.width)
        blocks = self.inverse[:size, :size].view(*shape, *shape).diagonal(dim1=0, dim2=2).movedim(-1, 0)
        weights = self.weight[:, :size].view(-1, *shape).movedim(1, 0)
        return (torch.linalg.solve(blocks, weights.mT).mT * weights).sum((1, 2))

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


def _eliminated(parts: Sequence[_Part]) -> Ranking:
    size = parts[0].channels
    each = max(1, size // _ROUNDS)
    alive = torch.ones(size, dtype=torch.bool)
    order: list[int] = []
    losses = [0.0]
    while alive.any():
        costs = torch.stack([part.costs() for part in parts]).sum(0).clamp_min(0)
        costs[~alive] = math.inf
        least, gone = costs.topk(min(each, int(alive.sum())), largest=False)
        for part in parts:
            part.remove(gone)
        alive[gone] = False
        order += gone.tolist()
        losses += (losses[-1] + least.cumsum(0)).tolist()
    return Ranking(tuple(order), tuple(losses))


def _part(weight: Tensor, curvature: Tensor, fisher: Tensor, columns: tuple[tuple[int, ...], ...]) -> _Part:
    taken = [column for each in columns for column in each]
    rest = sorted(set(range(weight.shape[1])) - set(taken))
    order = torch.tensor([*taken, *rest])
    rows = weight[:, order] * fisher.sqrt().unsqueeze(1)
    return _Part(rows, torch.linalg.inv(curvature[order][:, order]), len(columns), len(columns[0]))


def _curvatures(
    network: fx.GraphModule, nodes: Sequence[fx.Node], batches: Batches
) -> Iterator[tuple[fx.Node, Tensor, Tensor]]:
    """Each layer with its flattened weight and the curvature of its squared error, its bias free to follow."""
    lane, total = Lane(network, batches), sum(len(batch[0]) for batch in batches)
    for node in track(nodes, "curvatures", len(nodes)):
        weight = lane.tensors[str(cast("fx.Node", node.args[1]).target)]
        moments = Moments(node, weight, centred=True)
        with torch.no_grad():
            for place, batch in enumerate(batches):
                lane.run(place, node, inclusive=False)
                inputs = lane.read(place, cast("fx.Node", node.args[0]))
                lane.run(place, node, inclusive=True)
                moments.add(inputs, lane.read(place, node), _MOST_POSITIONS * len(batch[0]) // total)
        if not moments.is_finite:
            raise TaskError(
                "there are no calibration inputs, or the network computes NaN or infinity on them.",
                where=f"value {node.name}",
                mend="check the inputs and the weights of the network.",
            )
        fit = moments.fit(weight.detach(), None, ridge=_RIDGE)
        yield node, fit.start[0], fit.curvature[0]


def _fisher(
    network: fx.GraphModule, nodes: Sequence[fx.Node], batches: Batches, kind: Kind, seed: int
) -> dict[fx.Node, Tensor]:
    """What a squared error of 1 a position costs in each row of the layers, in nats a sample.

    Half the mean square of the gradients of the log-likelihood of outcomes drawn from the network's own predictions:
    classes, or values with the spread of the outputs.
    """
    random = torch.Generator().manual_seed(seed)
    inputs = [torch.cat(each)[:_FISHER_SAMPLES] for each in zip(*batches, strict=True)]
    sums: dict[fx.Node, Tensor] = {}
    for piece in zip(*(each.split(_FISHER_BATCH) for each in inputs), strict=True):
        probe = _Probe(network, nodes)
        outputs = probe.run(*piece)
        loss = _surprise(outputs[0] if isinstance(outputs, tuple | list) else outputs, kind, random)
        for node, slope in zip(probe.zeros, torch.autograd.grad(loss, list(probe.zeros.values())), strict=True):
            rows = slope.double().square().movedim(-1 if node.target is aten.linear.default else 1, 0)
            squares = rows.flatten(1).sum(1) / (2 * len(inputs[0]))
            sums[node] = sums[node] + squares if node in sums else squares
    return sums


class _Probe(fx.Interpreter):
    """Adds a zero to some values, so that the gradient with respect to it is the value's."""

    def __init__(self, network: fx.GraphModule, nodes: Collection[fx.Node]) -> None:
        super().__init__(network)
        self._nodes = frozenset(nodes)
        self.zeros: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - whatever the node returns
        """The node's result."""
        result = super().run_node(n)
        if n not in self._nodes:
            return result
        self.zeros[n] = torch.zeros_like(result, requires_grad=True)
        return result + self.zeros[n]


def _surprise(outputs: Tensor, kind: Kind, random: torch.Generator) -> Tensor:
    """The negative log-likelihood, summed over the samples, of outcomes drawn from the outputs."""
    if kind == "classification":
        scores = outputs.flatten(0, -2).log_softmax(-1)
        drawn = torch.multinomial(scores.detach().exp(), 1, generator=random)
        return -scores.gather(1, drawn).sum()
    spread = outputs.detach().std().clamp_min(1e-12)
    return (outputs / spread * torch.randn(outputs.shape, generator=random)).sum()


def _reading(network: fx.GraphModule, member: Member) -> Reading | None:
    users = [user for node in network.graph.find_nodes(op="get_attr", target=member.tensor) for user in node.users]
    if len(users) != 1 or member.dim != 1 or not Patches.know(users[0]):
        return None
    node, weight = users[0], cast("fx.Node", users[0].args[1])
    grouped = len(node.args) > 6 and node.args[6] != 1
    if grouped or weight.target != member.tensor:
        return None
    kernel = math.prod(weight.meta["val"].shape[2:])
    columns = tuple(
        tuple(index * kernel + offset for index in indices for offset in range(kernel)) for indices in member.indices
    )
    return Reading(node, columns)
