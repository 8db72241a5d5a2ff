"""Offers: the settings of each technique that are worth trying on a network, and recipes that somebody wrote."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from haversack.device import Device
from haversack.errors import RecipeError, UntrustedError
from haversack.model import Model
from haversack.progress import say, track
from haversack.recipe import Recipe, Stage, Step, recipe_from_toml, technique
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

    def steps(self, model: Model, device: Device) -> list[list[Step]]:
        """The settings of each technique that are worth trying on `model`, each once."""
        offered = []
        for step in track(self._chosen(), "looking for settings"):
            say(f"looking for settings of {technique(step)}")
            offered.append(list(dict.fromkeys(self._adjusted(each) for each in step.options(model, device))))
        return offered

    def to_integers(self, model: Model, device: Device) -> tuple[Step, ...]:
        """The mildest step to 8-bit integers, if one is tried: a student may be as large as leaves room after it."""
        able = [each for each in self._chosen() if technique(each) in _TO_INTEGERS]
        return tuple([step for each in able for step in each.options(model, device)][:1])

    def _chosen(self) -> list[type[Step]]:
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
        wanted = {"seed": self.seed, "epochs": self.epochs}
        changes = {name: value for name, value in wanted.items() if value is not None and hasattr(step, name)}
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
