"""Workspace: finished candidates on disk, found again by what made them. A killed run goes on where it was."""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from haversack.artifact import Artifact, Files
from haversack.device import Device
from haversack.errors import HaversackError, MeasureError, WorkspaceError
from haversack.graph.surgery import load, save
from haversack.measurement import Measurement
from haversack.model import Model
from haversack.recipe import Recipe
from haversack.task import Task

_VERSIONED = ("torch", "onnx", "onnxruntime", "ai-edge-litert", "haversack")


@dataclass(frozen=True)
class Workspace:
    """A folder of finished work. Entries are written aside and moved into place, so each is whole or absent."""

    folder: Path
    run: str
    """What all entries of this run share: network, task, device, versions."""

    @property
    def unfinished(self) -> Path:
        """Where this run's trainings write what they go on from."""
        return self.folder / self.run / "unfinished training"

    def model(self, recipe: Recipe, network: nn.Module, original: Model) -> Model | None:
        """The model that `recipe` made earlier, or None."""
        place = self._place("model", recipe)
        if not place.is_dir():
            return None
        try:
            found = load(network, place, original.example)
        except HaversackError:
            return None  # damaged or of another version: made again
        return replace(found, teacher=original.teacher, target=original.target)

    def keep_model(self, recipe: Recipe, model: Model) -> None:
        """Stores what `recipe` made."""
        with self._aside(self._place("model", recipe)) as folder:
            save(model, folder)

    def artifact(self, recipe: Recipe, *, scored: bool) -> Artifact | None:
        """The measured files of `recipe`, or None where they were not measured (or not scored) yet."""
        place = self._place("scored" if scored else "unscored", recipe)
        try:
            data = json.loads((place / "measurement.json").read_text(encoding="utf-8"))
            files = {name: (place / "files" / name).read_bytes() for name in data["files"]}
            if data["files"] != _digests(files):
                return None
            return Artifact(data["runtime"], files, recipe, Measurement.from_json(data["measurement"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # absent or damaged: measured again

    def keep_artifact(self, artifact: Artifact, *, scored: bool) -> None:
        """Stores measured files."""
        with self._aside(self._place("scored" if scored else "unscored", artifact.recipe)) as folder:
            (folder / "files").mkdir()
            for name, content in artifact.files.items():
                (folder / "files" / name).write_bytes(content)
            data = {
                "runtime": artifact.runtime,
                "files": _digests(artifact.files),
                "measurement": artifact.measurement.to_json(),
            }
            (folder / "measurement.json").write_text(json.dumps(data, indent=1), encoding="utf-8")

    def _place(self, kind: str, recipe: Recipe) -> Path:
        return self.folder / self.run / f"{recipe.digest}.{kind}"

    @contextmanager
    def _aside(self, place: Path) -> Iterator[Path]:
        with _disk_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=place.parent))
            try:
                yield folder
                _move(folder, place)
            finally:
                shutil.rmtree(folder, ignore_errors=True)


def open_workspace(folder: Path, network: nn.Module, task: Task, device: Device, circumstances: str = "") -> Workspace:
    """The workspace in `folder` for this network, task, device and installed versions.

    `circumstances` is whatever else figures depend on, such as the task's code and the number of threads.
    """
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode() if isinstance(value, Tensor) else b"")
        digest.update(_bytes(value) if isinstance(value, Tensor) else repr(value).encode())
    digest.update(str(network).encode())
    digest.update(f"{circumstances}{_of_calibration(task)}".encode())
    digest.update(repr(device).encode())
    digest.update(" ".join(f"{name}={_version(name)}" for name in _VERSIONED).encode())
    return Workspace(folder, digest.hexdigest()[:16])


def read_result(folder: Path, network: nn.Module, task: Task) -> Model:
    """The model in a result folder, on a fresh `network`. Raises MeasureError where the folder holds none."""
    return load(network, network_folder(folder), tuple(value[:1] for value in task.calibration()[0]))


def network_folder(folder: Path) -> Path:
    """Where a result folder holds its network. Raises MeasureError where it holds none."""
    place = folder / "network"
    if not place.is_dir():
        raise MeasureError(
            "it holds no result of `pack` or `apply`.", where=str(folder), mend="give the folder that --out named."
        )
    return place


def write_result(folder: Path, texts: dict[str, str], artifact: Artifact, model: Model) -> None:
    """The result folder: the artifact's files, texts such as `report.txt`, and the network to reload."""
    with _disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in artifact.files.items():
            _replace(folder / name, content)
        for name, text in texts.items():
            _replace(folder / name, text.encode())
        (folder / "network").mkdir(exist_ok=True)
        save(model, folder / "network")


def _move(folder: Path, place: Path) -> None:
    """Puts `folder` in its place. An entry that is there already leaves whole: another process may write it too."""
    while True:
        try:
            os.replace(folder, place)  # noqa: PTH105 - Path.replace is the same call
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
        with suppress(FileNotFoundError), tempfile.TemporaryDirectory(prefix=".replaced-", dir=place.parent) as old:
            os.replace(place, Path(old) / place.name)  # noqa: PTH105


def _replace(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f".unfinished-{path.name}")
    unfinished.write_bytes(content)
    unfinished.replace(path)


@contextmanager
def _disk_errors(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise WorkspaceError(
            "the disk is full." if full else f"it cannot be written: {error.strerror}.",
            where=str(place),
            mend="free some space (or choose another folder) and run the same command again: finished work is kept.",
        ) from error


def _of_calibration(task: Task) -> str:
    digest = hashlib.sha256(task.kind.encode())
    for inputs in task.calibration():
        for value in inputs:
            digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    """The tensor's memory: numpy knows no bfloat16."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _digests(files: Files) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
