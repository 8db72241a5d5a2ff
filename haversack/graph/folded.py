"""Folded: the inference graph of a network, its tensors, its layers, and how it goes on: other numbers, pairs, runs.

Grids are keyed by the names of this graph's nodes and tensors, which depend on the network alone. Weights are
`get_attr` nodes whose target is the entry of the network's state dict ("layer1.0.conv1.weight"); a bias that batch norm
brings stands beside its weight ("layer1.0.conv1.bias").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor, fx

from haversack.graph import ops, recurrent
from haversack.graph.pairs import insert
from haversack.graph.positions import Positions
from haversack.graph.run import Tensors, named_tensors, values_of
from haversack.grid import Grid


@dataclass(frozen=True)
class Norm:
    """A batch norm that a layer absorbed: the folded graph's name of the layer's bias, and its own tensors' names.

    Where no layer absorbs it, a scale stands for the layer's weight, and a shift for its bias.
    """

    folded_bias: str
    weight: str | None
    bias: str | None
    mean: str
    variance: str
    epsilon: float


@dataclass(frozen=True, eq=False)
class Merged:
    """Branches that went into a layer, whose bias is called `bias` ('' without one).

    At zero, the network's tensors `zeroed` take the branches out of it again. `kernels` are the branches' weights;
    `norms` the batch norms of all summands, none where one has none.
    """

    bias: str
    kernels: frozenset[str]
    zeroed: frozenset[str]
    norms: tuple[Norm, ...]


@dataclass(frozen=True, eq=False)
class Folded:
    """The graph that computes what a network computes, in fewer operations.

    `module` takes the inputs by position and returns what the network returns (a tensor, or a tuple of tensors); its
    nodes keep `meta["val"]` and `nn_module_stack`. `own` are the network's tensors by name, which the graph borrows
    where folding changed nothing. `norms` says which batch norm went into which weight, `merged` which branches did;
    `positions` which positions of its values count, if not all do.
    """

    module: fx.GraphModule
    own: Tensors
    norms: Mapping[str, Norm] = field(default_factory=dict)
    merged: Mapping[str, Merged] = field(default_factory=dict)
    positions: Positions | None = None

    @property
    def graph(self) -> fx.Graph:
        """The operations, in order."""
        return self.module.graph

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """The weights and constants that the graph reads, in order, by name."""
        named = named_tensors(self.module)
        return {
            name: named[name] for name in dict.fromkeys(str(n.target) for n in self.graph.find_nodes(op="get_attr"))
        }

    def tensor(self, name: str) -> Tensor:
        """The weight or constant called `name`."""
        return self.tensors[name]

    def layers(self, *, transposed: bool = False) -> Iterator[ops.FoldedLayer]:
        """The convolutions and linear layers that have an integer form, and then, if wanted, the transposed ones."""
        for turned in (False, True)[: 1 + transposed]:
            yield from (layer for layer in ops.layers(self.graph) if layer.transposed == turned)

    def lookups(self) -> Iterator[ops.Lookup]:
        """The embeddings."""
        return ops.lookups(self.graph)

    def recurrents(self) -> Iterator[recurrent.Recurrent]:
        """The recurrent layers."""
        return recurrent.recurrents(self.graph)

    def layer_of(self, weight: str) -> fx.Node:
        """The operation that reads the weight of that name."""
        reader: fx.Node = next(iter(self.graph.find_nodes(op="get_attr", target=weight)[0].users))
        return reader

    @cached_property
    def readers(self) -> Mapping[str, int]:
        """How many operations read each weight or constant."""
        return Counter(str(node.target) for node in self.graph.find_nodes(op="get_attr") for _ in node.users)

    @cached_property
    def writable(self) -> frozenset[str]:
        """The weights and biases that `written_back` can write back.

        Left out are weights and batch norms that layers share, weights that the network computes, and those of merged
        branches that it computes.
        """
        norms, owned, used = self.norms, self.own.keys(), self.tensors.keys()
        readers = Counter(norm.variance for norm in norms.values())
        shared = {name for name in used & owned if any(other.startswith(f"{name}_") for other in used - owned)}
        shared |= {name for name, norm in norms.items() if readers[norm.variance] > 1}
        closed = shared | {norms[name].folded_bias for name in shared & norms.keys()}
        brought = {norm.folded_bias for weight, norm in norms.items() if weight in owned}
        for weight, branches in self.merged.items():
            if not {weight, *branches.zeroed} <= owned or branches.bias not in {"", *owned, *brought}:
                closed |= {weight, branches.bias}
        return frozenset(used & (owned | brought) - closed)

    def __call__(self, *inputs: Tensor) -> Any:  # noqa: ANN401 - what the network returns
        """The network's outputs."""
        return self.module(*inputs)

    def run(self, inputs: tuple[Tensor, ...], watch: Collection[str]) -> dict[str, Tensor]:
        """The values called in `watch` on a batch, all of it at once."""
        return values_of(self.module, inputs, watch)

    def with_tensors(self, tensors: Tensors) -> Folded:
        """The graph with `tensors` in place of the weights and biases of that name; all others are shared with it."""
        graph = fx.Graph()
        graph.output(graph.graph_copy(self.graph, {}))
        changed = {name: tensors.get(name, tensor) for name, tensor in self.tensors.items()}
        return replace(self, module=fx.GraphModule(changed, graph, "Folded"))

    def lowered(self, grids: Mapping[str, Grid], *, from_bytes: bool = True) -> fx.GraphModule:
        """The graph with pairs around every value and weight in `grids`; see `insert`."""
        return insert(self.module, grids, from_bytes=from_bytes)
