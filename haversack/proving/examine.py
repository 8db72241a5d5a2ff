"""Examine: each file of a result, held against what was written and against the network that the result holds."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from haversack.artifact import CODED_FILE
from haversack.coded.container import CodedFile
from haversack.disk import LISTING, scratch_folder
from haversack.errors import HaversackError
from haversack.measurement import Conditions
from haversack.model import Model
from haversack.proof import Examined
from haversack.result import MEASURED, NETWORK, RECIPE, REPORT, WORKSPACE, Result
from haversack.runtimes import coded, formats, named
from haversack.surgery.edit import NETWORK_FILE, WEIGHTS_FILE
from haversack.surgery.save import export_pt2

_PROGRAM = f"{NETWORK}/network.pt2"
_GONE, _CHANGED = "is gone", "is not what was written: its digest differs"
_LEFT = "is not of this result, whose listing does not name it: an earlier run left it, or somebody else"


def made_for(folder: Path) -> str:
    """The runtime that the result was made for, as a device names it; empty where it does not tell."""
    made = _made_under(folder)
    return made.runtime if made else ""


def made_for_host(folder: Path) -> bool:
    """Whether the result says that it was made for the machine that packed it."""
    made = _made_under(folder)
    return made is not None and made.device == "host"


def _made_under(folder: Path) -> Conditions | None:
    try:
        return Result(folder).measured.packed.conditions
    except HaversackError:
        return None


@dataclass(frozen=True)
class Runs:
    """Which runtimes ran a file of the result, and why others could not."""

    ran: Sequence[str]
    refused: Mapping[str, str]


def examined(folder: Path, model: Model, runs: Mapping[str, Runs]) -> tuple[Examined, ...]:
    """All files of the result in `folder`, what was looked at in each, and what is wrong with it.

    `runs` tells for the files that runtimes run what became of that.
    """
    result, runtime = Result(folder), named(made_for(folder))
    changed = set(result.changed())
    shipped = {runtime.format.file} if runtime else set()
    names = sorted({*_files(folder), *(result.listing or ()), *shipped})
    return tuple(_one(result, name, model, runs, _state(result, name, changed)) for name in names)


def _files(folder: Path) -> Iterator[str]:
    """What lies in the folder, but for its workspace and what is hidden."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not hidden and name.parts[0] != WORKSPACE:
            yield name.as_posix()


def _state(result: Result, name: str, changed: set[str]) -> str:
    """What the listing has against a file; empty where that is nothing, or where there is no listing."""
    if not (result.folder / name).is_file():
        return _GONE
    if result.listing is None:
        return ""
    if name not in result.listing:
        ours = {CODED_FILE, *(each.file for each in formats())}
        return _LEFT if name in ours or name.startswith(f"{NETWORK}/") else "foreign"
    return _CHANGED if name in changed else ""


def _one(result: Result, name: str, model: Model, runs: Mapping[str, Runs], state: str) -> Examined:
    if name == LISTING:
        return Examined(name, f"{len(result.listing or ())} digests")
    if state == "foreign":
        return Examined(name, "no part of the result")
    digest = "as it was written" if result.listing is not None else "no digest is recorded"
    if state:
        return Examined(name, "its digest", state)
    look = _LOOKS.get(name)
    try:
        found = _run(runs[name]) if name in runs else look(result, model) if look else ""
    except _WrongError as error:
        return Examined(name, digest, str(error))
    except HaversackError as error:
        return Examined(name, digest, f"cannot be read: {error.what.removesuffix('.')}")
    return Examined(name, f"{digest}; {found}" if found else digest)


class _WrongError(Exception):
    """What is wrong with a file."""


def _run(runs: Runs) -> str:
    if runs.ran:
        return f"run by {', '.join(runs.ran)}"
    if runs.refused:
        raise _WrongError("cannot be run: " + "; ".join(f"{name}: {why}" for name, why in runs.refused.items()))
    return "not run: no runtime for it is installed"


def _coded(result: Result, model: Model) -> str:
    """How many tensors the coded file has, which are the network's own to the bit."""
    ours = CodedFile.of(coded.write(model), "the network")
    if different := ours.differing(result.weights):
        raise _WrongError(f"holds other weights than the network: {', '.join(different[:3])}")
    return f"decoded: the network's {len(ours.tensors)} tensors"


def _program(result: Result, model: Model) -> str:
    """What the torch program holds, entry by entry beside one written now; nothing is unpickled.

    Its graph names the places of the user's source, and so differs where that moved, or torch did.
    """
    path = result.path(_PROGRAM)
    with scratch_folder() as folder:
        fresh = folder / path.name
        export_pt2(model, fresh)
        try:
            with zipfile.ZipFile(fresh) as ours, zipfile.ZipFile(path) as theirs:
                differing = set(_differing(ours, theirs))
        except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise _WrongError(f"cannot be read: {error}") from error
    if any("/weights/" in name for name in differing):
        raise _WrongError("holds other weights than the network")
    return "the network's weights" + ("" if differing else " and graph")


def _differing(ours: zipfile.ZipFile, theirs: zipfile.ZipFile) -> Iterator[str]:
    """The entries that one of them lacks, or that differ. Sizes are compared first: an entry may unpack to anything."""
    wanted = {each.filename: each for each in ours.infolist()}
    found = {each.filename: each for each in theirs.infolist()}
    for name in wanted.keys() | found.keys():
        both = name in wanted and name in found and wanted[name].file_size == found[name].file_size
        if not both or ours.read(name) != theirs.read(name):
            yield name


def _report(result: Result, _: Model) -> str:
    return "" if result.report else "empty"


def _loaded(_: Result, model: Model) -> str:
    return f"loaded: {sum(value.numel() for value in model.module.parameters()):,} parameters"


_LOOKS: dict[str, Callable[[Result, Model], str]] = {
    CODED_FILE: _coded,
    MEASURED: lambda result, _: f"measured in {result.measured.packed.conditions.runtime}",
    RECIPE: lambda result, _: ", ".join(result.techniques) or "no steps",
    REPORT: _report,
    _PROGRAM: _program,
    f"{NETWORK}/{WEIGHTS_FILE}": _loaded,
    f"{NETWORK}/{NETWORK_FILE}": _loaded,
}
"""How the files that no runtime runs are looked at."""
