"""How far a student's outputs are from its teacher's."""

from __future__ import annotations

from collections.abc import Sized
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.errors import TrainingError
from haversack.task import Kind

Outputs = Literal["dist", "dkd", "kd"]
"""DIST (Huang et al. 2022), decoupled distillation (Zhao et al. 2022) or softened probabilities (Hinton et al. 2015).

Values that are no class scores are compared by their squared difference, whatever is written.
"""
_NON_TARGET = 2.0
"""Weight of the wrong classes' share in DKD. The authors' is 2 for ResNet-56 and ResNet-20, and up to 8 for others.

A pruned ResNet-20 recovered 0.6 points more with 2 than by plain softening.
"""
_LEAST_SPREAD = 1e-6
"""A vector whose spread is this small beside its largest entry is constant: the rest is rounding."""


def distance(  # noqa: PLR0913 - what a distance is made of
    outputs: Tensor, taught: Tensor, target: Tensor | None, kind: Kind, way: Outputs, heat: float
) -> Tensor:
    """The loss that outputs have for a teacher whose outputs `taught` have the same shape; a scalar from 0 up.

    Classes come last, or second as in torch's cross-entropy: in maps (samples, classes, height, width), and where the
    target says so. Every other dimension counts samples. A single score stands for two classes, of which the other
    one's score is 0. `target` are class numbers where there are any: DKD tells the right class from the others by them,
    and by the teacher's opinion without them; what is labelled as no class (-100) does not count there.
    """
    if kind != "classification":
        return F.mse_loss(outputs, taught)
    ours, theirs = (_by_class(each, target) for each in (outputs, taught))
    if way == "kd":
        return _softened(ours, theirs, heat)
    if way == "dkd":
        hard = target is not None and not target.is_floating_point() and target.numel() == len(ours)
        return _decoupled(ours, theirs, target.flatten() if hard and target is not None else theirs.argmax(-1), heat)
    return _related(ours, theirs, heat)


@torch.no_grad()
def check_outputs(student: nn.Module, teacher: nn.Module | None, example: tuple[Tensor, ...]) -> None:
    """Raises TrainingError where the student gives no tensor, or its teacher, if any, gives another shape."""
    two = tuple(torch.cat([each, each]) for each in example)  # some networks take a batch of one for no batch at all
    ours = student(*two)
    theirs = ours if teacher is None else teacher(*two)
    if not isinstance(ours, Tensor):
        raise TrainingError(
            f"the network gives {_form(ours)}.",
            mend="wrap it in a module whose forward() returns the one tensor that is scored.",
        )
    if _form(ours) != _form(theirs):
        raise TrainingError(
            f"for two samples the student gives {_form(ours)}, its teacher {_form(theirs)}.",
            mend="let both end alike, or set distillation to 0: then labels teach alone.",
        )


def _form(outputs: object) -> str:
    """The shape of outputs, or how many there are."""
    if isinstance(outputs, Tensor):
        return str(tuple(outputs.shape))
    return f"{len(outputs)} outputs" if isinstance(outputs, Sized) else f"no tensor but {type(outputs).__name__}"


def _by_class(scores: Tensor, target: Tensor | None) -> Tensor:
    """The scores as (samples, classes)."""
    if scores.dim() == 1:
        scores = scores.unsqueeze(-1)
    last, second = scores.shape[:-1], scores.shape[:1] + scores.shape[2:]
    are_second = scores.dim() > 3 if target is None else target.shape == second and target.shape != last
    scores = (scores.movedim(1, -1) if are_second else scores).flatten(0, -2)
    return F.pad(scores, (1, 0)) if scores.shape[-1] == 1 else scores


def _softened(outputs: Tensor, taught: Tensor, heat: float) -> Tensor:
    return _divergence(F.log_softmax(outputs / heat, dim=-1), F.log_softmax(taught / heat, dim=-1)) * heat**2


def _decoupled(outputs: Tensor, taught: Tensor, right: Tensor, heat: float) -> Tensor:
    """The right class against all others, and the others among themselves, each softened and weighted by itself."""
    labelled = (right >= 0) & (right < outputs.shape[-1])
    ours, theirs = outputs[labelled] / heat, taught[labelled] / heat
    is_right = F.one_hot(right[labelled].long(), outputs.shape[-1]).bool()
    target_class = _divergence(_right_or_wrong(ours, is_right), _right_or_wrong(theirs, is_right))
    wrong, wanted = (F.log_softmax(x[~is_right].view(-1, x.shape[-1] - 1), dim=-1) for x in (ours, theirs))
    return (target_class + _NON_TARGET * _divergence(wrong, wanted)) * heat**2


def _right_or_wrong(scores: Tensor, is_right: Tensor) -> Tensor:
    """Log probabilities (samples, 2) of the right class and of all others together."""
    logs = F.log_softmax(scores, dim=-1)
    wrong = logs.masked_fill(is_right, -torch.inf).logsumexp(-1)
    return torch.stack([logs[is_right], wrong], dim=-1)


def _divergence(logs: Tensor, wanted: Tensor) -> Tensor:
    """The mean over samples of the Kullback-Leibler divergence of log probabilities; 0 where there are no samples."""
    return F.kl_div(logs, wanted, reduction="sum", log_target=True) / max(1, len(logs))


def _related(outputs: Tensor, taught: Tensor, heat: float) -> Tensor:
    """One minus the correlation with the teacher: of each sample's classes, and of each class over the samples."""
    ours, theirs = F.log_softmax(outputs / heat, dim=-1), F.log_softmax(taught / heat, dim=-1)
    return (_uncorrelated(ours, theirs) + _uncorrelated(ours.mT, theirs.mT)) * heat**2


def _uncorrelated(logs: Tensor, wanted: Tensor) -> Tensor:
    """One minus the mean correlation of rows of probabilities, whose logarithms are given.

    Rows that the teacher gives all alike, as in a batch of one, say nothing and are left out; 0 where all are.
    """
    (ours, _), (theirs, varies) = _standardised(logs), _standardised(wanted)
    return ((1 - (ours * theirs).sum(-1)) * varies).sum() / varies.sum().clamp(min=1)


def _standardised(logs: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of mean 0 and length 1, and which of them vary at all; how large the probabilities are plays no part."""
    relative = (logs - logs.detach().amax(-1, keepdim=True)).exp()
    centred = relative - relative.mean(-1, keepdim=True)
    least = _LEAST_SPREAD * logs.shape[-1] ** 0.5
    length = centred.norm(dim=-1, keepdim=True)
    return centred / length.clamp(min=least), (length > least).squeeze(-1)
