"""A target for steps that choose by measuring: what they consider is written to files and run on this host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from haversack.device import Device, find_device
from haversack.export import find_runtime
from haversack.graph.lower import lower
from haversack.graph.named_tensors import named_tensors
from haversack.measure import host
from haversack.model import Model, Target
from haversack.progress import noted
from haversack.workspace import Workspace


@dataclass(frozen=True)
class Files:
    """Models as files of the device's runtime, timed on this host in alternation."""

    device: Device
    threads: int = 1
    seconds: float = 0.5
    """How long each model is timed."""
    memory: Workspace | None = field(default=None, repr=False, compare=False)
    """Where times are kept: models of the same structure are not timed again, in other runs neither."""

    def latencies_ms(self, models: Sequence[Model]) -> list[float]:
        """The median latency of each model's file, one sample; ratios between them are those of the rounds."""
        if self.memory is None:
            return self._timed(models)
        words = (self, host.machine(), host.versions(), [_structure(model) for model in models])
        kept = self.memory.note(_Timed, *words)
        if kept is None:
            kept = _Timed(tuple(self._timed(models)))
            self.memory.keep_note(kept, *words)
        return list(kept.latencies_ms)

    def _timed(self, models: Sequence[Model]) -> list[float]:
        files = [self._written(model) for model in models]
        timed = host.time_files(files, threads=self.threads, seconds=self.seconds * len(files))
        return [timed[0].latency_ms.value * each.ratio.value for each in timed]

    def flash_bytes(self, model: Model) -> int:
        """The size of the model's file."""
        return len(self._written(model))

    def _written(self, model: Model) -> bytes:
        with noted():  # of a model that is only considered
            return next(iter(find_runtime(self.device).write(lower(model)).values()))


def files_on(device: Device | str, threads: int = 1) -> Target:
    """Where steps try what they consider: `Model(..., target=files_on("host"))`."""
    return Files(find_device(device) if isinstance(device, str) else device, threads)


@dataclass(frozen=True)
class _Timed:
    """Latencies as they are kept."""

    latencies_ms: tuple[float, ...]


def _structure(model: Model) -> tuple[object, ...]:
    """What a model's time depends on: all but the values of its weights."""
    tensors = [(name, str(value.dtype), tuple(value.shape)) for name, value in named_tensors(model.module).items()]
    inputs = [(str(value.dtype), tuple(value.shape)) for value in model.example]
    grids = [(name, grid.bits, grid.signed, grid.axis, len(grid.scale)) for name, grid in model.grids.items()]
    return str(model.module), tensors, inputs, grids
