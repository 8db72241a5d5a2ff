"""Random networks that a check of their files can fail on: what they give depends on all of them, and on their inputs.

Two files of a network as it is initialized are alike too easily. Constant parameters (scales of one, biases of zero)
hide that they are read wrongly, layers that begin next to zero add nothing, noise looks alike from image to image once
it is averaged, and a head gives all inputs one class. On the other side, random layers with batch norm are chaotic
(Yang et al. 2019): they raise rounding to the size of the signal, which no trained network does.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

INPUTS = 8
_CLASSES = 10
_TINY = 0.1
_LEAST_GAIN = 0.7
_NOISE = 0.1
_DAMPING = 0.01
_TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
_COARSE = 4


def inputs_of(shape: tuple[int, ...], words: int) -> Tensor:
    """A batch of inputs that differ: tokens below `words`, or without words images of other colours and forms."""
    if words:
        # The first few stand for padding and the like.
        return torch.randint(5, words, (INPUTS, *shape))
    if len(shape) < 3:
        return torch.randn(INPUTS, *shape)
    colours, forms = torch.randn(INPUTS, shape[0], 1, 1), torch.randn(INPUTS, shape[0], _COARSE, _COARSE)
    return colours + interpolate(forms, size=shape[1:], mode="bicubic") + 0.3 * torch.randn(INPUTS, *shape)


def make_general(network: nn.Module, inputs: Tensor) -> None:
    """Makes random weights show what trained ones would, and hide what they would hide.

    Constant parameters get noise. Tokens, positions and tables of biases, which begin next to zero, become as large as
    what they are added to, and so do weights: layers keep the variance of what they read (LeCun et al. 1998). Batch
    norms know the mean and variance of what they read and add one, so that activations cut off little: that keeps
    small differences small. A head of classes has learned to tell the inputs apart.
    """
    norms = [each for each in network.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]  # noqa: SLF001
    with torch.no_grad():
        for module in network.modules():
            layer = type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.ParameterList)
            for parameter in module.parameters(recurse=False):
                _make_general(parameter, free=not layer)
            _keep_variance(module)
        for norm in norms:
            if norm.bias is not None:
                norm.bias.add_(1)
        hooks = [norm.register_forward_pre_hook(_measure) for norm in norms]
        read: dict[nn.Module, Tensor] = {}
        heads = [each for each in network.modules() if _is_head(each)]
        hooks += [head.register_forward_pre_hook(lambda head, given: read.update({head: given[0]})) for head in heads]
        network(inputs)
        for hook in hooks:
            hook.remove()
        for head, features in read.items():
            _learn(head, features.flatten(1))


def _make_general(parameter: Tensor, *, free: bool) -> None:
    if not parameter.is_floating_point() or parameter.numel() < 2:
        return
    constant = bool((parameter == parameter.flatten()[0]).all())
    if free and parameter.dim() > 1 and parameter.std() < _TINY and not (constant and parameter.any()):
        parameter.copy_(torch.randn_like(parameter))
    elif constant:
        parameter.add_(_NOISE * torch.randn_like(parameter))


def _keep_variance(module: nn.Module) -> None:
    """Scales up the weight of a layer that would give less than it reads."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter) or weight.dim() < 2 or isinstance(module, nn.Embedding):
        return
    gain = float(weight.std()) * math.sqrt(len(weight) if isinstance(module, _TRANSPOSED) else weight[0].numel())
    if 0 < gain < _LEAST_GAIN:
        weight.div_(gain)


def _measure(norm: nn.Module, read: tuple[Tensor, ...]) -> None:
    """Lets a norm know the mean and the variance of what it reads; channels that hardly vary are not blown up."""
    values = read[0].movedim(1, -1).flatten(0, -2)
    norm.running_mean.copy_(values.mean(0))
    norm.running_var.copy_(values.var(0) + 1e-3 * values.square().mean(0))


def _is_head(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None and len(module.bias) == _CLASSES


def _learn(head: nn.Module, features: Tensor) -> None:
    """Teaches a head of classes to give each input its own, by ridge regression; one that reads no vectors stays."""
    weight, bias = head.weight, head.bias
    if features.shape != (INPUTS, weight[0].numel()):
        return
    wanted, mean = torch.eye(INPUTS, _CLASSES), features.mean(0)
    apart = features - mean
    products = apart @ apart.T
    damped = products + _DAMPING * products.trace() / INPUTS * torch.eye(INPUTS)
    learned = (wanted - wanted.mean(0)).T @ torch.linalg.solve(damped, apart)
    weight.copy_(learned.view_as(weight))
    bias.copy_(wanted.mean(0) - learned @ mean)
