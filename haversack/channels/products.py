"""How products with weights and normalisations tie channels together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import fx, nn

from haversack.channels.book import Atoms, ChannelOperation, Dims, Value, fixed, pin_all, sizes, united, unknown

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _convolution(operation: ChannelOperation) -> Dims:
    dims, weight = operation.dims("input") or (), operation.dims("weight") or ()
    bias = operation.dims("bias")
    transposed = operation.name.startswith("conv_transpose") or bool(operation.argument("transposed", False))
    groups = int(operation.argument("groups", 1))
    channel = len(dims) - len(weight) + 1
    for atoms in (*dims[channel + 1 :], *weight[2:]):
        operation.book.pin(atoms, f"slid over: {operation.why}")
    if groups == 1:
        into, out = (weight[0], weight[1]) if transposed else (weight[1], weight[0])
        operation.book.contract(dims[channel], into, operation.why)
    else:
        channels = sizes(operation.argument("input"))[channel]
        out = (_grouped_transposed if transposed else _grouped)(operation, dims[channel], weight, groups, channels)
    if bias is not None:
        operation.book.unite(out, bias[0], operation.why)
    if out is not None:
        operation.book.produced.append((out, operation.layer))
    return (*dims[:channel], out, *(None for _ in weight[2:]))


def _grouped(operation: ChannelOperation, into: Atoms | None, weight: Dims, groups: int, channels: int) -> Atoms | None:
    book, out = operation.book, weight[0]
    if groups == channels:
        times = sizes(operation.argument("weight"))[0] // channels
        book.unite(None if into is None else np.repeat(into, times), out, operation.why)
        _pin_spelled_groups(operation, out)
        return out
    first = book.interleave(into, groups)
    book.contract(first, weight[1], operation.why)
    if first is not None:
        book.paired.append(first)
    book.interleave(out, groups)
    return out


def _grouped_transposed(
    operation: ChannelOperation, into: Atoms | None, weight: Dims, groups: int, channels: int
) -> Atoms | None:
    book = operation.book
    book.unite(into, weight[0], operation.why)
    if groups == channels:
        times = sizes(operation.argument("weight"))[1]
        book.pin(weight[1], f"a multiplier: {operation.why}")
        _pin_spelled_groups(operation, into)
        return None if into is None else np.repeat(into, times)
    if weight[0] is not None:
        book.read.append(weight[0])
    first = book.interleave(into, groups)
    if first is not None:
        book.paired.append(first)
    return None if weight[1] is None else np.tile(weight[1], groups)


def _pin_spelled_groups(operation: ChannelOperation, atoms: Atoms | None) -> None:
    if not operation.within(CONVOLUTIONS):
        operation.book.pin(atoms, f"the code spells the number of groups: {operation.why}")


def _linear(operation: ChannelOperation) -> Dims:
    dims, weight, bias = operation.dims("input") or (), operation.dims("weight") or (), operation.dims("bias")
    operation.book.contract(dims[-1], weight[-1], operation.why)
    out = weight[:-1]
    if bias is not None:
        operation.book.unite(out[0], bias[0], operation.why)
    if out and out[0] is not None:
        operation.book.produced.append((out[0], operation.layer))
        operation.book.columns[int(out[0][0])] = out[0], weight[-1]
    return (*dims[:-1], *out)


def _matmul(operation: ChannelOperation) -> Dims:
    left, right = operation.tensors()[0], operation.tensors()[-1]
    return _product(operation, left, right)


def _addmm(operation: ChannelOperation) -> Dims:
    product = _product(operation, operation.argument("mat1"), operation.argument("mat2"))
    bias = operation.dims("input") or operation.dims("self") or ()
    if bias and product[-1] is not None:
        operation.book.unite(product[-1], bias[-1], operation.why)
    for atoms in bias[:-1]:
        operation.book.pin(atoms, operation.why)
    return product


def _product(operation: ChannelOperation, left: fx.Node, right: fx.Node) -> Dims:
    ours, theirs = operation.of(left), operation.of(right)
    if len(ours) < 2 or len(theirs) < 2:
        pin_all(operation, [], operation.why)
        result = fixed(operation.node.meta["val"])
        return result if isinstance(result, tuple) else ()
    operation.book.unite(ours[-1], theirs[-2], operation.why)
    operation.book.read += [
        atoms
        for node, atoms in ((left, ours[-1]), (right, theirs[-2]))
        if node.op == "placeholder" and atoms is not None
    ]
    batch = _batch(operation, (left, right), 2)
    for node, atoms in ((left, ours[-2]), (right, theirs[-1])):
        if node.op == "placeholder" and atoms is not None:
            operation.book.produced.append((atoms, operation.layer))
    return (*batch, ours[-2], theirs[-1])


def _batch(operation: ChannelOperation, nodes: Sequence[fx.Node], inner: int) -> Dims:
    """The leading dimensions of products of many matrices, such as heads: those of one place are one."""
    rank = max(len(operation.of(node)) for node in nodes) - inner
    columns: list[list[tuple[Atoms | None, int]]] = [[] for _ in range(rank)]
    for node in nodes:
        outer = list(zip(operation.of(node), sizes(node), strict=True))[:-inner]
        for place, each in enumerate(outer, start=rank - len(outer)):
            columns[place].append(each)
    return tuple(united(operation, column) for column in columns)


def _embedding(operation: ChannelOperation) -> Dims:
    weight, indices = operation.dims("weight") or (), operation.dims("indices") or ()
    operation.book.pin(weight[0], f"the vocabulary: {operation.why}")
    if weight[1] is not None:
        operation.book.produced.append((weight[1], operation.layer))
    return (*indices, weight[1])


def _channel_norm(operation: ChannelOperation) -> Dims:
    """Batch and instance norm, PReLU: one number a channel, channels in dimension 1."""
    first, *others = operation.tensors()
    dims = operation.of(first)
    for node in others:
        (atoms,) = operation.of(node)
        if sizes(node) != (1,) or operation.name != "prelu":
            operation.book.unite(dims[min(1, len(dims) - 1)], atoms, operation.why)
    return dims


def _group_norm(operation: ChannelOperation) -> Dims:
    dims = _channel_norm(operation)
    operation.book.interleave(dims[1], int(operation.argument("num_groups")))
    return dims


def _layer_norm(operation: ChannelOperation) -> Dims:
    dims, weight = operation.dims("input") or (), operation.dims("weight")
    last = dims[len(dims) - len(operation.argument("normalized_shape")) :]
    affine = [each for each in (weight, operation.dims("bias")) if each is not None]
    for parameter in affine:
        for atoms, its in zip(last, parameter, strict=True):
            operation.book.unite(atoms, its, operation.why)
    if not affine or not operation.within((nn.LayerNorm, nn.RMSNorm)):
        for atoms in last:
            operation.reading(atoms)
    return dims


def _attention(operation: ChannelOperation) -> Dims:
    """Whole heads, or the same channels of every head: of query and key together, and of the values."""
    query, key, value, mask = (operation.argument(name) for name in ("query", "key", "value", "attn_mask"))
    dims = [operation.of(node) for node in (query, key, value)]
    operation.book.unite(dims[0][-1], dims[1][-1], operation.why)
    if dims[1][-2] is not None or dims[2][-2] is not None:
        operation.book.unite(dims[1][-2], dims[2][-2], operation.why)
    for atoms in operation.of(mask) if isinstance(mask, fx.Node) else ():
        operation.book.pin(atoms, f"attention mask: {operation.why}")
    return (*_batch(operation, (query, key, value), 2), dims[0][-2], dims[2][-1])


def _einsum(operation: ChannelOperation) -> Value:
    equation, nodes = operation.argument("equation").replace(" ", ""), operation.argument("tensors")
    terms, arrow, result = equation.partition("->")
    if not arrow or "." in equation:
        return unknown(operation)
    letters: dict[str, list[tuple[Atoms | None, int]]] = {}
    for term, node in zip(terms.split(","), nodes, strict=True):
        for letter, atoms in zip(term, operation.of(node), strict=True):
            letters.setdefault(letter, []).append((atoms, 0))
    met = {letter: united(operation, column) for letter, column in letters.items()}
    return tuple(met[letter] for letter in result)


PRODUCT_RULES: dict[str, Callable[[ChannelOperation], Value]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _convolution),
    **dict.fromkeys(("batch_norm", "instance_norm", "prelu"), _channel_norm),
    **dict.fromkeys(("layer_norm", "rms_norm"), _layer_norm),
    **dict.fromkeys(("matmul", "mm", "bmm"), _matmul),
    "linear": _linear,
    "addmm": _addmm,
    "einsum": _einsum,
    "embedding": _embedding,
    "group_norm": _group_norm,
    "scaled_dot_product_attention": _attention,
}
