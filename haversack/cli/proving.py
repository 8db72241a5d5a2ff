"""Commands that examine what was made: `bench` a file, `prove` and `blame` a result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haversack.cli.options import AsJson, ResultFolder, Seconds, TaskPath, Threads
from haversack.cli.running import loaded, print_json, progress


def bench(
    file: Annotated[Path, typer.Argument(help="Any ONNX or .tflite file.")],
    against: Annotated[
        Path | None, typer.Option(help="Another file for the same runtime, timed in alternation.")
    ] = None,
    threads: Threads = 1,
    seconds: Seconds = 3.0,
    *,
    as_json: AsJson = False,
) -> None:
    """Size, peak memory and latency of an ONNX or .tflite file on this machine."""
    from haversack.measure.host import bench as run
    from haversack.report.text import benched

    report = run(file, threads, seconds, against)
    if as_json:
        print_json(report.to_json())
    else:
        typer.echo(benched(report))


def prove(  # noqa: PLR0913 - one argument an option
    folder: ResultFolder,
    task: TaskPath,
    samples: Annotated[int, typer.Option(help="Calibration inputs, and as many random ones.", min=1)] = 100,
    patience: Annotated[float, typer.Option(help="A score that takes more seconds is left out.", min=0)] = 60.0,
    seed: Annotated[int, typer.Option(help="The same seed draws the same random inputs.")] = 0,
    threads: Threads = 1,
    *,
    as_json: AsJson = False,
) -> None:
    """Run a result in every runtime that is installed, against an exact integer reference."""
    from haversack.prove import Effort, require
    from haversack.prove import prove as run
    from haversack.report.proof import proved

    file = loaded(task)
    with progress(quiet=as_json):
        proof = run(folder, file.fresh_network(), file.task, Effort(samples, seed, threads, patience))
    if as_json:
        print_json(proof.to_json())
    else:
        typer.echo(proved(proof))
    require(proof)


def blame(
    folder: ResultFolder,
    task: TaskPath,
    suspects: Annotated[int, typer.Option(help="So many layers are scored again, left float.", min=1)] = 3,
    *,
    as_json: AsJson = False,
) -> None:
    """Find the layers that a quantized result loses its score to, and what mending them costs."""
    from haversack.blame import blame as run
    from haversack.report.blame import blamed

    file = loaded(task)
    with progress(quiet=as_json):
        found = run(folder, file.fresh_network(), file.task, suspects)
    if as_json:
        print_json(found.to_json())
    else:
        typer.echo(blamed(found))
