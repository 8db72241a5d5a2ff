"""Data-free: the ranges that values take, read off batch norm's statistics instead of calibration inputs.

Training left behind how each normalized channel is distributed: mean beta, standard deviation |gamma| (Nagel et al.
2019, section 5). Mean, variance and limits are carried on through the operations that follow.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx

from haversack.calibration.ranges import Observed
from haversack.errors import TaskError
from haversack.graph.folded import Folded, Norm
from haversack.graph.memory import operation
from haversack.graph.ops import Trait, fixed_range, layer_at, traits_of
from haversack.graph.trace import layer_path

_SIGMAS, _INPUT_SIGMAS, _BYTE = 6.0, 3.0, 255.0
# These take means to means and limits to limits. A variance they leave or lessen; no limit depends on that.
_KEEPING = Trait.PICK | Trait.AVERAGE | Trait.JOIN | Trait.MOVE


@dataclass(frozen=True)
class Spread:
    """How one sample's value is distributed, number by number: its mean, its variance, and limits that hold it."""

    mean: Tensor
    variance: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def normal(cls, mean: Tensor, variance: Tensor) -> Spread:
        """A normal distribution, cut where it practically never is."""
        reach = _SIGMAS * variance.sqrt()
        return cls(mean, variance, mean - reach, mean + reach)

    def within(self, other: Spread) -> Spread:
        """This distribution, cut where the other one ends."""
        low, high = torch.maximum(self.low, other.low), torch.minimum(self.high, other.high)
        return Spread(self.mean, self.variance, low, high)

    @classmethod
    def of(cls, value: Spread | Tensor | float) -> Spread:
        """A constant as a distribution."""
        if isinstance(value, Spread):
            return value
        constant = torch.as_tensor(value, dtype=torch.float32)
        return cls(constant, torch.zeros_like(constant), constant, constant)


def ranges_from_norms(
    folded: Folded, names: Collection[str], example: tuple[Tensor, ...], divisors: Mapping[str, Tensor]
) -> Mapping[str, Observed]:
    """What the values called `names` will be, by batch norm's statistics.

    `divisors` says by what equalization
    divided the output channels of the layers that it names. The inputs are taken for what `example` looks like: numbers
    between 0 and 1, bytes, or normalized. Raises TaskError with the layer's name where no batch norm says how values
    are distributed.
    """
    reading = _Reading(folded, divisors)
    inputs = iter(example)
    with torch.no_grad():
        for node in folded.graph.nodes:
            if node.op == "placeholder":
                reading.values[node] = _input(next(inputs))
            elif node.op != "output":
                reading.visit(node)
    found = {node.name: value for node, value in reading.values.items() if node.name in names}
    return {name: Observed(float(each.low.min()), float(each.high.max())) for name, each in found.items()}


class _Reading:
    """The distributions of all values so far."""

    def __init__(self, folded: Folded, divisors: Mapping[str, Tensor]) -> None:
        self.folded, self.state, self.divisors = folded, folded.own, divisors
        self.norms: dict[str, tuple[Norm, ...]] = {name: (norm,) for name, norm in folded.norms.items()}
        # A sum of branches is distributed as their batch norms say together, or as no batch norm says.
        self.norms |= {name: merged.norms for name, merged in folded.merged.items()}
        self.values: dict[fx.Node, Any] = {}
        # What some batch norm settles, directly or through operations that we can follow.
        self.settled: set[fx.Node] = set()

    def visit(self, node: fx.Node) -> None:
        """Adds what this node computes."""
        if node.op == "get_attr":
            self.values[node] = self.folded.tensor(str(node.target))
            return
        layer = layer_at(node)
        norms = self.norms.get(layer.weight, ()) if layer else ()
        spreads = [self._normalized(node, norm) for norm in norms]
        total = functools.reduce(lambda one, other: _sum(node, (one, other)), spreads) if spreads else None
        self.values[node] = total or self._followed(node)
        if norms or not self.settled.isdisjoint(node.all_input_nodes):
            self.settled.add(node)

    def _normalized(self, layer: fx.Node, norm: Norm) -> Spread:
        mean = self.state[norm.bias] if norm.bias else torch.zeros_like(self.state[norm.mean])
        deviation = self.state[norm.weight].abs() if norm.weight else torch.ones_like(mean)
        variances = self.state[norm.variance]
        if not self.state[norm.mean].any() and bool((variances == variances[0]).all()) and bool((deviation == 1).all()):
            raise _unsettled(layer, "its batch norm holds no statistics of training (mean 0, one variance for all)")
        divisor = self.divisors.get(layer.name, torch.ones_like(mean)).to(mean.dtype)
        shape = layer.meta["val"].shape[1:]
        channels = [(each / divisor).view(1, -1, *[1] * (len(shape) - 1)) for each in (mean, deviation)]
        mean, deviation = (each.expand(1, *shape) for each in channels)
        return Spread.normal(mean, deviation.square())

    def _followed(self, node: fx.Node) -> Any:  # noqa: ANN401 - a Spread, or what holds several, or a size
        traits = traits_of(node)
        arguments: tuple[Any, ...] = fx.map_arg(node.args, self.values.__getitem__)
        is_plain = not any(isinstance(self.values[each], Spread | list) for each in node.all_input_nodes)
        if node.target is operator.getitem:
            return arguments[0][arguments[1]]
        if is_plain or not isinstance(node.meta.get("val"), Tensor | list | tuple):
            plain = fx.map_arg(node.args, lambda each: getattr(self.values[each], "mean", self.values[each]))
            return cast("Callable[..., Any]", node.target)(*plain, **node.kwargs)
        if traits & Trait.LAYER and node not in self.settled and self.settled.isdisjoint(node.all_input_nodes):
            raise _unsettled(node, "neither it nor a layer before it has a batch norm")
        if traits & _KEEPING:
            return self._kept(node)
        rule = next((rule for asked, rule in _RULES if traits & asked), _between if fixed_range(node) else None)
        if rule is None:
            raise _unsettled(node, f"batch norm does not say what {operation(node)} makes of its values")
        return rule(node, arguments)

    def _kept(self, node: fx.Node) -> Any:  # noqa: ANN401
        parts = []
        for part in ("mean", "variance", "low", "high"):
            arguments = fx.map_arg(node.args, functools.partial(self._part, part))
            parts.append(cast("Callable[..., Any]", node.target)(*arguments, **node.kwargs))
        if isinstance(parts[0], Tensor):
            spread = Spread(*parts)
            # A mean of many numbers is nearly normal, and deviates no more than each of them.
            return spread.within(Spread.normal(*parts[:2])) if traits_of(node) & Trait.AVERAGE else spread
        return [Spread(*each) for each in zip(*parts, strict=True)]

    def _part(self, part: str, node: fx.Node) -> Any:  # noqa: ANN401
        value = self.values[node]
        return getattr(Spread.of(value), part) if isinstance(value, Spread | Tensor) else value


def _input(example: Tensor) -> Spread | Tensor:
    """A guess at the inputs that the network was trained on."""
    if not example.is_floating_point():
        return example
    low, high = (float(end) for end in example.aminmax())
    if 0 <= low < high:
        is_byte = high > 1 and high <= _BYTE and bool((example == example.round()).all())
        low, high = 0.0, 1.0 if high <= 1 else _BYTE if is_byte else high
        mean, variance = (low + high) / 2, (high - low) ** 2 / 12
    else:
        low, high, mean, variance = min(low, -_INPUT_SIGMAS), max(high, _INPUT_SIGMAS), 0.0, 1.0
    return Spread(*(torch.full_like(example, number) for number in (mean, variance, low, high)))


def _layer(node: fx.Node, arguments: Any) -> Spread:  # noqa: ANN401
    """A sum of many weighted values, taken for independent."""
    value, weight, *rest = arguments
    if not isinstance(weight, Tensor):
        raise _unsettled(node, "the network computes its weight")
    operation = cast("Callable[..., Tensor]", node.target)
    mean = operation(value.mean, weight, *rest)
    return Spread.normal(mean, operation(value.variance, weight.square(), None, *rest[1:]))


def _elementwise(node: fx.Node, arguments: Any) -> Spread:  # noqa: ANN401
    """A function of a normally distributed number, its moments summed over 61 points of the distribution."""
    value, *rest = arguments
    operation = cast("Callable[..., Tensor]", node.target)
    places = torch.linspace(-_SIGMAS, _SIGMAS, 61).view(-1, *[1] * value.mean.dim())
    weights = torch.softmax(-places.square() / 2, 0)
    points = (value.mean + places * value.variance.sqrt()).clamp(value.low, value.high)
    results = operation(points, *rest, **node.kwargs)
    mean = (results * weights).sum(0)
    variance = ((results - mean).square() * weights).sum(0)
    ends = operation(value.low + (value.high - value.low) * (places / _SIGMAS + 1) / 2, *rest, **node.kwargs)
    return Spread(mean, variance, ends.amin(0), ends.amax(0))


def _sum(node: fx.Node, arguments: Any) -> Spread:  # noqa: ANN401
    ours, theirs = (Spread.of(each) for each in arguments[:2])
    factor = float(node.kwargs.get("alpha", 1.0)) * (-1.0 if traits_of(node) & Trait.DIFFERENCE else 1.0)  # type: ignore[arg-type]
    scaled = _product(node, (theirs, factor))
    mean, variance = ours.mean + scaled.mean, ours.variance + scaled.variance
    return Spread(mean, variance, ours.low + scaled.low, ours.high + scaled.high).within(Spread.normal(mean, variance))


def _product(_: fx.Node, arguments: Any) -> Spread:  # noqa: ANN401
    ours, theirs = (Spread.of(each) for each in arguments[:2])
    a, b = ours, theirs
    variance = a.variance * b.variance + a.variance * b.mean.square() + b.variance * a.mean.square()
    corners = torch.stack(torch.broadcast_tensors(*(x * y for x in (a.low, a.high) for y in (b.low, b.high))))
    return Spread(a.mean * b.mean, variance, corners.amin(0), corners.amax(0))


def _between(node: fx.Node, arguments: Any) -> Spread:  # noqa: ANN401
    """Softmax: anything between its ends."""
    low, high = fixed_range(node) or (0.0, 1.0)
    numbers = (low + high) / 2, (high - low) ** 2 / 12, low, high
    return Spread(*(torch.full_like(arguments[0].mean, number) for number in numbers))


_RULES: tuple[tuple[Trait, Callable[[fx.Node, Any], Spread]], ...] = (
    (Trait.LAYER, _layer),
    (Trait.POINTWISE, _elementwise),
    (Trait.SUM | Trait.DIFFERENCE, _sum),
    (Trait.PRODUCT, _product),
)


def _unsettled(node: fx.Node, why: str) -> TaskError:
    return TaskError(
        f"without calibration inputs its values' range is not known: {why}.",
        where=f"layer {layer_path(node) or node.name}",
        mend="give Task a calibrate() that yields some hundred typical inputs.",
    )
