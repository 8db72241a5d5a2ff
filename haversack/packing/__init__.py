"""The whole job: weigh the network, try recipes, keep what pays, prove it in the runtime, write the result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from haversack.artifact import Artifact
from haversack.device import Device, find_device
from haversack.errors import NothingChangedError, RecipeError
from haversack.graph.cost import cost
from haversack.graph.trace import trace
from haversack.interrupt import Stopped
from haversack.limits import Budget, Miss
from haversack.measurement import Candidate, Measurement
from haversack.model import Model
from haversack.packing.bench import Bench, Network, Settings
from haversack.packing.candidates import Offers
from haversack.packing.frontier import keep_frontier, kept_frontier, kept_rows
from haversack.packing.gauge import tell_of_ratio, tell_of_score
from haversack.packing.result import leave_report, write_result
from haversack.packing.spaces import Readings
from haversack.packing.student import AUTO, Audition, Vacancy, step_of
from haversack.packing.watch import Watched
from haversack.packing.workspace import cache_folder
from haversack.plan.found import Found, Trial, failure, followed
from haversack.plan.goal import Goal
from haversack.plan.rounds import rounds, survey
from haversack.plan.schedule import Schedule
from haversack.plan.space import Space
from haversack.plan.students import FamilyMember, Student
from haversack.progress import Status, phase, tell
from haversack.recipe import Recipe, Step, technique
from haversack.report.blocks import document
from haversack.report.plan import explored
from haversack.report.text import measured_earlier, packed, ranked
from haversack.result import MEASURED, RECIPE, REPORT, Measured
from haversack.runtimes import estimate, find_runtime
from haversack.task import Task
from haversack.techniques.adopt_student import AdoptStudent
from haversack.techniques.distill import Distill
from haversack.techniques.prune_dead_channels import PruneDeadChannels
from haversack.training import outputs_kept

__all__ = ["Bench", "Explored", "Network", "Packed", "Settings", "apply", "explore", "pack", "pick", "save"]

_ABOUT = 6
"""So many candidates are usually built."""
_COMPARED = 2
"""Plans are told apart by no fewer epochs than so many."""
_FEWEST, _MOST, _WORK = 2, 12, 3e9
"""How many plans are built below an answer, at least and at most, and for how many multiply-accumulates on all
calibration inputs together; counted and never timed, so that a busy machine builds the same."""
_IN_BYTES = 0.3
"""The share of a float network's flash that integers of 8 bits take, with room for what stands beside them."""
_EPOCHS = 8
"""So long a plan is trained where nothing else is said."""


@dataclass(frozen=True)
class Packed:
    """What `pack` found: the files, the network to go on with, what was tried, and the report."""

    artifact: Artifact
    baseline: Measurement
    model: Model
    found: Found
    report: str
    limits: Budget
    """What it had to meet, what the device has included."""
    students: tuple[Student, ...] = ()
    """Those that were compared, best first, where a student was asked for."""


def pack(
    network: Network, task: Task, device: Device | str, budget: Budget, settings: Settings | None = None
) -> Packed:
    """The mildest compression of `network` that meets `budget` on `device`, measured on the exported file.

    Finished candidates are kept in `settings.cache`: a run that was killed goes on where it was. Raises
    InfeasibleError, naming the limit and the nearest candidate, when nothing fits; on Ctrl-C Stopped, whose `result` is
    the best so far that meets the budget, where there is one.
    """
    settings = settings or Settings()
    device = find_device(device) if isinstance(device, str) else device
    with cache_folder(settings.cache) as cache, outputs_kept():
        bench = Bench.set_up(network, task, device, settings, cache)
        found, students = _search(bench, budget, settings)
        if found.frontier or not found.stopped:
            keep_frontier(bench.workspace, found, budget.within(device))
        failed = failure(found)
        if failed is not None:
            _report(bench, found, budget.within(device), settings)
            raise failed
        result = _result(bench, found, device, budget.within(device))
        if students:
            result = replace(result, report=f"{result.report}\n\n{ranked(students)}", students=students)
    if settings.out is not None:
        save(result, settings.out)
    if found.stopped:
        raise Stopped(result)
    return result


def apply(recipe: Recipe, network: Network, task: Task, device: Device, settings: Settings) -> Packed:
    """What `recipe` makes of `network`, measured beside the original.

    Raises NothingChangedError where that is, byte for byte, the original's file.
    """
    with cache_folder(settings.cache) as cache:
        bench = Bench.set_up(network, task, device, settings, cache)
        found = Found(bench.candidate(Trial(recipe)), (), ())
        result = _result(bench, found, device, Budget())
    if settings.out is not None:
        save(result, settings.out)
    return result


def pick(number: int, network: Network, task: Task, device: Device, settings: Settings) -> Packed:
    """Row `number` of the last run's frontier, from 1, without new work where it was built, else built and measured.

    That run must have had the same network, task, device and `settings.cache`; RecipeError where there is no such row.
    """
    with cache_folder(settings.cache) as cache, outputs_kept():
        bench = Bench.set_up(network, task, device, settings, cache)
        rows, limits = kept_frontier(bench.workspace, number)
        chosen = rows[number - 1]
        if not chosen.built:
            tell(f"row {number} was predicted, and not built: it is built and measured now")
        goal = Goal(limits, bench.candidate(Trial(Recipe())))
        best = bench.candidate(Trial(chosen.recipe))
        built = replace(chosen, measurement=best.measurement)
        found = Found(best, goal.misses(best), (), unjudged=goal.unjudged(best), picked=number)
        found = replace(found, frontier=(*rows[: number - 1], built, *rows[number:]))
        keep_frontier(bench.workspace, found, limits)
        result = _result(bench, found, device, limits)
    if settings.out is not None:
        save(result, settings.out)
    return result


@dataclass(frozen=True)
class Explored:
    """What `explore` found: the frontier without limits, and the report of it."""

    baseline: Measurement
    found: Found
    report: str


def explore(network: Network, task: Task, device: Device, settings: Settings) -> Explored:
    """The frontier of `network` on `device` without limits but the device's own; `pick` makes a row of it a result.

    On Ctrl-C Stopped, whose `result` is the frontier of what was built, where something was. Raises NothingChangedError
    where nothing that was tried is on it.
    """
    with cache_folder(settings.cache) as cache, outputs_kept():
        bench = Bench.set_up(network, task, device, settings, cache)
        found = _explored(bench, settings)
        if found.stopped and not found.frontier:
            raise KeyboardInterrupt
        if not found.frontier:
            raise NothingChangedError(
                "nothing that was tried is smaller or faster and as good.",
                where=device.name,
                mend="try more techniques, or start with `haversack weigh` to see where the bytes and the time are.",
            )
        keep_frontier(bench.workspace, found, Budget().within(device))
        baseline = bench.artifact(Trial(Recipe())).measurement
    result = Explored(baseline, found, str(explored(found, baseline, device)))
    if found.stopped:
        raise Stopped(result)
    return result


def save(result: Packed, folder: Path) -> None:
    """The result folder: files, `recipe.toml`, `measurement.json`, `report.txt` and the network to reload.

    `network/` holds what `load` reads, and the float network as a `.pt2` that needs torch alone.
    """
    figures, rows = result.artifact.measurement, kept_rows(result.found)
    measured = Measured(baseline=result.baseline, packed=figures, limits=result.limits, frontier=rows)
    texts = {
        RECIPE: result.artifact.recipe.to_toml(),
        MEASURED: json.dumps(measured.to_json(), indent=1),
        REPORT: result.report,
    }
    write_result(folder, texts, result.artifact, result.model)


def _result(bench: Bench, found: Found, device: Device, budget: Budget) -> Packed:
    """The best that was found, read back from the workspace, with the figures that it was accepted for, validated."""
    recipe, model = found.best.recipe, bench.model(found.best.recipe)
    baseline = bench.gauge.validated(bench.artifact(Trial(Recipe())), bench.original).measurement
    artifact = replace(bench.artifact(Trial(recipe)), measurement=found.best.measurement)
    artifact = bench.gauge.validated(artifact, model)
    found = replace(found, best=replace(found.best, measurement=artifact.measurement))
    report = document(packed(found, baseline, device, budget), measured_earlier(found, baseline, bench.started))
    return Packed(artifact, baseline, model, found, str(report), budget)


def _report(bench: Bench, found: Found, budget: Budget, settings: Settings) -> None:
    """Leaves the report of a search that found nothing to ship."""
    if settings.out is not None:
        baseline = bench.artifact(Trial(Recipe())).measurement
        place = leave_report(settings.out, str(packed(found, baseline, bench.device, budget)))
        tell(f"what was tried, and why it is no answer, stands in {place}")


def _search(bench: Bench, budget: Budget, settings: Settings) -> tuple[Found, tuple[Student, ...]]:
    """Runs the planner: it asks for trials, and is told what was measured; a student, if any, comes first."""
    offers = Offers(settings.techniques, settings.seed, settings.epochs)
    rounding = offers.to_integers(bench.original, bench.device)
    formats = _formats(bench, rounding)
    estimate.check_judgeable(budget, bench.device, formats)
    estimate.check_possible(budget, bench.device, sum(value.numel() for value in bench.original.example), formats)
    if rounding:
        tell_of_ratio(budget, bench.device)
    within = budget.within(bench.device)
    bench = replace(bench, gauge=replace(bench.gauge, budget=within))
    students = _students(bench, within, settings, rounding)
    goal = Goal(within, bench.candidate(Trial(Recipe())), asked=budget)
    tell_of_score(within, goal.baseline.measurement.score)
    adopted = Recipe((step_of(_schooling(settings), students[0].member),)) if students else Recipe()
    begun = _freed(bench, adopted, offers)
    start = bench.candidate(Trial(begun)) if begun.steps else None
    spaces = _spaces(bench, begun, offers, within)
    search = rounds(spaces, goal, _schedule(settings, bench.network), start, _below(bench, within))
    found = followed(search, Watched(bench.answer, goal, _ABOUT))
    if students and found.met and not goal.moved(goal.baseline, found.best):
        raise NothingChangedError("the student needs as much as the network itself.", mend="set a tighter limit.")
    return found, students


def _formats(bench: Bench, rounding: Sequence[Step]) -> set[str]:
    """The number formats that a result may be in; raises RecipeError where there is none."""
    runtime = find_runtime(bench.device)
    if runtime.programs is None:
        return {"float32", "int8"} if rounding else {"float32"}
    if not rounding:
        raise RecipeError(
            f"{runtime.title} computes integers, and no step that is tried makes integers of this network.",
            where=bench.device.name,
            mend="add --try quantize_static, or pack it for files (without --runtime).",
        )
    return {"int8"}


def _freed(bench: Bench, start: Recipe, offers: Offers) -> Recipe:
    """The recipe that takes dead channels first, where they are asked for by name: to find them takes long."""
    if technique(PruneDeadChannels) in offers.names:
        for step in PruneDeadChannels.options(bench.model(start), bench.device):
            if isinstance(bench.answer(Trial(start.then(step))), Candidate):
                return start.then(step)
    return start


def _explored(bench: Bench, settings: Settings) -> Found:
    """What the planner finds without limits."""
    offers = Offers(settings.techniques, settings.seed, settings.epochs)
    goal = Goal(Budget().within(bench.device), bench.candidate(Trial(Recipe())), asked=Budget())
    begun = _freed(bench, Recipe(), offers)
    start = bench.candidate(Trial(begun)) if begun.steps else None
    return followed(survey(_spaces(bench, begun, offers, None), goal, start), Watched(bench.answer, goal, _ABOUT))


def _spaces(bench: Bench, start: Recipe, offers: Offers, limits: Budget | None) -> list[Space]:
    """What can be done to what `start` makes, with its loss and cost; only what limits ask for is timed here."""
    phase(Status("looking for choices"))
    baseline = bench.artifact(Trial(Recipe())).measurement
    times = bench.gauge.times if limits is None or limits.is_timed_for(bench.device) else None
    counts, most = bench.counts(limits), None if limits is None else limits.ram_bytes
    model = bench.model(start)
    readings = Readings(model, bench.task, bench.device, offers, baseline, bench.workspace, times, start, counts, most)
    coded = limits is not None and limits.update_bytes is not None
    return readings.spaces(sparse=coded, zeros=_zeros_pay(bench.device, limits, baseline))


def _zeros_pay(device: Device, limits: Budget | None, baseline: Measurement) -> bool:
    """Whether a program, which stores no zeros, may have to be smaller than integers of 8 bits make it."""
    if limits is None or limits.flash_bytes is None or find_runtime(device).without_zeros is None:
        return False
    return limits.flash_bytes < _IN_BYTES * baseline.flash_bytes.value


def _students(bench: Bench, budget: Budget, settings: Settings, rounding: Sequence[Step]) -> tuple[Student, ...]:
    """The students that fit, the best one first, where one is asked for."""
    name = settings.student or (AUTO if technique(AdoptStudent) in settings.techniques else "")
    if not name:
        return ()
    whole = _schooling(settings)

    def misses(member: FamilyMember) -> Sequence[Miss]:
        recipe = Recipe((step_of(whole, member), *rounding)).skeleton()
        return bench.candidate(Trial(recipe, scored=False)).measurement.misses(budget)

    place = Vacancy(bench.original, bench.device, budget, "int8" if rounding else "float32", misses, bench.workspace)
    fitting = place.students(name)
    audition = Audition(bench.original, bench.task, lambda step: bench.model(Recipe((step,))), whole)
    students = audition.ranked(fitting)
    tell(str(ranked(students)))
    return students


def _below(bench: Bench, limits: Budget) -> int:
    """So many plans are worth being built below an answer, the more the cheaper the network is to compute.

    Few where nobody said how far the score may fall: to spend it on size that nobody asked for is not ours.
    """
    if not limits.limits_score:
        return _FEWEST
    inputs = sum(len(batch[0]) for batch in bench.task.calibration())
    macs = cost(trace(bench.original.module, bench.original.example)).macs
    return max(_FEWEST, min(_MOST, int(_WORK / max(macs * inputs, 1))))


def _schedule(settings: Settings, network: nn.Module) -> Schedule:
    """How long plans train, where they have to; a quarter as long to tell which is worth it, if that is enough to."""
    epochs = settings.epochs or _EPOCHS
    long = Distill.suiting(network, epochs, settings.seed)
    short = epochs // 4
    return Schedule(replace(long, epochs=short) if short >= _COMPARED else None, long)


def _schooling(settings: Settings) -> AdoptStudent:
    """How long, and from which start, a student learns."""
    return AdoptStudent(epochs=settings.student_epochs, seed=settings.seed)
