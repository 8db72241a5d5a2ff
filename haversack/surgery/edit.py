"""Edit: the only file that rewrites networks. Edits are data, so that a pruned network is saved without pickle."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from haversack import zoo
from haversack.errors import SurgeryError
from haversack.graph.run import named_tensors
from haversack.model import Edits, Kept, Layer, Slices, Swap
from haversack.surgery.described import Allowance, ranges

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_FEATURES = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)


def follow_shapes(layer: nn.Module, path: str) -> None:
    """Sets what one of torch's own layers notes about itself to what its weights say.

    Raises SurgeryError where they cannot be told from its weights.
    """
    if isinstance(layer, _CONVOLUTIONS):
        _refresh_convolution(layer, path)
    elif isinstance(layer, _TRANSPOSED):
        if layer.groups == layer.in_channels:
            layer.groups = layer.weight.shape[0]
        layer.in_channels = layer.weight.shape[0]
        layer.out_channels = layer.weight.shape[1] * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, _FEATURES):
        layer.num_features = next(t for t in (layer.weight, layer.running_mean) if t is not None).shape[0]
    elif isinstance(layer, nn.GroupNorm):
        layer.num_channels = layer.weight.shape[0]
    elif isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        layer.normalized_shape = tuple(layer.weight.shape)
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = layer.weight.shape[0]
    elif isinstance(layer, nn.Embedding):
        layer.num_embeddings, layer.embedding_dim = layer.weight.shape
    else:
        _refresh_sequential(layer)


def _refresh_sequential(layer: nn.Module) -> None:
    if isinstance(layer, nn.RNNBase):
        layer.input_size = layer.get_parameter("weight_ih_l0").shape[1]
        layer.hidden_size = layer.get_parameter("weight_hh_l0").shape[1]
        layer._init_flat_weights()  # noqa: SLF001 - the list that forward() reads
    elif isinstance(layer, nn.RNNCellBase):
        layer.input_size, layer.hidden_size = layer.weight_ih.shape[1], layer.weight_hh.shape[1]
    elif isinstance(layer, nn.MultiheadAttention) and layer.in_proj_weight is not None:
        # The number of heads stays; all of them shrink.
        layer.embed_dim = layer.kdim = layer.vdim = layer.in_proj_weight.shape[1]
        layer.head_dim = layer.embed_dim // layer.num_heads


def _refresh_convolution(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, path: str) -> None:
    out = layer.weight.shape[0]
    if layer.groups == layer.in_channels and layer.groups > 1:
        times = layer.out_channels // layer.in_channels
        if out % times:
            raise SurgeryError(f"{out} filters do not spread evenly over its inputs.", where=f"layer {path}")
        layer.groups = out // times
    layer.out_channels, layer.in_channels = out, layer.weight.shape[1] * layer.groups


WEIGHTS_FILE, NETWORK_FILE = "weights.safetensors", "network.json"


def edit(module: nn.Module, edits: Edits) -> nn.Module:
    """A copy of `module` to which `edits` were done, in working order; `module` is untouched.

    Attributes of torch's own layers follow the new shapes; a layer of one's own needs nothing, provided that its code
    reads shapes off its tensors. Weights shared between layers stay shared. Layers that a Swap puts in hold zeros.
    Raises SurgeryError where the edits name a module, tensor, dimension or index that is not there.
    """
    module = copy.deepcopy(module)
    for change in edits.changes:
        module = with_change(module, change)
    return module


def with_change(module: nn.Module, change: Slices | Swap, allowance: Allowance | None = None) -> nn.Module:
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
        allowance.claim(bytes_of(built), path)
    built = built.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*built.parameters(), *built.buffers()):
            tensor.zero_()
    return built


def bytes_of(module: nn.Module) -> int:
    """What its parameters and buffers take."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


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
