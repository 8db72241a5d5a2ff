"""Annotation: which operations of the inference graph compute on integers, and which values and weights need grids."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, fx

from haversack.graph.operations import (
    CLAMPS,
    COMPUTES,
    FIXED,
    LAYERS,
    MOVES,
    OF_TWO,
    PICKS,
    TRANSPOSED,
    keeps_grid,
    moves,
)

aten = torch.ops.aten


def points(network: fx.GraphModule) -> tuple[str, ...]:
    """The names of the values that need a grid: what integer operations read and write, after the activation."""
    found: dict[str, None] = {}
    for node in integer_operations(network):
        for value in (*_read(node), _after_activation(node)):
            found[_source(value).name] = None
    return tuple(found)


def integer_operations(network: fx.GraphModule) -> Iterator[fx.Node]:
    """The operations that runtimes compute on integers; those that only move or pick them are not among them."""
    return (node for node in network.graph.nodes if _has_integer_form(node))


def fixed_ranges(network: fx.GraphModule) -> dict[str, tuple[float, float]]:
    """The values whose grid TFLite's specification settles, with the numbers between which they lie."""
    return {node.name: FIXED[node.target] for node in network.graph.nodes if node.target in FIXED}


def sharing(network: fx.GraphModule) -> tuple[tuple[str, ...], ...]:
    """Groups of values that must lie on one grid: what a concatenation reads and what it writes."""
    groups: list[dict[str, None]] = []
    fixed = fixed_ranges(network)
    for node in network.graph.find_nodes(op="call_function", target=aten.cat.default):
        if _has_integer_form(node):
            names = dict.fromkeys(_source(value).name for value in (*_read(node), _after_activation(node)))
            names = {name: None for name in names if name not in fixed}
            for met in [group for group in groups if group.keys() & names.keys()]:
                groups.remove(met)
                names = met | names
            groups.append(names)
    return tuple(tuple(group) for group in groups)


def layers(network: fx.GraphModule) -> Iterator[tuple[fx.Node, str]]:
    """Each convolution or linear node that has an integer form, with the name of its weight."""
    for node in network.graph.nodes:
        if node.target in LAYERS and _has_integer_form(node):
            yield node, str(node.args[1].target)


def transposed_layers(network: fx.GraphModule) -> Iterator[tuple[fx.Node, str]]:
    """Each transposed convolution that has an integer form, with the name of its weight, whose axis 1 is the output."""
    for node in network.graph.nodes:
        if node.target in TRANSPOSED and _has_integer_form(node):
            yield node, str(node.args[1].target)


def read_by(layer: fx.Node) -> str:
    """The name of the value whose grid the layer's inputs lie on."""
    return _source(_read(layer)[0]).name


def left_float(network: fx.GraphModule) -> tuple[str, ...]:
    """The operations on real numbers that stay in float32, one entry each."""
    integer = {*PICKS, *MOVES, operator.getitem}
    return tuple(
        str(node.target)
        for node in network.graph.nodes
        if node.op == "call_function" and _is_real(node)
        if not (node.target in integer or _clamps_at_zero(node) or _has_integer_form(node))
    )


def integer_weight(node: fx.Node, is_constant: Callable[[object], bool]) -> fx.Node | None:
    """The weight that becomes integers where this is a layer with an integer form, in a graph folded or as traced."""
    is_layer = node.target in LAYERS | TRANSPOSED
    return cast("fx.Node", node.args[1]) if is_layer and _has_integer_form(node, is_constant) else None


def _is_constant(argument: object) -> bool:
    """Whether the folded graph holds this argument."""
    return isinstance(argument, fx.Node) and argument.op == "get_attr"


def _has_integer_form(node: fx.Node, is_constant: Callable[[object], bool] = _is_constant) -> bool:
    """Whether runtimes compute the operation on integers: real values in and out, weights that are constant."""
    if node.target not in COMPUTES or not _is_real(node):
        return False
    if node.target in LAYERS | TRANSPOSED and not is_constant(node.args[1]):
        return False
    if node.target in TRANSPOSED and any(extent != 1 for extent in _groups_and_dilations(node)):
        return False
    if node.target in OF_TWO and (node.kwargs or not all(isinstance(each, fx.Node) for each in node.args)):
        return False
    return all(_is_real(value) and not is_constant(_source(value)) for value in _read(node))


def _groups_and_dilations(transposed: fx.Node) -> list[int]:
    """What TFLite's TRANSPOSE_CONV knows only as 1."""
    extents: list[int] = []
    for extent in transposed.args[6:8]:
        extents += cast("list[int]", extent if isinstance(extent, list | tuple) else [extent])
    return extents


def _is_real(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype == torch.float32


def _read(node: fx.Node) -> list[fx.Node]:
    """The values that an integer operation reads, weights left out."""
    if node.target is aten.cat.default:
        return list(cast("list[fx.Node]", node.args[0]))
    return list(cast("list[fx.Node]", node.args[: 2 if node.target in OF_TWO else 1]))


def _after_activation(node: fx.Node) -> fx.Node:
    """The value that this operation's result becomes for its readers: after the clamping activation, if there is one.

    Such a clamp vanishes into the rounding of its result, whose grid begins at zero.
    """
    reader = next(iter(node.users), None)
    if keeps_grid(node):
        return node
    return reader if reader is not None and len(node.users) == 1 and _clamps_at_zero(reader) else node


def _clamps_at_zero(node: fx.Node) -> bool:
    if node.target not in CLAMPS:
        return False
    low = node.args[1] if len(node.args) > 1 else CLAMPS[node.target]
    return isinstance(low, int | float) and low == 0


def _source(value: fx.Node) -> fx.Node:
    """Where the integers of a value are made: behind all operations that only move or pick them."""
    while moves(value) or keeps_grid(value):
        value = cast("fx.Node", value.args[0])
    return value
