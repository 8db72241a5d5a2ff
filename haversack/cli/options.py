"""The options that commands share, and what their words mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from inspect import Signature, signature
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

from haversack.device import Device, find_device
from haversack.errors import QuantityError
from haversack.limits import LIMITS, Budget
from haversack.runtimes import device_names, formats
from haversack.runtimes.files import one_of

TaskPath = Annotated[Path, typer.Argument(help="Python file with network() and task().", metavar="TASK.py")]
DeviceName = Annotated[str, typer.Option("--device", help="A name from `haversack devices list`, or a TOML file.")]
RuntimeName = Annotated[str | None, typer.Option("--runtime", help=f"{one_of(device_names())}.")]
StudentName = Annotated[
    str, typer.Option("--student", help="A compact network learns to replace yours: auto, or a family.")
]
StudentEpochs = Annotated[int, typer.Option(help="Epochs that the student learns for.", min=1)]
Tried = Annotated[list[str] | None, typer.Option("--try", help="Only these techniques: a,b or once each.")]
Seed = Annotated[int, typer.Option(help="Where all drawing starts. What is kept depends on measured time too.")]
Pick = Annotated[int | None, typer.Option(help="Make this row of the last run's frontier the result.", min=1)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Threads = Annotated[int, typer.Option(help="Threads of the runtime when it is timed.", min=1)]
CoreRam = Annotated[
    str,
    typer.Option(help="With --on: in so much RAM, such as 32kB; by strips of rows where whole maps take more."),
]
Seconds = Annotated[float, typer.Option(help="How long to time each file.", min=0.1)]
# Resolved at once: the user's file may change the working directory.
Out = Annotated[Path, typer.Option(help="Folder for the result.", resolve_path=True)]
MeasuredFile = Annotated[
    Path, typer.Argument(help=f"Any {one_of([known.kind for known in formats() if not known.opaque])} file.")
]
ResultFolder = Annotated[
    Path, typer.Argument(help="The result folder of `pack` or `apply`.", metavar="DIR", resolve_path=True)
]

Words = Mapping[str, str]
"""What was written of the limits, by option."""
NO_WORDS: Words = MappingProxyType({})
Command = Callable[..., None]


def limited(*judged_by: str) -> Callable[[Command], Command]:
    """For a command whose parameter `limits` stands for the options of limits that are judged by one of these."""
    rows = {limit.option.replace("-", "_"): limit for limit in LIMITS if limit.judged_by in judged_by}

    def with_options(command: Command) -> Command:
        own = list(signature(command, eval_str=True).parameters.values())
        place = [parameter.name for parameter in own].index("limits")
        kinds = {name: Annotated[str | None, typer.Option(help=limit.help)] for name, limit in rows.items()}
        options = [own[place].replace(name=name, default=None, annotation=kind) for name, kind in kinds.items()]

        @wraps(command)
        def run(**values: Any) -> None:  # noqa: ANN401 - of whatever options the command has
            words = {limit.option: values.pop(name) for name, limit in rows.items()}
            command(**values, limits={option: text for option, text in words.items() if text is not None})

        # It is this that typer reads.
        run.__signature__ = Signature([*own[:place], *options, *own[place + 1 :]])  # type: ignore[attr-defined]
        return run

    return with_options


def budget_of(words: Words) -> Budget:
    """The limits in words. Raises QuantityError, naming the option."""
    limits: dict[str, Any] = {}
    for limit in LIMITS:
        if limit.option in words:
            try:
                limits[limit.field] = limit.parse(words[limit.option])
            except QuantityError as error:
                raise QuantityError(error.what, mend=error.mend, where=f"--{limit.option}") from error
    return Budget(**limits)


def target_of(name: str, runtime: str | None = None) -> Device:
    """The device called `name`, with another runtime if one is given."""
    device = find_device(name)
    return device if runtime is None else replace(device, runtime=runtime)
