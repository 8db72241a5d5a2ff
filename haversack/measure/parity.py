"""Whether an exported file computes what the torch network computes: the gate every file passes before it counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from haversack.errors import ParityError
from haversack.measurement import Parity

Predict = Callable[..., Tensor]

AGREEMENT = 0.97
"""Least share of samples whose largest output must be the same one, unless no output differs by more than a step."""
STEPS = 12.0
"""Three times what ONNX Runtime's integer kernels were off the float reading of the same file at most: 2 steps on
ResNet-20, 4 on ResNet-56 (500 CIFAR-10 images). One lost bias there moved an output by 61 steps or more."""
RELATIVE_QUANTIZED = 0.08
"""The same for outputs without a grid: 4 of those steps were 2.4 % of the largest output."""
RELATIVE_FLOAT32 = 1e-3
RELATIVE_FLOAT16 = 2e-2


def in_torch(network: Callable[..., Tensor]) -> Predict:
    """The network as a function for scores: outputs without gradients."""

    def predict(*inputs: Tensor) -> Tensor:
        with torch.no_grad():
            outputs: Tensor = network(*inputs)
        return outputs

    return predict


def compare(
    torch_predict: Predict, file_predict: Predict, inputs: Sequence[tuple[Tensor, ...]], step: float | None = None
) -> Parity:
    """How far `file_predict` is from `torch_predict` on batches of `inputs`.

    `step` is the scale of the outputs' grid; without one, differences count relative to the network's largest output.
    The agreement of the largest output is counted for outputs of shape (batch, classes) and is 1 for any other.
    """
    if not inputs:
        raise ParityError("there are no samples to compare on.", mend="give calibration inputs.")
    if step is not None and not step > 0:
        raise ParityError(f"the step of the outputs is {step}.", mend="give the grid's positive scale.")
    difference = largest = 0.0
    agreeing = samples = 0
    for batch in inputs:
        with torch.no_grad():
            ours, theirs = torch_predict(*batch).double(), file_predict(*batch).double()
        _check(ours, theirs)
        difference = max(difference, float((ours - theirs).abs().max()))
        largest = max(largest, float(ours.abs().max()))
        agreeing += _agreeing(ours, theirs)
        samples += len(ours)
    return Parity(_in_units(difference, step or largest), agreeing / samples, samples)


def require(parity: Parity, *, quantized: bool, half: bool = False, step: float | None = None) -> None:
    """Nothing, or a ParityError when the file is too far from the network.

    `step` is what `compare` was given. The classes of a quantized file may disagree only as long as no output is off
    by more than one step: then they were as good as equal before.
    """
    if not quantized:
        limit = RELATIVE_FLOAT16 if half else RELATIVE_FLOAT32
    else:
        limit = STEPS if step is not None else RELATIVE_QUANTIZED
    one_step = quantized and step is not None and parity.max_steps <= 1 + 1e-3
    far = not parity.max_steps <= limit
    torn = quantized and not one_step and parity.argmax_agreement < AGREEMENT
    if far or torn:
        raise ParityError(_figures(parity, limit, step), mend=_mend(quantized=quantized, half=half))


def _figures(parity: Parity, limit: float, step: float | None) -> str:
    unit = "steps of the output's grid" if step is not None else "of the largest output"
    return (
        f"the exported file and the network disagree on {parity.samples} samples: they differ by up to "
        f"{parity.max_steps:.3g} {unit} (allowed {limit:.3g}), and their largest output is the same one in "
        f"{parity.argmax_agreement:.1%} (at least {AGREEMENT:.0%} when quantized)."
    )


def _mend(*, quantized: bool, half: bool) -> str:
    if quantized:
        return (
            "an x86 processor without VNNI saturates sums of int8 products: try weight_bits=7. If it has VNNI (or is "
            "an Arm), the file was written wrongly: please report it with the network."
        )
    if half:
        return "float16 ends at 65504 and has 11 bits: export float32, or int8. If that is off too, please report it."
    return "the file was written wrongly: please report it with the network."


def _check(ours: Tensor, theirs: Tensor) -> None:
    if ours.shape != theirs.shape:
        raise ParityError(
            f"the file's outputs have the shape {tuple(theirs.shape)}, the network's {tuple(ours.shape)}.",
            mend=_mend(quantized=False, half=False),
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
