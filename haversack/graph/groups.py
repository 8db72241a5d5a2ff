"""Groups: which channels of a network must be removed together, read off its graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, fx, nn

from haversack.graph.channel_book import Assumption, Atoms, Book, Dims, Operation, Value
from haversack.graph.channel_classes import components, grouped, reasons_to_stay
from haversack.graph.channel_group import ChannelGroup, Groups, Member, Pinned
from haversack.graph.channel_rules import follow
from haversack.graph.channel_trial import Foretold, at_stake, in_vain, refuted, trials
from haversack.graph.named_tensors import named_tensors
from haversack.graph.surgery import edits_for
from haversack.graph.trace import Trace

__all__ = ["ChannelGroup", "Groups", "Member", "Pinned", "channel_groups", "components"]


def channel_groups(trace: Trace, module: nn.Module) -> Groups:
    """The channel groups of `module`, read off its exported graph element by element.

    Two channels belong to one group when the same dimensions of the same tensors depend on them. The idea of
    propagating dependencies through the graph is that of DepGraph (Fang et al. 2023); working on single indices
    instead of layers is what lets a residual stream with padded zero channels (He et al. 2015, option A), concatenated
    or flattened channels be pruned. Where it depends on the code whether sizes follow (reshapes, splits, attention
    heads), the network is pruned a little and traced again; what does not follow is pinned, and so are operations that
    nobody knows.
    """
    return channel_reading(trace, module).found


@dataclass(frozen=True)
class Reading:
    """What holds of a network: all operations noted in the book, and the atoms of weights and values.

    Atoms with equal `roots` are one channel.
    """

    book: Book
    weights: Mapping[tuple[str, int], Atoms]
    values: Mapping[fx.Node, Value]
    roots: Atoms
    found: Groups


def channel_reading(trace: Trace, module: nn.Module) -> Reading:
    """The groups of a network together with what they were read off."""
    choices: dict[str, int] = {}
    while True:
        book = Book(choices)
        weights, values = follow_all(trace, module, book)
        roots = components(book.count, book.same)
        reasons = reasons_to_stay(book, roots)
        reading = Reading(book, weights, values, roots, grouped(book, weights, roots, reasons))
        staked = at_stake(book.assumed, roots, set(reasons))
        wrong = in_vain(book.assumed, staked) or _refuted(trace, module, reading, staked)
        if not wrong:
            return reading
        choices |= {site: choices.get(site, 0) + 1 for site in wrong}


def _refuted(trace: Trace, module: nn.Module, reading: Reading, staked: Mapping[fx.Node, list[Assumption]]) -> set[str]:
    """The sites of the code that do not do what the reading assumes."""
    groups = reading.found.groups
    for kept in trials(groups) if staked and groups else ():
        gone = {
            int(reading.roots[reading.weights[first.tensor, first.dim][first.indices[channel][0]]])
            for group, stay in zip(groups, kept, strict=True)
            for first in group.members[:1]
            for channel in set(range(group.size)) - set(stay)
        }
        foretold = Foretold(reading.values, staked, frozenset(gone), reading.roots)
        if wrong := refuted(trace, module, edits_for(module, groups, kept), foretold):
            return wrong
    return set()


def follow_all(
    trace: Trace, module: nn.Module, book: Book
) -> tuple[dict[tuple[str, int], Atoms], dict[fx.Node, Value]]:
    """The atoms of each dimension of each weight and of each value, all operations noted in the book."""
    ours = set(named_tensors(module))
    weights: dict[tuple[str, int], Atoms] = {}
    values: dict[fx.Node, Value] = {}
    for node in trace.graph.nodes:
        if node.op == "placeholder":
            values[node] = _placeholder(trace, node, ours, weights, book)
        elif node.op == "call_function" and _is_tensor(node.meta.get("val")):
            values[node] = follow(Operation(node, module, values, book))
        elif node.op == "output":
            for each in node.all_input_nodes:
                value = values.get(each, ())
                for dims in [value] if isinstance(value, tuple) else value:
                    for atoms in dims:
                        book.pin(atoms, "an output of the network")
    return weights, values


def _placeholder(
    trace: Trace, node: fx.Node, ours: set[str], weights: dict[tuple[str, int], Atoms], book: Book
) -> Dims:
    value, name = node.meta.get("val"), trace.weights.get(node.name)
    if not isinstance(value, Tensor):
        return ()
    if name not in ours or name is None:
        return (None,) * value.dim()
    dims = tuple(book.fresh(size) for size in value.shape)
    weights.update({(name, dim): atoms for dim, atoms in enumerate(dims)})
    return dims


def _is_tensor(value: object) -> bool:
    if isinstance(value, tuple | list):
        return any(isinstance(each, Tensor) for each in value)
    return isinstance(value, Tensor)
