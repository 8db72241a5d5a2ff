"""Goals that nothing reaches: how soon that is said, and whether what is named as the least relaxation is enough."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from planner_job import Job, fresh_tables
from planner_resnet import job

from haversack.errors import InfeasibleError
from haversack.limits import LIMITS, Budget
from haversack.progress import say

GOALS = {
    "flash": Budget(flash_bytes=10_000, max_drop=0.001),
    "latency": Budget(latency_ratio=0.05),
}
WHOLE = {limit.field for limit in LIMITS if limit.field.endswith("_bytes")}


@dataclass(frozen=True)
class Refused:
    """How long it took to say no, and what would be possible by it."""

    seconds: float
    relaxations: Mapping[str, float]
    """By field of the budget: the least at which all other limits can be kept; infinite where none is enough."""

    @classmethod
    def of(cls, wanted: Job) -> Refused:
        """The refusal of a goal. Where it is met after all, nothing was refused, and it took for ever."""
        with fresh_tables():
            started = time.monotonic()
            try:
                wanted.packed()
            except InfeasibleError as error:
                print(error)
                return cls(time.monotonic() - started, error.relaxations)
        return cls(math.inf, {})

    def relaxed(self, limits: Budget) -> list[Budget]:
        """The limits with one of them as lax as is said to be needed, for each of them that is enough."""
        enough = {name: value for name, value in self.relaxations.items() if math.isfinite(value)}
        return [
            replace(limits, **{name: math.ceil(value) if name in WHOLE else value}) for name, value in enough.items()
        ]


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """The seconds of each refusal, whether each limit's relaxation is named, and whether each of them is enough."""
    figures, refusals, tried = dict[str, object](), list[bool](), list[bool]()
    slowest = 0.0
    for name, limits in GOALS.items():
        wanted = replace(job(data, "resnet20", quick=quick), limits=limits)
        refused = Refused.of(wanted)
        slowest = max(slowest, refused.seconds)
        asked = {limit.field for limit in limits.asked}
        refusals.append(asked <= refused.relaxations.keys() and bool(refused.relaxed(limits)))
        figures[f"impossible.{name}_seconds"] = refused.seconds
        for relaxed in refused.relaxed(limits):
            started = time.monotonic()
            tried.append(_succeeds(replace(wanted, limits=relaxed)))
            changed = next(field for field in asked if getattr(relaxed, field) != getattr(limits, field))
            figures[f"impossible.{name}_by_{changed}"] = getattr(relaxed, changed)
            figures[f"impossible.{name}_by_{changed}_seconds"] = time.monotonic() - started
    return {
        "impossible.seconds": slowest,
        "impossible.named": int(all(refusals)),
        "impossible.succeeded": sum(tried) / len(tried) if tried else 0.0,
        **figures,
    }


def _succeeds(wanted: Job) -> bool:
    say(f"with the least relaxation: {wanted.limits}")
    try:
        print(wanted.packed().report)
    except InfeasibleError as error:
        print(error)
        return False
    return True
