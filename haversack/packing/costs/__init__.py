"""Costs: what each figure of a network is for every plan, as sums of tables, without building one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from haversack.choices import Site
from haversack.device import Device
from haversack.graph.cost import Cost, cost, merged_tensors
from haversack.graph.run import named_tensors
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.packing.costs.flash import Flash
from haversack.packing.costs.layout import DYNAMIC, Factorization, Layout, Plan, macs_of, merged
from haversack.packing.costs.memory import moments
from haversack.packing.costs.operations import Extent, FoldedOperation, Followed, followed, operations
from haversack.packing.costs.update import coded_terms
from haversack.packing.costs.written import Writing
from haversack.plan.problem import Measure, Term
from haversack.runtimes import find_runtime
from haversack.runtimes.estimate import latency_ms
from haversack.runtimes.pieces import Piece

_BYTES = {"float32": 4, "float16": 2, "int16": 2, DYNAMIC: 4}
TimeOf = Callable[[Piece], float]


@dataclass(frozen=True, eq=False)
class Costs:
    """What a network costs in one number format on a device, for every plan over all techniques' sites.

    The network's own figures come out for the plan that does nothing.
    """

    model: Model
    device: Device
    sites: tuple[Site, ...]
    numbers: str = "float32"
    """float32, int8, or dynamic where linear layers round what they read as it comes."""
    ways: Mapping[str, Factorization] = field(default_factory=dict)
    """How layers are factorized, by the method that `Factors` names."""

    @cached_property
    def _seen(self) -> Followed:
        return followed(self.model)

    @cached_property
    def layout(self) -> Layout:
        """The network's operations under the sites."""
        unpacks = find_runtime(self.device).unpacks
        return Layout(operations(self._seen), self._seen.groups, self.sites, self.numbers, self.ways, unpacks)

    @cached_property
    def writing(self) -> Writing:
        """The files that the device runs, as its writer writes them."""
        return Writing(
            self.model, self._seen.folded, find_runtime(self.device), self.numbers, self.device.signed_activations
        )

    @cached_property
    def whole(self) -> Cost:
        """What the network needs as it is."""
        return cost(trace(self.model.module, self.model.example))

    @property
    def nothing(self) -> Plan:
        """The plan that leaves everything as it is."""
        return (0,) * len(self.sites)

    def pieces(self, plan: Plan) -> tuple[Piece, ...]:
        """What a runtime runs for that plan, in order."""
        return tuple(piece for each in self.layout.operations for piece in self.layout.pieces(each, plan))

    def every_piece(self) -> tuple[Piece, ...]:
        """The pieces of all plans, each once."""
        pieces: dict[Piece, None] = {}

        def met(operation: FoldedOperation) -> Callable[[Plan], float]:
            def amount(plan: Plan) -> float:
                pieces.update(dict.fromkeys(self.layout.pieces(operation, plan)))
                return 0.0

            return amount

        for operation in self.layout.operations:
            self._terms(operation, met(operation))
        return tuple(pieces)

    def latency(self, time_of: TimeOf) -> Measure:
        """The sum of what pieces take, in the unit in which `time_of` says it; each piece is asked for once."""
        known: dict[Piece, float] = {}

        def taken(piece: Piece) -> float:
            if piece not in known:
                known[piece] = time_of(piece)
            return known[piece]

        return Measure((self._summed(lambda pieces: sum(map(taken, pieces))),))

    @cached_property
    def macs(self) -> Measure:
        """Multiply-accumulates of one sample, as `graph.cost` counts them."""
        terms = self._summed(lambda pieces: sum(map(macs_of, pieces)))
        return self._settled(Measure((terms,)), self.whole.macs)

    @cached_property
    def parameters(self) -> Measure:
        """The parameters of the network, as `graph.cost` counts them."""
        gone = merged_tensors(trace(self.model.module, self.model.example))
        names = [name for name, _ in self.model.module.named_parameters() if name not in gone]
        terms = [term for name in names for term in self._parameter(name)]
        return self._settled(Measure((merged(terms),)), self.whole.parameters)

    @cached_property
    def flash_bytes(self) -> Measure:
        """The bytes of the file that the device's writer would write, or of a program, whose code no plan changes."""
        terms, size = Flash(self.layout, self.writing).terms(), self.writing.size
        if self.writing.runtime.programs and self.writing.in_integers:
            size += self.writing.code_bytes(self.device)
        return self._settled(Measure((merged(terms),)), size)

    def ram_bytes(self, measured: float | None = None) -> Measure:
        """The memory of a run: of a microcontroller its arena, else `measured` and what plans save of it.

        Where the device's runtime loads the weights, those count too. Without a measured figure of the network as it
        is, the arena's plan stands for it.
        """
        width = _BYTES.get(self.numbers, 1)
        lives = moments(self._seen, self.layout, width)
        planned = self.whole.memory.peak_bytes * width / self.whole.bytes_per_element
        if not self.device.loads_weights:
            return self._settled(Measure(lives), planned if measured is None else measured)
        fullest = max(lives, key=lambda terms: sum(term.of(self.nothing) for term in terms), default=())
        terms = merged((*fullest, *self.flash_bytes.moments[0]))
        weights = self.flash_bytes.of(self.nothing)
        return self._settled(Measure((terms,)), planned + weights if measured is None else measured)

    @cached_property
    def update_bytes(self) -> Measure:
        """The bytes of the coded file, about."""
        terms, size = coded_terms(self._seen.folded, self.layout)
        return self._settled(Measure((merged(terms),)), size)

    def stated_latency_ms(self) -> Measure:
        """The time by the device's stated rates: as that of the network now, in proportion to what is multiplied."""
        now = latency_ms(self.whole, self.device, self.numbers).value
        return replace(self.macs, factor=now / self.whole.macs, fixed=self.macs.fixed * now / self.whole.macs)

    def _summed(self, amount: Callable[[Sequence[Piece]], float]) -> tuple[Term, ...]:
        """The sum over all operations of an amount of their pieces."""
        terms: list[Term] = []
        for operation in self.layout.operations:
            terms += self._terms(operation, lambda plan, of=operation: amount(self.layout.pieces(of, plan)))  # type: ignore[misc]
        return merged(terms)

    def _terms(self, operation: FoldedOperation, amount: Callable[[Plan], float]) -> list[Term]:
        return self.layout.of_operation(operation, amount)

    def _parameter(self, name: str) -> list[Term]:
        """The terms of one parameter: its numbers, none where a module that holds it is gone or has given way."""
        layout, shape = self.layout, self._shape(name)
        path = name.rpartition(".")[0]
        owner = next((each for each in layout.operations if each.layer == path and each.weight), None)
        exchanges = layout.exchanges(owner) if owner else ()
        removals, widths = layout.removals(path), layout.widths((shape,))

        def amount(plan: Plan) -> float:
            if layout.is_gone(removals, path, plan):
                return 0.0
            if owner and name == owner.weight and any(layout.effect(site, plan) for site in exchanges):
                return sum(math.prod(piece.weight) for piece in layout.pieces(owner, plan))
            return math.prod(extent.left(layout.lost(plan, widths)) for extent in shape)

        inner = layout.sites_of(owner) if owner and name == owner.weight else ()
        return layout.terms((*removals, *exchanges), (*widths, *inner), amount)

    def _shape(self, name: str) -> tuple[Extent, ...]:
        shrinks: dict[int, list[tuple[str, int]]] = {}
        for group in self._seen.reading.found.groups:
            for member in group.members:
                if member.tensor == name:
                    shrinks.setdefault(member.dim, []).append((group.name, len(member.indices[0])))
        shape = named_tensors(self.model.module)[name].shape
        return tuple(Extent(size, tuple(shrinks.get(dim, ()))) for dim, size in enumerate(shape))

    def _settled(self, measure: Measure, figure: float) -> Measure:
        """The measure with what is fixed such that the network as it is has this figure."""
        return replace(measure, fixed=measure.fixed + figure - measure.of(self.nothing))
