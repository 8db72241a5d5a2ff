"""Candidates: the techniques that are tried, recipes that somebody wrote, and where steps time what they consider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from pathlib import Path

from haversack.device import Device, find_device
from haversack.errors import RecipeError, UntrustedError
from haversack.graph.inference import inference, lower
from haversack.graph.ops import points
from haversack.graph.run import named_tensors
from haversack.model import Model, Target
from haversack.packing.check import fed
from haversack.packing.workspace import Workspace
from haversack.progress import noted
from haversack.recipe import Recipe, Stage, Step, recipe_from_toml, technique
from haversack.runtimes import find_runtime, host
from haversack.techniques import catalogue
from haversack.techniques.adopt_student import AdoptStudent
from haversack.untrusted import read_text

_TO_INTEGERS = ("quantize_static", "quantize_training")


@dataclass(frozen=True)
class Offers:
    """The techniques that are tried, all but new designs when no names are given, with the run's seed and epochs."""

    names: tuple[str, ...] = ()
    seed: int = 0
    epochs: int | None = None
    """How long steps train, where they do; as they like when None."""

    def to_integers(self, model: Model, device: Device) -> tuple[Step, ...]:
        """The mildest step to 8-bit integers, if one is tried: a student may be as large as leaves room after it."""
        integral = points(inference(model).graph)
        able = [each for each in self.kinds() if integral and technique(each) in _TO_INTEGERS]
        return tuple(islice((self._adjusted(step) for each in able for step in each.options(model, device)), 1))

    def kinds(self) -> list[type[Step]]:
        """The techniques, a new design only by its name; a student comes before all of them."""
        known = catalogue()
        unknown = set(self.names) - known.keys()
        if unknown:
            raise RecipeError(
                f"unknown technique {', '.join(sorted(unknown))}.", mend=f"choose from {', '.join(known)}."
            )
        names = self.names or [name for name, step in known.items() if step.stage > Stage.DESIGN]
        return [step for name, step in known.items() if name in names and step is not AdoptStudent]

    def _adjusted(self, step: Step) -> Step:
        """The step with the run's seed and training length, where it has such settings."""
        return _with(step, seed=self.seed, epochs=self.epochs)

    def seeded(self, step: Step) -> Step:
        """The step with the run's seed, where it draws anything."""
        return _with(step, seed=self.seed)


def _with(step: Step, **wanted: int | None) -> Step:
    """The step with these settings, as far as it has them and they are known."""
    known = {each.name for each in fields(step)}  # type: ignore[arg-type]
    changes = {name: value for name, value in wanted.items() if value is not None and name in known}
    adjusted: Step = replace(step, **changes)  # type: ignore[type-var]
    return adjusted


def read_recipe(path: Path) -> Recipe:
    """The recipe in the TOML file at `path`."""
    try:
        text = read_text(path)
    except UntrustedError as error:
        mend = "give a recipe.toml, as `haversack pack` writes it."
        raise RecipeError(error.what, where=str(path), mend=mend) from error
    return recipe_from_toml(text, catalogue())


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
        seconds = self.seconds * len(files)
        timed = host.time_files(files, threads=self.threads, seconds=seconds, inputs=fed(models[0]))
        return [timed[0].latency_ms.value * each.ratio.value for each in timed]

    def flash_bytes(self, model: Model) -> int:
        """The size of the model's file."""
        return len(self._written(model))

    def _written(self, model: Model) -> bytes:
        with noted():  # of a model that is only considered
            return find_runtime(self.device).write(lower(model))


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
