"""How far a student's outputs are from its teacher's."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from haversack.task import Kind

Outputs = Literal["dist", "dkd", "kd"]
"""DIST (Huang et al. 2022), decoupled distillation (Zhao et al. 2022) or softened probabilities (Hinton et al. 2015).

Values that are no class scores are compared by their squared difference, whatever is written.
"""
_NON_TARGET = 8.0
"""Weight of the wrong classes' share in DKD: 8 is the authors' for networks of one family on CIFAR."""


def distance(  # noqa: PLR0913 - what a distance is made of
    outputs: Tensor, taught: Tensor, target: Tensor | None, kind: Kind, way: Outputs, heat: float
) -> Tensor:
    """The loss that outputs (samples, classes) have for a teacher whose outputs are `taught`; a scalar.

    `target` are class numbers where there are any: DKD tells the right class from the others by them, and by the
    teacher's opinion without them.
    """
    if kind != "classification":
        return F.mse_loss(outputs, taught)
    if way == "kd":
        return _softened(outputs, taught, heat)
    if way == "dkd":
        hard = target is not None and target.dim() == 1 and not target.is_floating_point()
        right = target if hard and target is not None else taught.argmax(-1)
        return _decoupled(outputs, taught, right, heat)
    return _related(outputs, taught, heat)


def _softened(outputs: Tensor, taught: Tensor, heat: float) -> Tensor:
    soft, wanted = F.log_softmax(outputs / heat, dim=-1), F.log_softmax(taught / heat, dim=-1)
    return F.kl_div(soft, wanted, reduction="batchmean", log_target=True) * heat**2


def _decoupled(outputs: Tensor, taught: Tensor, right: Tensor, heat: float) -> Tensor:
    """The right class against all others, and the others among themselves, each softened and weighted by itself."""
    is_right = F.one_hot(right, outputs.shape[-1]).bool()
    ours, theirs = _right_or_wrong(outputs / heat, is_right), _right_or_wrong(taught / heat, is_right)
    target_class = F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    wrong, wanted = (F.log_softmax((x / heat)[~is_right].view(len(right), -1), dim=-1) for x in (outputs, taught))
    other_classes = F.kl_div(wrong, wanted, reduction="batchmean", log_target=True)
    return (target_class + _NON_TARGET * other_classes) * heat**2


def _right_or_wrong(scores: Tensor, is_right: Tensor) -> Tensor:
    """Log probabilities (samples, 2) of the right class and of all others together."""
    logs = F.log_softmax(scores, dim=-1)
    wrong = logs.masked_fill(is_right, -torch.inf).logsumexp(-1)
    return torch.stack([logs[is_right], wrong], dim=-1)


def _related(outputs: Tensor, taught: Tensor, heat: float) -> Tensor:
    """One minus the correlation with the teacher: of each sample's classes, and of each class over the samples."""
    ours, theirs = F.softmax(outputs / heat, dim=-1), F.softmax(taught / heat, dim=-1)
    return (_uncorrelated(ours, theirs) + _uncorrelated(ours.mT, theirs.mT)) * heat**2


def _uncorrelated(ours: Tensor, theirs: Tensor) -> Tensor:
    centred, wanted = (each - each.mean(-1, keepdim=True) for each in (ours, theirs))
    return 1 - F.cosine_similarity(centred, wanted, dim=-1, eps=1e-8).mean()
