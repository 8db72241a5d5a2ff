"""The options that commands share, and what their words mean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haversack.errors import QuantityError
from haversack.quantity import parse_bytes, parse_latency, parse_mj, parse_share

if TYPE_CHECKING:
    from haversack.device import Budget, Device

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
StudentName = Annotated[
    str, typer.Option("--student", help="A compact network learns to replace yours: auto, or a family.")
]
StudentEpochs = Annotated[int, typer.Option(help="Epochs that the student learns for.", min=1)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Threads = Annotated[int, typer.Option(help="Threads of the runtime when it is timed.", min=1)]
Seconds = Annotated[float, typer.Option(help="How long to time each file.", min=0.1)]
# Resolved at once: the user's file may change the working directory.
Out = Annotated[Path, typer.Option(help="Folder for the result.", resolve_path=True)]
ResultFolder = Annotated[
    Path, typer.Argument(help="The result folder of `pack` or `apply`.", metavar="DIR", resolve_path=True)
]


def budget_of(  # noqa: PLR0913 - one argument a limit
    flash: str | None = None,
    ram: str | None = None,
    latency: str | None = None,
    energy: str | None = None,
    update: str | None = None,
    max_drop: str | None = None,
    score: str | None = None,
) -> Budget:
    """The limits in words. Raises QuantityError, naming the option."""
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


def target_of(name: str, runtime: str | None = None) -> Device:
    """The device called `name`, with another runtime if one is given."""
    from haversack.device import find_device

    device = find_device(name)
    return device if runtime is None else replace(device, runtime=runtime)
