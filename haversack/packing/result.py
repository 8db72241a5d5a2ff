"""Result: what `pack` and `apply` leave is written as one folder, and the model in it is built again in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from haversack.artifact import Artifact
from haversack.disk import aside, disk_errors
from haversack.errors import WorkspaceError
from haversack.model import Model
from haversack.packing.check import example_of, wired
from haversack.placing import anew, settled
from haversack.result import NETWORK, REPORT, WORKSPACE, Result
from haversack.surgery.save import export_pt2, save
from haversack.surgery.save import load as load_model
from haversack.task import Task
from haversack.untrusted import plain_name


def write_result(
    folder: Path, texts: Mapping[str, str], artifact: Artifact | None = None, model: Model | None = None
) -> None:
    """The result folder: the artifact's files, texts such as `report.txt`, and the network to reload."""
    with anew(folder) as fresh:
        for name, content in artifact.files.items() if artifact else ():
            if not plain_name(name):
                raise WorkspaceError(f"a file of a result cannot be called {name!r}.", where=str(folder))
            (fresh / name).write_bytes(content)
        for name, text in texts.items():
            (fresh / name).write_text(text, encoding="utf-8", newline="")
        if model is not None:
            save(model, fresh / NETWORK)
            export_pt2(model, fresh / NETWORK / "network.pt2")


def load(folder: Path | str, network: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    """The packed network of a result folder, rebuilt from the original one, to go on with in torch.

    It computes in float32 with the weights that the exported file has, rounded where they were rounded; its batch norms
    know what they read, so that it trains on (after `.train()`) from where it is. `network` is the original, or a
    function that builds it, and is left as it is:

        module = haversack.load("packed", network())

    It takes what the original takes: what a task's `prepare` does with bytes is not in it. Raises MeasureError where
    the folder holds no result, and SurgeryError where the result is of another network.
    """
    original = network if isinstance(network, nn.Module) else network()
    return load_model(original, network_folder(Path(folder)), ()).module


def leave_report(folder: Path, text: str) -> Path:
    """Where the report of a run without a result was written: the folder, or its workspace beside an older result."""
    if not (folder / NETWORK).is_dir():
        write_result(folder, {REPORT: text})
        return folder / REPORT
    with disk_errors(folder):
        (folder / WORKSPACE).mkdir(exist_ok=True)
        with aside(folder / WORKSPACE) as fresh:
            (fresh / REPORT).write_text(text, encoding="utf-8")
            (fresh / REPORT).replace(folder / WORKSPACE / REPORT)
    return folder / WORKSPACE / REPORT


def read_result(folder: Path, network: nn.Module, task: Task) -> Model:
    """The model in a result folder, on a fresh `network`. Raises MeasureError as `network_folder` does."""
    return load_model(wired(network.eval(), task), network_folder(folder), example_of(task))


def network_folder(folder: Path) -> Path:
    """Where a result folder holds its network, what a killed run began being finished; raises as `Result.network`."""
    settled(folder)
    return Result(folder).network
