"""Run: a graph on batches of inputs, shown value by value; and the numbers of a network as its state names them."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor, fx, nn

from haversack.lengths import of_each_length

Batches = Sequence[tuple[Tensor, ...]]
Visit = Callable[[str, Tensor], None]
# As much of a value as is computed at a time: larger ones are slower, for their memory is new each time.
_MOST_NUMBERS = 1 << 22


def joined(batches: Batches, most: int | None = None) -> tuple[Tensor, ...]:
    """All samples as one batch, or the first `most` of them; where lengths differ, those of the commonest.

    Of equally common ones, the first.
    """
    alike = max(of_each_length(batches), key=lambda some: sum(len(batch[0]) for batch in some), default=[])
    return tuple(torch.cat(each)[:most] for each in zip(*alike, strict=True))


def numbers_a_sample(graph: fx.Graph) -> int:
    """How many numbers the largest value of one sample holds."""
    return max(numbers_of(node) for node in graph.nodes if node.op != "get_attr")


def numbers_of(node: fx.Node) -> int:
    """How many numbers the value of one sample holds, and 1 of what is no tensor; free lengths do not count."""
    value = node.meta.get("val")
    sizes = value.shape[1:] if isinstance(value, Tensor) else ()
    return math.prod(size for size in sizes if isinstance(size, int))


def spacing(total: int, most: int, size: int) -> int:
    """How many numbers apart to take at most so many of a total that comes in rows of `size` numbers.

    It has no divisor in common with the size, so that over some rows all of their places have their turn.
    """
    return next(each for each in count(max(1, -(-total // most))) if math.gcd(each, size) == 1)


def _parts(network: fx.GraphModule, batches: Batches) -> list[tuple[Tensor, ...]]:
    """The batches cut so small that no value takes much memory; running them one by one is no slower."""
    size = max(1, _MOST_NUMBERS // numbers_a_sample(network.graph))
    return [part for batch in batches for part in zip(*(each.split(size) for each in batch), strict=True)]


def watch(network: fx.GraphModule, batches: Batches, names: Collection[str], visit: Visit) -> None:
    """Runs the batches through the graph and shows `visit` each value called in `names`, with its name.

    Large batches run in parts: what is shown is of some of their samples.
    """
    with torch.no_grad():
        for batch in _parts(network, batches):
            show(network, batch, names, visit)


def show(network: fx.GraphModule, inputs: tuple[Tensor, ...], names: Collection[str], visit: Visit) -> None:
    """Runs one batch, all of it at once, and shows `visit` each value called in `names`, with its name."""
    _Watcher(network, frozenset(names), visit).run(*inputs)


def values_of(network: fx.GraphModule, inputs: tuple[Tensor, ...], names: Collection[str]) -> dict[str, Tensor]:
    """The values called in `names` on a batch, all of it at once."""
    values: dict[str, Tensor] = {}
    show(network, inputs, names, values.__setitem__)
    return values


class _Watcher(fx.Interpreter):
    """Runs the graph and shows the wanted values to `visit`."""

    def __init__(self, network: fx.GraphModule, names: Collection[str], visit: Visit) -> None:
        super().__init__(network)
        self._names, self._visit = names, visit

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - torch's signature
        value = super().run_node(n)
        if n.name in self._names:
            self._visit(n.name, value)
        return value


Tensors = Mapping[str, Tensor]


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, each under all of its names; the tensors are the module's own."""
    return dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))


def on_the_same_tensors(module: nn.Module) -> nn.Module:
    """A copy of `module` that may get another mode and other layers; its tensors are the module's own."""
    own = {id(tensor): tensor for tensor in named_tensors(module).values()}
    return copy.deepcopy(module, own)


def is_finite(tensor: Tensor) -> bool:
    """Whether no number of the tensor is NaN or infinite."""
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    # Both ends are NaN where anything is.
    return all(math.isfinite(float(end)) for end in tensor.detach().aminmax())


def digest(tensors: Tensors, *words: object) -> str:
    """A hash of tensors by name and content, and of the words beside them."""
    found = hashlib.sha256(repr(words).encode())
    for name, tensor in tensors.items():
        found.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        # The tensor's memory: numpy knows no bfloat16.
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
