"""Workspace: finished candidates on disk, found again by what made them. A killed run goes on where it was."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from haversack.artifact import Artifact
from haversack.device import Device
from haversack.disk import aside, changed, disk_errors, listed, put, recover, seal
from haversack.errors import HaversackError, UntrustedError
from haversack.graph.surgery import load, save
from haversack.measurement import Measurement
from haversack.model import Model
from haversack.recipe import Recipe
from haversack.scratch import scratch_folder
from haversack.task import Task
from haversack.untrusted import read_json, typed

_VERSIONED = ("torch", "onnx", "onnxruntime", "ai-edge-litert", "haversack")


@dataclass(frozen=True)
class _Measured:
    """What is written down of an artifact, beside its files."""

    runtime: str
    names: tuple[str, ...]
    """The files in their order: the first is the one that the runtime runs."""
    measurement: Measurement


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
        try:
            if changed(place):
                return None
            found = load(network, place, original.example)
        except HaversackError:
            return None  # absent, damaged or of another version: made again
        return replace(found, teacher=original.teacher, target=original.target)

    def keep_model(self, recipe: Recipe, model: Model) -> None:
        """Stores what `recipe` made."""
        with self._aside(self._place("model", recipe)) as folder:
            save(model, folder)

    def artifact(self, recipe: Recipe, *, scored: bool) -> Artifact | None:
        """The measured files of `recipe`, or None where they were not measured (or not scored) yet."""
        place = self._place("scored" if scored else "unscored", recipe)
        try:
            if changed(place):
                return None
            found = typed(_Measured, read_json(place / "measurement.json"))
            if {f"files/{name}" for name in found.names} != listed(place).keys() - {"measurement.json"}:
                return None
            files = {name: (place / "files" / name).read_bytes() for name in found.names}
            return Artifact(found.runtime, files, recipe, found.measurement)
        except (OSError, UntrustedError):
            return None  # absent or damaged: measured again

    def keep_artifact(self, artifact: Artifact, *, scored: bool) -> None:
        """Stores measured files."""
        with self._aside(self._place("scored" if scored else "unscored", artifact.recipe)) as folder:
            (folder / "files").mkdir()
            for name, content in artifact.files.items():
                (folder / "files" / name).write_bytes(content)
            kept = _Measured(artifact.runtime, tuple(artifact.files), artifact.measurement)
            (folder / "measurement.json").write_text(json.dumps(asdict(kept), indent=1), encoding="utf-8")

    def _place(self, kind: str, recipe: Recipe) -> Path:
        return self.folder / self.run / f"{recipe.digest}.{kind}"

    @contextmanager
    def _aside(self, place: Path) -> Iterator[Path]:
        with disk_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            with aside(place.parent) as folder:
                yield folder
                seal(folder)
                put(folder, place)


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
    found = Workspace(folder, digest.hexdigest()[:16])
    if (folder / found.run).is_dir():
        with disk_errors(folder):
            recover(folder / found.run)
    return found


@contextmanager
def cache_folder(named: Path | None) -> Iterator[Path]:
    """The folder for finished candidates: the one that is named, or one that goes with the run."""
    if named is not None:
        yield named
        return
    with scratch_folder() as folder:
        yield folder


def _of_calibration(task: Task) -> str:
    digest = hashlib.sha256(task.kind.encode())
    for inputs in task.calibration():
        for value in inputs:
            digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    """The tensor's memory: numpy knows no bfloat16."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
