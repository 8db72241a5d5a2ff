"""Writing in place: graphs in which operations write into values become graphs in which each gives a new one."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import fx

aten = torch.ops.aten

CHECKS = {
    aten._assert_async.msg,  # noqa: SLF001
    aten._assert_scalar.default,  # noqa: SLF001
    aten._assert_tensor_metadata.default,  # noqa: SLF001
    aten.sym_constrain_range.default,
    aten.sym_constrain_range_for_size.default,
}
"""What torch.export writes to hold the network to what it was traced with; they give nothing."""
_OF_SHAPES = {*CHECKS, aten.sym_size.int}


def is_seen_elsewhere(graph: fx.Graph) -> bool:
    """Whether what an operation writes into is read afterwards, other than as that operation's result.

    Else every one of them may give a new value instead: `out_of_place` does that.
    """
    places = {node: place for place, node in enumerate(graph.nodes)}
    return any(
        places[reader] > places[write]
        for write in _writes(graph)
        for alias in _aliases(write)
        for reader in alias.users
    )


def out_of_place(graph: fx.Graph) -> None:
    """Has operations that write into what they read give a new value."""
    for node in _writes(graph):
        schema = cast("torch._ops.OpOverload", node.target)._schema  # noqa: SLF001
        name = schema.name.split("::")[1].removesuffix("_")
        # Asked for the overload '', torch makes another one each time, of which no table knows anything.
        node.target = getattr(getattr(aten, name), schema.overload_name or "default")


def with_batch_norms(graph: fx.Graph) -> None:
    """Has batch norms be called as networks call them: torch's functionalization calls what computes them.

    Passes know one name for it, and fold it into the layer before.
    """
    for norm in graph.find_nodes(op="call_function", target=aten._native_batch_norm_legit_no_training.default):  # noqa: SLF001
        *values, momentum, epsilon = norm.args
        with graph.inserting_before(norm):
            whole = graph.call_function(aten.batch_norm.default, (*values, False, momentum, epsilon, False))
        for part in list(norm.users):
            whole.meta = {**part.meta}
            part.replace_all_uses_with(whole)
            graph.erase_node(part)
        graph.erase_node(norm)


def _writes(graph: fx.Graph) -> Iterator[fx.Node]:
    return (node for node in graph.nodes if _is_in_place(node) and node.target not in CHECKS)


def _is_in_place(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable  # noqa: SLF001


def _aliases(write: fx.Node) -> Iterator[fx.Node]:
    """What may lie in the memory that this operation writes into, but for its result and all that is made of that."""
    root = cast("fx.Node", write.args[0])
    while _shares_memory(root):
        root = cast("fx.Node", root.args[0])
    waiting = [root]
    while waiting:
        alias = waiting.pop()
        yield alias
        waiting += [
            user for user in alias.users if user is not write and _shares_memory(user) and user.args[0] is alias
        ]


def _shares_memory(node: Any) -> bool:  # noqa: ANN401 - an argument of a node
    """Whether its result may lie in the memory of its first argument."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return False
    if node.target is operator.getitem:
        return True
    return isinstance(node.target, torch._ops.OpOverload) and (node.target.is_view or _is_in_place(node))  # noqa: SLF001
