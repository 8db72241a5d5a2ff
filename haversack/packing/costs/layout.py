"""Layout: sites laid over a network's operations, and what a plan makes of each: the pieces that run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from haversack.calibration.patches import Geometry
from haversack.choices import Bits, Effect, Factors, Gone, Site, Swapped, Width, Zeros
from haversack.graph.ops import Trait
from haversack.model import Layer
from haversack.packing.costs.operations import Extents, FoldedOperation
from haversack.plan.problem import Term
from haversack.progress import say
from haversack.runtimes.pieces import Piece, Shape

Plan = Sequence[int]
"""One option number for each site."""
FLOAT_BITS = 32
DYNAMIC = "dynamic"
"""Linear layers whose inputs are rounded as they come, and all else in float."""
NARROW_BITS = 4
"""Two such numbers, or two of fewer bits, fit into a byte."""
_MOST_ENTRIES = 1 << 12
"""A larger table is split into a sum of tables that each follow one input's channels."""
_LARGEST = 1 << 16
"""No table is larger, whatever that costs in truth: each entry takes memory, and far more time to work out."""
_KINDS = {"conv1d": "Conv1d", "conv2d": "Conv2d", "linear": "Linear"}


class Factorization(Protocol):
    """A way to write a layer as several, such as those of `techniques.factorize.ways.METHODS`."""

    @property
    def full(self) -> Callable[[Geometry], tuple[int, ...]]:
        """The ranks at which nothing is lost."""
        ...

    @property
    def layers(self) -> Callable[[Geometry, tuple[int, ...]], tuple[Layer, ...]]:
        """The layers of these ranks."""
        ...


@dataclass(frozen=True, eq=False)
class Layout:
    """The operations of a network, how many channels its groups have, and all sites, in one number format."""

    operations: tuple[FoldedOperation, ...]
    groups: Mapping[str, int]
    sites: tuple[Site, ...]
    numbers: str = "float32"
    ways: Mapping[str, Factorization] = field(default_factory=dict)
    """How layers are factorized, by the method that `Factors` names."""
    unpacks: bool = False
    """Whether weights of 4 bits take their runtime other times than those of 8."""
    _pieces: dict[tuple[object, ...], tuple[Piece, ...]] = field(default_factory=dict)
    _hangs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _rounds: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _told: set[tuple[int, ...]] = field(default_factory=set)

    def effect(self, site: int, plan: Plan) -> Effect | None:
        """What the plan does at that site."""
        return self.sites[site].options[plan[site]].effect

    def lost(self, plan: Plan, sites: Iterable[int]) -> dict[str, int]:
        """How many channels the groups of these sites have lost."""
        effects = (self.effect(site, plan) for site in sites)
        return {each.group: self.groups[each.group] - each.channels for each in effects if isinstance(each, Width)}

    def where(self, fits: Callable[[Effect], bool]) -> tuple[int, ...]:
        """The sites with an option whose effect fits."""
        return tuple(
            number
            for number, site in enumerate(self.sites)
            if any(option.effect is not None and fits(option.effect) for option in site.options)
        )

    def widths(self, shapes: Iterable[Extents]) -> tuple[int, ...]:
        """The sites that make these shapes smaller."""
        groups = {group for shape in shapes for extent in shape for group, _ in extent.shrinks}
        return self.where(lambda effect: isinstance(effect, Width) and effect.group in groups)

    def removals(self, path: str) -> tuple[int, ...]:
        """The sites at which the module or one around it may go."""
        return self.where(lambda effect: isinstance(effect, Gone) and f"{path}.".startswith(f"{effect.path}."))

    def exchanges(self, operation: FoldedOperation) -> tuple[int, ...]:
        """The sites at which other layers may take this one's place."""
        names = {operation.layer, operation.weight} if operation.weight else set()
        return self.where(lambda effect: isinstance(effect, Factors | Swapped) and effect.path in names)

    def roundings(self, operation: FoldedOperation) -> tuple[int, ...]:
        """The sites that choose how the operation's weight is stored."""
        if operation.name not in self._rounds:
            names = operation.stored
            self._rounds[operation.name] = self.where(
                lambda effect: isinstance(effect, Bits | Zeros) and effect.path in names
            )
        return self._rounds[operation.name]

    def is_gone(self, sites: Iterable[int], path: str, plan: Plan) -> bool:
        """Whether the module at `path` is gone; `sites` are its removals."""
        effects = (self.effect(site, plan) for site in sites)
        return any(isinstance(each, Gone) and f"{path}.".startswith(f"{each.path}.") for each in effects)

    def bits(self, sites: Iterable[int], plan: Plan) -> int:
        """Bits of a weight; `sites` are the roundings of its operation. What no site names has 8 in integers."""
        chosen = [each.bits for site in sites if isinstance(each := self.effect(site, plan), Bits)]
        return chosen[0] if chosen else FLOAT_BITS if self.numbers == "float32" else 8

    def zeros(self, sites: Iterable[int], plan: Plan) -> Zeros | None:
        """The zeros and the codebook of a weight, which two techniques may have chosen, where the plan says some."""
        chosen = [each for site in sites if isinstance(each := self.effect(site, plan), Zeros)]
        if not chosen:
            return None
        return Zeros(chosen[0].path, max(each.share for each in chosen), max(each.codebook for each in chosen))

    def sites_of(self, operation: FoldedOperation) -> tuple[int, ...]:
        """The sites that the operation's pieces hang on: its channels, removals, exchanges, and its numbers."""
        if operation.name in self._hangs:
            return self._hangs[operation.name]
        shapes = (*operation.inputs, operation.output, operation.weight_shape, *operation.constants)
        kept = tuple(
            site
            for site in self.roundings(operation)
            if any(
                isinstance(each.effect, Bits) and self._other_numbers(each.effect.bits)
                for each in self.sites[site].options
            )
        )
        every = (*self.widths(shapes), *self.removals(operation.path), *self.exchanges(operation), *kept)
        return self._hangs.setdefault(operation.name, tuple(sorted(set(every))))

    def pieces(self, operation: FoldedOperation, plan: Plan) -> tuple[Piece, ...]:
        """What a runtime runs for the operation; nothing where it is gone or takes no time."""
        sites = self.sites_of(operation)
        key = (operation.name, *(plan[site] for site in sites))
        if key not in self._pieces:
            self._pieces[key] = self._made(operation, sites, plan)
        return self._pieces[key]

    def _made(self, operation: FoldedOperation, sites: tuple[int, ...], plan: Plan) -> tuple[Piece, ...]:
        if not operation.computes or self.is_gone(sites, operation.path, plan):
            return ()
        whole = piece_of(operation, self.lost(plan, sites), self._numbers(operation, plan))
        effects = (self.effect(site, plan) for site in sites)
        exchange = next((each for each in effects if isinstance(each, Factors | Swapped)), None)
        return (whole,) if exchange is None else exchanged(operation, whole, exchange, self.ways)

    def _numbers(self, operation: FoldedOperation, plan: Plan) -> str:
        if self.numbers == DYNAMIC:
            return DYNAMIC if operation.weight and operation.traits & Trait.LINEAR else "float32"
        in_float = self.numbers == "float32" or not (operation.integer or operation.output_like_input)
        if in_float or self.bits(self.roundings(operation), plan) >= FLOAT_BITS:
            return "float32"
        if self.unpacks and operation.weight and self.bits(self.roundings(operation), plan) <= NARROW_BITS:
            return "int4"
        return self.numbers

    def _other_numbers(self, bits: int) -> bool:
        """Whether a layer whose weights have so many bits is another piece than one in integers of 8."""
        if self.numbers == DYNAMIC:
            return False  # its runtime unpacks 4 bits when it loads the file
        return bits >= FLOAT_BITS or (self.unpacks and bits <= NARROW_BITS)

    def terms(self, fixed: Iterable[int], inputs: Iterable[int], amount: Callable[[Plan], float]) -> list[Term]:
        """An amount that hangs on both kinds of sites, as one table or, if that is large, one for each of `inputs`.

        The sum of those is exact where the amount grows with each input's channels by itself, as sizes do. Where the
        fixed sites alone have too many ways, some of them are taken one by one like inputs, which is said in the log.
        """
        fixed, inputs = tuple(set(fixed)), tuple(set(inputs) - set(fixed))
        entries = self._entries((*fixed, *inputs))
        if entries <= _MOST_ENTRIES or (len(inputs) < 2 and entries <= _LARGEST):
            return [self._term((*fixed, *inputs), amount)]

        def added(site: int) -> Callable[[Plan], float]:
            return lambda plan: amount(plan) - amount([*plan[:site], 0, *plan[site + 1 :]])

        kept = self._together(fixed, inputs)
        single = (*inputs, *(site for site in fixed if site not in kept))
        return [self._term(kept, amount), *(self._term((*kept, site), added(site)) for site in single)]

    def _term(self, sites: Iterable[int], amount: Callable[[Plan], float]) -> Term:
        """The amounts for all options of these sites; those that change nothing are left out."""
        chosen = tuple(sorted(set(sites)))
        plan, sizes = [0] * len(self.sites), [len(self.sites[site].options) for site in chosen]
        amounts = np.empty(sizes)
        for options in itertools.product(*map(range, sizes)):
            for site, option in zip(chosen, options, strict=True):
                plan[site] = option
            amounts[options] = amount(plan)
        return _without_idle(Term(chosen, amounts))

    def _entries(self, sites: Iterable[int]) -> int:
        return math.prod(len(self.sites[site].options) for site in sites)

    def _together(self, fixed: tuple[int, ...], inputs: tuple[int, ...]) -> tuple[int, ...]:
        """Those of the fixed sites that share every table: all, or those of the fewest options, as many as may be."""
        kept = sorted(fixed, key=lambda site: (len(self.sites[site].options), site))
        longest = max((self._entries((site,)) for site in inputs), default=1)
        while kept and self._entries(kept) * longest > _LARGEST:
            longest += self._entries((kept.pop(),))
        if len(kept) < len(fixed) and fixed not in self._told:
            self._told.add(fixed)
            names = ", ".join(self.sites[site].name for site in sorted(fixed)[:3])
            say(f"{len(fixed)} places ({names}, ...) meet in one layer: what they cost is summed one by one")
        return tuple(kept)

    def of_operation(
        self, operation: FoldedOperation, amount: Callable[[Plan], float], more: Iterable[int] = ()
    ) -> list[Term]:
        """The tables of an amount of one operation, which may hang on `more` sites than its pieces do."""
        reads = set(self.widths(operation.inputs))
        if operation.weight and not operation.depthwise:
            reads -= set(self.widths((operation.output, operation.weight_shape[:1])))
        rest = (site for site in self.sites_of(operation) if site not in reads)
        return self.terms((*rest, *more), reads, amount)


def _without_idle(term: Term) -> Term:
    """The term without the sites whose options are all alike."""
    sites, amounts = list(term.sites), term.amounts
    for axis in reversed(range(len(sites))):
        if (amounts == amounts.take([0], axis)).all():
            amounts = np.asarray(amounts.take(0, axis))
            del sites[axis]
    return Term(tuple(sites), amounts)


def merged(terms: Iterable[Term]) -> tuple[Term, ...]:
    """The same sum with one term for the same sites, and those whose sites others have too within them."""
    sums: dict[tuple[int, ...], Term] = {}
    for term in terms:
        known = sums.get(term.sites)
        sums[term.sites] = term if known is None else Term(term.sites, known.amounts + term.amounts)
    return tuple(sums.values())


def is_layer(piece: Piece) -> bool:
    """Whether it multiplies by a weight."""
    return piece.kind.startswith("conv") or piece.kind == "linear"


def macs_of(piece: Piece) -> int:
    """Multiply-accumulates of a layer, or of a product of two values."""
    if is_layer(piece):
        swept = piece.inputs[0] if piece.kind.startswith("conv_transpose") else piece.output
        return math.prod(swept) * math.prod(piece.weight[1:])
    if piece.kind in ("matmul", "bmm"):
        return math.prod(piece.output) * piece.inputs[0][-1]
    if piece.kind == "scaled_dot_product_attention":
        query, key = piece.inputs[:2]
        return (math.prod(query) + math.prod(piece.output)) * key[-2]
    return 0


def piece_of(operation: FoldedOperation, lost: Mapping[str, int], numbers: str) -> Piece:
    """The operation as a piece when groups have lost so many channels; shapes are without the batch."""
    inputs = tuple(_left(shape, lost)[1:] for shape in operation.inputs)
    output, weight = _left(operation.output, lost)[1:], _left(operation.weight_shape, lost)
    groups = 1
    if weight and operation.kind != "linear":
        wide = output[0] if operation.transposed else inputs[0][0]
        groups = max(1, wide // weight[1])
    return Piece(
        kind=operation.kind,
        inputs=inputs,
        output=output,
        weight=weight or operation.window,
        stride=operation.stride,
        padding=operation.padding,
        dilation=operation.dilation,
        groups=groups,
        activation=operation.activation,
        numbers=numbers,
    )


def _left(shape: Extents, lost: Mapping[str, int]) -> Shape:
    return tuple(extent.left(lost) for extent in shape)


def exchanged(
    operation: FoldedOperation, whole: Piece, exchange: Factors | Swapped, ways: Mapping[str, Factorization]
) -> tuple[Piece, ...]:
    """The pieces of the layers that take the place of one; its clamp stands behind the last of them."""
    outputs, inputs = whole.weight[0], whole.inputs[0][-1 if whole.kind == "linear" else 0]
    geometry = Geometry(
        _KINDS[whole.kind], inputs, outputs, whole.weight[2:], whole.stride, whole.padding, whole.dilation,
        bool(operation.bias),
    )  # fmt: skip
    if isinstance(exchange, Factors):
        way = ways[exchange.method]
        ranks = tuple(min(rank, full) for rank, full in zip(exchange.ranks, way.full(geometry), strict=True))
        layers = way.layers(geometry, ranks)
    else:
        layers = swapped_layers(geometry, exchange)
    return _chained(layers, whole)


def swapped_layers(geometry: Geometry, swap: Swapped) -> tuple[Layer, ...]:
    """A convolution within groups (one channel each where the kind is depthwise), and a 1 x 1 that mixes them."""
    groups = swap.groups if swap.groups > 1 and geometry.inputs % swap.groups == 0 else geometry.inputs
    spread = geometry.piece(geometry.inputs, geometry.inputs, geometry.everywhere, groups=groups)
    return spread, geometry.piece(geometry.inputs, geometry.outputs, geometry.nowhere, last=True)


def _chained(layers: Sequence[Layer], whole: Piece) -> tuple[Piece, ...]:
    """One piece a layer, each reading what the one before it gives."""
    pieces: list[Piece] = []
    value = whole.inputs[0]
    for layer in layers:
        if layer.kind not in _KINDS.values():
            numbers = "int8" if whole.numbers == "int4" else whole.numbers
            pieces.append(Piece("channel_shuffle", (value,), value, numbers=numbers))
            continue
        pieces.append(_layer_piece(layer, value, whole))
        value = pieces[-1].output
    return (*pieces[:-1], replace(pieces[-1], activation=whole.activation))


def _layer_piece(layer: Layer, value: Shape, whole: Piece) -> Piece:
    if layer.kind == "Linear":
        inputs, outputs = _numbers_of(layer, "in_features")[0], _numbers_of(layer, "out_features")[0]
        return Piece("linear", (value,), (*value[:-1], outputs), (outputs, inputs), numbers=whole.numbers)
    (inputs,), (outputs,), (groups,) = (_numbers_of(layer, name) for name in ("in_channels", "out_channels", "groups"))
    kernel, stride, padding, dilation = (
        _numbers_of(layer, name) for name in ("kernel_size", "stride", "padding", "dilation")
    )
    sizes = zip(value[1:], kernel, stride, padding, dilation, strict=True)
    spatial = tuple((size + 2 * pad - step * (edge - 1) - 1) // pace + 1 for size, edge, pace, pad, step in sizes)
    return Piece(
        kind=whole.kind,
        inputs=(value,),
        output=(outputs, *spatial),
        weight=(outputs, inputs // groups, *kernel),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        numbers=whole.numbers,
    )


def _numbers_of(layer: Layer, setting: str) -> tuple[int, ...]:
    value = layer.settings[setting]
    return value if isinstance(value, tuple) else (int(value),)
