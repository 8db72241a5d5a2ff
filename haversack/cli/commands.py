"""Commands: a function each, whose arguments are the words on the command line. What they do is done elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from haversack.cli.options import (
    NO_WORDS,
    AsJson,
    CoreRam,
    DeviceName,
    MeasuredFile,
    ResultFolder,
    Seconds,
    TaskPath,
    Threads,
    Words,
    budget_of,
    limited,
    target_of,
)
from haversack.cli.terminal import loaded, print_json, progress
from haversack.errors import MeasureError, WorkspaceError

if TYPE_CHECKING:
    from torch import nn

    from haversack.coded.container import CodedFile
    from haversack.coded.tensors import Stored
    from haversack.device import Device
    from haversack.graph.cost import Cost
    from haversack.measurement import Measurement
    from haversack.model import Model
    from haversack.plan.forecast import Forecast
    from haversack.proving.on_core import CoreEffort
    from haversack.runtimes.c_source.cores import Board
    from haversack.runtimes.c_source.write import CModel
    from haversack.task import Task


@limited("counts")
def weigh(
    task: TaskPath,
    device: DeviceName = "host",
    limits: Words = NO_WORDS,
    *,
    as_json: AsJson = False,
) -> None:
    """Size, MACs, memory and a per-layer table, without training; whether it fits, and which limit fails."""
    target = target_of(device)
    budget = budget_of(limits).within(target)
    file = loaded(task)
    _, found, weighings = _weighed(file.fresh_network(), file.task, target, "float32", "int8")
    if as_json:
        missed = {name: [asdict(miss) for miss in each.misses(budget)] for name, each in weighings.items()}
        unjudged = {
            name: [judged.limit.name for judged in each.judged(budget) if judged.state == "unjudged"]
            for name, each in weighings.items()
        }
        figures = {name: each.to_json() for name, each in weighings.items()}
        print_json({**asdict(found), "weighings": figures, "misses": missed, "unjudged": unjudged})
        return
    from haversack.report.text import weighed

    typer.echo(weighed(found, list(weighings.items()), target, budget))


@limited("counts", "file", "samples")
def advise(
    task: TaskPath,
    device: DeviceName = "host",
    limits: Words = NO_WORDS,
    *,
    quick: Annotated[bool, typer.Option("--quick", help="From counts alone: nothing is run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Which techniques suit this network on this device, and what each is predicted to reach; without training."""
    target = target_of(device)
    budget = budget_of(limits).within(target)
    predicted: Mapping[str, Forecast] = {}
    with progress(quiet=as_json):
        file = loaded(task)
        network = file.fresh_network()
        _, found, weighings = _weighed(network, file.task, target, "float32", "int8", "int4")
        if not quick:
            from haversack.packing.foresight import foreseen

            predicted = foreseen(network, file.task, target, budget)
    from haversack.plan.advise import advise as ranked
    from haversack.report.text import advised

    advice = ranked(found, weighings, target, budget, predicted)
    written = [word for option, text in limits.items() for word in (f"--{option}", text)]
    command = ("haversack", "pack", str(task), "--device", device, *written)
    if as_json:
        print_json([each.to_json(command) for each in advice])
    else:
        typer.echo(advised(advice, target, command))


def list_devices(*, as_json: AsJson = False) -> None:
    """All devices with what is known of them."""
    from haversack.device import device_names, find_device
    from haversack.report.devices import device_table

    found = [find_device(name) for name in device_names()]
    if as_json:
        print_json([asdict(each) for each in found])
    else:
        typer.echo(device_table(found))


def show_device(name: str, *, as_json: AsJson = False) -> None:
    """Every fact of a device with its source, and what pays there."""
    from haversack.device import find_device
    from haversack.report.devices import device_card

    found = find_device(name)
    if as_json:
        print_json(asdict(found))
    else:
        typer.echo(device_card(found))


def timings(
    *,
    clear: Annotated[bool, typer.Option("--clear", help="Remove them: all is timed anew.")] = False,
    as_json: AsJson = False,
) -> None:
    """What is kept of the times of layers on this machine: for which processor, runtime and threads."""
    from haversack.report.devices import timing_table
    from haversack.runtimes.timing_tables import cache_folder, remove_tables, tables

    folder = cache_folder()
    kept = list(tables(folder))
    if clear:
        remove_tables(folder)
    if as_json:
        print_json({"folder": str(folder), "removed": clear, "tables": [each.to_json() for each in kept]})
    else:
        typer.echo(timing_table(kept, folder))
        if clear:
            typer.echo(f"removed: {len(kept)} tables")


def _weighed(
    network: nn.Module, task: Task, device: Device, *formats: str
) -> tuple[Model, Cost, dict[str, Measurement]]:
    from haversack.graph.cost import cost
    from haversack.graph.trace import trace
    from haversack.packing.check import checked_model
    from haversack.runtimes.estimate import weigh as estimated

    model = checked_model(network, task)
    found = cost(trace(model.module, model.example))
    return model, found, {name: estimated(found, device, name) for name in formats}


def encode(
    folder: ResultFolder,
    task: TaskPath,
    out: Annotated[
        Path | None, typer.Option(help="The coded file; model.hsk in the folder when left out.", resolve_path=True)
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Write a result's weights as one coded file, which is what flash or a link has to hold."""
    from haversack.artifact import CODED_FILE
    from haversack.coded.container import CodedFile
    from haversack.packing.result import read_result
    from haversack.placing import replace_file
    from haversack.runtimes import coded

    file = loaded(task)
    content = coded.write(read_result(folder, file.fresh_network(), file.task))
    place = out or folder / CODED_FILE
    if out is None:
        replace_file(folder, CODED_FILE, content)
    else:
        _write(place, content)
    _show_tensors(CodedFile.of(content, str(place)), str(place), as_json=as_json)


def decode(
    file: Annotated[Path, typer.Argument(help="A coded file.", metavar="FILE")],
    out: Annotated[Path | None, typer.Option(help="Write the decoded weights here, as .npz.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """List what a coded file holds, and write its weights out."""
    from haversack.coded.container import CodedFile

    coded = CodedFile.at(file)
    if out is not None:
        _write(out, _archive(coded.tensors))
    _show_tensors(coded, str(file), as_json=as_json)


def _archive(tensors: Mapping[str, Stored]) -> bytes:
    """What np.savez would write, which takes names for its arguments and so has no room for some."""
    import io
    import zipfile

    from numpy.lib.format import write_array

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, tensor in tensors.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as place:
                write_array(place, tensor.real, allow_pickle=False)
    return stream.getvalue()


def _show_tensors(file: CodedFile, place: str, *, as_json: bool) -> None:
    from haversack.report.coded import coded, contents

    if as_json:
        told = {"file": place, "bytes": len(file.content), "sha256": file.sha256, "tensors": contents(file.tensors)}
        print_json(told)
    else:
        typer.echo(coded(file.tensors, len(file.content), place))


def _write(place: Path, content: bytes) -> None:
    try:
        place.write_bytes(content)
    except OSError as error:
        raise WorkspaceError(
            f"it cannot be written: {error.strerror}.", where=str(place), mend="choose another place with --out."
        ) from error


def bench(  # noqa: PLR0913 - one argument an option
    file: MeasuredFile,
    against: Annotated[
        Path | None, typer.Option(help="Another file for the same runtime, timed in alternation.")
    ] = None,
    size: Annotated[
        list[str] | None, typer.Option(help="What a free size of its inputs is: tokens=64; once for each.")
    ] = None,
    threads: Threads = 1,
    seconds: Seconds = 3.0,
    *,
    as_json: AsJson = False,
) -> None:
    """Size, peak memory and latency of a file on this machine."""
    from haversack.report.text import benched
    from haversack.runtimes.host import bench as run

    report = run(file, threads, seconds, against, dict(map(_size, size or ())))
    if as_json:
        print_json(report.to_json())
    else:
        typer.echo(benched(report))


def _size(text: str) -> tuple[str, int]:
    """The name and the number of one --size."""
    name, _, number = text.partition("=")
    if not name or not number.isdecimal() or int(number) < 1:
        raise MeasureError(f"--size is '{text}'.", mend="write a name of the file's and a number: --size tokens=64.")
    return name, int(number)


def prove(  # noqa: PLR0913 - one argument an option
    folder: Annotated[
        Path,
        typer.Argument(
            help="The result folder of `pack` or `apply`; with --on also any int8 .tflite file.",
            metavar="DIR",
            resolve_path=True,
        ),
    ],
    task: Annotated[
        Path | None, typer.Argument(help="Python file with network() and task().", metavar="TASK.py")
    ] = None,
    samples: Annotated[int, typer.Option(help="Calibration inputs, and as many random ones.", min=1)] = 100,
    patience: Annotated[float, typer.Option(help="A score that takes more seconds is left out.", min=0)] = 60.0,
    seed: Annotated[int, typer.Option(help="The same seed draws the same random inputs.")] = 0,
    threads: Threads = 1,
    on: Annotated[
        str, typer.Option("--on", help="In plain C on an emulated core: cortex-m4, stm32f405 …", metavar="CORE")
    ] = "",
    ram: CoreRam = "",
    out: Annotated[
        Path | None, typer.Option(help="With --on: a folder for model.c, model.h and an example.", resolve_path=True)
    ] = None,
    package: Annotated[
        list[str] | None,
        typer.Option(help="With --out: that folder is a library for arduino, zephyr or esp-idf; once for each."),
    ] = None,
    *,
    qemu: Annotated[bool, typer.Option("--qemu", help="With --on: in QEMU too, on a board of the same core.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a result in every runtime that is installed, or as C on an emulated core, against an exact reference."""
    if on:
        from haversack.proving.leave import Left
        from haversack.proving.on_core import CoreEffort

        left = Left(out, tuple(package or ()))
        left.check()
        left.write(_proved_on_core(folder, task, _board(on, ram), CoreEffort(qemu=qemu), as_json=as_json))
        return
    for option, value in {"--out": out, "--package": package, "--qemu": qemu, "--ram": ram}.items():
        if value:
            raise MeasureError(
                f"{option} is for the C that --on proves.", mend="add --on cortex-m4, or a device's name."
            )
    if task is None:
        raise MeasureError("TASK.py is missing.", mend="give the Python file that the result was packed from.")
    from haversack.proving.prove import Effort, require
    from haversack.proving.prove import prove as run
    from haversack.report.proved import proved

    file = loaded(task)
    with progress(quiet=as_json):
        proof = run(folder, file.fresh_network(), file.task, Effort(samples, seed, threads, patience))
    if as_json:
        print_json(proof.to_json())
    else:
        typer.echo(proved(proof))
    require(proof)


def _board(on: str, ram: str) -> Board:
    """The board of --on with no more RAM than --ram."""
    from haversack.proving.on_core import board_named

    return board_named(on, budget_of({"ram": ram}).ram_bytes if ram else None)


def _proved_on_core(folder: Path, task: Path | None, board: Board, effort: CoreEffort, *, as_json: bool) -> CModel:
    """The C, once it has been proved and told of."""
    from haversack.proving.on_core import prove_on_core, require_exact
    from haversack.proving.sources import source_of
    from haversack.report.proved import proved_on_core

    file = loaded(task) if task is not None else None
    with progress(quiet=as_json):
        source = source_of(folder, file.fresh_network(), file.task) if file else source_of(folder)
        model, proof = prove_on_core(folder.name, source.graph, board, source.inputs, effort)
    if as_json:
        print_json(proof.to_json())
    else:
        typer.echo(proved_on_core(proof))
    require_exact(proof)
    return model


def blame(
    folder: ResultFolder,
    task: TaskPath,
    suspects: Annotated[int, typer.Option(help="So many layers are scored again, left float.", min=1)] = 3,
    *,
    as_json: AsJson = False,
) -> None:
    """Find the layers that a quantized result loses its score to, and what mending them costs."""
    from haversack.proving.blame import blame as run
    from haversack.report.proved import blamed

    file = loaded(task)
    with progress(quiet=as_json):
        found = run(folder, file.fresh_network(), file.task, suspects)
    if as_json:
        print_json(found.to_json())
    else:
        typer.echo(blamed(found))
