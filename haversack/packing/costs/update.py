"""Update: about how long a coded file is, for every plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from torch import Tensor

from haversack.calibration.ranges import weight_spans
from haversack.choices import Zeros
from haversack.coded import container
from haversack.coded.records import record
from haversack.coded.tensors import Integers
from haversack.graph.folded import Folded
from haversack.grid import symmetric
from haversack.packing.costs.layout import FLOAT_BITS, Layout, Plan, is_layer
from haversack.packing.costs.operations import FoldedOperation
from haversack.plan.problem import Term

T = TypeVar("T")
_FINEST, _WIDEST = 0.42, 3.3
"""How far apart the values of a codebook lie, in root mean squares of a weight: 2.9 times the square root of what a bit
may cost (0.02), or, with few values, as is best for a normal weight: less by the power of 0.87 of their number.
"""
_MOST = 1 << 14
"""Numbers of a weight that are coded to see how many bytes each takes."""


def coded_terms(folded: Folded, layout: Layout) -> tuple[list[Term], float]:
    """The terms of the coded file's length, and the length for the plan that does nothing.

    The numbers of each weight are coded once for each way in which they can be stored; plans with fewer of them take in
    proportion fewer bytes.
    """
    terms: list[Term] = []
    for operation in layout.operations:
        if operation.weight or operation.constants:
            terms += _of(folded, layout, operation)
    nothing = [0] * len(layout.sites)
    return terms, sum(term.of(nothing) for term in terms)


def _of(folded: Folded, layout: Layout, operation: FoldedOperation) -> list[Term]:
    sites, roundings = layout.sites_of(operation), layout.roundings(operation)
    rates: dict[tuple[int, Zeros | None], tuple[float, float]] = {}
    some = _some(folded.tensor(operation.weight)) if operation.weight else None
    real, row_bytes = _real_rate(folded, operation), 0.0 if some is None else _row_bytes(some)

    def counted(plan: Plan) -> tuple[float, int, int]:
        if layout.is_gone(sites, operation.path, plan):
            return 0.0, 0, 0
        lost = layout.lost(plan, sites)
        plain = sum(4.0 * math.prod(extent.left(lost) for extent in shape) for shape in operation.constants)
        layers = [piece for piece in layout.pieces(operation, plan) if is_layer(piece)]
        plain += real * layers[-1].weight[0] if operation.bias and layers else 0.0
        return plain, sum(math.prod(piece.weight) for piece in layers), sum(piece.weight[0] for piece in layers)

    def rate(plan: Plan) -> tuple[float, float]:
        way = layout.bits(roundings, plan), layout.zeros(roundings, plan)
        if some is not None and way not in rates:
            rates[way] = _rate(some, *way, row_bytes)
        return rates[way]

    counts, stored = _known(sites, counted), _known(roundings, rate)

    def amount(plan: Plan) -> float:
        plain, numbers, rows = counts(plan)
        each, step = stored(plan) if numbers else (0.0, 0.0)
        return plain + each * numbers + step * rows

    return layout.of_operation(operation, amount, roundings)


def _known(sites: tuple[int, ...], found: Callable[[Plan], T]) -> Callable[[Plan], T]:
    """What is found of a plan that hangs on these sites alone, each found once: a table asks for it very often."""
    known: dict[tuple[int, ...], T] = {}

    def asked(plan: Plan) -> T:
        key = tuple([plan[site] for site in sites])
        if key not in known:
            known[key] = found(plan)
        return known[key]

    return asked


def _real_rate(folded: Folded, operation: FoldedOperation) -> float:
    """Coded bytes of a number of the bias."""
    if not operation.bias:
        return 0.0
    bias = folded.tensor(operation.bias).detach()
    return record(container.stored((bias + 0.0).numpy())).bytes_written / max(1, bias.numel())


def _rate(weight: Tensor, bits: int, zeros: Zeros | None, row_bytes: float) -> tuple[float, float]:
    """Coded bytes of a number, and of a row's step; `row_bytes` is that of a row that is not all zeros."""
    some = thinned(weight, zeros) if zeros else weight
    if bits >= FLOAT_BITS:
        return record(container.stored((some + 0.0).numpy())).bytes_written / some.numel(), 0.0
    grid = symmetric(weight_spans(some, bits), axis=0, bits=bits)
    # With one step for all: steps are much alike however weights are stored, and take longer to code than numbers.
    one, none = np.ones(1, np.float32), np.zeros(0, np.int32)
    coded = Integers(grid.quantize(some).numpy(), one, none, None, bits, signed=True, narrow=True)
    numbers = record(coded).bytes_written - record(container.stored(one)).bytes_written
    return max(0.0, numbers) / some.numel(), row_bytes * float(some.any(1).double().mean())


def _row_bytes(weight: Tensor) -> float:
    """Coded bytes of a row's step."""
    steps = np.array(symmetric(weight_spans(weight, 8), axis=0, bits=8).scale, np.float32)
    return record(container.stored(steps)).bytes_written / len(steps)


def _some(weight: Tensor) -> Tensor:
    """As many of the weight's rows as are coded to see how long they become."""
    rows = weight.detach().reshape(len(weight), -1)
    return rows[: max(1, _MOST // max(1, rows.shape[1]))]


def thinned(weight: Tensor, zeros: Zeros) -> Tensor:
    """The weight with its smallest numbers zero, and the others in a codebook of evenly spaced values.

    Where a coder makes frequent values short, even spaces are nearly the best (Gish and Pierce 1968).
    """
    thin = weight.clone()
    count = int(zeros.share * thin.numel())
    if count:
        thin.view(-1)[thin.abs().view(-1).argsort()[:count]] = 0.0
    left = thin[thin != 0]
    if zeros.codebook and len(left):
        spacing = max(_FINEST, _WIDEST * zeros.codebook**-0.87) * float(left.square().mean().sqrt())
        most = zeros.codebook // 2
        thin[thin != 0] = (left / spacing).round().clamp(-most, most) * spacing
    return thin
