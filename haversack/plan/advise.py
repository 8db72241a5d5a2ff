"""Advice: which ways of compression suit a network on a device, in words from counts, and in figures as predicted.

Nothing is run or trained here.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from haversack.device import Device
from haversack.graph.cost import Cost
from haversack.limits import Budget
from haversack.measurement import Measurement
from haversack.plan.case import CONVOLUTIONS, LARGE_SIDE, STRONGEST_PRUNING, Case, Effect, channels, points, pruned
from haversack.plan.forecast import AS_IT_IS, COMBINATION, SPARSE, Forecast
from haversack.quantity import show_bytes, show_count

_SEPARABLE = 1 / 8
"""A depthwise and a pointwise convolution for a 3x3 one cost 8 to 9 times less (Howard et al. 2017)."""
_STUDENT = 0.1
_MEMORY = ("flash", "ram")
_SEPARABLE_COSTS, _STUDENT_COSTS = 0.01, 0.05
"""Of the score: ResNet-20 in separable blocks lost 0.008, and a student with a tenth of ResNet-56's work 0.046."""


@dataclass(frozen=True)
class Advice:
    """One way to compress: how well it suits (0 to 1), why, and what it may be expected to give."""

    family: str
    techniques: tuple[str, ...]
    """In the order in which they work."""
    suits: float
    reason: str
    expect: str
    options: tuple[str, ...] = ()
    """The words that make `haversack pack` try just this; none where it may try everything."""
    predicted: Forecast | None = None
    """What the solver says of it; None where it was not asked, or found nothing to do."""

    def command(self, pack: Sequence[str]) -> str:
        """The command line that does it, for a shell: `pack` with its task, device and limits, and `options`.

        Empty where nothing needs to be done.
        """
        return shlex.join([*pack, *self.options]) if self.techniques else ""

    def to_json(self, pack: Sequence[str]) -> dict[str, Any]:
        """A plain dictionary, with the command line."""
        told = {name: value for name, value in vars(self).items() if name != "predicted"}
        return {**told, "command": self.command(pack), "predicted": self.predicted and self.predicted.to_json()}


def advise(
    cost: Cost,
    weighings: Mapping[str, Measurement],
    device: Device,
    budget: Budget,
    predicted: Mapping[str, Forecast] | None = None,
) -> tuple[Advice, ...]:
    """The families of techniques, those that suit best first; the very first says so where nothing needs to be done.

    Families that are `predicted` come before the others: those within every limit, the least loss first, then those
    that come nearest. Where losses are about equal, the fewest techniques come first.

    `weighings` holds the estimates for `float32`, `int8` and `int4`. What is expected to be enough comes first. How
    well a technique suits is the share of the gaps to the limits that it closes (on a logarithmic scale, so that
    halving twice counts twice as much as halving), less for conditions that are not met and for training. Without a
    gap, what it saves counts. How far the score may fall is held against what our own benchmarks lost. These are rules
    of thumb: only a measurement says whether a step pays.
    """
    case = Case(cost, weighings["float32"], weighings["int8"], weighings["int4"], device, budget)
    structures = [_pruning(case), _low_rank(case)]
    combined = _combination(case, structures)
    numbers = [_quantization(case), _four_bits(case)]
    others = [_compact(case), _distillation(case), combined, *_compact_combination(case), *_sparse(case)]
    ways = [*numbers, *structures, *others]
    ranked = [_advice(case, way) for way in sorted(ways, key=lambda way: -way.suits)]
    if not predicted:
        return (*_nothing_needed(case), *ranked)
    missed = AS_IT_IS in predicted and not predicted[AS_IT_IS].enough
    return (*(() if missed else _nothing_needed(case)), *_foretold(ranked, predicted))


def _foretold(ranked: Sequence[Advice], predicted: Mapping[str, Forecast]) -> list[Advice]:
    """The advice with what is predicted of it, of use or not; of training and of a student nothing is."""
    told = [
        each
        if each.family == "distillation" or "adopt_student" in each.techniques
        else _with_figures(each, predicted[each.family], predicted)
        if each.family in predicted
        else replace(each, suits=0.0, expect="predicted to be of no use for these limits")
        for each in ranked
    ]
    ahead = [(each.predicted.order, each.family == COMBINATION, each) for each in told if each.predicted]
    ahead.sort(key=lambda row: row[:2])
    return [*(each for *_, each in ahead), *(each for each in told if not each.predicted)]


def _with_figures(advice: Advice, forecast: Forecast, predicted: Mapping[str, Forecast]) -> Advice:
    """All techniques together are what `pack` builds first where it may try everything."""
    names = forecast.techniques
    told = replace(advice, techniques=names, expect=str(forecast), predicted=forecast)
    if advice.family != COMBINATION:
        return replace(told, options=("--try", ",".join(names)))
    alone = [family for family, each in predicted.items() if each.enough and family not in (AS_IT_IS, COMBINATION)]
    enough = f"{' and '.join(alone)} alone {'is' if len(alone) == 1 else 'are'} predicted to be enough"
    reason = (
        f"of all techniques together what loses least; {enough if alone else 'none alone is predicted to be enough'}"
    )
    return replace(told, options=(), reason=reason)


@dataclass(frozen=True)
class _Way:
    """A proposal and how well it suits."""

    family: str
    techniques: tuple[str, ...]
    effect: Effect
    suits: float
    reason: str


def _quantization(case: Case) -> _Way:
    whole, integer = case.whole, case.integer
    pays = "int8" in case.device.number_formats
    weights = f"weights fall from {show_bytes(whole.flash_bytes.value)} to {show_bytes(integer.flash_bytes.value)}"
    peak = f"the activation peak from {show_bytes(whole.ram_bytes.value)} to {show_bytes(integer.ram_bytes.value)}"
    saved = f"{weights}, {peak}" if pays else weights
    # Without faster kernels the saved bytes alone must pay.
    condition = 1.0 if pays or case.memory_binds else 0.7
    reason = f"{saved}; {_integer_speed(case.device)}; {case.bound}"
    suits = case.suits(case.quantized, condition, effort=1.0)
    return _Way("quantization", (_numbers(case.device),), case.quantized, suits, reason)


def _four_bits(case: Case) -> _Way:
    """Less than int8 suits where int8 is enough, for it costs more of the score and saves no time beyond."""
    integer, halved = case.integer.flash_bytes.value, case.halved.flash_bytes.value
    enough = case.closes(case.quantized)
    wanted = "int8 alone is enough" if enough else "int8 alone is not enough" if case.gaps else "no limit asks for it"
    reason = (
        f"weights fall from {show_bytes(integer)} in int8 to {show_bytes(halved)}; it saves flash, not time, for "
        f"runtimes unpack them; {wanted}"
    )
    suits = case.suits(case.in_4_bits, 0.5 if enough else 1.0, effort=0.95)
    return _Way("4-bit weights", (_numbers(case.device),), case.in_4_bits, suits, reason)


def _numbers(device: Device) -> str:
    return "quantize_static" if "int8" in device.number_formats else "quantize_weights"


def _integer_speed(device: Device) -> str:
    if "int8" not in device.number_formats:
        return "no source says that int8 is faster here, so only the weights shrink"
    integer, whole = device.macs_per_cycle_int8, device.macs_per_cycle_float32
    if integer and whole and integer == whole:
        return f"the device multiplies both at {whole:g} MACs a cycle, so only bytes are saved"
    if integer and whole:
        return (
            f"the device multiplies int8 {integer / whole:.3g}x as fast as float32 "
            f"({integer:g} against {whole:g} MACs a cycle)"
        )
    if integer:
        return f"the device states {integer:g} int8 MACs a cycle and no rate for float32"
    return "int8 pays here, by how much only a measurement tells"


def _pruning(case: Case) -> _Way:
    keep, wide = _keep(case, Effect()), _prunable(case)
    effect = pruned(keep, wide)
    multiple = case.device.channel_multiple
    tight = [need.limit.title for need in case.misses(effect) if need.part in _MEMORY]
    condition = 0.7 if tight or _weights_are_matrices(case) else 1.0
    size = f"{case.cost.parameters:,} parameters and {show_count(case.cost.macs)} MACs"
    parts = [f"{size}; pruning to {keep:.2f}x the MACs is what a network of this size usually stands"]
    if wide < 0.995:
        parts.append(f"{wide:.0%} of the MACs are in layers wider than the {multiple} channels that the kernels fill")
    if _memory_limits(case):
        fits = f"is still over the limit of {' and '.join(tight)}" if tight else "is within the memory limits"
        parts.append(f"pruned, in float32, it {fits}")
    return _Way("pruning", ("prune_channels",), effect, case.suits(effect, condition, effort=0.9), "; ".join(parts))


def _memory_limits(case: Case) -> bool:
    return any(need.part in _MEMORY for need in case.needs)


def _keep(case: Case, other: Effect) -> float:
    """The mildest pruning of what can be pruned that closes the gaps beside another step, if the network stands it.

    That is 0.8x of the multiply-accumulates at 10,000 parameters and 0.45x at a million, on a logarithmic scale:
    ResNet-56 (853,018) loses nothing at 0.47x (Fang et al. 2023).
    """
    stands = min(0.9, max(0.4, 0.8 - 0.175 * (math.log10(max(1, case.cost.parameters)) - 4)))
    wide = _prunable(case) or 1.0
    left = {part: need / getattr(other, part) for part, need in case.gaps.items() if need < getattr(other, part)}
    wanted = [max(0.0, 1 - (1 - share) / wide) ** (2 if part == "ram" else 1) for part, share in left.items()]
    return max(stands, min(wanted, default=stands))


def _prunable(case: Case) -> float:
    """The share of multiply-accumulates in layers wide enough to lose a whole multiple of channels."""
    multiple = case.device.channel_multiple
    return case.share_of_macs(layer for layer in case.cost.layers if channels(layer) > multiple)


def _low_rank(case: Case) -> _Way:
    total = max(1, case.cost.parameters)
    linear = [each for each in case.matrices if each.layer.operation not in CONVOLUTIONS]
    # Factorized convolutions often lose on a processor what they save in products: only linear layers count as faster.
    flash = 1 - sum((1 - each.kept) * each.layer.parameters for each in case.matrices) / total
    time = 1 - sum((1 - each.kept) * each.layer.macs for each in linear) / max(1, case.cost.macs)
    effect = Effect(flash, 1.0, time)
    suits = case.suits(effect, 1.0 if case.memory_binds else 0.5, effort=0.85)
    return _Way("low-rank factorization", ("factorize",), effect, suits, _ranks(case))


def _weights_are_matrices(case: Case) -> bool:
    """Whether large linear layers hold most of the weight and memory binds: factors then beat fewer channels."""
    linear = sum(each.layer.parameters for each in case.matrices if each.layer.operation not in CONVOLUTIONS)
    return case.memory_binds and linear > 0.5 * case.cost.parameters


def _ranks(case: Case) -> str:
    if not case.matrices:
        return f"no weight matrix is {LARGE_SIDE} or more wide both ways; {case.bound}"
    total, largest = max(1, case.cost.parameters), case.matrices[0]
    share = sum(each.layer.parameters for each in case.matrices) / total
    return (
        f"{len(case.matrices)} large layers hold {share:.0%} of the weights; the largest, '{largest.layer.path}' "
        f"({largest.inner} x {largest.outer}, {largest.layer.parameters / total:.0%}), keeps {largest.kept:.2f} of its "
        f"weights at rank {largest.rank}; {case.bound}"
    )


def _distillation(case: Case) -> _Way:
    """What it recovers is worth as much as the gap that untrained int8 leaves open; it shrinks nothing itself."""
    open_gap = 1 - case.closed(case.quantized) if case.gaps else 0.0
    score = case.whole.score
    known = f"scores {score.value:.4g}" if score else "has a score that is unknown until it is measured"
    reason = (
        "makes nothing smaller, but wins back what a cut costs; the network itself is the teacher and "
        f"{known}; it needs the batches of train()"
    )
    return _Way("distillation", ("distill",), Effect(), 0.1 + 0.2 * open_gap, reason)


def _sparse(case: Case) -> Iterator[_Way]:
    """Of use where the coded file is limited; how long that is, and becomes, no count tells."""
    if case.budget.update_bytes is None:
        return
    reason = "zeros, and weights of a few values, take fewer bits in the coded file; only C is faster by zeros"
    yield _Way(SPARSE, ("prune_weights", "cluster_weights"), Effect(), 0.25 if case.gaps else 0.5, reason)


def _compact(case: Case) -> _Way:
    separable = case.convolved >= 0.5 and "ram" not in case.gaps
    share = _SEPARABLE if separable else _STUDENT
    drop = _SEPARABLE_COSTS if separable else _STUDENT_COSTS
    effect = Effect(share, 1.0 if separable else math.sqrt(share), share, drop)
    suits = case.suits(effect, 1.0 if case.out_of_reach else 0.25, effort=0.7)
    name = "replace_blocks" if separable else "adopt_student"
    return _Way("compact architecture", (name,), effect, suits, f"{_reach(case)}; {_design(case, separable=separable)}")


def _reach(case: Case) -> str:
    """How far this architecture can be taken, which is when another one is wanted."""
    if not case.gaps:
        return "no limit asks for it"
    missed = case.misses(pruned(STRONGEST_PRUNING).then(case.in_4_bits))
    left = ", ".join(need.limit.title for need in missed if not need.limit.at_least)
    return f"pruning to {STRONGEST_PRUNING}x with 4-bit weights {f'still misses {left}' if left else 'is enough'}"


def _design(case: Case, *, separable: bool) -> str:
    macs = show_count(case.cost.macs)
    if separable:
        return f"convolutions do {case.convolved:.0%} of the {macs} MACs, separable ones need about an eighth"
    return f"a student may be designed for the limits; figures are for one of a tenth of the {macs} MACs"


def _combination(case: Case, structures: list[_Way]) -> _Way:
    """Structure, then recovery, then numbers: quantized weights cannot be pruned or trained afterwards."""
    structure = max(structures, key=lambda way: way.suits)

    def beside(numbers: Effect) -> Effect:
        if structure.techniques == ("prune_channels",):
            return pruned(_keep(case, numbers), _prunable(case))
        return structure.effect

    numbers, bits = _least_bits(case, beside)
    effect = beside(numbers)
    both = effect.then(numbers)
    enough = case.closes(case.quantized)
    names = (*structure.techniques, "distill", _numbers(case.device))
    left = ", ".join(f"{need.limit.title} at {need.shown(need.needed)}" for need in case.misses(case.quantized))
    reason = (
        f"{structure.family} to {effect.flash:.2f}x the weights, training to win back the score, then {bits}: "
        f"{both.flash:.2f}x in all; {'int8 alone is enough for the limits' if enough else f'int8 alone leaves {left}'}"
    )
    suits = case.suits(both, 0.5 if enough else 1.0, effort=0.85)
    return _Way("combination", names, both, suits, reason)


def _least_bits(case: Case, beside: Callable[[Effect], Effect]) -> tuple[Effect, str]:
    """4-bit weights where the structure that goes beside them is enough with these alone, and else int8."""
    needs_4 = [case.closes(beside(numbers).then(numbers)) for numbers in (case.quantized, case.in_4_bits)]
    return (case.in_4_bits, "4-bit weights") if needs_4 == [False, True] else (case.quantized, "int8")


def _compact_combination(case: Case) -> Iterator[_Way]:
    """A compact architecture with int8 on top, where it takes both."""
    alone = _compact(case)
    if not case.out_of_reach or case.closes(alone.effect):
        return
    numbers, bits = _least_bits(case, lambda _: alone.effect)
    names, both = (*alone.techniques, "distill", _numbers(case.device)), alone.effect.then(numbers)
    reason = f"the limits are so far away that it takes a new architecture, this network as its teacher, and {bits}"
    yield _Way("combination", names, both, case.suits(both, 1.0, effort=0.8), reason)


def _nothing_needed(case: Case) -> Iterator[Advice]:
    if case.gaps or not case.needs:
        return
    held = ", ".join(
        f"{case.said(need)} {need.shown(need.needed)} of {need.shown(need.allowed)}" for need in case.needs
    )
    rest = f"; {' and '.join(case.unknown)}: unknown until measured" if case.unknown else ""
    expect = "measure it before doing more" if case.unknown else "ship it as it is, unless smaller pays"
    name = "nothing needed, as far as is known" if case.unknown else "nothing needed"
    yield Advice(name, (), 1.0, f"the float32 network is within {held}{rest}", expect)


def _advice(case: Case, way: _Way) -> Advice:
    return Advice(way.family, way.techniques, round(way.suits, 3), way.reason, _expected(case, way), _options(way))


def _options(way: _Way) -> tuple[str, ...]:
    """What to tell `pack`: a student comes before the search, and is no technique of it."""
    student = ("--student", "auto") if "adopt_student" in way.techniques else ()
    others = [name for name in way.techniques if name != "adopt_student"]
    return (*student, "--try", ",".join(others)) if others else student


def _expected(case: Case, way: _Way) -> str:
    if way.family == "distillation":
        return "the same size and speed, a better score after a cut"
    if way.family == SPARSE:
        return "the same size and speed, a smaller update; by how much is unknown until measured"
    flash, ram = case.whole.flash_bytes.value, case.whole.ram_bytes.value
    figures = (
        f"flash {show_bytes(flash)} -> {show_bytes(flash * way.effect.flash)}, "
        f"RAM {show_bytes(ram)} -> {show_bytes(ram * way.effect.ram)}, time x{way.effect.time:.2f}"
    )
    missed = [need for need in case.misses(way.effect) if not need.limit.at_least]
    left = [f"{need.limit.title} by {need.shown(need.needed - need.allowed)}" for need in missed]
    judged = ", ".join(map(case.said, case.needs))
    verdict = f"then misses {', '.join(left)}" if left else f"then within the limits of {judged}" if judged else ""
    unknown = f"{' and '.join(case.unknown)} unknown until measured" if case.unknown else ""
    return "; ".join(filter(None, (figures, verdict, _expected_drop(case, way), unknown)))


def _expected_drop(case: Case, way: _Way) -> str:
    """What is said of the score where it may not fall freely; only a measurement knows it."""
    if case.budget.max_drop is None:
        return ""
    lost, may_fall = way.effect.drop, case.budget.max_drop
    beside = f", more than {points(may_fall)}" if lost > may_fall else ""
    return f"the score is unknown until measured: our benchmarks lost {points(lost)}{beside}"
