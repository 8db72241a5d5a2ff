"""How operations that move, join, cut or summarise values carry channels along."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from torch import Tensor, fx

from haversack.graph.channel_book import (
    ODD_BATCH,
    Atoms,
    Dims,
    Operation,
    Value,
    broadcast,
    same,
    sizes,
    united,
)


def _cat(operation: Operation) -> Dims:
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


def _stack(operation: Operation) -> Dims:
    nodes = operation.argument("tensors")
    dims = list(broadcast(operation, nodes))
    dims.insert(int(operation.argument("dim", 0)) % (len(dims) + 1), None)
    return tuple(dims)


def _pad(operation: Operation) -> Dims:
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


def _constant(operation: Operation, size: int, why: str) -> Atoms:
    atoms = operation.book.fresh(size)
    operation.book.pin(atoms, why)
    return atoms


def _slice(operation: Operation) -> Dims:
    dims = list(same(operation))
    dim = int(operation.argument("dim", 0)) % len(dims)
    start, end, step = (operation.argument(name) for name in ("start", "end", "step"))
    atoms = dims[dim]
    if atoms is None:
        return tuple(dims)
    whole = start in (None, 0) and step in (None, 1) and (end is None or (isinstance(end, int) and end >= len(atoms)))
    if not whole:
        operation.book.pin(atoms, f"the code picks channels: {operation.why}")
        fixed = any(isinstance(each, fx.Node) for each in (start, end, step))
        dims[dim] = None if fixed else atoms[start:end:step]
    return tuple(dims)


def _select(operation: Operation) -> Dims:
    dims = list(same(operation))
    dim = int(operation.argument("dim", 0)) % len(dims)
    operation.book.pin(dims.pop(dim), f"the code picks a channel: {operation.why}")
    return tuple(dims)


def _split(operation: Operation) -> list[Dims]:
    dims = same(operation)
    dim = int(operation.argument("dim", 0)) % len(dims)
    operation.book.pin(dims[dim], f"the code splits channels: {operation.why}")
    pieces = operation.node.meta["val"]
    if operation.name == "unbind":
        return [(*dims[:dim], *dims[dim + 1 :]) for _ in pieces]
    return [(*dims[:dim], None, *dims[dim + 1 :]) for _ in pieces]


def _getitem(operation: Operation) -> Dims:
    source, place = operation.node.args[:2]
    value = operation.values.get(source, ()) if isinstance(source, fx.Node) else ()
    return value[place] if isinstance(value, list) and isinstance(place, int) else ()


def _permute(operation: Operation) -> Dims:
    dims = same(operation)
    if operation.name == "permute":
        return tuple(dims[dim] for dim in operation.argument("dims"))
    if operation.name in ("t", "numpy_T"):
        return dims[::-1]
    first, second = (operation.argument("dim0", -2), operation.argument("dim1", -1))
    swapped = list(dims)
    swapped[first], swapped[second] = swapped[second], swapped[first]
    return tuple(swapped)


def _squeeze(operation: Operation) -> Dims:
    given = operation.argument("dim", range(len(same(operation))))
    shape = sizes(operation.tensors()[0])
    dropped = {dim % len(shape) for dim in ([given] if isinstance(given, int) else given)}
    return tuple(a for dim, a in enumerate(same(operation)) if not (dim in dropped and shape[dim] == 1))


def _unsqueeze(operation: Operation) -> Dims:
    dims = list(same(operation))
    dims.insert(int(operation.argument("dim")) % (len(dims) + 1), None)
    return tuple(dims)


def _expand(operation: Operation) -> Dims:
    if operation.name == "expand_as":
        return broadcast(operation, operation.tensors())
    shape, spelled = sizes(operation.tensors()[0]), operation.argument("size")
    dims: list[Atoms | None] = [None] * (len(spelled) - len(shape))
    for atoms, size, said in zip(same(operation), shape, spelled[len(dims) :], strict=True):
        if size != 1 and said != -1:
            operation.book.pin(atoms, f"the code spells the size: {operation.why}")
        dims.append(None if size == 1 and said not in (1, -1) else atoms)
    return tuple(dims)


def _reduce(operation: Operation) -> Value:
    dims = same(operation)
    given = operation.argument("dim")
    gone = range(len(dims)) if given in (None, []) else [given] if isinstance(given, int) else given
    gone = {dim % len(dims) for dim in gone} if dims else set()
    keep = bool(operation.argument("keepdim", False))
    left = tuple(None if dim in gone else atoms for dim, atoms in enumerate(dims) if keep or dim not in gone)
    return left if isinstance(operation.node.meta["val"], Tensor) else [left for _ in operation.node.meta["val"]]


def _pool(space: int) -> Callable[[Operation], Value]:
    def rule(operation: Operation) -> Value:
        dims = same(operation)
        for atoms in dims[-space:]:
            operation.book.pin(atoms, f"slid over: {operation.why}")
        left = (*dims[:-space], *(None for _ in range(space)))
        return left if isinstance(operation.node.meta["val"], Tensor) else [left for _ in operation.node.meta["val"]]

    return rule


def _reshape(operation: Operation) -> Dims:
    """Blocks of dimensions with equal products: kept, merged (atoms repeated) or split (pinned)."""
    spelled = operation.argument("size", operation.argument("shape"))
    before, after = sizes(operation.tensors()[0]), sizes(operation.node)
    dims = same(operation)
    result: list[Atoms | None] = [None] * len(after)
    said = list(spelled) if isinstance(spelled, Sequence) and operation.name != "unflatten" else [-1] * len(after)
    for ours, theirs in _blocks(before, after):
        tracked = [dim for dim in ours if dims[dim] is not None]
        if not tracked:
            continue
        merged = len(theirs) == 1 and len(tracked) == 1
        constants = [dim for dim in theirs if isinstance(said[dim], int) and said[dim] != -1]
        if not merged or constants:
            for dim in tracked:
                operation.book.pin(dims[dim], f"the code spells the size: {operation.why}")
        if merged:
            result[theirs[0]] = _spread(dims[tracked[0]], [before[dim] for dim in ours], ours.index(tracked[0]))
    return tuple(result)


def _spread(atoms: Atoms | None, shape: list[int], axis: int) -> Atoms | None:
    """Atoms of one dimension at each place of the flattened block; none where the batch is part of it."""
    if atoms is None or any(size % ODD_BATCH == 0 for size in shape):
        return None
    column = atoms.reshape([-1 if dim == axis else 1 for dim in range(len(shape))])
    return np.broadcast_to(column, shape).reshape(-1)


def _blocks(before: tuple[int, ...], after: tuple[int, ...]) -> Iterable[tuple[list[int], list[int]]]:
    ours = [dim for dim, size in enumerate(before) if size != 1]
    theirs = [dim for dim, size in enumerate(after) if size != 1]
    while ours and theirs:
        left, right = [ours.pop(0)], [theirs.pop(0)]
        while (a := math.prod(before[d] for d in left)) != (b := math.prod(after[d] for d in right)):
            (left if a < b else right).append((ours if a < b else theirs).pop(0))
        yield left, right


POOL_RULES = {space: _pool(space) for space in (1, 2, 3)}
SHAPE_RULES: dict[str, Callable[[Operation], Value]] = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "unflatten"), _reshape),
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
    "slice": _slice,
    "select": _select,
    "getitem": _getitem,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
}
