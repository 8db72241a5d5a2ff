"""Stage, Step, Recipe: what to do to a network, as data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

from haversack.errors import RecipeError, UntrustedError
from haversack.untrusted import parse_toml

if TYPE_CHECKING:
    from torch import Tensor

    from haversack.choices import Site
    from haversack.device import Device
    from haversack.model import Model
    from haversack.task import Kinds, Task


class Stage(IntEnum):
    """The order in which steps make sense: structure before numbers."""

    DESIGN = 1
    STRUCTURE = 2
    SPARSITY = 3
    RECOVER = 4
    NUMERICS = 5


@runtime_checkable
class Step(Protocol):
    """A technique with its settings: a frozen dataclass in a file of its own, named like the file.

    It inherits from this class, and with it answers to what a planner asks beside.
    """

    stage: ClassVar[Stage]
    strength: ClassVar[str]
    """The setting that says how hard it presses: of two options that differ in nothing else the later one does harder.
    """

    @property
    def epochs(self) -> int:
        """How long it trains: a setting of those that do."""
        return 0

    @property
    def trains(self) -> bool:
        """Whether it needs the task's training data."""
        return self.epochs > 0

    def apply(self, model: Model, task: Task) -> Model:
        """A new model; the one given is untouched."""
        ...

    @classmethod
    def options(cls, model: Model, device: Device) -> Iterable[Self]:
        """Settings worth trying on this device, mildest first; worked out one by one, and nothing is measured."""
        ...

    @classmethod
    def choices(cls, model: Model, device: Device) -> Choices | None:
        """Where it can act on the network, and how, for a planner; None where a planner has nothing to choose."""
        del model, device
        return None

    def untrained(self) -> Self:
        """The same step without its training."""
        return replace(self, epochs=0) if self.epochs else self  # type: ignore[type-var]

    def skeleton(self) -> Self:
        """The same structure with as little work on its weights as size and speed need; training aside."""
        return self


class Choices(Protocol):
    """Where one technique can act on one network."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """In the order in which they run; none where the technique finds nothing to do."""
        ...

    def losses(self, batches: Sequence[tuple[Tensor, ...]], kind: Kinds = "classification") -> list[tuple[float, ...]]:
        """For each site, what each option alone loses in a task of that kind, repaired as it would be; first 0.

        The currency is the mean divergence of the outputs from the original's over the calibration inputs, in nats
        (Kullback 1951; where outputs are no classes, half their squared error relative to the outputs' own variance).
        """
        ...

    def step(self, chosen: Sequence[int]) -> Step | None:
        """The step, its choices spelled out, that does what the options `chosen` of the sites say; None if nothing.

        It does not train.
        """
        ...


Catalogue = Mapping[str, type[Step]]


def technique(step: Step | type[Step]) -> str:
    """The one name of a step's technique: that of its file."""
    kind = step if isinstance(step, type) else type(step)
    return kind.__module__.rpartition(".")[2]


_MOST_SHOWN = 3
"""So many entries of a setting are shown: one a layer would fill a page."""


def describe(step: Step) -> str:
    """A step on one line: its technique, its first setting and those that differ from the defaults.

    Of a setting of many entries the first is shown, and how many there are.
    """
    first, *rest = fields(step)  # type: ignore[arg-type]
    shown = [each.name for each in rest if getattr(step, each.name) != each.default]
    return f"{technique(step)}({', '.join(f'{name}={_shown(getattr(step, name))}' for name in (first.name, *shown))})"


def _shown(value: object) -> str:
    if isinstance(value, tuple) and len(value) > _MOST_SHOWN:
        return f"({value[0]!r}, ... {len(value)} in all)"
    return str(value)


@dataclass(frozen=True)
class Recipe:
    """Steps in an order that makes sense; compares, prints, hashes and round-trips through TOML."""

    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        for earlier, later in zip(self.steps, self.steps[1:], strict=False):
            if later.stage < earlier.stage:
                raise RecipeError(
                    f"{technique(later)} ({later.stage.name}) comes after {technique(earlier)} ({earlier.stage.name}).",
                    mend="order the steps DESIGN, STRUCTURE, SPARSITY, RECOVER, NUMERICS.",
                )

    def then(self, step: Step) -> Recipe:
        """This recipe with one more step, put in its stage's place.

        A step that chooses numbers takes the place of the one that chose them before: weights are rounded once.
        """
        kept = [each for each in self.steps if step.stage < Stage.NUMERICS or each.stage < Stage.NUMERICS]
        return Recipe(tuple(sorted((*kept, step), key=lambda each: each.stage)))

    def apply(self, model: Model, task: Task) -> Model:
        """The model after all steps."""
        for step in self.steps:
            model = step.apply(model, task)
        return model

    def skeleton(self) -> Recipe:
        """The same structure with no work spent on its weights: all that size and speed need."""
        return Recipe(tuple(step.untrained().skeleton() for step in self.steps))

    @property
    def digest(self) -> str:
        """A short hash: equal for equal recipes, in every process."""
        text = json.dumps([[technique(step), asdict(step)] for step in self.steps], sort_keys=True)  # type: ignore[call-overload]
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_toml(self) -> str:
        """The recipe as a TOML document that `recipe_from_toml` reads back."""
        lines = []
        for step in self.steps:
            lines += ["[[step]]", f'technique = "{technique(step)}"']
            lines += [f"{key} = {_toml(value)}" for key, value in asdict(step).items() if value is not None]  # type: ignore[call-overload]
            lines.append("")
        return "\n".join(lines)

    def __str__(self) -> str:
        return " -> ".join(describe(step) for step in self.steps) or "the network as it is"


def recipe_from_toml(text: str, catalogue: Catalogue) -> Recipe:
    """The recipe that `text` describes, its steps looked up in `catalogue`."""
    try:
        tables: list[dict[str, Any]] = parse_toml(text, "recipe").get("step", [])
    except UntrustedError as error:
        raise RecipeError(error.what, where="recipe", mend=_MEND) from error
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise RecipeError("it holds no steps.", where="recipe", mend=_MEND)
    return Recipe(tuple(_step(table, catalogue) for table in tables))


_MEND = 'write a [[step]] with technique = "..." for each step, as `haversack pack` does.'


def _toml(value: object) -> str:
    """JSON is TOML but for two escapes: TOML knows no surrogate pairs, and wants the delete character escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _step(table: dict[str, Any], catalogue: Catalogue) -> Step:
    name = table.get("technique")
    if not isinstance(name, str) or name not in catalogue:
        raise RecipeError(f"unknown technique {name!r}.", mend=f"choose from: {', '.join(sorted(catalogue))}.")
    kind = catalogue[name]
    known = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    unknown = table.keys() - known - {"technique"}
    if unknown:
        raise RecipeError(
            f"{name} has no setting {', '.join(sorted(unknown))}.", mend=f"it knows: {', '.join(sorted(known))}."
        )
    try:
        return kind(**{key: value for key, value in table.items() if key != "technique"})
    except RecipeError as error:
        raise RecipeError(error.what, mend=error.mend, where=name) from error
