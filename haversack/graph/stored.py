"""Stored: how many numbers of a network its files hold, and how many of them can be integers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from torch import fx

from haversack.graph.annotation import integer_weight
from haversack.graph.memory import operation
from haversack.graph.trace import Trace


@dataclass(frozen=True)
class Stored:
    """The numbers that a network's files hold, each tensor once, and batch norms folded into the layers before them.

    `integers` are the weights that have an integer form. `reals` are all others, which stay real in every file: biases,
    embeddings, recurrent layers, norms. `both` are those among the weights that something else reads as real numbers.
    """

    integers: int
    reals: int
    both: int = 0

    @property
    def numbers(self) -> int:
        """How many numbers a float file holds."""
        return self.integers + self.reals - self.both


def stored(trace: Trace, operations: Iterable[fx.Node], constants: Mapping[fx.Node, int]) -> Stored:
    """What `operations` read of the network's `constants`, given with how many numbers they are."""
    integers: dict[Hashable, int] = {}
    reals: dict[Hashable, int] = {}
    for node in operations:
        weight = integer_weight(node, constants.__contains__)
        if weight is not None:
            integers[_identity(trace, weight)] = constants[weight]
        if operation(node) == "batch_norm":
            reals[node] = _of_norm(node, constants.__contains__)
            continue
        read = {each for each in node.all_input_nodes if each in constants and each is not weight}
        reals |= {_identity(trace, each): constants[each] for each in read}
    both = sum(integers[each] for each in integers.keys() & reals.keys())
    return Stored(sum(integers.values()), sum(reals.values()), both)


def _identity(trace: Trace, constant: fx.Node) -> Hashable:
    """The same for all names of one tensor."""
    tensor = trace.tensor(constant)
    return constant if tensor is None else id(tensor)


def _of_norm(norm: fx.Node, is_constant: Callable[[object], bool]) -> int:
    """What is left of a batch norm: a scale and a shift, or the bias of the layer before it, if that had none."""
    layer, channels = cast("fx.Node", norm.args[0]), int(norm.meta["val"].shape[1])
    weight = integer_weight(layer, is_constant)
    if weight is None or len(layer.users) > 1:
        return 2 * channels
    return channels if len(layer.all_input_nodes) == 2 else 0
