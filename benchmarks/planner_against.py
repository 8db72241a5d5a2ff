"""The planner against samplers that know nothing of networks: ResNet-20 without training, over the same settings.

NSGA-II (Deb et al. 2002), TPE and random search, as Optuna has them, and the planner each try plans in int8 until 300
were tried or 40 minutes have passed. A plan's network is built, written and run: its score on 2,000 training images
that are held back, its file's bytes, and its latency in turns with the original. All begin with int8 alone. What is
compared is the volume that all tried plans together dominate, up to a score by chance, the float file's bytes and
its latency. Of choices that exclude each other a plan loses one. What was tried is kept in the folder for temporary
files: a run that was stopped goes on, and the time that a plan took counts again. What the planner needs before its
first plan counts as its own. In the committed row two methods ran at once, a core each: `at_once`.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cifar10 import images
from figures import commit
from pareto import Point, hypervolumes, needed
from planner_job import tables_in
from planner_plans import planned
from planner_rivals import RIVALS, rival
from planner_space import Ground
from planner_truth import Kept, Method, Tried, Truth, contest
from resnet20_task import HELD_BACK

from haversack.progress import say, track

OURS = "planner"


@dataclass(frozen=True)
class Effort:
    """When each method ends, on how many images a plan is scored, and how many seconds it is timed for."""

    evaluations: int = 300
    minutes: float = 40.0
    images: int = 2_000
    seconds: float = 0.6


QUICK = Effort(8, 2.0, 500, 0.2)


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """The planner's share of the best rival's evaluations to reach its volume, and their volumes in the end."""
    effort = QUICK if quick else Effort()
    folder = Path(tempfile.gettempdir()) / f"haversack-against-{commit()}{'-quick' * quick}"
    folder.mkdir(exist_ok=True)
    held_back = images(data)[0].last(HELD_BACK).first(effort.images)
    started = time.monotonic()
    with tables_in(folder), Ground.of(data, folder / "cache", "onnx", effort.seconds) as ground:
        space = ground.spaces["int8"]
        truth = Truth(ground, space, held_back, effort.seconds, Kept(folder / "tried.jsonl"))
        prepared = _longest(folder / "prepared", time.monotonic() - started)
        options = [len(site.options) for site in space.sites]
        methods: dict[str, Method] = {OURS: planned(space, ground.baseline)}
        methods |= {name: rival(name, options) for name in RIVALS}
        tried = dict[str, Sequence[Tried]]()
        for name, method in methods.items():
            say(f"{name}: {effort.evaluations} plans at most, {effort.minutes:g} minutes at most")
            shown = iter(track(range(effort.evaluations), f"plans of {name}", effort.evaluations))
            seconds = 60 * effort.minutes - prepared * (name == OURS)
            tried[name] = contest(method, lambda plan, shown=shown: (next(shown), truth.of(plan))[1],
                                  effort.evaluations, seconds)  # fmt: skip
        return {**compared(tried, truth.reference), "against.prepared_seconds": prepared, "against.sites": len(options)}


def compared(tried: Mapping[str, Sequence[Tried]], reference: Point) -> dict[str, object]:
    """The figures of all methods; the shares are those against the rival that does best."""
    points = {name: [each.point for each in plans] for name, plans in tried.items()}
    volumes = {name: max(hypervolumes(each, reference), default=0.0) for name, each in points.items()}
    box = math.prod((1 + reference[0], *reference[1:]))
    shares, figures = list[float](), dict[str, object]()
    for name, plans in tried.items():
        figures[f"against.{name}_evaluations"] = len(plans)
        figures[f"against.{name}_hypervolume"] = volumes[name] / box
        figures[f"against.{name}_minutes"] = sum(each.seconds for each in plans) / 60
        if name != OURS:
            ours = needed(points[OURS], reference, volumes[name])
            shares.append(math.inf if ours is None else ours / len(plans))
            figures[f"against.share_of_{name}"] = shares[-1]
    return {
        "against.share_of_evaluations": max(shares),
        "against.hypervolume_ratio": volumes[OURS] / max(volumes[name] for name in RIVALS),
        **figures,
    }


def _longest(file: Path, seconds: float) -> float:
    """How long something took when it was new: at least as long as in an earlier run."""
    before = float(file.read_text("utf-8")) if file.exists() else 0.0
    file.write_text(str(max(before, seconds)), "utf-8")
    return max(before, seconds)
