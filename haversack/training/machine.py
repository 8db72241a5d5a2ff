"""Machine: a training's processes, their number formats and generators. The only file that needs accelerate."""

from __future__ import annotations

import math
import os
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast, reduce
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from haversack.batches import Batch
from haversack.graph.run import Tensors


@dataclass(frozen=True)
class Processes:
    """The process that this is, of how many, and the device that it computes on.

    All processes draw the same batches, each computes the loss of its rows of them, and the gradients are summed, so
    that all take the same steps and end with the same weights. A sum over samples is therefore the same as in one
    process, within rounding. What relates the samples of a batch to each other sees those of its own process only:
    batch norm's statistics while training, and the relations among samples that a teacher is imitated in.
    """

    index: int
    count: int
    device: torch.device

    def part(self, batch: Batch) -> Batch:
        """The rows of a batch that this process learns from, on its device; there may be none."""
        if isinstance(batch, Tensor):
            return self._rows(batch)
        moved = [tuple(map(self._rows, each)) if isinstance(each, tuple | list) else self._rows(each) for each in batch]
        return tuple(moved)  # type: ignore[return-value]

    def sum_gradients(self, parameters: Sequence[nn.Parameter], loss: float) -> float:
        """Sums the gradients over all processes, in place; returns the sum of the losses.

        A parameter that only others have a gradient for gets theirs; one that nobody has any for stays without.
        """
        if self.count == 1:
            return loss
        trained = [each for each in parameters if each.requires_grad]
        ours = [torch.zeros_like(each) if each.grad is None else each.grad for each in trained]
        known = torch.tensor([loss, *(float(each.grad is not None) for each in trained)], device=self.device)
        total = reduce(torch.cat([known, *(each.flatten() for each in ours)]), reduction="sum")
        sums = total[len(known) :].split([each.numel() for each in trained])
        for parameter, is_known, values in zip(trained, total[1 : len(known)].tolist(), sums, strict=True):
            parameter.grad = torch.empty_like(parameter).copy_(values.view(parameter.shape)) if is_known else None
        return float(total[0])

    def mean(self, value: float) -> float:
        """The mean of each process's value, so that all go by the same."""
        if self.count == 1:
            return value
        return float(reduce(torch.tensor(value, dtype=torch.float64, device=self.device), reduction="mean"))

    @torch.no_grad()
    def merge(self, tensors: Mapping[str, Tensor]) -> None:
        """Makes the statistics of all processes one, in place: fractions are averaged, of whole numbers the largest."""
        for tensor in tensors.values() if self.count > 1 else ():
            fractions = tensor.is_floating_point()
            ours = tensor if fractions else tensor.long()
            tensor.copy_(reduce(ours, reduction="mean" if fractions else "max"))

    @torch.no_grad()
    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Gives all processes the tensors of the first."""
        for tensor in tensors if self.count > 1 else ():
            tensor.copy_(broadcast(tensor.contiguous()))

    def _rows(self, tensor: Tensor) -> Tensor:
        return (tensor if self.count == 1 else tensor[self.index :: self.count]).to(self.device)


def these_processes() -> Processes:
    """The processes that `torchrun` or `accelerate launch` started, or this one; on the accelerator where there is one.

    `ACCELERATE_USE_CPU=1` leaves an accelerator alone.
    """
    on_cpu = not torch.accelerator.is_available() or os.environ.get("ACCELERATE_USE_CPU", "0").lower() in ("1", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells how many threads it chose
        state = PartialState(cpu=on_cpu)
    return Processes(state.process_index, state.num_processes, state.device)


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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within this block all generators start from `seed`; after it they go on as if nothing had been drawn."""
    with unheard():
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - users' data draw from NumPy's global generator
        random.seed(seed)
        yield


@contextmanager
def unheard() -> Iterator[None]:
    """What is drawn within this block leaves all generators as they were."""
    before = generators()
    try:
        yield
    finally:
        set_generators(before)


def generators() -> dict[str, Tensor]:
    """The states of all generators, as tensors."""
    drawn = np.random.get_state(legacy=False)  # noqa: NPY002
    version, words, next_gauss = random.getstate()
    next_gauss = math.nan if next_gauss is None else next_gauss
    numbers = [drawn["state"]["pos"], drawn["has_gauss"], drawn["gauss"], version, next_gauss]
    states = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(drawn["state"]["key"].astype(np.int64)),
        "python": torch.tensor(words),
        "numbers": torch.tensor(numbers, dtype=torch.float64),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_generators(states: Tensors) -> None:
    """Puts all generators into `states`."""
    position, has_gauss, gauss, version, next_gauss = states["numbers"].tolist()
    torch.set_rng_state(states["torch"].contiguous())
    keys = states["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), gauss))  # noqa: NPY002
    words = tuple(states["python"].tolist())
    random.setstate((int(version), words, None if math.isnan(next_gauss) else next_gauss))
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
