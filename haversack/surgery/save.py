"""Save: a network as the edits that made it, its weights and grids, without pickle; and back, from whoever sent it."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save_file
from torch import Tensor, nn

from haversack.errors import RecipeError, SurgeryError, UntrustedError, WorkspaceError
from haversack.graph.run import named_tensors, on_the_same_tensors
from haversack.graph.structure import export
from haversack.graph.trace import two_or_more
from haversack.grid import Grid
from haversack.model import Edits, Model
from haversack.surgery.described import MOST_CHANGES, Allowance, change_of, described
from haversack.surgery.edit import NETWORK_FILE, WEIGHTS_FILE, bytes_of, with_change
from haversack.untrusted import Bounds, read_file, read_json, typed
from haversack.wiring import free_axes

_FORMAT = 2
# What a file may have in any case, however small the network.
_LEAST_VALUES, _HEADER_BYTES = 100_000, 1 << 20
_BYTES_A_VALUE = 40


def save(model: Model, folder: Path) -> None:
    """`model` in two files that `load` reads: its weights (safetensors), and its edits, grids and masks (JSON).

    A mask needs no storage: its weight's zeros are it.
    """
    document = {
        "format": _FORMAT,
        "edits": [described(change) for change in model.edits.changes],
        "sparse": sorted(model.sparse),
        "grids": {name: grid.to_json() for name, grid in model.grids.items()},
        "notes": model.notes,
    }
    tensors = _apart(model.module.state_dict(keep_vars=True))
    with _whole(folder / WEIGHTS_FILE) as place:
        save_file(tensors, place)
    with _whole(folder / NETWORK_FILE) as place:
        place.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor once, under its first name; those that lie in each other's memory are copied out of it."""
    found: dict[int, tuple[str, Tensor]] = {}
    memory: set[int] = set()
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise SurgeryError(
                f"'{name}' is {type(tensor).__name__}, not a tensor.", mend="keep extra state elsewhere."
            )
        if id(tensor) not in found:
            place = tensor.untyped_storage().data_ptr()
            own = tensor.detach().contiguous()
            found[id(tensor)] = (name, own.clone() if place in memory else own)
            memory.add(place)
    return dict(found.values())


def load(network: nn.Module, folder: Path, example: tuple[Tensor, ...]) -> Model:
    """The model that `save` wrote, rebuilt from a freshly built `network`, which is left as it is.

    Raises SurgeryError, naming the tensor and both shapes, where the files belong to another network.
    """
    place = folder / WEIGHTS_FILE
    document = _document(folder / NETWORK_FILE, network)
    try:
        module, edits = _rebuilt(network, document, place)
    except SurgeryError as error:
        raise SurgeryError(
            error.what, where=f"{folder / NETWORK_FILE}, {error.where}".rstrip(", "), mend=error.mend
        ) from error
    unknown = document.sparse - dict(module.named_parameters(remove_duplicate=False)).keys()
    if unknown:
        raise SurgeryError(f"the network has no weight '{min(unknown)}'.", where=str(folder), mend=_MEND)
    try:
        found = tensors_from_bytes(read_file(place, 2 * bytes_of(module) + _HEADER_BYTES))
    except SafetensorError as error:
        raise SurgeryError(f"not a whole safetensors file: {error}.", where=str(place)) from error
    except UntrustedError as error:
        raise SurgeryError(error.what, where=str(place), mend=_MEND) from error
    _fill(module, found, place)
    return Model(module.eval(), example, edits, dict(document.grids), document.sparse, notes=document.notes)


def _rebuilt(network: nn.Module, document: _Document, weights: Path) -> tuple[nn.Module, Edits]:
    """A copy of the network after the edits, each read when those before it are done, and these edits.

    All that is built on the way is a few times what the network and the weights file have at most.
    """
    allowance = Allowance(4 * (bytes_of(network) + _size(weights)) + _HEADER_BYTES)
    module, changes = copy.deepcopy(network), []
    for data in document.edits:
        changes.append(change_of(data, named_tensors(module), allowance))
        module = with_change(module, changes[-1], allowance)
    return module, Edits(tuple(changes))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise SurgeryError(f"it cannot be read: {error.strerror}.", where=path.name) from error


def export_pt2(model: Model, path: Path) -> None:
    """The float network as a torch.export program in a `.pt2` file, to be run with torch alone.

    torch keeps example inputs in such a file, pickled. Here they are zeros: the user's data go nowhere.
    """
    program = export(on_the_same_tensors(model.module).eval(), two_or_more(model.example, free_axes(model.module)))
    inputs, named = program.example_inputs
    program.example_inputs = (tuple(torch.zeros_like(value) for value in inputs), named)
    with _whole(path) as place, place.open("wb") as stream:
        torch.export.save(program, stream)


def _fill(module: nn.Module, found: Mapping[str, Tensor], path: Path) -> None:
    state = module.state_dict(keep_vars=True)
    saved_as = {id(tensor): name for name, tensor in reversed(state.items())}
    wanted = {saved_as[id(tensor)] for tensor in state.values()}
    for name in sorted(wanted ^ found.keys()):
        holder = "the file" if name in found else "the network"
        raise SurgeryError(f"only {holder} holds the tensor '{name}'.", where=str(path), mend=_MEND)
    with torch.no_grad():
        for name in sorted(wanted):
            ours, theirs = state[name], found[name]
            if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
                raise SurgeryError(
                    f"'{name}' is {tuple(theirs.shape)} {theirs.dtype} in the file, "
                    f"but {tuple(ours.shape)} {ours.dtype} in the network.",
                    where=str(path),
                    mend=_MEND,
                )
            ours.copy_(theirs)


_MEND = "load it onto the network() that it was saved from."


@dataclass(frozen=True)
class _Document:
    """What the JSON file says; edits are read one by one, as they are done."""

    format: int
    edits: tuple[object, ...]
    sparse: frozenset[str]
    grids: Mapping[str, Grid]
    notes: tuple[str, ...] = ()


def _document(path: Path, network: nn.Module) -> _Document:
    """The file's content, no more of it than such a network has use for."""
    values = _LEAST_VALUES + 2 * sum(tensor.numel() for tensor in (*network.parameters(), *network.buffers()))
    try:
        document = typed(_Document, read_json(path, Bounds(values * _BYTES_A_VALUE, values=values)))
    except (UntrustedError, RecipeError) as error:
        raise SurgeryError(error.what, where=str(path), mend="make the result again with this version.") from error
    if document.format != _FORMAT or len(document.edits) > MOST_CHANGES:
        raise SurgeryError(
            f"it has format {document.format} and {len(document.edits)} edits; format {_FORMAT} and {MOST_CHANGES} "
            "are the most that is read.",
            where=str(path),
            mend="make the result again with this version.",
        )
    return document


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Where to write what then stands under `path`, all or nothing: a file of a killed process is never half there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except (OSError, SafetensorError) as error:
        raise WorkspaceError(
            f"it cannot be written: {getattr(error, 'strerror', error)}.",
            where=str(path),
            mend="free some space, or choose another folder.",
        ) from error
