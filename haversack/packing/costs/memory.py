"""Memory: what is alive at each moment of a run, for every plan."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import fx

from haversack.graph.memory import Buffer, lifetimes
from haversack.graph.trace import layer_path
from haversack.packing.costs.layout import Layout, Plan, merged
from haversack.packing.costs.operations import Extents, FoldedOperation, Followed
from haversack.plan.problem import Term


def moments(seen: Followed, layout: Layout, width: int) -> tuple[tuple[Term, ...], ...]:
    """The bytes alive at each moment that matters, a term a value, with `width` bytes a number.

    A moment in a module that is gone has none. Moments at which nothing is alive that is not so at another are left
    out.
    """
    sizes = {node: max(1, _numbers(seen.shapes[node])) for node in _values(seen)}
    nodes, shapes = list(seen.folded.graph.nodes), {node.name: shape for node, shape in seen.shapes.items()}
    buffers = lifetimes(seen.folded.graph, sizes)
    alive = {step: [each for each in buffers if each.first <= step <= each.last] for step in range(len(nodes))}
    removals = {step: layout.removals(_path(node)) for step, node in enumerate(nodes)}
    known = {operation.name: operation for operation in layout.operations}
    chosen = list(_fullest(alive, removals))
    made: dict[tuple[str, tuple[int, ...]], list[Term]] = {}

    def of(buffer: Buffer, step: int) -> list[Term]:
        key = buffer.name, removals[step]
        if key not in made:
            made[key] = _terms(layout, shapes[buffer.name], removals[step], _path(nodes[step]), width)
        return made[key]

    return tuple(
        merged(
            (
                *(term for each in alive[step] for term in of(each, step)),
                *_between(layout, known.get(nodes[step].name), width),
            )
        )
        for step in chosen
    )


def _values(seen: Followed) -> Iterator[fx.Node]:
    return (
        node for node, shape in seen.shapes.items() if node.op != "get_attr" and (shape or node.op == "placeholder")
    )


def _numbers(shape: Extents) -> int:
    return math.prod(extent.size for extent in shape)


def _path(node: fx.Node) -> str:
    return layer_path(node).partition("@")[0] if node.op == "call_function" else ""


def _fullest(alive: dict[int, list[Buffer]], removals: dict[int, tuple[int, ...]]) -> Iterator[int]:
    """The moments at which more is alive than at the one before and after, where these can go no sooner."""
    names = {step: {each.name for each in values} for step, values in alive.items()}
    for step in alive:
        others = [other for other in (step - 1, step + 1) if other in alive]
        if not any(
            (names[step] < names[other] or (names[step] == names[other] and other < step))
            and set(removals[other]) <= set(removals[step])
            for other in others
        ):
            yield step


def _terms(layout: Layout, shape: Extents, removals: tuple[int, ...], path: str, width: int) -> list[Term]:
    widths = layout.widths((shape,))

    def amount(plan: Plan) -> float:
        if layout.is_gone(removals, path, plan):
            return 0.0
        return width * math.prod(extent.left(layout.lost(plan, widths)) for extent in shape)

    return layout.terms(removals, widths, amount)


def _between(layout: Layout, operation: FoldedOperation | None, width: int) -> list[Term]:
    """What the layers that take a layer's place hold between them, beyond what it reads and gives."""
    exchanges = layout.exchanges(operation) if operation else ()
    if operation is None or not exchanges:
        return []

    def amount(plan: Plan) -> float:
        pieces = layout.pieces(operation, plan)
        if len(pieces) < 2:
            return 0.0
        most = max(math.prod(piece.inputs[0]) + math.prod(piece.output) for piece in pieces)
        return width * max(0, most - math.prod(pieces[0].inputs[0]) - math.prod(pieces[-1].output))

    return layout.of_operation(operation, amount)
