"""Commands that leave a result: `pack`, `explore` and `apply`, whose arguments are the words on the command line."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from haversack.cli.options import (
    NO_WORDS,
    AsJson,
    DeviceName,
    Out,
    Pick,
    RuntimeName,
    Seconds,
    Seed,
    StudentEpochs,
    StudentName,
    TaskPath,
    Threads,
    Tried,
    Words,
    budget_of,
    limited,
    target_of,
)
from haversack.cli.terminal import STOPPED, loaded, print_json, progress
from haversack.errors import BudgetError
from haversack.interrupt import Stopped

if TYPE_CHECKING:
    from haversack.device import Device
    from haversack.packing import Explored, Packed, Settings
    from haversack.proof import CoreProof
    from haversack.task import TaskFile


@limited("counts", "file", "samples")
def pack(  # noqa: PLR0913 - one argument an option
    task: TaskPath,
    device: DeviceName = "host",
    runtime: RuntimeName = None,
    limits: Words = NO_WORDS,
    techniques: Tried = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of fine-tuning, where a step trains.", min=1)] = None,
    student: StudentName = "",
    student_epochs: StudentEpochs = 60,
    seed: Seed = 0,
    threads: Threads = 1,
    seconds: Seconds = 3.0,
    out: Out = Path("out"),
    pick: Pick = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Compress the network until it meets the limits, and prove it on the exported file."""
    from haversack.packing import pack as run

    target, budget = target_of(device, runtime), budget_of(limits)
    if pick is not None:
        if limits or techniques or student:
            raise BudgetError("--pick takes a row as it is.", mend="leave limits, --try and --student out beside it.")
        _show(_picked(pick, task, target, out, threads, seconds, quiet=as_json), out, as_json=as_json)
        return
    training = {"epochs": epochs, "student": student, "student_epochs": student_epochs, "seed": seed}
    with progress(quiet=as_json):
        file = loaded(task)
        settings = _settings(out, threads, file, techniques=_names(techniques), seconds=seconds, **training)
        try:
            result = run(file.fresh_network, file.task, target, budget, settings)
        except Stopped as stopped:
            result = cast("Packed", stopped.result)
        proof = _proved(result, out, target, file)
    _show(result, out, proof, as_json=as_json)
    _end(stopped=result.found.stopped)


def _end(*, stopped: bool) -> None:
    """Ends a command that was stopped and had something to show as shells expect it."""
    if stopped:
        typer.echo("stopped: this is the best so far. Repeat the command to go on.", err=True)
        raise typer.Exit(STOPPED)


def _proved(result: Packed, out: Path, device: Device, file: TaskFile) -> CoreProof | None:
    """The answer's program on the device's memory; None where files ship, or nothing does."""
    from haversack.runtimes import find_runtime

    if find_runtime(device).programs is None or not result.found.met:
        return None
    from haversack.proving.on_core import prove_on_core, require_exact
    from haversack.proving.sources import source_of
    from haversack.runtimes.c_source.cores import board_of

    source = source_of(out, file.fresh_network(), file.task)
    board = board_of(device).within(result.limits.ram_bytes)
    _, proof = prove_on_core(out.name, source.graph, board, source.inputs)
    require_exact(proof)
    return proof


def _picked(  # noqa: PLR0913 - the options of `pack` that count for a row that is known
    number: int, task: Path, device: Device, out: Path, threads: int, seconds: float, *, quiet: bool
) -> Packed:
    from haversack.packing import pick

    with progress(quiet=quiet):
        file = loaded(task)
        settings = _settings(out, threads, file, seconds=seconds)
        return pick(number, file.fresh_network, file.task, device, settings)


def explore(  # noqa: PLR0913 - one argument an option
    task: TaskPath,
    device: DeviceName = "host",
    runtime: RuntimeName = None,
    techniques: Tried = None,
    seed: Seed = 0,
    threads: Threads = 1,
    seconds: Seconds = 3.0,
    out: Out = Path("out"),
    *,
    as_json: AsJson = False,
) -> None:
    """Show what can be had without limits: the recipes that no other beats, of which `pack --pick` makes one."""
    from haversack.packing import explore as run
    from haversack.report.plan import as_json as plain

    target = target_of(device, runtime)
    with progress(quiet=as_json):
        file = loaded(task)
        settings = _settings(out, threads, file, techniques=_names(techniques), seconds=seconds, seed=seed)
        try:
            explored = run(file.fresh_network, file.task, target, settings)
        except Stopped as stopped:
            explored = cast("Explored", stopped.result)
    if as_json:
        plainly = {"baseline": explored.baseline.to_json(), "stopped": explored.found.stopped}
        print_json({**plainly, **plain(explored.found)})
    else:
        typer.echo(explored.report)
    _end(stopped=explored.found.stopped)


def _names(asked: list[str] | None) -> tuple[str, ...]:
    words = (word.strip() for some in asked or () for word in some.split(","))
    return tuple(dict.fromkeys(filter(None, words)))


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
    from haversack.packing import apply as run
    from haversack.packing.candidates import read_recipe

    steps = read_recipe(recipe)
    target = target_of(device, runtime)
    with progress(quiet=as_json):
        file = loaded(task)
        result = run(steps, file.fresh_network, file.task, target, _settings(out, threads, file, seconds=seconds))
    _show(result, out, as_json=as_json)


def _settings(out: Path, threads: int, file: TaskFile, **more: Any) -> Settings:  # noqa: ANN401 - as Settings has them
    from haversack.packing import Settings

    return Settings(out=out, cache=out / "workspace", threads=threads, task_digest=file.digest, **more)


def _show(result: Packed, out: Path, proof: CoreProof | None = None, *, as_json: bool) -> None:
    if as_json:
        from haversack.report.plan import as_json as plain

        print_json(
            {
                **({"proof": proof.to_json()} if proof else {}),
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
                **plain(result.found),
            }
        )
    else:
        typer.echo(result.report)
        if proof is not None:
            from haversack.report.proved import proved_on_core

            typer.echo(f"\n{proved_on_core(proof)}\n")
        typer.echo(f"written to {out}")
