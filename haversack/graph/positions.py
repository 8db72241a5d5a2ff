"""Which values of a graph have the positions that a mask counts: those with the size that torch calls by one symbol."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx

from haversack.graph.ops import Trait, traits_of
from haversack.graph.run import Visit
from haversack.lengths import Axes
from haversack.positions import Along, Mask

Masked = Callable[[str, Tensor, Tensor | None], None]
"""Is shown a value, with its name and the mask of the samples that it is of."""


@dataclass(frozen=True)
class Positions:
    """Where the values of a folded graph have positions, by their names.

    The mask that counts these is called `called`; the inputs in `before` come before it.
    """

    mask: Mask
    called: str
    before: frozenset[str]
    along: Mapping[str, Along]


def positions_of(graph: fx.Graph, free: Sequence[Axes], mask: Mask) -> Positions:
    """Of a graph whose lengths are still free.

    A value that merged samples and positions counts as having none, and so does one in which a mask has said what
    stands where positions do not count: that is read, as a softmax reads the lowest numbers there are.
    """
    inputs = [node.name for node in graph.find_nodes(op="placeholder")]
    told = _told_by_masks(graph, mask.place)
    along = {node.name: each for node, each in _along(graph, free, mask.place).items() if node not in told}
    return Positions(mask, inputs[mask.place], frozenset(inputs[: mask.place]), along)


def outputs_along(graph: fx.Graph, free: Sequence[Axes], place: int) -> tuple[Along | None, ...]:
    """Where each output has the positions of the input at `place`; the graph's lengths are still free."""
    along = _along(graph, free, place)
    given = graph.output_node().args[0]
    outputs = cast("Sequence[fx.Node]", given if isinstance(given, tuple | list) else (given,))
    return tuple(along.get(node) for node in outputs)


def _along(graph: fx.Graph, free: Sequence[Axes], place: int) -> dict[fx.Node, Along]:
    inputs = list(graph.find_nodes(op="placeholder"))
    name, sizes = dict(free[place])[1], list(map(_free_sizes, inputs))
    samples = {each[0] for each in sizes if 0 in each}
    lengths = {each[dim] for each, axes in zip(sizes, free, strict=True) for dim, called in axes if called == name}
    found: dict[fx.Node, Along] = {}
    for node in graph.nodes:
        named = _free_sizes(node).items()
        of_samples = [dim for dim, size in named if size in samples]
        of_positions = [dim for dim, size in named if size in lengths]
        if len(of_samples) == 1 and of_positions and node is not inputs[place]:
            found[node] = Along(of_samples[0], tuple(of_positions))
    return found


_KEEPS = Trait.POINTWISE | Trait.OF_TWO | Trait.MOVE | Trait.CAST | Trait.NOTHING | Trait.DROPOUT
"""Traits of what leaves at a position what a mask has put there."""


def _told_by_masks(graph: fx.Graph, place: int) -> set[fx.Node]:
    """Masks and what is worked out of them alone, values that these changed by a sum or a choice, and what follows.

    A product with ones and zeros leaves zeros, which each grid has. Whole numbers that are given may be masks, too.
    """
    masks, told = set[fx.Node](), set[fx.Node]()
    for index, node in enumerate(graph.find_nodes(op="placeholder")):
        if index == place or not node.meta["val"].is_floating_point():
            masks.add(node)
    for node in (node for node in graph.nodes if node.op == "call_function"):
        traits, read = traits_of(node), {each for each in node.all_input_nodes if each.op != "get_attr"}
        hides = traits & Trait.CHOICE or (traits & (Trait.SUM | Trait.DIFFERENCE) and read & masks)
        if not traits & Trait.LOOKUP and read <= masks:
            masks.add(node)
        elif hides or (traits & _KEEPS and read & told):
            told.add(node)
    return masks | told


def _free_sizes(node: fx.Node) -> dict[int, Any]:
    """What torch calls the free sizes of its value, by dimension."""
    value = node.meta.get("val")
    shape: Sequence[Any] = value.shape if isinstance(value, Tensor) else ()
    return {dim: size.node.expr for dim, size in enumerate(shape) if isinstance(size, torch.SymInt)}


def with_mask(positions: Positions | None, names: Collection[str], visit: Masked) -> tuple[Collection[str], Visit]:
    """What to watch, and with what, so that `visit` is shown the values called in `names` beside their mask."""
    if positions is None:
        return names, lambda name, value: visit(name, value, None)
    masks: list[Tensor] = []
    waiting: list[tuple[str, Tensor]] = []

    def seen(name: str, value: Tensor) -> None:
        if name in positions.before:
            waiting.append((name, value))
            return
        if name == positions.called:
            masks[:] = [value]
        for other in (*waiting, (name, value)):
            if other[0] in names:
                visit(*other, masks[0])
        waiting.clear()

    return {*names, positions.called}, seen


def counting(positions: Positions | None, name: str, value: Tensor, mask: Tensor | None) -> Tensor:
    """A value where positions count; all of it where it has none, or where all of them do."""
    along = _masked_along(positions, name, mask)
    return value if along is None or mask is None else along.counting(value, mask)


def by_channel(positions: Positions | None, name: str, value: Tensor, mask: Tensor | None, channel: int) -> Tensor:
    """The same with the dimension of channels second."""
    along = _masked_along(positions, name, mask)
    if along is None or mask is None:
        return value.movedim(channel, 1)
    return along.counting(value, mask).movedim(along.behind(channel % value.dim()), 1)


def _masked_along(positions: Positions | None, name: str, mask: Tensor | None) -> Along | None:
    if positions is None or mask is None or bool(mask.all()):
        return None
    return positions.along.get(name)
