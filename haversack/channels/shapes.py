"""Shapes: how operations that move, join, cut or summarise values carry channels along; the rules of all."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, fx

from haversack.channels.book import (
    ODD_BATCH,
    Atoms,
    ChannelOperation,
    Dims,
    Value,
    broadcast,
    pointwise,
    same,
    sizes,
    united,
    unknown,
)
from haversack.channels.products import PRODUCT_RULES
from haversack.channels.recurrent import RECURRENT_RULES
from haversack.channels.reshape import reshape


def _cat(operation: ChannelOperation) -> Dims:
    # torch.cat skips empty tensors of one dimension, whatever the rank of the others.
    nodes = [node for node in operation.argument("tensors") if math.prod(sizes(node)) or len(sizes(node)) > 1]
    rank = len(sizes(nodes[0]))
    joined = int(operation.argument("dim", 0)) % rank
    dims = [
        united(operation, [(operation.of(node)[dim], 0) for node in nodes]) if dim != joined else None
        for dim in range(rank)
    ]
    parts = [operation.of(node)[joined] for node in nodes]
    if any(part is not None for part in parts) and sizes(operation.node)[joined] < ODD_BATCH:
        why = f"joined with channels: {operation.why}"
        dims[joined] = np.concatenate(
            [
                _constant(operation, sizes(node)[joined], why) if part is None else part
                for node, part in zip(nodes, parts, strict=True)
            ]
        )
    return tuple(dims)


def _stack(operation: ChannelOperation) -> Dims:
    nodes = operation.argument("tensors")
    dims = list(broadcast(operation, nodes))
    dims.insert(int(operation.argument("dim", 0)) % (len(dims) + 1), None)
    return tuple(dims)


def _pad(operation: ChannelOperation) -> Dims:
    """Zero channels that the code adds stay (their number stands in the code); the others may go."""
    dims = list(same(operation))
    pads = [each if isinstance(each, int) else 0 for each in operation.argument("pad")]
    constant = operation.argument("mode", "constant") == "constant"
    for dim, low, high in zip(range(len(dims) - 1, -1, -1), pads[::2], pads[1::2], strict=False):
        atoms = dims[dim]
        if atoms is None or low == high == 0:
            continue
        if constant and low >= 0 and high >= 0:
            why = f"zero channels that the code adds: {operation.why}"
            dims[dim] = np.concatenate([_constant(operation, low, why), atoms, _constant(operation, high, why)])
        else:
            operation.book.pin(atoms, f"cut or mirrored: {operation.why}")
            dims[dim] = None
    return tuple(dims)


def _constant(operation: ChannelOperation, size: int, why: str) -> Atoms:
    atoms = operation.book.fresh(size)
    operation.book.pin(atoms, why)
    return atoms


def _slice(operation: ChannelOperation) -> Dims:
    dims = list(same(operation))
    dim = int(operation.argument("dim", 0)) % len(dims)
    start, end, step = (operation.argument(name) for name in ("start", "end", "step"))
    atoms = dims[dim]
    if atoms is None:
        return tuple(dims)
    whole = start in (None, 0) and step in (None, 1) and (end is None or (isinstance(end, int) and end >= len(atoms)))
    if whole:
        return tuple(dims)
    if any(isinstance(each, fx.Node) for each in (start, end, step)):
        operation.book.pin(atoms, f"the code picks channels: {operation.why}")
        dims[dim] = None
        return tuple(dims)
    ends = slice(start, end, step).indices(len(atoms))
    part = math.gcd(*ends[:2], len(atoms))
    if ends[2] != 1 or part == 1:
        operation.book.pin(atoms, f"the code picks channels: {operation.why}")
    elif operation.reading(atoms) is not None:
        # Halves, quarters: all parts lose alike, so that the code's fractions fall between the same channels again.
        operation.book.merge(atoms.reshape(-1, part))
    dims[dim] = atoms[start:end:step]
    return tuple(dims)


def _select(operation: ChannelOperation) -> Dims:
    dims = list(same(operation))
    dim = int(operation.argument("dim", 0)) % len(dims)
    operation.book.pin(dims.pop(dim), f"the code picks a channel: {operation.why}")
    return tuple(dims)


def _split(operation: ChannelOperation) -> list[Dims]:
    """Equal parts lose alike, provided that the code takes their size from the shape."""
    dims = same(operation)
    dim = int(operation.argument("dim", 0)) % len(dims)
    atoms, pieces = dims[dim], operation.node.meta["val"]
    if operation.name == "unbind":
        operation.book.pin(atoms, f"the code splits channels: {operation.why}")
        return [(*dims[:dim], *dims[dim + 1 :]) for _ in pieces]
    ends = np.cumsum([int(piece.shape[dim]) for piece in pieces])
    if atoms is None:
        return [dims for _ in pieces]
    if len({int(piece.shape[dim]) for piece in pieces}) > 1:
        operation.book.pin(atoms, f"the code splits channels unevenly: {operation.why}")
    elif operation.reading(atoms) is not None:
        operation.book.merge(atoms.reshape(len(pieces), -1))
    return [(*dims[:dim], part, *dims[dim + 1 :]) for part in np.split(atoms, ends[:-1])]


def _glu(operation: ChannelOperation) -> Dims:
    dims = list(same(operation))
    dim = int(operation.argument("dim", -1)) % len(dims)
    dims[dim] = operation.book.interleave(dims[dim], 2)
    return tuple(dims)


def _shuffle(operation: ChannelOperation) -> Dims:
    """Channels dealt out over groups: one of each group goes at a time."""
    batch, channels, *space = same(operation)
    groups = int(operation.argument("groups"))
    first = operation.book.interleave(channels, groups)
    return (batch, None if first is None else np.repeat(first, groups), *space)


def _pixel_shuffle(operation: ChannelOperation) -> Dims:
    """Every r x r channels become one, spread over pixels."""
    channels, factor = same(operation)[-3], int(operation.argument("upscale_factor"))
    if channels is None:
        return same(operation)
    return (*same(operation)[:-3], operation.book.merge(channels.reshape(-1, factor**2).T), None, None)


def _pixel_unshuffle(operation: ChannelOperation) -> Dims:
    channels, factor = same(operation)[-3], int(operation.argument("downscale_factor"))
    if channels is None:
        return same(operation)
    return (*same(operation)[:-3], np.repeat(channels, factor**2), None, None)


def _getitem(operation: ChannelOperation) -> Dims:
    source, place = operation.node.args[:2]
    value = operation.values.get(source, ()) if isinstance(source, fx.Node) else ()
    return value[place] if isinstance(value, list) and isinstance(place, int) else ()


def _permute(operation: ChannelOperation) -> Dims:
    dims = same(operation)
    if operation.name == "permute":
        return tuple(dims[dim] for dim in operation.argument("dims"))
    if operation.name in ("t", "numpy_T"):
        return dims[::-1]
    first, second = (operation.argument("dim0", -2), operation.argument("dim1", -1))
    swapped = list(dims)
    swapped[first], swapped[second] = swapped[second], swapped[first]
    return tuple(swapped)


def _squeeze(operation: ChannelOperation) -> Dims:
    given = operation.argument("dim", range(len(same(operation))))
    shape = sizes(operation.tensors()[0])
    dropped = {dim % len(shape) for dim in ([given] if isinstance(given, int) else given)}
    return tuple(a for dim, a in enumerate(same(operation)) if not (dim in dropped and shape[dim] == 1))


def _unsqueeze(operation: ChannelOperation) -> Dims:
    dims = list(same(operation))
    dims.insert(int(operation.argument("dim")) % (len(dims) + 1), None)
    return tuple(dims)


def _expand(operation: ChannelOperation) -> Dims:
    if operation.name == "expand_as":
        return broadcast(operation, operation.tensors())
    shape, spelled = sizes(operation.tensors()[0]), operation.argument("size")
    dims: list[Atoms | None] = [None] * (len(spelled) - len(shape))
    for atoms, size, said in zip(same(operation), shape, spelled[len(dims) :], strict=True):
        if size != 1 and said != -1:
            operation.reading(atoms)
        dims.append(None if size == 1 and said not in (1, -1) else atoms)
    return tuple(dims)


def _reduce(operation: ChannelOperation) -> Value:
    dims = same(operation)
    given = operation.argument("dim")
    gone = range(len(dims)) if given in (None, []) else [given] if isinstance(given, int) else given
    gone = {dim % len(dims) for dim in gone} if dims else set()
    keep = bool(operation.argument("keepdim", False))
    left = tuple(None if dim in gone else atoms for dim, atoms in enumerate(dims) if keep or dim not in gone)
    return left if isinstance(operation.node.meta["val"], Tensor) else [left for _ in operation.node.meta["val"]]


def _pool(space: int) -> Callable[[ChannelOperation], Value]:
    def rule(operation: ChannelOperation) -> Value:
        dims = same(operation)
        for atoms in dims[-space:]:
            operation.book.pin(atoms, f"slid over: {operation.why}")
        left = (*dims[:-space], *(None for _ in range(space)))
        return left if isinstance(operation.node.meta["val"], Tensor) else [left for _ in operation.node.meta["val"]]

    return rule


POOL_RULES = {space: _pool(space) for space in (1, 2, 3)}
SHAPE_RULES: dict[str, Callable[[ChannelOperation], Value]] = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "unflatten"), reshape),
    **dict.fromkeys(("permute", "transpose", "t", "numpy_T"), _permute),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "unbind", "tensor_split"), _split),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "logsumexp"), _reduce),
    **dict.fromkeys(("prod", "any", "all", "argmax", "argmin", "linalg_vector_norm"), _reduce),
    **dict.fromkeys(("contiguous", "clone", "to", "_to_copy", "detach", "alias", "lift_fresh_copy"), same),
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "softmax", "log_softmax", "cumsum"), same),
    **dict.fromkeys(("zeros_like", "ones_like", "full_like", "empty_like", "type_as"), same),
    **dict.fromkeys(("expand", "expand_as"), _expand),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    "stack": _stack,
    "glu": _glu,
    "channel_shuffle": _shuffle,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "slice": _slice,
    "select": _select,
    "getitem": _getitem,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
}


def follow(operation: ChannelOperation) -> Value:
    """The atoms of the operation's result; an operation that nobody knows pins all it touches."""
    rule = _RULES.get(operation.name)
    if rule is None and torch.Tag.pointwise in getattr(operation.node.target, "tags", ()):
        rule = pointwise
    if rule is None and (space := re.search(r"(?:pool|upsample).*([123])d", operation.name)):
        rule = POOL_RULES[int(space[1])]
    return _checked(operation, rule or unknown)


def _checked(operation: ChannelOperation, rule: Callable[[ChannelOperation], Value]) -> Value:
    """What the rule says; an operation used in a way that its rule was not written for counts as unknown."""
    try:
        value = rule(operation)
    except (IndexError, KeyError, TypeError, ValueError):
        return unknown(operation)
    result = operation.node.meta["val"]
    if isinstance(value, tuple) and isinstance(result, Tensor):
        shape = sizes(operation.node)
        fits = len(value) == len(shape) and all(
            atoms is None or len(atoms) == size for atoms, size in zip(value, shape, strict=True)
        )
        return value if fits else unknown(operation)
    return value


# Element by element, but not tagged so by torch.
_ACTIVATIONS = ("relu6", "hardtanh", "hardswish", "silu", "gelu", "celu", "selu", "rrelu")
_RULES: dict[str, Callable[[ChannelOperation], Value]] = {
    **PRODUCT_RULES,
    **SHAPE_RULES,
    **RECURRENT_RULES,
    **dict.fromkeys(_ACTIVATIONS, pointwise),
}
