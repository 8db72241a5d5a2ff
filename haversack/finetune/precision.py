"""Precision: which number format a training computes in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten

_CONVOLUTIONS = (torch.conv1d, torch.conv2d, aten.conv1d.default, aten.conv2d.default)
_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
"""Those of torch's convolutions, in their order."""


@contextmanager
def mixed_precision(device: str) -> Iterator[None]:
    """bfloat16 where the processor multiplies it (ResNet-20 trains twice as fast), float32 elsewhere."""
    able = torch.cpu._is_avx512_bf16_supported() if device == "cpu" else _is_able(device)  # noqa: SLF001
    exceptions = _Exceptions() if able and device == "cpu" else nullcontext()
    with torch.autocast(device, torch.bfloat16, enabled=able), exceptions:
        yield


def _is_able(device: str) -> bool:
    """Whether a graphics card multiplies bfloat16 itself."""
    return device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


class _Exceptions(TorchFunctionMode):
    """Within this, a CPU computes depthwise convolutions with a stride in float32.

    In bfloat16 their gradients take 2 to 60 times as long (torch 2.13): a third of the time of a small MobileNetV2.
    """

    def __torch_function__(
        self,
        function: Callable[..., object],
        types: object,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """What the torch function that is called gives for its arguments."""
        kwargs = kwargs or {}
        call = {**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs}
        if _is_strided_depthwise(function, call):
            with torch.autocast("cpu", enabled=False):
                return function(**{name: _in_float32(each) for name, each in call.items()})
        return function(*args, **kwargs)


def _is_strided_depthwise(function: object, call: Mapping[str, Any]) -> bool:
    if function not in _CONVOLUTIONS:
        return False
    stride = call.get("stride", 1)
    strides = [stride] if isinstance(stride, int) else stride
    return bool(call["input"].shape[1] > 1 == call["weight"].shape[1]) and max(strides) > 1


def _in_float32(argument: object) -> object:
    return argument.float() if isinstance(argument, Tensor) else argument
