"""Commands that compress: `pack` finds a recipe, `apply` follows one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from haversack.cli.options import (
    AsJson,
    DeviceName,
    Energy,
    Flash,
    Latency,
    MaxDrop,
    Out,
    Ram,
    RuntimeName,
    Score,
    Seconds,
    StudentEpochs,
    StudentName,
    TaskPath,
    Threads,
    Update,
    budget_of,
    target_of,
)
from haversack.cli.running import STOPPED, loaded, print_json, progress
from haversack.interrupt import Stopped

if TYPE_CHECKING:
    from haversack.packing import Packed, Settings
    from haversack.task import TaskFile


def pack(  # noqa: PLR0913 - one argument an option
    task: TaskPath,
    device: DeviceName = "host",
    runtime: RuntimeName = None,
    flash: Flash = None,
    ram: Ram = None,
    latency: Latency = None,
    energy: Energy = None,
    update: Update = None,
    max_drop: MaxDrop = None,
    score: Score = None,
    techniques: Annotated[str, typer.Option("--try", help="Only these techniques, separated by commas.")] = "",
    epochs: Annotated[int | None, typer.Option(help="Epochs of fine-tuning, where a step trains.", min=1)] = None,
    student: StudentName = "",
    student_epochs: StudentEpochs = 60,
    seed: Annotated[int, typer.Option(help="Where all drawing starts. What is kept depends on measured time too.")] = 0,
    threads: Threads = 1,
    seconds: Seconds = 3.0,
    out: Out = Path("out"),
    *,
    as_json: AsJson = False,
) -> None:
    """Compress the network until it meets the limits, and prove it on the exported file."""
    from haversack.packing import pack as run

    target, budget = target_of(device, runtime), budget_of(flash, ram, latency, energy, update, max_drop, score)
    names = tuple(word.strip() for word in techniques.split(",") if word.strip())
    training = {"epochs": epochs, "student": student, "student_epochs": student_epochs, "seed": seed}
    with progress(quiet=as_json):
        file = loaded(task)
        settings = _settings(out, threads, file, techniques=names, seconds=seconds, **training)
        try:
            result = run(file.fresh_network, file.task, target, budget, settings)
        except Stopped as stopped:
            result = cast("Packed", stopped.result)
    _show(result, out, as_json=as_json)
    if result.found.stopped:
        typer.echo("stopped: this is the best so far. Repeat the command to go on.", err=True)
        raise typer.Exit(STOPPED)


def apply(  # noqa: PLR0913 - one argument an option
    recipe: Annotated[Path, typer.Argument(help="recipe.toml, as `pack` writes it.")],
    task: TaskPath,
    device: DeviceName = "host",
    runtime: RuntimeName = None,
    threads: Threads = 1,
    seconds: Seconds = 3.0,
    out: Out = Path("out"),
    *,
    as_json: AsJson = False,
) -> None:
    """Do what a recipe says, and measure the result beside the original."""
    from haversack.offers import read_recipe
    from haversack.packing import apply as run

    steps = read_recipe(recipe)
    target = target_of(device, runtime)
    with progress(quiet=as_json):
        file = loaded(task)
        result = run(steps, file.fresh_network, file.task, target, _settings(out, threads, file, seconds=seconds))
    _show(result, out, as_json=as_json)


def _settings(out: Path, threads: int, file: TaskFile, **more: Any) -> Settings:  # noqa: ANN401 - as Settings has them
    from haversack.packing import Settings

    return Settings(out=out, cache=out / "workspace", threads=threads, task_digest=file.digest, **more)


def _show(result: Packed, out: Path, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "recipe": result.artifact.recipe.to_toml(),
                "baseline": result.baseline.to_json(),
                "packed": result.artifact.measurement.to_json(),
                "files": {name: len(content) for name, content in result.artifact.files.items()},
                "tried": [
                    {"recipe": str(each.candidate.recipe), "kept": each.kept, "why": each.why}
                    for each in result.found.verdicts
                ],
                "stopped": result.found.stopped,
                "students": [asdict(each) for each in result.students],
                "refused": [{"recipe": str(each.recipe), "why": each.why} for each in result.found.refusals],
            }
        )
    else:
        typer.echo(result.report)
        typer.echo(f"written to {out}")
