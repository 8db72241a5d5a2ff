"""Words on the command line become calls below. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import gc
import os
import sys
from typing import Annotated

import typer

from haversack import __version__
from haversack.cli import commands, packing, updating
from haversack.cli.terminal import STOPPED, UNEXPECTED, guarded, unexpected
from haversack.errors import HaversackError, StoppedError

app = typer.Typer(
    name="haversack",
    help="Fits a trained neural network into the device that has to carry it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
devices_app = typer.Typer(help="The devices that haversack knows.", no_args_is_help=True)
for _command in (
    commands.weigh,
    commands.advise,
    packing.pack,
    packing.explore,
    packing.apply,
    commands.bench,
    commands.prove,
    commands.blame,
    commands.encode,
    commands.decode,
    updating.bundle,
    updating.verify,
    commands.timings,
):
    app.command()(guarded(_command))
app.add_typer(devices_app, name="devices")
devices_app.command("list")(guarded(commands.list_devices))
devices_app.command("show")(guarded(commands.show_device))


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:  # noqa: FBT002
    if version:
        typer.echo(f"haversack {__version__}")
        raise typer.Exit


def main(words: list[str] | None = None) -> None:
    """The `haversack` command. A user's mistake ends with its message and code 2, Ctrl-C with 130, ours with 70."""
    gc.set_threshold(10_000, 20)  # importing torch, all of which stays, takes half a second less
    try:
        app(words)
    except HaversackError as error:
        typer.echo(f"haversack: {error}", err=True)
        sys.exit(STOPPED if isinstance(error, StoppedError) else 2)
    except Exception as error:
        if os.environ.get("HAVERSACK_DEBUG"):
            raise
        typer.echo(f"haversack: {unexpected(error)}", err=True)
        sys.exit(UNEXPECTED)
    finally:
        gc.freeze()  # leaving takes a second less when torch is not sifted for garbage
