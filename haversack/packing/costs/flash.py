"""Flash: the bytes of the file that a runtime's writer would write, for every plan."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from haversack.choices import Bits, Effect, Gone, Zeros
from haversack.graph.ops import Trait
from haversack.packing.costs.layout import DYNAMIC, NARROW_BITS, Layout, Plan, is_layer
from haversack.packing.costs.operations import Extent, FoldedOperation
from haversack.packing.costs.written import Writing, layer_bytes
from haversack.plan.problem import Term
from haversack.runtimes import Around
from haversack.runtimes.pieces import Piece

_CUT = 2 / 3
"""The share of channel groups from which plans take some channels, about."""


@dataclass(frozen=True, eq=False)
class Flash:
    """Numbers are counted, and what stands beside them is read off files that are written for it."""

    layout: Layout
    writing: Writing

    def terms(self) -> list[Term]:
        """All that plans change."""
        held = [term for each in self.layout.operations for term in self._held(each)]
        return [*held, *self._around(), *self._zero_points()]

    def _held(self, operation: FoldedOperation) -> list[Term]:
        """The numbers of one operation, and what the layers that take its place have beside theirs."""
        layout = self.layout
        if not operation.weight and not operation.constants:
            return []
        told = (Bits, Zeros) if self.writing.runtime.without_zeros else (Bits,)
        sites = [
            site for site in layout.roundings(operation)
            if any(isinstance(option.effect, told) for option in layout.sites[site].options)
        ]  # fmt: skip
        return layout.of_operation(operation, lambda plan: self.held_bytes(operation, plan), sites)

    def held_bytes(self, operation: FoldedOperation, plan: Plan) -> float:
        """The bytes of an operation's numbers, steps and zero points."""
        layout = self.layout
        sites = layout.sites_of(operation)
        lost = layout.lost(plan, sites)
        if layout.is_gone(sites, operation.path, plan):
            return 0.0
        shapes = [[each.left(lost) for each in shape] for shape in operation.constants]
        bits = layout.bits(layout.roundings(operation), plan)
        constants = sum(self._constant(operation, shape, bits) for shape in shapes)
        pieces = layout.pieces(operation, plan)
        layers = [piece for piece in pieces if is_layer(piece)]
        bias = bool(operation.bias)
        zeros = layout.zeros(layout.roundings(operation), plan)
        held = sum(self._layer(operation, piece, bits, bias=bias and piece is layers[-1]) for piece in layers)
        held -= sum(self._zeros_saved(piece, bits, 0.0 if zeros is None else zeros.share) for piece in layers)
        return constants + held + sum(self._beside(piece.kind) for piece in layers[1:])

    def _constant(self, operation: FoldedOperation, shape: list[int], bits: int) -> int:
        """The bytes of what an operation reads beside a layer's weight; a matrix of a recurrent layer has steps."""
        count = math.prod(shape)
        if self.layout.numbers == DYNAMIC and operation.table and len(shape) == 2:
            packed, beside = self.writing.narrow(operation.table) if bits <= NARROW_BITS else (False, 0)
            return self._around_numbers.row_step * shape[0] + ((count + 1) // 2 + beside if packed else count)
        if self.writing.in_integers and operation.traits & Trait.LOOKUP:
            return count
        if self.writing.in_integers and operation.traits & Trait.RECURRENT and len(shape) == 2:
            return count + 2 * shape[0]
        return 4 * count

    def _layer(self, operation: FoldedOperation, piece: Piece, bits: int, *, bias: bool) -> float:
        count, rows = math.prod(piece.weight), piece.weight[1 if operation.transposed else 0]
        rows *= piece.groups if operation.transposed else 1
        if piece.numbers == "float32":
            return 4 * (count + rows * bias)
        narrow = self._narrow(operation.weight, count, bits) if bits <= NARROW_BITS else None
        stored = count if narrow is None else narrow
        if piece.numbers == DYNAMIC:
            return stored + rows * (self._around_numbers.dynamic_step + 4 * bias)
        derived = narrow is not None and self.writing.derives_steps
        steps = 4 * rows * (2 if bias and not derived else 1)
        return stored + steps + 4 * rows * bias

    def _zeros_saved(self, piece: Piece, bits: int, share: float) -> float:
        """What a layer takes less where its zeros are not stored; nothing where they are."""
        form, count = self.writing.runtime.without_zeros, math.prod(piece.weight)
        if form is None or not piece.passes_integers or piece.groups > 1 or 1 - share > form.most_left:
            return 0.0
        stored = count * min(bits, 8) / 8
        return max(0.0, stored - form.row * piece.weight[0] - form.weight * (1 - share) * count)

    @cached_property
    def _speakers(self) -> dict[str, str]:
        """For each weight the largest of its kind, which is asked how 4 bits are stored."""
        kinds = {each.weight: _sort(each) for each in self.layout.operations if each.weight}
        speakers: dict[tuple[object, ...], str] = {}
        for weight in self.writing.largest:
            speakers.setdefault(kinds[weight], weight)
        return {weight: speakers.get(kind, weight) for weight, kind in kinds.items()}

    @cached_property
    def _once(self) -> tuple[str, int]:
        """The weight that most likely has 4 bits where any has, and what a file then holds once."""
        narrow = [each for each in self.writing.largest if self.writing.narrow(self._speakers[each])[0]]
        if len(narrow) < 2:
            return "", 0
        return narrow[0], self.writing.shared(*narrow[:2])

    def _narrow(self, weight: str, count: int, bits: int) -> float | None:
        """The bytes of a weight of so many numbers in 4 bits or fewer; None where they take a byte each all the same.

        What stands beside numbers of 4 bits is taken to stand beside fewer.
        """
        packed, beside = self.writing.narrow(self._speakers[weight])
        speaks, once = self._once
        stored = min(each for each in (*self.writing.runtime.code_bits, NARROW_BITS) if each >= bits)
        part = math.ceil(count * stored / 8) + beside - once
        if not packed or part >= count:
            return None
        return part + (once if weight == speaks else 0)

    def _beside(self, kind: str) -> float:
        """What one more layer takes beside its numbers."""
        if kind not in self._more:
            self._more[kind] = layer_bytes(self.writing, kind, self._trial_bytes)
        return self._more[kind]

    @cached_property
    def _more(self) -> dict[str, float]:
        return {}

    def _trial_bytes(self, inputs: int, outputs: int) -> float:
        return inputs * outputs + 4 * outputs if self.writing.in_integers else 4 * inputs * outputs

    def _around(self) -> Iterator[Term]:
        """What goes with modules beside their numbers: for each, the difference of two files."""
        layout, nothing = self.layout, [0] * len(self.layout.sites)
        paths = {effect.path for effect in _effects(layout) if isinstance(effect, Gone)}
        alike: dict[object, float] = {}
        for path in sorted(paths):
            inside = [each for each in layout.operations if f"{each.path}.".startswith(f"{path}.")]
            build = tuple((*each.inputs, each.output, each.kind, each.activation, each.weight_shape) for each in inside)
            if build not in alike:
                held = sum(self.held_bytes(each, nothing) for each in inside)
                rest = self.writing.without(path)
                alike[build] = 0.0 if rest is None else self.writing.size - rest - held
            around = alike[build]
            sites = layout.removals(path)

            def amount(plan: Plan, path: str = path, around: float = around, sites: tuple[int, ...] = sites) -> float:
                gone = [each.path for site in sites if isinstance(each := layout.effect(site, plan), Gone)]
                return -around if path == min(gone, key=len, default="") else 0.0

            yield from layout.terms(sites, (), amount)

    def _zero_points(self) -> Iterator[Term]:
        """The zeros of a layer's rows, which stand once for all layers of as many rows, as their shapes do.

        How many share them is known of the network as it is, and else what is to be expected of plans at random.
        """
        without = self.layout.numbers == DYNAMIC and not self.writing.runtime.rounds_rows
        if not self.writing.in_integers or without or not self._zeros(1):
            return
        layout, owners = self.layout, dict[Extent, list[FoldedOperation]]()
        for operation in layout.operations:
            if operation.weight and operation.integer and operation.weight_shape[0].shrinks:
                owners.setdefault(operation.weight_shape[0], []).append(operation)
        counts = {rows: self._counts(rows) for rows in owners}
        for rows, layers in owners.items():
            widths = layout.widths(((rows,),))
            alike = sum(other.size == rows.size for other in owners)
            sharing = {rows.size: _CUT ** (alike - 1) / alike}
            for count in counts[rows] - {rows.size}:
                others, options = sum(count in each for each in counts.values()), len(counts[rows])
                chance = _CUT / (options - 1)
                sharing[count] = (1 - (1 - chance) ** others) / (others * chance)

            def amount(
                plan: Plan,
                rows: Extent = rows,
                layers: list[FoldedOperation] = layers,
                sharing: dict[int, float] = sharing,
                widths: tuple[int, ...] = widths,
            ) -> float:
                if all(layout.is_gone(layout.removals(layer.path), layer.path, plan) for layer in layers):
                    return 0.0
                count = rows.left(layout.lost(plan, widths))
                return self._zeros(count) * sharing.get(count, 1.0)

            shared = set.intersection(*(set(layout.removals(layer.path)) for layer in layers))
            yield from layout.terms(shared, widths, amount)

    def _zeros(self, count: int) -> int:
        """The bytes of so many zero points."""
        around = self._around_numbers
        return around.zero_point * count + around.zero_points

    @property
    def _around_numbers(self) -> Around:
        """What the runtime's files hold beside numbers; next to nothing where none were counted."""
        return self.writing.runtime.around or Around(0, 0, 0)

    def _counts(self, rows: Extent) -> set[int]:
        """How many rows there can be left."""
        layout, plan = self.layout, [0] * len(self.layout.sites)
        widths, counts = layout.widths(((rows,),)), {rows.size}
        for site in widths:
            for option in range(len(layout.sites[site].options)):
                plan[site] = option
                counts.add(rows.left(layout.lost(plan, widths)))
            plan[site] = 0
        return counts


def _sort(operation: FoldedOperation) -> tuple[object, ...]:
    return operation.kind, operation.depthwise


def _effects(layout: Layout) -> Iterator[Effect]:
    return (option.effect for site in layout.sites for option in site.options if option.effect is not None)
