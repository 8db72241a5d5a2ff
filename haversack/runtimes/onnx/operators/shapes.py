"""Shapes: what moves numbers and leaves them as they are, and so works on integers between quantize and dequantize."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import fx

from haversack.runtimes.onnx.call import Call, Dim, Table, Values, settled, shape_of, sizes_of

# Start, end and step of a slice; torch and ONNX both take a huge end as "up to the last".
Cut = tuple[Dim, Dim, int]
END = (1 << 63) - 1
_PAD_MODES = {"constant": None, "reflect": "reflect", "replicate": "edge"}


def reshaped(call: Call, x: str, before: Sequence[Dim], after: Sequence[Dim]) -> str:
    """`x` in another shape. A free dimension stays in its place (0) or is what is left over (-1)."""
    if _same(before, after):
        return x
    if len(after) == 2 and len(before) > 2 and _same(before[:1], after[:1]):
        return call.graph.node("Flatten", x)
    sizes = [_copied_or_left_over(before, after, dim) for dim in range(len(after))]
    whole = call.graph.integers(sizes) if sizes.count(-1) < 2 else call.shape_value(after)
    return call.graph.node("Reshape", x, whole)


def _copied_or_left_over(before: Sequence[Dim], after: Sequence[Dim], dim: int) -> int:
    size = after[dim]
    if isinstance(size, int):
        return size
    return 0 if dim < len(before) and str(before[dim]) == str(size) else -1


def _same(before: Sequence[Dim], after: Sequence[Dim]) -> bool:
    return [str(dim) for dim in before] == [str(dim) for dim in after]


def reshape(call: Call) -> str:
    """view, reshape, flatten, unflatten, squeeze, unsqueeze: the traced shapes say all."""
    return reshaped(call, call.x, call.shape, call.result)


def permuted(order: Callable[[Call], list[int]]) -> Callable[[Call], str]:
    """A function that writes a transposition."""
    return lambda call: call.graph.node("Transpose", call.x, perm=order(call))


def _swap(call: Call) -> list[int]:
    order = list(range(len(call.shape)))
    if len(call.arguments) > 1:
        _, *dims = call.arguments.values()
        first, second = (dim % len(order) for dim in dims)
    else:
        first, second = len(order) - 2, len(order) - 1
    order[first], order[second] = order[second], order[first]
    return order


def _moved(call: Call) -> list[int]:
    rank = len(call.shape)
    _, source, target = call.arguments.values()
    pairs = zip(*([dims] if isinstance(dims, int) else dims for dims in (target, source)), strict=True)
    places = {to % rank: origin % rank for to, origin in pairs}
    rest = (dim for dim in range(rank) if dim not in places.values())
    return [places[dim] if dim in places else next(rest) for dim in range(rank)]


def concatenate(call: Call) -> str:
    """Concat along a dimension."""
    tensors = [tensor for tensor in call["tensors"] if shape_of(tensor) != (0,)]
    axis = call.dim(rank=len(call.result))
    return call.graph.node("Concat", *(call.value(tensor) for tensor in tensors), axis=axis)


def stack(call: Call) -> str:
    """Concat along a new dimension."""
    axis = call.dim(rank=len(call.result))
    axes = call.graph.integers([axis])
    return call.graph.node(
        "Concat", *(call.graph.node("Unsqueeze", call.value(tensor), axes) for tensor in call["tensors"]), axis=axis
    )


def slice_(call: Call) -> str:
    """Slice. Slices of slices along other dimensions become one, as runtimes pay for each."""
    source: fx.Node = call.operation
    cuts: dict[int, Cut] = {}
    while _is_slice(source) and (source is call.operation or len(source.users) == 1):
        dim, cut = _cut(source, len(call.shape))
        if dim in cuts:
            break
        cuts[dim] = cut
        source = cast("fx.Node", source.args[0])
    before, after = shape_of(source), call.result
    cuts = {dim: cuts[dim] for dim in sorted(cuts) if not _same([before[dim]], [after[dim]])}
    return _sliced(call, call.value(source), cuts)


def _cut(node: fx.Node, rank: int) -> tuple[int, Cut]:
    """The dimension that a slice cuts, and its start, end and step."""
    given: list[Any] = list(settled(node.args[1:]))
    defaults: list[Any] = [0, None, None, 1]
    dim, start, end, step = given + defaults[len(given) :]
    return dim % rank, (0 if start is None else start, END if end is None else end, step)


def _is_slice(node: fx.Node) -> bool:
    return str(node.target) == "aten.slice.Tensor"


def part(call: Call, x: str, axis: int, start: Dim, end: Dim) -> str:
    """What of `x` lies between two places along a dimension."""
    return _sliced(call, x, {axis: (start, end, 1)})


def _sliced(call: Call, x: str, cuts: dict[int, Cut]) -> str:
    if not cuts:
        return x
    integers = call.graph.integers
    starts, ends, steps = zip(*cuts.values(), strict=True)
    return call.graph.node(
        "Slice",
        x,
        call.shape_value(starts),
        call.shape_value(ends),
        integers(list(cuts)),
        integers(steps) if set(steps) != {1} else "",
    )


def narrow(call: Call) -> str:
    """A range along one dimension."""
    start = call["start"]
    return _sliced(call, call.x, {call.dim(): (start, start + call["length"], 1)})


def select(call: Call) -> str:
    """One index along a dimension, which disappears."""
    return call.graph.node("Gather", call.x, call.value(call["index"], torch.int64), axis=call.dim())


def index_select(call: Call) -> str:
    """Several indices along a dimension."""
    return call.graph.node("Gather", call.x, call.value(call["index"]), axis=call.dim())


def split(call: Call) -> Values:
    """split, split_with_sizes and chunk: the traced results tell the sizes."""
    axis = call.dim()
    sizes = [sizes_of(part)[axis] for part in call.operation.meta["val"]]
    if len(sizes) == 1:
        return (call.x,)
    return call.graph.split("Split", call.x, call.shape_value(sizes), outputs=len(sizes), axis=axis)


def unbind(call: Call) -> Values:
    """Every slice along a dimension, which disappears."""
    axis, count = call.dim(), len(call.operation.meta["val"])
    indices = (call.graph.constant(torch.tensor(index, dtype=torch.int64)) for index in range(count))
    return tuple(call.graph.node("Gather", call.x, index, axis=axis) for index in indices)


def get_item(call: Call) -> str:
    """One of several results."""
    results, index = call.values[call["0"]], call["1"]
    if not isinstance(results, tuple) or index >= len(results):
        raise call.unsupported(f"with result {index} of {call['0'].target}")
    return str(results[index])


def expand(call: Call) -> str:
    """Copies along dimensions of size 1; the free batch is read off an input."""
    return spread(call, call.x, call.shape, call.result)


def spread(call: Call, x: str, before: Sequence[Dim], after: Sequence[Dim]) -> str:
    """`x` with copies along its dimensions of size 1, and along new first ones."""
    padded = (1,) * (len(after) - len(before)) + tuple(before)
    if _same(padded, after):
        return reshaped(call, x, before, after)
    # Where nothing changes, 1 leaves the size as it is.
    sizes = [1 if str(old) == str(new) else new for old, new in zip(padded, after, strict=True)]
    return call.graph.node("Expand", x, call.shape_value(sizes))


def repeat(call: Call) -> str:
    """Copies side by side."""
    repeats = next(value for name, value in call.arguments.items() if name in {"repeats", "dims"})
    repeats = [*[1] * (len(call.shape) - len(repeats)), *repeats]
    padded = (1,) * (len(repeats) - len(call.shape)) + call.shape
    return call.graph.node("Tile", reshaped(call, call.x, call.shape, padded), call.shape_value(repeats))


def pad(call: Call) -> str:
    """Pad; the numbers of torch come last dimension first, pairwise."""
    mode = call.arguments.get("mode", "constant")
    return _padded(call, call["pad"], mode, call["value"])


def mirror_pad(mode: str) -> Callable[[Call], str]:
    """A function that writes a padding that has an operation of its own."""
    return lambda call: _padded(call, call["padding"], mode, None)


def _padded(call: Call, pads: Sequence[int], mode: str, value: float | None) -> str:
    if mode not in _PAD_MODES or any(not isinstance(pad, int) for pad in pads):
        raise call.unsupported(f"with mode {mode}")
    dims, rank, graph = len(pads) // 2, len(call.shape), call.graph
    # All dimensions are spelled out: ONNX Runtime's layout optimizer miscounts a Pad with an axes input (1.32).
    rest = [0] * (rank - dims)
    numbers = graph.integers([*rest, *pads[0::2][::-1], *rest, *pads[1::2][::-1]])
    filling = graph.number(value, graph.types[call.x]) if value else ""
    return graph.node("Pad", call.x, numbers, filling, mode=_PAD_MODES[mode])


def pixel_shuffle(call: Call) -> str:
    """Channels to pixels (Shi et al. 2016)."""
    return call.graph.node("DepthToSpace", call.x, blocksize=call["upscale_factor"], mode="CRD")


def pixel_unshuffle(call: Call) -> str:
    """Pixels to channels, in torch's order, which is not that of ONNX's SpaceToDepth."""
    factor, (channels, height, width) = call["downscale_factor"], call.sizes(1)
    split_shape = call.graph.integers([0, channels, height // factor, factor, width // factor, factor])
    parts = call.graph.node("Transpose", call.graph.node("Reshape", call.x, split_shape), perm=[0, 1, 3, 5, 2, 4])
    joined = call.graph.integers([0, channels * factor**2, height // factor, width // factor])
    return call.graph.node("Reshape", parts, joined)


def channel_shuffle(call: Call) -> str:
    """Channels dealt out over the groups (Zhang et al. 2018)."""
    groups, channels, rest = call["groups"], call.size(1), call.shape[2:]
    apart = call.graph.node("Reshape", call.x, call.shape_value([0, groups, channels // groups, *rest]))
    order = [0, 2, 1, *range(3, 3 + len(rest))]
    dealt = call.graph.node("Transpose", apart, perm=order)
    return call.graph.node("Reshape", dealt, call.shape_value([0, channels, *rest]))


def full(fill: float | None) -> Callable[[Call], str]:
    """A function that writes a tensor of one number, whose batch may be free."""

    def written(call: Call) -> str:
        number = call.value(call["fill_value"] if fill is None else fill)
        return call.graph.node("Expand", call.graph.cast(number, call.dtype), call.shape_value(call.result))

    return written


def fill(call: Call) -> str:
    """One number in the first argument's shape."""
    return spread(call, call.graph.cast(call.value(call["value"]), call.dtype), (), call.result)


def number_as_tensor(call: Call) -> str:
    """A number as a tensor without dimensions."""
    return call.value(call["s"])


def count_up(call: Call) -> str:
    """Numbers from start to before end, which may be free."""
    dtype = call.operation.meta["val"].dtype
    bounds = (call.arguments.get("start", 0), call["end"], call.arguments.get("step", 1))
    return call.graph.cast(call.graph.node("Range", *(call.value(each, dtype) for each in bounds)), call.dtype)


TABLE: Table = {
    "aten._unsafe_view": reshape,
    "aten.arange": count_up,
    "aten.broadcast_to": expand,
    "aten.cat": concatenate,
    "aten.channel_shuffle": channel_shuffle,
    "aten.chunk": split,
    "aten.concat": concatenate,
    "aten.constant_pad_nd": pad,
    "aten.expand": expand,
    "aten.empty": full(0),
    "aten.empty_like": full(0),
    "aten.expand_as": expand,
    "aten.fill": fill,
    "aten.flatten": reshape,
    "aten.full": full(None),
    "aten.full_like": full(None),
    "aten.index_select": index_select,
    "aten.mT": permuted(_swap),
    "aten.moveaxis": permuted(_moved),
    "aten.movedim": permuted(_moved),
    "aten.narrow": narrow,
    "aten.native_channel_shuffle": channel_shuffle,
    "aten.new_empty": full(0),
    "aten.new_full": full(None),
    "aten.new_ones": full(1),
    "aten.new_zeros": full(0),
    "aten.numpy_T": permuted(_swap),
    "aten.ones": full(1),
    "aten.ones_like": full(1),
    "aten.pad": pad,
    "aten.permute": permuted(lambda call: call.dims("dims")),
    "aten.pixel_shuffle": pixel_shuffle,
    "aten.pixel_unshuffle": pixel_unshuffle,
    "aten.reflection_pad1d": mirror_pad("reflect"),
    "aten.reflection_pad2d": mirror_pad("reflect"),
    "aten.repeat": repeat,
    "aten.replication_pad1d": mirror_pad("replicate"),
    "aten.replication_pad2d": mirror_pad("replicate"),
    "aten.reshape": reshape,
    "aten.reshape_as": reshape,
    "aten.scalar_tensor": number_as_tensor,
    "aten.select": select,
    "aten.slice": slice_,
    "aten.split": split,
    "aten.split_with_sizes": split,
    "aten.squeeze": reshape,
    "aten.stack": stack,
    "aten.swapaxes": permuted(_swap),
    "aten.swapdims": permuted(_swap),
    "aten.t": permuted(_swap),
    "aten.tile": repeat,
    "aten.tensor_split": split,
    "aten.transpose": permuted(_swap),
    "aten.unbind": unbind,
    "aten.unflatten": reshape,
    "aten.unsafe_split": split,
    "aten.unsqueeze": reshape,
    "aten.view": reshape,
    "aten.view_as": reshape,
    "aten.zero": full(0),
    "aten.zeros": full(0),
    "aten.zeros_like": full(0),
    "getitem": get_item,
}
