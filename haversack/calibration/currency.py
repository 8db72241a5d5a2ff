"""Currency: what a change of a network loses, counted at its outputs, in nats.

The divergence of the outputs from the original's needs no labels, and one number of it means the same for all
techniques. It is tried, not derived: at inputs that a network is sure of the outputs' Fisher information is next to
nothing, so that its second order says a thirtieth of what is really lost (channels of ResNet-20, repaired).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, fx, nn

from haversack.batches import Outputs, each_of
from haversack.calibration.lane import Lane
from haversack.errors import TaskError
from haversack.graph.folded import Folded
from haversack.graph.ops import FoldedLayer
from haversack.graph.run import Batches, joined, numbers_a_sample
from haversack.positions import Mask, that_count
from haversack.task import Kind, Kinds, kinds_of
from haversack.training.teacher import distance

_TINY = 1e-30
_FARTHEST = 1e3


def nats(outputs: Outputs, wanted: Outputs, kind: Kinds) -> float:
    """How far the outputs of a batch are from the wanted ones, in nats a sample; of several outputs the sum.

    For classes, the divergence of their probabilities (Kullback 1951); otherwise half the mean squared difference,
    relative to the mean variance of the wanted outputs over the batch. What is no number is farther than anything else.
    """
    ours, theirs = each_of(outputs), each_of(wanted)
    return sum(_nats(*each) for each in zip(ours, theirs, kinds_of(kind, len(ours)), strict=True))


def _nats(outputs: Tensor, wanted: Tensor, kind: Kind) -> float:
    if kind == "classification":
        lost = float(distance(outputs, wanted, None, kind, "kd", 1.0))
    else:
        lost = float((outputs - wanted).square().mean() / (2 * _variance(wanted)))
    return max(0.0, lost) if math.isfinite(lost) else _FARTHEST


def _variance(wanted: Tensor) -> Tensor:
    """The mean variance of the outputs over the samples; their mean square where there is one sample."""
    spread = wanted.var(0, correction=0) if len(wanted) > 1 else wanted.square()
    return spread.mean().clamp_min(_TINY)


@dataclass(frozen=True, eq=False)
class OriginalOutputs:
    """The original's outputs on calibration inputs, which others are held against."""

    inputs: tuple[Tensor, ...]
    wanted: Outputs
    kind: Kinds
    mask: Mask | None = None

    @classmethod
    def of(cls, network: nn.Module, batches: Batches, kind: Kinds, mask: Mask | None = None) -> OriginalOutputs:
        """The outputs of `network` on all inputs, at the positions that the mask counts."""
        inputs = joined(batches)
        return cls(inputs, that_count(mask, _outputs(network, inputs), inputs), kind, mask)

    def nats(self, network: nn.Module) -> float:
        """How far the outputs of a network are from the original's."""
        return self.apart(_outputs(network, self.inputs))

    def apart(self, outputs: Outputs) -> float:
        """How far outputs for the same inputs are from the original's."""
        return nats(that_count(self.mask, outputs, self.inputs), self.wanted, self.kind)


@torch.no_grad()
def _outputs(network: nn.Module, inputs: tuple[Tensor, ...]) -> Outputs:
    """What the network gives. Raises TaskError where that is no tensor, nor several."""
    outputs: Any = network(*inputs)
    if not isinstance(outputs, Tensor | tuple) or not all(isinstance(each, Tensor) for each in each_of(outputs)):
        raise TaskError(
            f"the network returned {type(outputs).__name__}, not a tensor.", mend="let forward() return tensors."
        )
    return outputs


_FITTED = 0.5
"""The part of the inputs that layers are refitted to; what is lost shows on the others, since fits flatter.

Few inputs carry most of a loss: 85 images tell that of a block of ResNet-20 within a factor of 4, 250 within 2.
"""
_MOST_NUMBERS = 1 << 19
"""Numbers of the largest value that are computed at a time: so few stay in the processor's cache."""


@dataclass(eq=False)
class Judge:
    """A network on the way to its outputs, on calibration inputs that repaired nothing; others may fork off there."""

    lane: Lane
    parts: int
    yardstick: OriginalOutputs

    @classmethod
    def of(cls, folded: Folded, inputs: tuple[Tensor, ...], kind: Kinds) -> Self:
        """At the inputs, all of which count. Raises TaskError where the network returns no tensor."""
        size = max(1, _MOST_NUMBERS // numbers_a_sample(folded.graph))
        batches = list(zip(*(each.split(size) for each in inputs), strict=True))
        mask = folded.positions.mask if folded.positions else None
        yardstick = OriginalOutputs.of(folded.module, [inputs], kind, mask)
        return cls(Lane(folded.module, batches), len(batches), yardstick)

    def before(self, node: fx.Node) -> Lane:
        """The network, run up to just before an operation; none that was asked for earlier may come after it."""
        self._run(self.lane, node)
        return self.lane

    def nats(self, changed: Lane) -> float:
        """How far the outputs of a fork are from the original's, once it has run to the end."""
        end = changed.nodes[-1]
        self._run(changed, end)
        given = end.args[0] if isinstance(end.args[0], tuple | list) else (end.args[0],)
        outputs = [torch.cat([changed.read(part, each) for part in range(self.parts)]) for each in given]
        return self.yardstick.apart(tuple(outputs))

    @torch.no_grad()
    def _run(self, lane: Lane, node: fx.Node) -> None:
        for part in range(self.parts):
            lane.run(part, node, inclusive=False)


_BUDGET, _MOST, _FEWEST = 1e12, 384, 64
"""Multiply-accumulates that all trials of a technique take, some ten seconds on one core; inputs for them."""


def parted(folded: Folded, batches: Batches, trials: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Some inputs, the fewer the more trials there are: those that layers are refitted to, and those that judge."""
    each = max(1, trials * sum(_work(folded, layer) for layer in folded.layers(transposed=True)))
    inputs = joined(batches, min(_MOST, max(_FEWEST, int(_BUDGET / each))))
    count = round(len(inputs[0]) * _FITTED)
    fitted, held = tuple(value[:count] for value in inputs), tuple(value[count:] for value in inputs)
    return (fitted, held) if 0 < count < len(inputs[0]) else (inputs, inputs)


def _work(folded: Folded, layer: FoldedLayer) -> int:
    """A layer's multiply-accumulates for one sample."""
    value = (layer.inputs if layer.transposed else layer.node).meta["val"]
    weight = folded.tensor(layer.weight)
    return int(weight.numel() * value[0].numel() // weight.shape[0])
