"""Intervals: two numbers between which a value lies, whatever the input is (Moore 1966); a rule for each operation.

They are kept element by element, so that zeros padded around a map count. What no rule knows may be anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only

from haversack.channels.book import operation_name
from haversack.graph.trace import arguments_of

# A float32 network holds no larger number, so nothing is unbounded beyond it.
LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Interval:
    """Two tensors of one shape: the value lies between them, element by element. Real numbers are float64."""

    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class IntervalCall:
    """An operation of the exported graph with its arguments, of which some are intervals."""

    node: fx.Node
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def name(self) -> str:
        """ATen's name of the operation."""
        return operation_name(self.node)

    def argument(self, name: str) -> Any:  # noqa: ANN401 - whatever the operation takes
        """The argument that the operation's schema calls `name`, its default where it is left out."""
        names = list(arguments_of(self.node))
        place = names.index(name)
        if place < len(self.args):
            return self.args[place]
        return self.kwargs.get(name, arguments_of(self.node)[name])

    def at(self, pick: Callable[[Interval], Tensor]) -> Any:  # noqa: ANN401 - whatever the operation gives
        """The result on one tensor out of each interval."""
        args, kwargs = tree_map(
            lambda each: pick(each) if isinstance(each, Interval) else each, (self.args, self.kwargs)
        )
        return cast("Callable[..., Any]", self.node.target)(*args, **kwargs)

    def intervals(self) -> list[Interval]:
        """The arguments that are intervals."""
        return [each for each in tree_flatten((self.args, self.kwargs))[0] if isinstance(each, Interval)]


def unbounded(node: fx.Node) -> Any:  # noqa: ANN401
    """Intervals without bounds, shaped like the node's result for one sample."""
    return tree_map_only(Tensor, lambda value: _everything(_shape(value), value.dtype), node.meta["val"])


def _shape(value: Tensor) -> tuple[int, ...]:
    """The tensor's shape for one sample."""
    return tuple(
        size if isinstance(size, int) else int(size.node.expr.xreplace(dict.fromkeys(size.node.expr.free_symbols, 1)))
        for size in value.shape
    )


def _everything(shape: tuple[int, ...], dtype: torch.dtype) -> Interval:
    if dtype.is_floating_point:
        high = torch.full(shape, LARGEST, dtype=torch.float64)
        return Interval(-high, high)
    ends = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    return Interval(*(torch.full(shape, end, dtype=dtype) for end in ends))


def bounded(low: Tensor, high: Tensor) -> Interval:
    """The interval, kept within float32; what is not a number may be anything."""
    return Interval(
        low.nan_to_num(nan=-LARGEST).clamp(-LARGEST, LARGEST), high.nan_to_num(nan=LARGEST).clamp(-LARGEST, LARGEST)
    )


Rule = Callable[[IntervalCall], Any]


def enclose(call: IntervalCall) -> Any:  # noqa: ANN401 - an interval, or several
    """The interval in which the operation's result lies; a list of them where it has several results.

    Raises ArithmeticError for an operation that writes what it does not know into a tensor that must stay known.
    """
    rule = _RULES.get(call.name, _unknown)
    try:
        result = rule(call)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError):
        result = unbounded(call.node)
    return _written(call, result) if _is_in_place(call.node) else result


def _low(value: Interval) -> Tensor:
    return value.low


def _high(value: Interval) -> Tensor:
    return value.high


def _is_in_place(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable  # noqa: SLF001


def _written(call: IntervalCall, result: Any) -> Interval:  # noqa: ANN401
    """The first argument, which now holds the result: views of it see that."""
    written = call.args[0]
    if not isinstance(written, Interval) or not isinstance(result, Interval):
        raise ArithmeticError(call.name)  # noqa: TRY004 - the network is no caller's mistake
    if result.low is not written.low:
        written.low.copy_(result.low)
        written.high.copy_(result.high)
    return written


def _moved(call: IntervalCall) -> Any:  # noqa: ANN401
    """Values go elsewhere; views stay views, so that what is written into them is seen."""
    return _paired(call.at(_low), call.at(_high))


def _rising(call: IntervalCall) -> Any:  # noqa: ANN401
    """The operation never falls when an argument rises."""
    target = _pure(call)
    lows, highs = target.at(_low), target.at(_high)
    return tree_map(lambda each: bounded(each.low, each.high), _paired(lows, highs))


def _paired(lows: Any, highs: Any) -> Any:  # noqa: ANN401
    return (
        Interval(lows, highs)
        if isinstance(lows, Tensor)
        else [_paired(*each) for each in zip(lows, highs, strict=True)]
    )


def _pure(call: IntervalCall) -> IntervalCall:
    """The call on copies of what it would write into."""
    if not _is_in_place(call.node):
        return call
    first, *others = call.args
    copied = Interval(first.low.clone(), first.high.clone()) if isinstance(first, Interval) else first
    return IntervalCall(call.node, (copied, *others), call.kwargs)


def _rising_if_positive(call: IntervalCall) -> Any:  # noqa: ANN401
    """Rises as long as no number among the arguments turns it around."""
    numbers = [each for each in tree_flatten((call.args[1:], call.kwargs))[0] if isinstance(each, int | float)]
    return _rising(call) if all(number >= 0 for number in numbers) else _unknown(call)


def _valley(lowest_at: float) -> Rule:
    """Falls up to `lowest_at`, rises from there."""

    def rule(call: IntervalCall) -> Interval:
        return _kinked(call, lowest_at)

    return rule


def _kinked(call: IntervalCall, kink: float) -> Interval:
    """One turn at most, at `kink`: the extremes lie at the ends or there."""
    pure = [_pure(call).at(pick) for pick in (_low, _high, lambda each: each.low.clamp(min=kink).minimum(each.high))]
    found = torch.stack(pure)
    return bounded(found.amin(0), found.amax(0))


def _gelu(call: IntervalCall) -> Interval:
    return _kinked(call, -0.7517915204 if call.argument("approximate") == "none" else -0.7524614176)


def _dropped(call: IntervalCall) -> Any:  # noqa: ANN401
    return _unknown(call) if call.argument("train") else _moved(call)


def _power(call: IntervalCall) -> Any:  # noqa: ANN401
    exponent = call.argument("exponent")
    if isinstance(exponent, int | float) and exponent > 0 and exponent % 1 == 0:
        return _rising(call) if exponent % 2 else _kinked(call, 0.0)
    return _unknown(call)


def _negative(call: IntervalCall) -> Interval:
    (value,) = call.intervals()
    return Interval(-value.high, -value.low)


def _difference(call: IntervalCall) -> Any:  # noqa: ANN401
    left, right, alpha = call.argument("self"), call.argument("other"), call.argument("alpha")
    if call.name == "rsub":
        left, right = right, left
    if alpha < 0:
        return _unknown(call)
    (ours_low, ours_high), (low, high) = _ends(left), _ends(right)
    return bounded(torch.as_tensor(ours_low - alpha * high), torch.as_tensor(ours_high - alpha * low))


def _ends(value: Any) -> tuple[Any, Any]:  # noqa: ANN401
    return (value.low, value.high) if isinstance(value, Interval) else (value, value)


def _scaled(call: IntervalCall) -> Any:  # noqa: ANN401
    """A product or quotient: its extremes lie at the four corners, unless the divisor may be zero."""
    left, right = call.args[:2]
    if call.kwargs or len(call.args) > 2:
        return _unknown(call)
    operation = torch.mul if call.name == "mul" else torch.div
    low, high = _ends(right)
    corners = [operation(ours, theirs) for ours in _ends(left) for theirs in (low, high)]
    found = torch.stack(torch.broadcast_tensors(*corners))
    result = bounded(found.amin(0), found.amax(0))
    if call.name == "mul" or not isinstance(right, Interval):
        return result
    safe = (low > 0) | (high < 0)
    return Interval(torch.where(safe, result.low, -LARGEST), torch.where(safe, result.high, LARGEST))


def _between(low: float, high: float) -> Rule:
    """Two numbers between which the results lie, whatever the arguments are."""

    def rule(call: IntervalCall) -> Interval:
        like = call.intervals()[0].low
        return Interval(torch.full_like(like, low), torch.full_like(like, high))

    return rule


def _of_shape(call: IntervalCall) -> Any:  # noqa: ANN401
    """What depends on shapes alone is known."""
    return call.at(_low)


def _cast(call: IntervalCall) -> Any:  # noqa: ANN401
    """Real numbers stay float64; others may be anything."""
    (value,) = call.intervals()
    real = value.low.is_floating_point() and call.node.meta["val"].dtype.is_floating_point
    return value if real else unbounded(call.node)


def _nothing(_: IntervalCall) -> None:
    """A check of the graph's own."""


def _normed(call: IntervalCall) -> Any:  # noqa: ANN401
    """Batch norm with the statistics of training: a scale and a shift for each channel."""
    value, mean, variance = (call.argument(name) for name in ("input", "running_mean", "running_var"))
    weight, bias = call.argument("weight"), call.argument("bias")
    if call.argument("training") or mean is None or not isinstance(value, Interval):
        return _unknown(call)
    scale = torch.rsqrt(variance + call.argument("eps")) * (1.0 if weight is None else weight)
    shift = (0.0 if bias is None else bias) - mean * scale
    scale, shift = (each.view(-1, *[1] * (value.low.dim() - 2)) for each in (scale, shift))
    ends = torch.stack([value.low * scale, value.high * scale])
    return bounded(ends.amin(0) + shift, ends.amax(0) + shift)


def _filled(call: IntervalCall) -> Any:  # noqa: ANN401
    """What overwrites a value: a number, or another value."""
    written, *given = call.args
    if not isinstance(written, Interval):
        return unbounded(call.node)
    ends = _ends(given[0] if given else 0.0)
    low, high = (torch.as_tensor(end).to(written.low).expand_as(written.low) for end in ends)
    return Interval(low, high)


def _product(call: IntervalCall) -> Any:  # noqa: ANN401
    """A layer: positive weights take the ends of the input as they are, negative ones swapped."""
    value, weight, bias = call.args[0], call.args[1], call.argument("bias")
    if not isinstance(value, Interval) or isinstance(weight, Interval) or isinstance(bias, Interval):
        return _unknown(call)
    layer, rest = cast("Callable[..., Tensor]", call.node.target), call.args[3:]
    kwargs = {name: each for name, each in call.kwargs.items() if name != "bias"}
    plus, minus = weight.clamp(min=0), weight.clamp(max=0)
    low, high = (
        layer(ours, plus, bias, *rest, **kwargs) + layer(theirs, minus, None, *rest, **kwargs)
        for ours, theirs in ((value.low, value.high), (value.high, value.low))
    )
    return bounded(low, high)


def _embedded(call: IntervalCall) -> Any:  # noqa: ANN401
    """The extremes of each column of the table."""
    table, indices = call.args[:2]
    if isinstance(table, Interval):
        return _unknown(call)
    shape = (*indices.low.shape, table.shape[1])
    return Interval(table.amin(0).expand(shape).clone(), table.amax(0).expand(shape).clone())


def _unknown(call: IntervalCall) -> Any:  # noqa: ANN401
    """What depends on known numbers alone is known, element by element where the operation works so."""
    free, tags = unbounded(call.node), getattr(call.node.target, "tags", ())
    if torch.Tag.nondeterministic_seeded in tags or not isinstance(free, Interval):
        return free
    known = [each.low == each.high for each in call.intervals()]
    if torch.Tag.pointwise not in tags:
        known = [torch.stack([each.all() for each in known]).all()]
    elif not any(bool(each.any()) for each in known):
        return free
    result, settled = _pure(call).at(_low), torch.broadcast_tensors(*known)
    certain = torch.stack(settled).all(0) & result.isfinite()
    low, high = torch.where(certain, result, free.low), torch.where(certain, result, free.high)
    return Interval(low, high)


_MOVES = (
    *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "numpy_T", "unfold"),
    *("split", "split_with_sizes", "chunk", "unbind", "tensor_split", "slice", "select", "getitem", "narrow"),
    *("squeeze", "unsqueeze", "expand", "expand_as", "contiguous", "clone", "detach", "alias", "lift_fresh_copy"),
    *("cat", "concat", "concatenate", "stack", "repeat", "flip", "roll", "pad", "constant_pad_nd", "pixel_shuffle"),
    *("channel_shuffle", "pixel_unshuffle"),
)
_RISES = (
    *("relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "sigmoid", "hardsigmoid", "tanh", "exp", "selu"),
    *("softplus", "log_sigmoid", "sign", "floor", "ceil", "round", "sqrt", "log", "log1p", "expm1", "erf", "atan"),
    *("maximum", "minimum", "amax", "amin", "mean", "sum", "cumsum", "max_pool1d", "max_pool2d", "max_pool3d"),
    *("avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d", "upsample_bilinear2d"),
)
_SHAPES = ("zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "sym_size")
_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_RULES: dict[str, Rule] = {
    **dict.fromkeys(_MOVES, _moved),
    **dict.fromkeys(_RISES, _rising),
    **dict.fromkeys(("add", "leaky_relu", "elu", "celu"), _rising_if_positive),
    **dict.fromkeys(("sub", "rsub"), _difference),
    **dict.fromkeys(_SHAPES, _of_shape),
    **dict.fromkeys(("to", "_to_copy"), _cast),
    **dict.fromkeys(("_assert_tensor_metadata", "_assert_scalar"), _nothing),
    **dict.fromkeys((*_CONVOLUTIONS, "linear"), _product),
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout"), _dropped),
    "embedding": _embedded,
    "batch_norm": _normed,
    **dict.fromkeys(("fill", "zero", "copy"), _filled),
    "neg": _negative,
    "mul": _scaled,
    "div": _scaled,
    "pow": _power,
    "prelu": _valley(0.0),
    "gelu": _gelu,
    "abs": _valley(0.0),
    "square": _valley(0.0),
    "hardswish": _valley(-1.5),
    "silu": _valley(-1.278464542761),
    "mish": _valley(-1.192431217596),
    "softmax": _between(0.0, 1.0),
}
