"""The whole job: weigh the network, try recipes, keep what pays, prove it in the runtime, write the result."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from haversack.artifact import CODED_FILE, Artifact, Runtime
from haversack.device import Budget, Device, find_device
from haversack.door import check_alone, checked_model, checked_score
from haversack.errors import ExportError, InfeasibleError, NothingChangedError, RecipeError, SurgeryError
from haversack.export import coded, find_runtime
from haversack.finetune import checkpoints_in
from haversack.graph.cost import cost
from haversack.graph.quantized import lower, output_step
from haversack.graph.surgery import export_pt2
from haversack.graph.trace import trace
from haversack.measure import estimate, host, parity
from haversack.measurement import Candidate, Conditions, Figure, Measurement
from haversack.model import Model
from haversack.plan.search import Answer, Found, Refusal, Trial, greedy
from haversack.progress import say
from haversack.recipe import Recipe, Step, recipe_from_toml
from haversack.report.text import packed
from haversack.target import Files
from haversack.task import Task
from haversack.techniques import catalogue
from haversack.workspace import Workspace, open_workspace, write_result

Network = nn.Module | Callable[[], nn.Module]


@dataclass(frozen=True)
class Packed:
    """What `pack` found: the files, the network to go on with, what was tried, and the report."""

    artifact: Artifact
    baseline: Measurement
    model: Model
    found: Found
    report: str


@dataclass(frozen=True)
class Settings:
    """How to work: `out` for the result, `cache` for finished candidates, `threads` and `seconds` to time with.

    `techniques` narrows what is tried (all when empty); `epochs` overrides how long steps train.
    """

    out: Path | None = None
    cache: Path | None = None
    threads: int = 1
    seconds: float = 3.0
    techniques: tuple[str, ...] = ()
    epochs: int | None = None
    seed: int = 0
    task_digest: str = ""


def pack(
    network: Network, task: Task, device: Device | str, budget: Budget, settings: Settings | None = None
) -> Packed:
    """The mildest compression of `network` that meets `budget` on `device`, measured on the exported file.

    Finished candidates are kept in `settings.cache`: a run that was killed goes on where it was. Raises
    InfeasibleError, naming the limit and the nearest candidate, when nothing fits.
    """
    settings = settings or Settings()
    device = find_device(device) if isinstance(device, str) else device
    budget = budget.within(device)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench.set_up(network, task, device, settings, Path(scratch))
        found = _search(bench, budget, settings)
        if found.misses:
            raise _infeasible(found)
        if not found.best.recipe.steps:
            _refuse_idle(found, budget)
        result = _result(bench, found, device, budget)
    if settings.out is not None:
        save(result, settings.out)
    return result


def apply(recipe: Recipe, network: Network, task: Task, device: Device, settings: Settings) -> Packed:
    """What `recipe` makes of `network`, measured beside the original."""
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench.set_up(network, task, device, settings, Path(scratch))
        found = Found(bench.candidate(Trial(recipe)), (), ())
        result = _result(bench, found, device, Budget())
    if settings.out is not None:
        save(result, settings.out)
    return result


def save(result: Packed, folder: Path) -> None:
    """The result folder: files, `recipe.toml`, `measurement.json`, `report.txt` and the network to reload.

    `network/` holds what `graph.surgery.load` reads, and the float network as a `.pt2` that needs torch alone.
    """
    measured = {"baseline": result.baseline.to_json(), "packed": result.artifact.measurement.to_json()}
    texts = {
        "recipe.toml": result.artifact.recipe.to_toml(),
        "measurement.json": json.dumps(measured, indent=1),
        "report.txt": result.report,
    }
    write_result(folder, texts, result.artifact, result.model)
    export_pt2(result.model, folder / "network" / "network.pt2")


@dataclass(frozen=True)
class Bench:
    """Makes candidates and measures them, each once."""

    network: nn.Module
    original: Model
    task: Task
    device: Device
    workspace: Workspace
    threads: int
    seconds: float

    @classmethod
    def set_up(cls, network: Network, task: Task, device: Device, settings: Settings, scratch: Path) -> Bench:
        """A bench with everything checked that the user handed in."""
        check_alone()
        module = network if isinstance(network, nn.Module) else network()
        module = module.eval()
        find_runtime(device)
        original = replace(checked_model(module, task), target=Files(device, settings.threads))
        circumstances = f"{settings.task_digest} threads={settings.threads}"
        workspace = open_workspace(settings.cache or scratch, module, task, device, circumstances)
        return cls(module, original, task, device, workspace, settings.threads, settings.seconds)

    def candidate(self, trial: Trial) -> Candidate:
        """The measured candidate of a trial."""
        return Candidate(trial.recipe, self.artifact(trial).measurement)

    def model(self, recipe: Recipe) -> Model:
        """What `recipe` makes, each step done once."""
        if not recipe.steps:
            return self.original
        kept = self.workspace.model(recipe, self.network, self.original)
        if kept is None:
            before = self.model(Recipe(recipe.steps[:-1]))
            say(f"applying {Recipe(recipe.steps[-1:])}")
            with checkpoints_in(self.workspace.unfinished):
                kept = recipe.steps[-1].apply(before, self.task)
            self.workspace.keep_model(recipe, kept)
        return kept

    def artifact(self, trial: Trial) -> Artifact:
        """The measured files of a trial, from the workspace where it was measured before."""
        kept = self.workspace.artifact(trial.recipe, scored=trial.scored)
        if kept is None:
            kept = self._measured(trial)
            self.workspace.keep_artifact(kept, scored=trial.scored)
        return kept

    def _measured(self, trial: Trial) -> Artifact:
        model, runtime = self.model(trial.recipe), find_runtime(self.device)
        _check_format(model, runtime)
        lowered = lower(model)
        files = {**runtime.write(lowered), CODED_FILE: coded.write(model)}
        content = next(iter(files.values()))
        step = output_step(lowered)
        predict = host.load(content, orders=runtime.orders(lowered) if runtime.orders else None)
        agreed = parity.compare(parity.in_torch(lowered), predict, self.task.calibration(), step)
        parity.require(agreed, quantized=model.number_format != "float32", step=step)
        measurement = replace(
            self._figures(model, content, trial),
            update_bytes=Figure(len(files[CODED_FILE]), "host"),
            parity=agreed,
            score=self._score(predict, trial),
        )
        return Artifact(runtime.name, files, trial.recipe, measurement)

    def _figures(self, model: Model, content: bytes, trial: Trial) -> Measurement:
        weighed = estimate.weigh(cost(trace(model.module, model.example)), self.device, model.number_format)
        timed = self._timed(model, content, trial)
        ram = host.peak_ram(content, self.threads) if self.device.is_host else weighed.ram_bytes
        return replace(
            weighed,
            flash_bytes=Figure(len(content), "host"),
            ram_bytes=ram,
            latency_ms=timed.latency_ms if self.device.is_host else weighed.latency_ms,
            latency_ratio=timed.ratio,
            conditions=Conditions(
                self.device.name, find_runtime(self.device).name, self.threads, host.machine(), host.versions()
            ),
        )

    def _timed(self, model: Model, content: bytes, trial: Trial) -> host.Timing:
        """Latency on this host, in alternation with the float original."""
        if not trial.recipe.steps:
            return host.time_files([content, content], threads=self.threads, seconds=self.seconds)[1]
        original = next(iter(self.artifact(Trial(Recipe())).files.values()))
        twin = self._host_twin(model, content)
        return host.time_files([original, twin], threads=self.threads, seconds=self.seconds)[1]

    def _host_twin(self, model: Model, content: bytes) -> bytes:
        """The file with unsigned activations where this host multiplies those only: same steps, same results."""
        runtime = find_runtime(self.device)
        as_it_is = runtime.signed_only or find_device("host").signed_activations or not self.device.signed_activations
        if as_it_is or not model.grids:
            return content
        grids = {name: grid.unsigned() if grid.axis is None else grid for name, grid in model.grids.items()}
        return next(iter(runtime.write(lower(replace(model, grids=grids))).values()))

    def _score(self, predict: Callable[..., Tensor], trial: Trial) -> Figure | None:
        if not trial.scored:
            return None
        if trial.recipe.steps:
            return Figure(self.task.scored(predict), "host")
        return Figure(checked_score(self.task, predict), "host")


def _result(bench: Bench, found: Found, device: Device, budget: Budget) -> Packed:
    """The best that was found, read back from the workspace, with its report."""
    recipe, baseline = found.best.recipe, bench.artifact(Trial(Recipe())).measurement
    report = packed(found, baseline, device, budget)
    return Packed(bench.artifact(Trial(recipe)), baseline, bench.model(recipe), found, report)


def _search(bench: Bench, budget: Budget, settings: Settings) -> Found:
    """Runs the planner: it asks for trials, and is told what was measured."""
    search = greedy(_options(bench, settings), budget, bench.candidate(Trial(Recipe())))
    try:
        trial = next(search)
        while True:
            trial = search.send(_answer(bench, trial))
    except StopIteration as finished:
        found: Found = finished.value
        return found


def _answer(bench: Bench, trial: Trial) -> Answer:
    """The candidate, or why a step or a writer refuses: what cannot be done here is no reason to stop."""
    try:
        return bench.candidate(trial)
    except (NothingChangedError, RecipeError, SurgeryError, ExportError) as error:
        return Refusal(trial.recipe, error.what, too_strong=isinstance(error, RecipeError))


def _options(bench: Bench, settings: Settings) -> list[list[Step]]:
    known = catalogue()
    unknown = set(settings.techniques) - known.keys()
    if unknown:
        raise RecipeError(f"unknown technique {', '.join(sorted(unknown))}.", mend=f"choose from {', '.join(known)}.")
    chosen = [step for name, step in known.items() if name in (settings.techniques or known)]
    return [[_adjusted(one, settings) for one in step.options(bench.original, bench.device)] for step in chosen]


def _adjusted(step: Step, settings: Settings) -> Step:
    """The step with the run's seed and training length, where it has such settings."""
    wanted = {"seed": settings.seed, "epochs": settings.epochs}
    changes = {name: value for name, value in wanted.items() if value is not None and hasattr(step, name)}
    adjusted: Step = replace(step, **changes)  # type: ignore[type-var]
    return adjusted


def read_recipe(path: Path) -> Recipe:
    """The recipe in the TOML file at `path`."""
    try:
        return recipe_from_toml(path.read_text(encoding="utf-8"), catalogue())
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"it cannot be read: {error}.", where=str(path)) from error


def _infeasible(found: Found) -> InfeasibleError:
    missed = "; ".join(str(miss) for miss in found.misses)
    return InfeasibleError(
        f"no candidate meets the budget. The nearest ({found.best.recipe}) misses {missed}.",
        mend="raise that limit, allow a larger score drop, or start from a smaller network.",
    )


def _refuse_idle(found: Found, budget: Budget) -> None:
    if found.verdicts or found.refusals:
        tried = "; ".join(
            [f"{each.candidate.recipe}: {each.why}" for each in found.verdicts]
            + [f"{each.recipe}: {each.why}" for each in found.refusals]
        )
        raise NothingChangedError(
            f"nothing that was tried pays: {tried}.", mend="set a tighter limit, or ship the network as it is."
        )
    raise NothingChangedError("there is nothing to try.", mend=f"the device states no format that pays ({budget}).")


def _check_format(model: Model, runtime: Runtime) -> None:
    if model.number_format not in runtime.number_formats:
        raise ExportError(
            f"{runtime.name} files hold no {model.number_format}.",
            mend=f"choose steps that end in {', '.join(sorted(runtime.number_formats))}.",
        )
