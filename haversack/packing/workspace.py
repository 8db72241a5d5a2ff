"""Workspace: finished candidates on disk, found again by what made them. A killed run goes on where it was."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from haversack.artifact import Artifact
from haversack.device import Device
from haversack.disk import aside, changed, disk_errors, listed, put, recover, scratch_folder, seal
from haversack.errors import HaversackError, UntrustedError
from haversack.measurement import Measurement
from haversack.model import Model
from haversack.packing.fingerprint import fingerprint
from haversack.progress import logged_to, tell
from haversack.quantity import now
from haversack.recipe import Recipe
from haversack.surgery.save import load, save
from haversack.task import Task
from haversack.untrusted import read_json, typed

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
LOG = "pack.log"
"""What a run says on its way, line by line."""

_VERSIONED = ("torch", "haversack")
"""What models depend on. What figures depend on is for `measuring` to say."""


@dataclass(frozen=True)
class _Measured:
    """What is written down of an artifact, beside its files."""

    runtime: str
    names: tuple[str, ...]
    """The files in their order: the first is the one that the runtime runs."""
    measurement: Measurement


@dataclass(frozen=True)
class _Note:
    """Something small, with its digest."""

    digest: str
    content: object


@dataclass(frozen=True)
class Workspace:
    """A folder of finished work. Entries are written aside and moved into place, so each is whole or absent."""

    folder: Path
    run: str
    """What all entries of this run share: network, data to learn from, device, versions."""
    measuring: str = ""
    """What figures depend on beside, such as machine, score and seconds: with another word they are measured anew."""

    @property
    def unfinished(self) -> Path:
        """Where this run's trainings write what they go on from."""
        return self.folder / self.run / "unfinished training"

    def model(self, recipe: Recipe, network: nn.Module, original: Model) -> Model | None:
        """The model that `recipe` made earlier, or None."""
        place = self._place("model", recipe)
        try:
            if changed(place, listed(place)):
                return None
            found = load(network, place, original.example)
        except HaversackError:
            return None  # absent, damaged or of another version: made again
        return replace(found, teacher=original.teacher, target=original.target, filling=original.filling)

    def keep_model(self, recipe: Recipe, model: Model) -> None:
        """Stores what `recipe` made."""
        with self._aside(self._place("model", recipe)) as folder:
            save(model, folder)

    def artifact(self, recipe: Recipe, *, scored: bool) -> Artifact | None:
        """The measured files of `recipe`, or None where they were not measured (or not scored) yet."""
        place = self._place(self._kind(scored=scored), recipe)
        try:
            if changed(place, listed(place)):
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
        with self._aside(self._place(self._kind(scored=scored), artifact.recipe)) as folder:
            (folder / "files").mkdir()
            for name, content in artifact.files.items():
                (folder / "files" / name).write_bytes(content)
            kept = _Measured(artifact.runtime, tuple(artifact.files), artifact.measurement)
            (folder / "measurement.json").write_text(json.dumps(asdict(kept), indent=1), encoding="utf-8")

    def note(self, kind: type[T], *words: object) -> T | None:
        """The small thing of that kind which was kept under these words, or None."""
        try:
            found = typed(_Note, read_json(self._note(kind, words)))
            return typed(kind, found.content) if found.digest == _digest(found.content) else None
        except UntrustedError:
            return None  # absent or damaged: found out again

    def keep_note(self, content: DataclassInstance, *words: object) -> None:
        """Stores a small dataclass under these words."""
        data = asdict(content)
        _write_json(self._note(type(content), words), asdict(_Note(_digest(data), data)))

    def _note(self, kind: type, words: tuple[object, ...]) -> Path:
        key, name = _digest([repr(word) for word in words])[:16], kind.__name__.strip("_").lower()
        return self.folder / self.run / f"{key}.{name}.json"

    def _kind(self, *, scored: bool) -> str:
        word = f"{_digest(self.measuring)[:8]}-" if self.measuring else ""
        return f"{word}{'scored' if scored else 'unscored'}"

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


def open_workspace(  # noqa: PLR0913 - each a kind of circumstance
    folder: Path, network: nn.Module, task: Task, device: Device, circumstances: str = "", measuring: str = ""
) -> Workspace:
    """The workspace in `folder` for this network, task, device and installed versions.

    `circumstances` is whatever else models depend on, such as the task's code, and `measuring` whatever figures do.
    Says so where the same functions gave other data in an earlier run, whose work is then of no use.
    """
    digest = _of_network(network)
    digest.update(f"{circumstances}{task.kind}{device!r}".encode())
    digest.update(" ".join(f"{name}={_version(name)}" for name in _VERSIONED).encode())
    data = _Data(_of_calibration(task), fingerprint(task.train, task.loss), now())
    _compare(folder / f"{digest.hexdigest()[:16]}.data.json", data)
    digest.update(f"{data.calibrate}{data.train}".encode())
    found = Workspace(folder, digest.hexdigest()[:16], measuring)
    with disk_errors(folder):
        for place in (folder, folder / found.run):
            if place.is_dir():
                recover(place)
    return found


@dataclass(frozen=True)
class _Data:
    """What the user's functions gave in a run."""

    calibrate: str
    train: str
    date: str


def _compare(path: Path, data: _Data) -> None:
    """Says which of the user's functions gave other data in the run before, and writes down what they give now."""
    with suppress(UntrustedError):
        before = typed(_Data, read_json(path))
        names = [f"{name}()" for name in ("calibrate", "train") if getattr(before, name) != getattr(data, name)]
        if names:
            tell(
                f"{' and '.join(names)} gave other data in the run of {before.date}, so nothing kept then is of use: "
                "unless that was meant, fix the seed that they draw with."
            )
    _write_json(path, asdict(data))


def _write_json(path: Path, content: object) -> None:
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside(path.parent) as fresh:
            (fresh / path.name).write_text(json.dumps(content, indent=1), encoding="utf-8")
            (fresh / path.name).replace(path)


@contextmanager
def cache_folder(named: Path | None) -> Iterator[Path]:
    """The folder for finished candidates: the one that is named, or one that goes with the run.

    What is said on the way goes into `pack.log` in the named one.
    """
    if named is not None:
        with logged_to(named / LOG):
            yield named
        return
    with scratch_folder() as folder:
        yield folder


def _of_network(network: nn.Module) -> hashlib._Hash:
    """The hash, so far, of the network's weights, its layers and their code."""
    digest = hashlib.sha256(str(network).encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode() if isinstance(value, Tensor) else b"")
        digest.update(_bytes(value) if isinstance(value, Tensor) else repr(value).encode())
    kinds = sorted({type(layer) for layer in network.modules()}, key=lambda kind: (kind.__module__, kind.__qualname__))
    digest.update(fingerprint(*(kind.forward for kind in kinds)).encode())
    return digest


def _of_calibration(task: Task) -> str:
    digest = hashlib.sha256()
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


def _digest(content: object) -> str:
    """The hash of what JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
