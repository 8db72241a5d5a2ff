"""Agreement: whether an exported file computes what the torch network computes, the gate that each file passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx

from haversack.batches import Outputs, each_of
from haversack.errors import ParityError
from haversack.graph.pairs import pairs
from haversack.graph.recurrent import ROUNDED_ROWS
from haversack.measurement import Fidelity, Parity
from haversack.proof import Agreement
from haversack.task import Kind, Kinds, Predict, kinds_of

AGREEMENT = 0.97
"""Least share of samples whose largest output must be the same one, unless no output differs by more than a step."""
STEPS = 12.0
"""Three times what ONNX Runtime's integer kernels were off the float reading of the same file at most: 2 steps on
ResNet-20, 4 on ResNet-56 (500 CIFAR-10 images). One lost bias there moved an output by 61 steps or more."""
RELATIVE_QUANTIZED = 0.08
"""The same for outputs without a grid: 4 of those steps were 2.4 % of the largest output."""
RELATIVE_FLOAT32 = 1e-3
ORDERS = 2.0
"""So many times as far as the order of sums moves a network's outputs may a file of it be off, and so many times as far
as rounding moved them, for kernels round in two ways that are both as good. all-MiniLM-L6-v2 in dynamic int8 moves by
0.093 of its largest output by last digits alone, its file is 0.098 off, and rounding 0.094."""
MOST_STEPS, MOST_RELATIVE = 64.0, 0.25
"""Further than a quarter of all there is, outputs of another input might pass."""


def in_torch(network: Callable[..., Any]) -> Predict:
    """The network as a function for scores: outputs without gradients."""

    def predict(*inputs: Tensor) -> Any:  # noqa: ANN401 - outputs
        with torch.no_grad():
            return network(*inputs)

    return predict


def in_another_order(network: fx.GraphModule) -> Predict:
    """The same, with each real number moved as float32 moves it when a sum is added up in another order.

    Where integers behind it become others by that, no file can be held to them.
    """
    return in_torch(_Nudged(network).run)


class _Nudged(fx.Interpreter):
    """Runs a graph, and moves the results of its operations by up to a last digit of the largest of them, at random."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self._random = torch.Generator().manual_seed(0)

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - torch's signature
        value = super().run_node(n)
        computed = n.op == "call_function" and isinstance(value, Tensor) and value.dtype == torch.float32
        if not computed or not value.numel() or n.target in _ON_GRIDS:
            return value
        nudge = torch.rand(value.shape, generator=self._random).mul_(2).sub_(1)
        return value + nudge * (float(value.abs().max()) * torch.finfo(torch.float32).eps)


_ON_GRIDS = {
    pairs.dequantize_per_tensor.default,
    pairs.dequantize_per_tensor.tensor,
    pairs.dequantize_per_channel.default,
    pairs.choose_qparams.tensor,
    ROUNDED_ROWS,
}
"""Operations whose results are exact, or say which integers there are."""


def outputs(predict: Predict, inputs: Iterable[tuple[Tensor, ...]]) -> Iterator[Any]:
    """What `predict` gives for each batch, one after the other."""
    for batch in inputs:
        # Not yielded within: two of these that take turns would leave gradients off for good.
        with torch.no_grad():
            result = predict(*batch)
        yield result


def compare(
    ours: Iterable[Outputs], theirs: Iterable[Outputs], step: float | None = None, kind: Kinds = "classification"
) -> Parity:
    """How far the file's outputs `theirs` are from the network's, batch by batch; of several outputs the farthest.

    `step` is the scale of the outputs' grid; without one, differences count relative to the network's largest output.
    The agreement of the largest output is counted for classes, of shape (batch, classes), and is 1 for any other.
    """
    if step is not None and not step > 0:
        raise ParityError(f"the step of the outputs is {step}.", mend="give the grid's positive scale.")
    apart = _apart(ours, theirs, kind)
    units = [_in_units(each.difference, step or each.largest) for each in apart]
    return Parity(max(units), min(each.share for each in apart), apart[0].samples)


def fidelity(original: Iterable[Outputs], packed: Iterable[Outputs], kind: Kinds = "classification") -> Fidelity:
    """What packing made of the original network's outputs, batch by batch; of several outputs the farthest."""
    apart = _apart(original, packed, kind)
    share = max(_in_units(each.sum, each.magnitude) for each in apart)
    return Fidelity(min(each.share for each in apart), share, apart[0].samples)


@dataclass
class _Apart:
    """How far one output is from what it should be, over all batches so far."""

    difference: float = 0.0
    largest: float = 0.0
    sum: float = 0.0
    magnitude: float = 0.0
    agreeing: int = 0
    samples: int = 0

    def add(self, wanted: Tensor, found: Tensor, kind: Kind) -> None:
        """A batch more."""
        off = (wanted - found).abs()
        self.difference, self.sum = max(self.difference, float(off.max())), self.sum + float(off.sum())
        size = wanted.abs()
        self.largest, self.magnitude = max(self.largest, float(size.max())), self.magnitude + float(size.sum())
        self.agreeing += _agreeing(wanted, found) if kind == "classification" else len(wanted)
        self.samples += len(wanted)

    @property
    def share(self) -> float:
        """Of the samples whose largest output is the same one."""
        return self.agreeing / self.samples


def _apart(wanted: Iterable[Outputs], found: Iterable[Outputs], kind: Kinds) -> list[_Apart]:
    """How far each output is from what it should be."""
    apart: list[_Apart] = []
    for one, other in _checked(wanted, found):
        apart = apart or [_Apart() for _ in one]
        for each, ours, theirs, of in zip(apart, one, other, kinds_of(kind, len(one)), strict=True):
            each.add(ours, theirs, of)
    return apart


@dataclass(frozen=True)
class Gate:
    """What a file has to pass before it counts: how near it must be to the network that it was written from.

    `step` is what `compare` was given. The classes of a quantized file may disagree only as long as no output is off
    by more than one step: then they were as good as equal before.
    """

    quantized: bool
    step: float | None = None

    @property
    def limit(self) -> float:
        """How far an output may be off, in `compare`'s units."""
        if self.quantized:
            return STEPS if self.step is not None else RELATIVE_QUANTIZED
        return RELATIVE_FLOAT32

    def lets(self, parity: Parity) -> bool:
        """Whether a file so far off passes."""
        return self._lets(parity, self.limit, AGREEMENT)

    def lets_where(self, parity: Parity, rounding: Parity, itself: Parity) -> bool:
        """Whether it passes where `rounding` moved the network so far, and the order of sums moves `itself` so far."""
        limit = min(ORDERS * min(rounding.max_steps, itself.max_steps), self._most)
        return self.quantized and self._lets(parity, limit, min(AGREEMENT, itself.argmax_agreement))

    def require(
        self,
        parity: Parity,
        plain: Callable[[], Parity],
        noise: Callable[[], Parity],
        again: Callable[[], Parity],
    ) -> str:
        """What must be said of a file that passes, mostly nothing. Raises ParityError, naming the cause, of any other.

        `plain` compares the file as its runtime runs it without its optimizations, which is what was written; `noise`
        compares the network with the original, which is what rounding did to it; `again` compares it with itself,
        computed `in_another_order`. A runtime may compute an exact file in another way, as long as it moves the outputs
        no further than rounding did; and it may move those of a network in which one number that rounds the other way
        moves many about as far as the order of sums does.
        """
        if self.lets(parity):
            return ""
        unoptimized = plain()
        rounding = noise() if self.quantized else Parity(0.0, 1.0, parity.samples)
        if self.lets(unoptimized):
            if self._lets(parity, rounding.max_steps, rounding.argmax_agreement):
                return f"{self._apart(parity)}: no further than rounding moved them from the original's. {_EXACT}"
            raise ParityError(f"{self._figures(parity)} {_EXACT}", mend=_OPTIMIZED)
        itself = again() if self.quantized else Parity(0.0, 1.0, parity.samples)
        moved = ORDERS * min(rounding.max_steps, itself.max_steps)
        if all(self._lets(each, moved, min(AGREEMENT, itself.argmax_agreement)) for each in (parity, unoptimized)):
            order = _ORDER.format(itself.max_steps)
            if max(parity.max_steps, unoptimized.max_steps) <= self._most:
                return f"{self._apart(parity)}. {order}"
            raise ParityError(f"{self._figures(parity)} {order} {_BLIND}", mend=_MORE_BITS)
        if rounding.argmax_agreement < AGREEMENT and parity.max_steps <= rounding.max_steps:
            raise ParityError(f"{_RUINED.format(rounding.argmax_agreement)} {self._figures(parity)}", mend=_MORE_BITS)
        raise ParityError(self._figures(parity), mend=_REPORT)

    @property
    def _most(self) -> float:
        return MOST_RELATIVE if self.step is None else MOST_STEPS

    def _lets(self, parity: Parity, limit: float, agreement: float) -> bool:
        one_step = self.quantized and self.step is not None and parity.max_steps <= 1 + 1e-3
        torn = self.quantized and not one_step and parity.argmax_agreement < agreement
        return parity.max_steps <= limit and not torn

    def _apart(self, parity: Parity) -> str:
        unit = "steps of the output's grid" if self.step is not None else "of the largest output"
        return (
            f"the file as it runs and the network that it was written from differ by up to {parity.max_steps:.3g} "
            f"{unit} on {parity.samples} samples"
        )

    def _figures(self, parity: Parity) -> str:
        return (
            f"{self._apart(parity)} (allowed {self.limit:.3g}), and their largest output is the same one in "
            f"{parity.argmax_agreement:.1%} (at least {AGREEMENT:.0%} when quantized)."
        )


_EXACT = "Run without the runtime's optimizations, the file computes what was written."
_ORDER = (
    "The network itself moves by up to {:.3g} when sums are added up in another order: one number that rounds the "
    "other way moves many."
)
_BLIND = "So far off outputs of another input might pass, and the file cannot be checked."
_OPTIMIZED = (
    "the runtime's integer kernels change the outputs: an x86 processor without VNNI saturates sums of int8 products. "
    "Try weight_bits=7, another processor, or more bits for the layers that `haversack blame` names."
)
_RUINED = (
    "rounding has ruined this network (its largest output is the original's in {:.1%} of the samples), so that it "
    "amplifies every difference between kernels, and its file cannot be checked."
)
_MORE_BITS = "give it more bits, leave its most sensitive layers float (leave_float), or give more calibration inputs."
_REPORT = "the file was written wrongly: please report it with the network."


def _checked(
    ours: Iterable[Outputs], theirs: Iterable[Outputs]
) -> Iterator[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """The batches of both in pairs, in float64, of the same finite outputs; at least one."""
    batches = 0
    for pair in zip(ours, theirs, strict=True):
        one, other = map(each_of, pair)
        if len(one) != len(other):
            raise ParityError(f"the file has {len(other)} outputs, the network {len(one)}.", mend=_REPORT)
        for wanted, found in zip(one, other, strict=True):
            _check(wanted, found)
        batches += 1
        yield tuple(each.double() for each in one), tuple(each.double() for each in other)
    if not batches:
        raise ParityError("there are no samples to compare on.", mend="give calibration inputs.")


def _check(ours: Tensor, theirs: Tensor) -> None:
    if ours.shape != theirs.shape:
        raise ParityError(
            f"the file's outputs have the shape {tuple(theirs.shape)}, the network's {tuple(ours.shape)}.",
            mend=_REPORT,
        )
    if ours.dim() == 0 or ours.numel() == 0:
        raise ParityError(f"the outputs have the shape {tuple(ours.shape)}.", mend="keep a batch dimension.")
    for name, outputs in (("network", ours), ("file", theirs)):
        if not outputs.isfinite().all():
            raise ParityError(
                f"the {name}'s outputs hold NaN or infinity.", mend="look for overflow; float16 ends at 65504."
            )


def _agreeing(ours: Tensor, theirs: Tensor) -> int:
    if ours.dim() != 2:
        return len(ours)
    return int((ours.argmax(1) == theirs.argmax(1)).sum())


def _in_units(difference: float, unit: float) -> float:
    if unit:
        return difference / unit
    return float("inf") if difference else 0.0


@dataclass(frozen=True)
class Scale:
    """What output differences are counted in: the steps of the output's grid, or None."""

    step: float | None
    zero_point: int = 0
    itemsize: int = 4

    @classmethod
    def of(cls, lowered: fx.GraphModule) -> Scale:
        """The grid that the network's output lies on."""
        output = lowered.graph.output_node().args[0]
        if not isinstance(output, fx.Node) or output.target is not pairs.dequantize_per_tensor.default:
            return cls(None)
        dtype = cast("torch.dtype", output.args[5])
        return cls(cast("float", output.args[1]), cast("int", output.args[2]), dtype.itemsize)

    def agreement(self, ours: Tensor, theirs: Tensor) -> Agreement:
        """How far `ours` is from `theirs`, the reference's."""
        if ours.shape != theirs.shape:
            raise ParityError(f"the outputs have the shapes {tuple(ours.shape)} and {tuple(theirs.shape)}.")
        one, other = self._numbers(ours), self._numbers(theirs)
        unit = self.step or float(theirs.abs().max()) or 1.0
        return Agreement(
            samples=len(ours),
            equal=float((one == other).mean()),
            max_steps=float((ours.double() - theirs.double()).abs().max()) / unit,
            mismatching_bytes=int((self._bytes(one) != self._bytes(other)).sum()),
            same_class=float((ours.argmax(1) == theirs.argmax(1)).float().mean()) if ours.dim() == 2 else 1.0,
        )

    def _numbers(self, real: Tensor) -> np.ndarray[Any, Any]:
        """The integers that the outputs stand for; real numbers where there is no grid."""
        array = np.ascontiguousarray(real.numpy())
        if self.step is None:
            return array
        integers: np.ndarray[Any, Any] = np.round(array.astype(np.float64) / self.step) + self.zero_point
        return integers.astype(np.int64)

    def _bytes(self, numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The numbers as a file stores them."""
        kind = np.float32 if self.step is None else {1: np.uint8, 2: np.int16}.get(self.itemsize, np.int32)
        return numbers.astype(kind).view(np.uint8)
