"""Words on the command line become calls below. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import gc
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haversack import __version__
from haversack.errors import HaversackError, QuantityError
from haversack.quantity import parse_bytes, parse_latency, parse_mj, parse_share

if TYPE_CHECKING:
    from haversack.device import Budget, Device
    from haversack.graph.cost import Cost
    from haversack.measurement import Measurement
    from haversack.model import Model
    from haversack.packing import Packed, Settings
    from haversack.task import TaskFile

app = typer.Typer(
    name="haversack",
    help="Fits a trained neural network into the device that has to carry it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
devices_app = typer.Typer(help="The devices that haversack knows.", no_args_is_help=True)
app.add_typer(devices_app, name="devices")

_AGAIN_S = 2.0

TaskPath = Annotated[Path, typer.Argument(help="Python file with network() and task().", metavar="TASK.py")]
DeviceName = Annotated[str, typer.Option("--device", help="A name from `haversack devices list`, or a TOML file.")]
RuntimeName = Annotated[str | None, typer.Option("--runtime", help="onnx, litert, tflite-micro or executorch.")]
Flash = Annotated[str | None, typer.Option(help="Limit of the file, such as 90kB or 256KiB.")]
Ram = Annotated[str | None, typer.Option(help="Limit of the memory while running.")]
Latency = Annotated[str | None, typer.Option(help="Limit of one inference: 5ms, or 0.45x of the float original.")]
Energy = Annotated[str | None, typer.Option(help="Limit of one inference, such as 3mJ.")]
Update = Annotated[str | None, typer.Option(help="Limit of the coded file that goes over the link, such as 20kB.")]
MaxDrop = Annotated[str | None, typer.Option(help="How far the score may fall: 1% or 0.01.")]
Score = Annotated[str | None, typer.Option("--score", help="The lowest score allowed: 90% or 0.9.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Threads = Annotated[int, typer.Option(help="Threads of the runtime when it is timed.", min=1)]
Seconds = Annotated[float, typer.Option(help="How long to time each file.", min=0.1)]
Out = Annotated[Path, typer.Option(help="Folder for the result.")]


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:  # noqa: FBT002
    if version:
        typer.echo(f"haversack {__version__}")
        raise typer.Exit


@app.command()
def weigh(  # noqa: PLR0913 - one argument an option
    task: TaskPath,
    device: DeviceName = "host",
    flash: Flash = None,
    ram: Ram = None,
    latency: Latency = None,
    energy: Energy = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Size, MACs, memory and a per-layer table, without training; whether it fits, and which limit fails."""
    target, budget = _target(device, _budget(flash, ram, latency, energy))
    _, found, weighings = _weighed(task, target)
    if as_json:
        fits = {name: [asdict(miss) for miss in each.misses(budget)] for name, each in weighings.items()}
        figures = {name: each.to_json() for name, each in weighings.items()}
        _print_json({**asdict(found), "weighings": figures, "misses": fits})
        return
    from haversack.report.text import weighed

    typer.echo(weighed(found, list(weighings.items()), target, budget))


@app.command()
def advise(  # noqa: PLR0913 - one argument an option
    task: TaskPath,
    device: DeviceName = "host",
    flash: Flash = None,
    ram: Ram = None,
    latency: Latency = None,
    energy: Energy = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Which techniques suit this network on this device, with reasons in numbers; without training."""
    target, budget = _target(device, _budget(flash, ram, latency, energy))
    _, found, weighings = _weighed(task, target)
    from haversack.plan.advise import advise as ranked
    from haversack.report.text import advised
    from haversack.techniques import names

    advice = ranked(found, weighings, target, budget, names())
    if as_json:
        _print_json([asdict(each) for each in advice])
    else:
        typer.echo(advised(advice, target))


@app.command()
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
    seed: Annotated[int, typer.Option(help="The same seed gives the same recipe.")] = 0,
    threads: Threads = 1,
    seconds: Seconds = 3.0,
    out: Out = Path("out"),
    *,
    as_json: AsJson = False,
) -> None:
    """Compress the network until it meets the limits, and prove it on the exported file."""
    from haversack.packing import pack as run

    target, budget = _target(device, _budget(flash, ram, latency, energy, update, max_drop, score), runtime)
    names = tuple(word.strip() for word in techniques.split(",") if word.strip())
    with _loaded(task) as file, _progress(quiet=as_json):
        settings = _settings(out, threads, file, techniques=names, epochs=epochs, seed=seed, seconds=seconds)
        result = run(file.fresh_network, file.task, target, budget, settings)
    _show(result, out, as_json=as_json)


@app.command()
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
    from haversack.packing import read_recipe

    steps = read_recipe(recipe)
    target, _ = _target(device, _budget(), runtime)
    with _loaded(task) as file, _progress(quiet=as_json):
        result = run(steps, file.fresh_network, file.task, target, _settings(out, threads, file, seconds=seconds))
    _show(result, out, as_json=as_json)


@app.command()
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
        _print_json(report.to_json())
    else:
        typer.echo(benched(report))


@app.command()
def prove(  # noqa: PLR0913 - one argument an option
    folder: Annotated[Path, typer.Argument(help="The result folder of `pack` or `apply`.", metavar="DIR")],
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

    with _loaded(task) as file, _progress(quiet=as_json):
        proof = run(folder, file.fresh_network(), file.task, Effort(samples, seed, threads, patience))
    if as_json:
        _print_json(proof.to_json())
    else:
        typer.echo(proved(proof))
    require(proof)


@app.command()
def blame(
    folder: Annotated[Path, typer.Argument(help="The result folder of `pack` or `apply`.", metavar="DIR")],
    task: TaskPath,
    suspects: Annotated[int, typer.Option(help="So many layers are scored again, left float.", min=1)] = 3,
    *,
    as_json: AsJson = False,
) -> None:
    """Find the layers that a quantized result loses its score to, and what mending them costs."""
    from haversack.blame import blame as run
    from haversack.report.blame import blamed

    with _loaded(task) as file, _progress(quiet=as_json):
        found = run(folder, file.fresh_network(), file.task, suspects)
    if as_json:
        _print_json(found.to_json())
    else:
        typer.echo(blamed(found))


@devices_app.command("list")
def list_devices(*, as_json: AsJson = False) -> None:
    """All devices with what is known of them."""
    from haversack.device import device_names, find_device
    from haversack.report.text import device_table

    found = [find_device(name) for name in device_names()]
    if as_json:
        _print_json([asdict(each) for each in found])
    else:
        typer.echo(device_table(found))


@devices_app.command("show")
def show_device(name: str, *, as_json: AsJson = False) -> None:
    """Every fact of a device with its source, and what pays there."""
    from haversack.device import find_device
    from haversack.report.text import device_card

    found = find_device(name)
    if as_json:
        _print_json(asdict(found))
    else:
        typer.echo(device_card(found))


def main(words: list[str] | None = None) -> None:
    """The `haversack` command. A user's mistake ends with its message and exit code 2."""
    try:
        app(words)
    except HaversackError as error:
        typer.echo(f"haversack: {error}", err=True)
        sys.exit(2)
    finally:
        gc.freeze()  # leaving takes a second less when torch is not sifted for garbage


def _budget(  # noqa: PLR0913 - one argument a limit
    flash: str | None = None,
    ram: str | None = None,
    latency: str | None = None,
    energy: str | None = None,
    update: str | None = None,
    max_drop: str | None = None,
    score: str | None = None,
) -> Budget:
    from haversack.device import Budget

    def parsed(option: str, parse: Any, text: str | None) -> Any:  # noqa: ANN401 - a number or a pair
        try:
            return None if text is None else parse(text)
        except QuantityError as error:
            raise QuantityError(error.what, mend=error.mend, where=f"--{option}") from error

    latency_ms, latency_ratio = parsed("latency", parse_latency, latency) or (None, None)
    return Budget(
        flash_bytes=parsed("flash", parse_bytes, flash),
        ram_bytes=parsed("ram", parse_bytes, ram),
        latency_ms=latency_ms,
        latency_ratio=latency_ratio,
        energy_mj=parsed("energy", parse_mj, energy),
        update_bytes=parsed("update", parse_bytes, update),
        max_drop=parsed("max-drop", parse_share, max_drop),
        score_at_least=parsed("score", parse_share, score),
    )


def _target(name: str, budget: Budget, runtime: str | None = None) -> tuple[Device, Budget]:
    from haversack.device import find_device

    device = find_device(name)
    if runtime is not None:
        device = replace(device, runtime=runtime)
    return device, budget.within(device)


def _weighed(path: Path, device: Device) -> tuple[Model, Cost, dict[str, Measurement]]:
    from haversack.door import checked_model
    from haversack.graph.cost import cost
    from haversack.graph.trace import trace
    from haversack.measure.estimate import weigh as estimated

    with _loaded(path) as file:
        model = checked_model(file.fresh_network(), file.task)
    found = cost(trace(model.module, model.example))
    return model, found, {name: estimated(found, device, name) for name in ("float32", "int8")}


@contextmanager
def _loaded(path: Path) -> Iterator[TaskFile]:
    from haversack.task import read_task_file

    yield read_task_file(path)


def _settings(out: Path, threads: int, file: TaskFile, **more: Any) -> Settings:  # noqa: ANN401 - as Settings has them
    from haversack.packing import Settings

    return Settings(out=out, cache=out / "workspace", threads=threads, task_digest=file.digest, **more)


@contextmanager
def _progress(*, quiet: bool) -> Iterator[None]:
    """Bars with time left in a terminal; plain lines where the output goes elsewhere; nothing beside JSON."""
    from haversack.progress import shown_by
    from haversack.report.bars import Bars

    with _interruptible():
        if quiet:
            yield
            return
        with Bars() as bars, shown_by(bars):
            yield


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends with a message, whatever the interrupted library makes of it.

    Some turn the interrupt into an error of their own; a destructor swallows it. So it comes again until it is heard.
    """
    pressed = []

    def stop(number: int, _: object) -> None:
        pressed.append(number)
        _remind(_AGAIN_S)
        raise KeyboardInterrupt

    heard = [signal.SIGINT, *([signal.SIGALRM] if hasattr(signal, "SIGALRM") else [])]
    before = {number: signal.signal(number, stop) for number in heard}
    unheard, sys.unraisablehook = sys.unraisablehook, _silent(sys.unraisablehook)
    try:
        yield
    except BaseException:
        if pressed:
            raise HaversackError("stopped.", mend="repeat the command: what was finished is kept.") from None
        raise
    finally:
        _remind(0)
        sys.unraisablehook = unheard
        for number, handler in before.items():
            signal.signal(number, handler)


def _silent(otherwise: Callable[[sys.UnraisableHookArgs], object]) -> Callable[[sys.UnraisableHookArgs], object]:
    """Nothing is printed of an interrupt that a destructor swallowed: it comes again."""

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            otherwise(unraisable)

    return hook


def _remind(seconds: float) -> None:
    """An alarm in so many seconds, where the system has one; 0 calls it off."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _show(result: Packed, out: Path, *, as_json: bool) -> None:
    if as_json:
        _print_json(
            {
                "recipe": result.artifact.recipe.to_toml(),
                "baseline": result.baseline.to_json(),
                "packed": result.artifact.measurement.to_json(),
                "files": {name: len(content) for name, content in result.artifact.files.items()},
                "tried": [
                    {"recipe": str(each.candidate.recipe), "kept": each.kept, "why": each.why}
                    for each in result.found.verdicts
                ],
            }
        )
    else:
        typer.echo(result.report)
        typer.echo(f"written to {out}")


def _print_json(data: object) -> None:
    typer.echo(json.dumps(data, indent=1, default=str))
