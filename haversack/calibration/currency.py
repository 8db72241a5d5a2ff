"""Currency: what a change of a network loses, counted at its outputs, in nats; exactly, and by its second order.

The divergence of the outputs from the original's needs no labels, and one number of it means the same for all
techniques. Close to the original it is a quadratic form of the outputs, the Fisher information, which one backward pass
carries to every value before (Martens 2020, New Insights and Perspectives on the Natural Gradient Method, section 9).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from haversack.errors import TaskError
from haversack.graph.folded import Folded
from haversack.graph.ops import channel_dim
from haversack.graph.run import Batches, joined, numbers_a_sample
from haversack.task import Kind
from haversack.training.teacher import by_class, distance

_TINY = 1e-30


def nats(outputs: Tensor, wanted: Tensor, kind: Kind) -> float:
    """How far the outputs of a batch are from the wanted ones, in nats a sample.

    For classes, the divergence of their probabilities (Kullback 1951); otherwise half the mean squared difference,
    relative to the mean variance of the wanted outputs over the batch.
    """
    if kind == "classification":
        return max(0.0, float(distance(outputs, wanted, None, kind, "kd", 1.0)))
    return float((outputs - wanted).square().mean() / (2 * _variance(wanted)))


def _variance(wanted: Tensor) -> Tensor:
    """The mean variance of the outputs over the samples; their mean square where there is one sample."""
    spread = wanted.var(0, correction=0) if len(wanted) > 1 else wanted.square()
    return spread.mean().clamp_min(_TINY)


@dataclass(frozen=True, eq=False)
class Yardstick:
    """The original's outputs on calibration inputs, which others are held against."""

    inputs: tuple[Tensor, ...]
    wanted: Tensor
    kind: Kind

    @classmethod
    def of(cls, network: nn.Module, batches: Batches, kind: Kind, most: int | None = None) -> Yardstick:
        """The outputs of `network` on all inputs, or the first `most` of them."""
        inputs = joined(batches, most)
        return cls(inputs, _outputs(network, inputs), kind)

    def nats(self, network: nn.Module) -> float:
        """How far the outputs of a network are from the original's."""
        return nats(_outputs(network, self.inputs), self.wanted, self.kind)


@torch.no_grad()
def _outputs(network: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """What the network gives. Raises TaskError where that is no tensor."""
    outputs = network(*inputs)
    if not isinstance(outputs, Tensor):
        raise TaskError(
            f"the network returned {type(outputs).__name__}, not a tensor.", mend="let forward() return one tensor."
        )
    return outputs


_DRAWS = 4
"""Directions in which the outputs' Fisher information is carried back; each sample draws its own."""
_MOST_NUMBERS = 1 << 22


def curvatures(folded: Folded, batches: Batches, kind: Kind, values: Collection[fx.Node]) -> dict[fx.Node, Tensor]:
    """For each of `values`, one number F a channel: an error of mean square e there loses 1/2 F e nats.

    F is the mean over samples of the squared gradient of the outputs' log-likelihood, summed over positions (the
    diagonal of the Fisher information, Gauss-Newton's for squared errors): exact for errors that are as likely of one
    sign as of the other, whatever those of other positions and channels. Gradients are drawn with a fixed seed.
    """
    random = torch.Generator().manual_seed(0)
    inputs = joined(batches)
    variance = None if kind == "classification" else _variance(_outputs(folded.module, inputs))
    sums = {node: torch.zeros(()) for node in values}
    for part in _parts(folded, inputs):
        taped = _Taped(folded.module, values)
        with torch.enable_grad():
            outputs: Tensor = taped.run(*part)
        for draw in range(_DRAWS):
            away = _direction(outputs.detach(), variance, random)
            kept = [node for node in values if node in taped.values]
            gradients = torch.autograd.grad(
                outputs, [taped.values[node] for node in kept], away, retain_graph=draw < _DRAWS - 1, allow_unused=True
            )
            for node, gradient in zip(kept, gradients, strict=True):
                if gradient is not None:
                    rows = gradient.movedim(channel_dim(node), 0).flatten(1)
                    sums[node] = sums[node] + rows.double().square().sum(1)
    return {node: total / (_DRAWS * len(inputs[0])) for node, total in sums.items()}


def _parts(folded: Folded, inputs: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    """So few samples at a time that all values of the network fit into memory for the way back."""
    size = max(1, _MOST_NUMBERS // numbers_a_sample(folded.graph))
    return zip(*(each.split(size) for each in inputs), strict=True)


def _direction(outputs: Tensor, variance: Tensor | None, random: torch.Generator) -> Tensor:
    """A random gradient of the outputs whose mean square is their Fisher information."""
    signs = torch.randint(0, 2, outputs.shape, generator=random).to(outputs) * 2 - 1
    if variance is not None:
        return signs * (len(outputs) / (outputs.numel() * variance)).sqrt()
    with torch.enable_grad():
        leaf = outputs.clone().requires_grad_()
        scores = by_class(leaf, None)
    # Positions that have classes of their own share a sample's loss.
    share = len(outputs) / len(scores)
    likely = scores.detach().softmax(-1)
    drawn = torch.randint(0, 2, likely.shape, generator=random).to(likely) * 2 - 1
    root = likely.sqrt()
    rows = root * drawn - likely * (root * drawn).sum(-1, keepdim=True)
    (gradient,) = torch.autograd.grad(scores, leaf, rows * share**0.5)
    return gradient


class _Taped(fx.Interpreter):
    """Runs the graph and keeps the values whose gradients are wanted."""

    def __init__(self, network: fx.GraphModule, wanted: Collection[fx.Node]) -> None:
        super().__init__(network)
        self._wanted = frozenset(wanted)
        self.values: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - torch's signature
        value = super().run_node(n)
        if n in self._wanted:
            self.values[n] = value if value.requires_grad else value.requires_grad_()
        return value
