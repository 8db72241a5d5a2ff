"""Surgery: the only file that rewrites networks. Edits are data, so that a pruned network is saved without pickle."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save_file
from torch import Tensor, nn

from haversack import zoo
from haversack.errors import RecipeError, SurgeryError, UntrustedError, WorkspaceError
from haversack.graph.attributes import follow_shapes
from haversack.graph.channel_group import ChannelGroup
from haversack.graph.described import MOST_CHANGES, Allowance, change_of, described, ranges
from haversack.graph.named_tensors import named_tensors
from haversack.graph.trace import trace
from haversack.grid import Grid
from haversack.model import Edits, Kept, Layer, Model, Slices, Swap
from haversack.untrusted import Bounds, read_file, read_json, typed

WEIGHTS_FILE, NETWORK_FILE = "weights.safetensors", "network.json"
_FORMAT = 2
# What a file may have in any case, however small the network.
_LEAST_VALUES, _HEADER_BYTES = 100_000, 1 << 20
_BYTES_A_VALUE = 40


def edit(module: nn.Module, edits: Edits) -> nn.Module:
    """A copy of `module` to which `edits` were done, in working order; `module` is untouched.

    Attributes of torch's own layers follow the new shapes; a layer of one's own needs nothing, provided that its code
    reads shapes off its tensors. Weights shared between layers stay shared. Layers that a Swap puts in hold zeros.
    Raises SurgeryError where the edits name a module, tensor, dimension or index that is not there.
    """
    module = copy.deepcopy(module)
    for change in edits.changes:
        module = _done(module, change)
    return module


def _done(module: nn.Module, change: Slices | Swap, allowance: Allowance | None = None) -> nn.Module:
    """`module` itself after one edit, whose layers take at most what is allowed."""
    if isinstance(change, Swap):
        return _swapped(module, change, allowance)
    _slice(module, change)
    return module


def _slice(module: nn.Module, slices: Slices) -> None:
    tensors = named_tensors(module)
    cut: dict[int, tuple[str, Tensor]] = {}
    for name, kept in slices.kept.items():
        if name not in tensors:
            raise SurgeryError(f"the network has no tensor '{name}'.", mend="load the edits onto their own network().")
        old, new = tensors[name], _sliced(tensors[name], name, kept)
        other, earlier = cut.setdefault(id(old), (name, new))
        if not torch.equal(earlier, new):
            raise SurgeryError(f"'{name}' and '{other}' are one shared tensor, but their edits differ.")
    for path, layer in module.named_modules():
        _replace(layer, path, {key: tensor for key, (_, tensor) in cut.items()})


def _swapped(module: nn.Module, swap: Swap, allowance: Allowance | None) -> nn.Module:
    try:
        old = module.get_submodule(swap.path)
    except AttributeError as error:
        raise SurgeryError(
            f"the network has no module '{swap.path}'.", mend="load the edits onto their own network()."
        ) from error
    like = next(old.parameters(), None)
    layers = [_built(layer, swap.path, allowance).train(old.training) for layer in swap.layers]
    new = layers[0] if len(layers) == 1 else nn.Sequential(*layers) if layers else _Through().train(old.training)
    if like is not None:
        new = new.to(device=like.device, dtype=like.dtype)
    if not swap.path:
        return new
    parent, _, name = swap.path.rpartition(".")
    setattr(module.get_submodule(parent), name, new)
    return module


class _Through(nn.Identity):
    """What is left of a module that was removed; masks and the like that it was called with are ignored."""

    def forward(self, input: Tensor, *_: object, **__: object) -> Tensor:  # noqa: A002 - Identity names it so
        """The input."""
        return input


def _built(layer: Layer, path: str, allowance: Allowance | None) -> nn.Module:
    """The layer that the data describe, all its weights zero: what belongs there is filled in afterwards."""
    kind = zoo.kind(layer.kind) or getattr(nn, layer.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise SurgeryError(f"neither torch.nn nor the zoo has a layer '{layer.kind}'.", where=path)
    try:
        with torch.device("meta"):
            built: nn.Module = kind(**layer.settings)
    except Exception as error:  # torch's layers check their settings in many ways
        raise SurgeryError(f"{layer.kind} cannot be built: {error}.", where=path) from error
    if allowance is not None:
        allowance.claim(_bytes(built), path)
    built = built.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*built.parameters(), *built.buffers()):
            tensor.zero_()
    return built


def edits_for(module: nn.Module, groups: Sequence[ChannelGroup], kept: Sequence[Sequence[int]]) -> Edits:
    """The edits that leave of each group the channels `kept` at its place; tensors that stay whole are not named."""
    tensors = named_tensors(module)
    gone: dict[tuple[str, int], set[int]] = {}
    for group, stay in zip(groups, kept, strict=True):
        _check_kept(group, stay)
        for member in group.members:
            lost = (slices for channel, slices in enumerate(member.indices) if channel not in set(stay))
            gone.setdefault((member.tensor, member.dim), set()).update(*lost)
    edits: dict[str, dict[int, tuple[int, ...]]] = {}
    for (name, dim), lost_slices in gone.items():
        if lost_slices:
            whole = range(tensors[name].shape[dim])
            edits.setdefault(name, {})[dim] = tuple(index for index in whole if index not in lost_slices)
    return Edits((Slices(edits),)) if edits else Edits()


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
        found = tensors_from_bytes(read_file(place, 2 * _bytes(module) + _HEADER_BYTES))
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
    allowance = Allowance(4 * (_bytes(network) + _size(weights)) + _HEADER_BYTES)
    module, changes = copy.deepcopy(network), []
    for data in document.edits:
        changes.append(change_of(data, named_tensors(module), allowance))
        module = _done(module, changes[-1], allowance)
    return module, Edits(tuple(changes))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise SurgeryError(f"it cannot be read: {error.strerror}.", where=path.name) from error


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def export_pt2(model: Model, path: Path) -> None:
    """The float network as a torch.export program in a `.pt2` file, to be run with torch alone.

    torch keeps example inputs in such a file, pickled. Here they are zeros: the user's data go nowhere.
    """
    program = trace(model.module, model.example).program
    inputs, named = program.example_inputs
    program.example_inputs = (tuple(torch.zeros_like(value) for value in inputs), named)
    with _whole(path) as place, place.open("wb") as stream:
        torch.export.save(program, stream)


def _sliced(tensor: Tensor, name: str, kept: Kept) -> Tensor:
    new = tensor.detach()
    for dim, indices in kept.items():
        if not 0 <= dim < tensor.dim():
            raise SurgeryError(f"it has no dimension {dim}: its shape is {tuple(tensor.shape)}.", where=name)
        ascending = all(low < high for low, high in pairwise(indices))
        if not indices or not ascending or indices[0] < 0 or indices[-1] >= tensor.shape[dim]:
            raise SurgeryError(
                f"dimension {dim} of shape {tuple(tensor.shape)} cannot keep [{ranges(indices)}].",
                where=name,
                mend="name some indices within the dimension, ascending and each once.",
            )
        new = new.index_select(dim, torch.tensor(indices, device=tensor.device))
    return nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new


def _check_kept(group: ChannelGroup, stay: Sequence[int]) -> None:
    if len(stay) < group.least or not set(stay) <= set(range(group.size)):
        raise SurgeryError(
            f"channels [{ranges(sorted(stay))}] cannot be what is left of {group.size}.",
            where=f"channels of layer {group.name}",
            mend=f"keep {group.least} or more of 0..{group.size - 1}.",
        )


def _replace(layer: nn.Module, path: str, cut: Mapping[int, Tensor]) -> None:
    """Puts the new tensors of one layer in their places and lets its attributes follow."""
    touched = False
    for store in (layer._parameters, layer._buffers):  # noqa: SLF001 - assigning by name would drop shared ones
        for key, tensor in store.items():
            if tensor is not None and id(tensor) in cut:
                store[key] = cut[id(tensor)]  # type: ignore[assignment]
                touched = True
    if touched:
        follow_shapes(layer, path)


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
