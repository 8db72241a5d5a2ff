"""Rewrite: copies of the inference graph with operations that must stay float, and bits layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from torch import fx

from haversack.errors import RecipeError
from haversack.graph.folded import Folded
from haversack.graph.ops import integer_operations, products, real_operations
from haversack.graph.trace import layer_path
from haversack.progress import note


def leaving_float(folded: Folded, paths: Sequence[str]) -> Folded:
    """The graph in which no operation of the layers at `paths`, or inside of them, has an integer form.

    Nor are their embeddings' rows, matrix products by constants and recurrent layers seen as such. It computes the
    same; only what asks for grids sees the difference. A path of which nothing could be integer is said to be float
    already. Raises RecipeError for one at which nothing is computed.
    """
    if not paths:
        return folded
    changed = folded.with_tensors({})
    others = (changed.lookups(), products(changed.graph), changed.recurrents())
    able = [*integer_operations(changed.graph), *(each.node for found in others for each in found)]
    chosen = {path: [node for node in able if lies_in(node, path)] for path in paths}
    bare = [path for path, nodes in chosen.items() if not nodes]
    real = list(real_operations(changed.graph)) if bare else []
    lost = [path for path in bare if not any(lies_in(node, path) for node in real)]
    if lost:
        raise _unknown(lost, folded)
    if bare:
        note(f"float already: {', '.join(bare)}.")
    for node in {node for nodes in chosen.values() for node in nodes}:
        node.target = _float_only(cast("Callable[..., Any]", node.target))
    return changed


def bits_by_weight(folded: Folded, bits: int, exceptions: Mapping[str, int]) -> dict[str, int]:
    """How many bits each weight gets: `bits`, or what `exceptions` says of its layer, the longest path counting most.

    A weight that layers share gets the most of what they ask for. Raises RecipeError for a path that holds no layer.
    """
    found: dict[str, int] = {}
    lost = set(exceptions)
    for layer in folded.layers(transposed=True):
        met = [path for path in exceptions if lies_in(layer.node, path)]
        wanted = exceptions[max(met, key=len)] if met else bits
        found[layer.weight] = max(found.get(layer.weight, 0), wanted)
        lost -= set(met)
    if lost:
        raise _unknown(sorted(lost), folded)
    return found


def lies_in(node: fx.Node, path: str) -> bool:
    """Whether an operation is that of the module at `path`, of one inside it, or of the weight of that name."""
    reads = (str(each.target) for each in node.all_input_nodes if each.op == "get_attr")
    return any(f"{name}.".startswith(f"{path}.") for name in (layer_path(node), *reads))


def tell_matrices(names: Iterable[str], but: str = "") -> None:
    """Says which recurrent layers compute on real numbers though their matrices, called so, are stored as integers.

    `but` says where else they do not.
    """
    layers = dict.fromkeys(name.rpartition(".")[0] or name for name in names)
    if layers:
        note(f"these compute in float32{but}, and their weights are stored in 8 bits: {', '.join(layers)}.")


def _float_only(operation: Callable[..., Any]) -> Callable[..., Any]:
    def in_float(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - what the operation takes and gives
        return operation(*arguments, **options)

    return in_float


def _unknown(paths: Sequence[str], folded: Folded) -> RecipeError:
    known = dict.fromkeys(_paths(folded))
    return RecipeError(
        f"no layer with an integer form lies at {', '.join(repr(path) for path in paths)}.",
        mend=f"write the path of a layer or a module around it: {', '.join(known)}.",
    )


def _paths(folded: Folded) -> Iterator[str]:
    layers = (*folded.layers(transposed=True), *products(folded.graph))
    nodes = [each.node for found in (folded.lookups(), layers, folded.recurrents()) for each in found]
    return (path for node in nodes if (path := layer_path(node)))
