"""Bench: makes the candidates that a search asks for and measures them, each once in all runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from haversack.artifact import Artifact
from haversack.device import Device
from haversack.errors import HaversackError, MeasureError, SameFilesError, TaskError, WorkspaceError
from haversack.interrupt import is_pressed
from haversack.limits import Budget
from haversack.measurement import Candidate
from haversack.model import Model
from haversack.packing.candidates import Files
from haversack.packing.check import check_alone, checked_model
from haversack.packing.fingerprint import fingerprint
from haversack.packing.gauge import Gauge
from haversack.packing.workspace import Workspace, open_workspace
from haversack.placing import check_place
from haversack.plan.found import Answer, Refusal, Trial
from haversack.progress import Status, noted, phase, say
from haversack.quantity import now
from haversack.recipe import Recipe
from haversack.runtimes import find_runtime, host
from haversack.runtimes.counts import Counts
from haversack.runtimes.timings import Times
from haversack.task import Task
from haversack.training import checkpoints_in
from haversack.wiring import free_axes

_BY_INSTRUCTIONS = ("instructions", "latency_ms", "energy_mj")
Network = nn.Module | Callable[[], nn.Module]


@dataclass(frozen=True)
class Settings:
    """How to work: `out` for the result, `cache` for finished candidates, `threads` and `seconds` to time with.

    `techniques` narrows what is tried (all but new designs when empty); `epochs` overrides how long steps train.
    `student` names a family of the zoo, or `auto`, whose member takes the network's place first and is taught by it for
    `student_epochs`.
    """

    out: Path | None = None
    cache: Path | None = None
    threads: int = 1
    seconds: float = 3.0
    techniques: tuple[str, ...] = ()
    epochs: int | None = None
    seed: int = 0
    task_digest: str = ""
    student: str = ""
    student_epochs: int = 60


@dataclass(frozen=True)
class _Refused:
    """A refusal as it is kept."""

    why: str


@dataclass(frozen=True)
class Bench:
    """Makes candidates and measures them, each once."""

    network: nn.Module
    original: Model
    task: Task
    device: Device
    workspace: Workspace
    gauge: Gauge
    started: str = field(default_factory=now)

    @classmethod
    def set_up(cls, network: Network, task: Task, device: Device, settings: Settings, cache: Path) -> Bench:
        """A bench with everything checked that the user handed in."""
        check_alone()
        if settings.out is not None:
            check_place(settings.out)
        phase(Status("building the network, and running it on the calibration inputs"))
        module = network if isinstance(network, nn.Module) else network()
        runtime = find_runtime(device)
        model = checked_model(module, task, runtime.one_size)
        lengths = f"{free_axes(model.module) or ''} {model.filling or ''} {task.mask}"
        circumstances = f"{settings.task_digest} threads={settings.threads} {lengths}".rstrip()
        measuring = (
            f"{host.machine()} {host.versions()} {settings.seconds} s, score {fingerprint(task.score, task.samples)}"
        )
        workspace = open_workspace(cache, module, task, device, circumstances, measuring)
        original = replace(model, target=Files(device, settings.threads, memory=workspace))
        times = Times(find_runtime(device).first, settings.threads)
        gauge = Gauge(original, task, device, settings.threads, settings.seconds, times=times)
        return cls(model.module, original, task, device, workspace, gauge)

    def candidate(self, trial: Trial) -> Candidate:
        """The measured candidate of a trial."""
        return Candidate(trial.recipe, self.artifact(trial).measurement)

    def answer(self, trial: Trial) -> Answer:
        """The candidate, or why it is refused: what cannot be done with one is no reason to stop.

        Errors of the user's task and of the disk would come again with the next one: they are raised.
        """
        kept = self.workspace.note(_Refused, trial.recipe.digest, self.workspace.measuring)
        if kept is not None:
            return Refusal(trial.recipe, kept.why)
        try:
            return self.candidate(trial)
        except (TaskError, WorkspaceError):
            raise
        except HaversackError as error:
            if is_pressed():
                raise KeyboardInterrupt from error
            why = f"{error.where}: {error.what}" if error.where else error.what
            say(f"refused: {trial.recipe}: {why}")
            if not isinstance(error, MeasureError | SameFilesError):  # the machine's mood, and what else was measured
                self.workspace.keep_note(_Refused(why), trial.recipe.digest, self.workspace.measuring)
            return Refusal(trial.recipe, why)

    def model(self, recipe: Recipe) -> Model:
        """What `recipe` makes, each step done once."""
        if not recipe.steps:
            return self.original
        kept = self.workspace.model(recipe, self.network, self.original)
        if kept is None:
            before = self.model(Recipe(recipe.steps[:-1]))
            say(f"applying {Recipe(recipe.steps[-1:])}")
            with checkpoints_in(self.workspace.unfinished), noted() as notes:
                kept = recipe.steps[-1].apply(before, self.task)
            kept = replace(kept, notes=tuple(dict.fromkeys((*before.notes, *notes))))
            self.workspace.keep_model(recipe, kept)
        return kept

    def artifact(self, trial: Trial) -> Artifact:
        """The measured files of a trial, from the workspace where it was measured before."""
        if trial.afresh:
            return self._timed_again(trial)
        kept = self.workspace.artifact(trial.recipe, scored=trial.scored)
        if kept is not None and not self.gauge.outgrown(kept, self.model(trial.recipe)):
            self.gauge.twin(kept.files, trial)
            if self.gauge.undecided(kept):  # of the limits of this run
                kept = self.gauge.timed_again(kept, self._baseline(trial))
                self.workspace.keep_artifact(kept, scored=trial.scored)
            return self.gauge.remembered(kept)
        if not trial.recipe.steps:
            phase(Status("measuring the network as it is: its file, its time and its score"))
        made = self.gauge.artifact(trial, self.model(trial.recipe), self._baseline(trial))
        self.workspace.keep_artifact(made, scored=trial.scored)
        return made

    def counts(self, limits: Budget | None) -> Counts | None:
        """Where instructions of layers are counted, if that is what a limit is held against, or nothing is limited."""
        runtime = find_runtime(self.device)
        wanted = limits is None or any(limit.field in _BY_INSTRUCTIONS for limit in limits.asked)
        return Counts(runtime, runtime.programs, self.device) if runtime.programs and wanted else None

    def _timed_again(self, trial: Trial) -> Artifact:
        """The files of a trial with its speed measured once more."""
        say(f"timing the answer afresh: {trial.recipe}")
        return self.gauge.timed_again(self.artifact(Trial(trial.recipe)), self._baseline(trial))

    def _baseline(self, trial: Trial) -> bytes | None:
        """The original's file, which all others are timed against; None where it is the one to be measured."""
        return next(iter(self.artifact(Trial(Recipe())).files.values())) if trial.recipe.steps else None
