"""Write back: weights that were chosen on the folded graph go back into the network that they came from.

Rounding, equalization and quantization-aware training choose the weights and biases that the device computes with,
after batch norm was merged into them. Written back, the network stays the user's own class: it saves, reloads and
exports as before, folding it again gives the chosen numbers, and it trains on: batch norms go on normalizing, by
statistics of what their layers compute now, and kernels keep about the size that they had in front of them, on which
the effective learning rate depends.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from haversack.errors import RecipeError
from haversack.graph.distributions import Distribution, Noted, expected
from haversack.graph.fold import along_outputs
from haversack.graph.folded import Folded, Norm
from haversack.graph.merge import apart
from haversack.graph.run import Batches, named_tensors
from haversack.grid import blocks
from haversack.model import Model

# A channel that batch norm nearly switches off would have to be blown up.
_LEAST_EXPONENT = -7
# In epsilons: so much variance that it stays above zero where the scale is rounded down.
_LEAST_VARIANCE = 1e-6


def _check_writable(folded: Folded, names: Iterable[str]) -> None:
    """Raises RecipeError for a name that is not in `folded.writable`."""
    refused = set(names) - folded.writable
    if refused:
        raise RecipeError(
            f"{', '.join(sorted(refused))} cannot be changed: the network computes or shares it.",
            mend="leave that layer as it is.",
        )


@torch.no_grad()
def written_back(
    model: Model,
    folded: Folded,
    tensors: Mapping[str, Tensor],
    inputs: Batches | Noted | None = None,
    *,
    exact: bool = True,
) -> Model:
    """The model whose folded graph, now `folded`, has `tensors`, named as there, for its weights and biases.

    A batch norm whose layer is written keeps its slope, and gets the statistics that its inputs have: those of
    training, as far as `inputs` do not say that they moved. With `exact`, slopes become powers of two, so that folding
    gives the very weights again; without, up to float rounding, as it always gives biases. Zeros stay zeros. Branches
    that were merged into a layer that is written become zero. `folded` is of no use afterwards: weights that folding
    made are used up for the new model. Raises RecipeError for a name that is not in `folded.writable`.
    """
    _check_writable(folded, tensors)
    own, wanted, made = folded.own, dict(apart(folded, tensors)), dict[str, Tensor]()
    norms = {
        name: norm for name, norm in folded.norms.items() if not wanted.keys().isdisjoint((name, norm.folded_bias))
    }
    outputs = expected(folded, tensors, norms, inputs)
    for weight, norm in norms.items():
        chosen, bias = (wanted[name] if name in wanted else folded.tensor(name) for name in (weight, norm.folded_bias))
        layer = _Layer(norm, chosen, bias, _slope(norm, own, exact=exact))
        rows = along_outputs(folded.layer_of(weight), chosen, layer.slope)
        divided = _divided(chosen, rows, in_place=weight not in wanted)
        made |= layer.renormed(outputs[weight], own) | {weight: divided}
    fresh = {id(own[name]): _like(own[name], made[name]) for name in made.keys() & own.keys()}
    module = copy.deepcopy(model.module, fresh)
    new = named_tensors(module)
    for name in wanted.keys() & new.keys() - made.keys():
        new[name].copy_(wanted[name])
    return replace(model, module=module)


def _divided(weight: Tensor, rows: Tensor, *, in_place: bool) -> Tensor:
    """The quotient in the weight's own type, computed in float64."""
    divided = weight if in_place else torch.empty_like(weight)
    for some in blocks(weight):
        divided[some] = weight[some].double() / rows[some]
    return divided


def _like(own: Tensor, tensor: Tensor) -> Tensor:
    """The tensor in the type of the network's own, and a parameter where that is one."""
    tensor = tensor.to(own.dtype)
    return nn.Parameter(tensor, own.requires_grad) if isinstance(own, nn.Parameter) else tensor


def _slope(norm: Norm, own: Mapping[str, Tensor], *, exact: bool) -> Tensor:
    """What the batch norm multiplies each channel by, or the power of two next to it."""
    variance = own[norm.variance].double()
    scale = own[norm.weight].double() if norm.weight else torch.ones_like(variance)
    slope = scale * torch.rsqrt(variance + norm.epsilon)
    exponent = slope.abs().log2().nan_to_num(nan=0.0).clamp_min(_LEAST_EXPONENT)
    if exact:
        # Without a scale of its own, a norm multiplies by one over a deviation, which may be larger but not smaller.
        exponent = (exponent + 0.5 if norm.weight else exponent).floor()
    return torch.where(slope < 0, -1.0, 1.0) * exponent.exp2()


@dataclass(frozen=True)
class _Layer:
    """The weight and the bias chosen for a layer that took a batch norm in, and the slope that this will have."""

    norm: Norm
    weight: Tensor
    bias: Tensor
    slope: Tensor

    def renormed(self, outputs: Distribution, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The batch norm's tensors, and the bias before it where there is one, with which the layer gives `outputs`."""
        norm, slope, bias = self.norm, self.slope, self.bias.double()
        before = bias / slope if norm.folded_bias in own else torch.zeros_like(bias)
        variance = (outputs.variance / slope.square()).clamp_min(_LEAST_VARIANCE * norm.epsilon)
        wanted: dict[str, Tensor] = {}
        if norm.weight:
            scale = (slope * (variance + norm.epsilon).sqrt()).to(own[norm.weight].dtype)
            wanted[norm.weight] = scale
            # The scale is rounded, so the variance makes up for it: their quotient is the slope.
            variance = (scale.double() / slope).square() - norm.epsilon
        else:
            variance = slope.square().reciprocal() - norm.epsilon
        mean = before + ((outputs.mean if norm.bias else 0.0) - bias) / slope
        if norm.bias:
            mean = mean.to(own[norm.mean].dtype).double()
            wanted[norm.bias] = bias + slope * (mean - before)
        if norm.folded_bias in own:
            wanted[norm.folded_bias] = before
        return wanted | {norm.mean: mean, norm.variance: variance.clamp_min(0)}


BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def written_back_to_train(model: Model, folded: Folded, tensors: Mapping[str, Tensor], batches: Batches) -> Model:
    """The model whose folded graph has `tensors` for its weights and biases (see `written_back`), fit to be trained.

    Each kernel goes back to the size that it had before its batch norm was folded into it, on which the effective
    learning rate depends (a ResNet's folded kernels are a third as large, and would learn nine times as fast), and all
    norms measure their statistics on `batches`.
    """
    written = written_back(model, folded, tensors, exact=False)
    return replace(written, module=with_measured_norms(written.module, batches))


def with_measured_norms(module: nn.Module, batches: Batches) -> nn.Module:
    """A copy of `module` whose batch norms hold the means and variances that they see on `batches`.

    Their scales and shifts take the difference up, so that in evaluation mode nothing changes; but in training, where
    each batch brings its own statistics, the network is now the same one too. Norms without scale and shift, and those
    that see nothing, stay as they are.
    """
    module = copy.deepcopy(module).eval()
    seen: dict[BatchNorm, _Sums] = {}
    hooks = [
        each.register_forward_pre_hook(lambda norm, values: seen.setdefault(norm, _Sums()).add(values[0]))
        for each in module.modules()
        if isinstance(each, BatchNorm) and each.affine and each.running_mean is not None
    ]
    with torch.no_grad():
        for batch in batches:
            module(*batch)
        for hook in hooks:
            hook.remove()
        for norm, sums in seen.items():
            _take_over(norm, sums)
    return module


class _Sums:
    """The number of values a channel, their sums and the sums of their squares."""

    def __init__(self) -> None:
        self.count, self.sums, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, values: Tensor) -> None:
        """Counts a batch in."""
        rows = values.double().transpose(0, 1).flatten(1)
        self.count += rows.shape[1]
        self.sums, self.squares = self.sums + rows.sum(1), self.squares + rows.square().sum(1)


def _take_over(norm: BatchNorm, sums: _Sums) -> None:
    if norm.running_mean is None or norm.running_var is None:
        return
    seen_mean = sums.sums / sums.count
    seen_variance = (sums.squares / sums.count - seen_mean.square()).clamp_min(0)
    slope = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    norm.bias.add_((slope * (seen_mean - norm.running_mean)).to(norm.bias.dtype))
    norm.weight.copy_(slope * (seen_variance + norm.eps).sqrt())
    norm.running_mean.copy_(seen_mean)
    norm.running_var.copy_(seen_variance)
