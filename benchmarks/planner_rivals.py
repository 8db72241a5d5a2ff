"""Optuna's samplers as methods that ask for plans: a whole number for each site, from as it is to the strongest."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from planner_truth import Method

from haversack.errors import HaversackError

RIVALS = ("nsga2", "tpe", "random")
POPULATION = 20
"""Of NSGA-II: Optuna's 50 would leave it six generations."""
SEED = 0


def rival(name: str, options: Sequence[int]) -> Method:
    """A sampler of Optuna's, over plans with so many options a site; it begins with the plan that changes nothing."""
    optuna = _optuna()
    samplers = {
        "nsga2": lambda: optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=SEED),
        "tpe": lambda: optuna.samplers.TPESampler(seed=SEED),
        "random": lambda: optuna.samplers.RandomSampler(seed=SEED),
    }
    study = optuna.create_study(directions=["minimize"] * 3, sampler=samplers[name]())
    study.enqueue_trial({f"site {site}": 0 for site in range(len(options))})
    while True:
        trial = study.ask()
        tried = yield tuple(trial.suggest_int(f"site {site}", 0, count - 1) for site, count in enumerate(options))
        study.tell(trial, list(tried.point))


def _optuna() -> ModuleType:
    try:
        import optuna
    except ImportError as error:
        raise HaversackError("Optuna is not installed.", where="against", mend="pip install optuna") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
