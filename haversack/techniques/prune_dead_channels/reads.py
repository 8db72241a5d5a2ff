"""Reads: which layers take which channels in, and which channels are taken in by anything else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from haversack.channels.book import Atoms, Dims, Value, operation_name
from haversack.channels.group import ChannelGroup
from haversack.channels.groups import channel_reading
from haversack.graph.run import named_tensors
from haversack.graph.trace import Trace, arguments_of, layer_path

_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_EACH_BY_ITSELF = {
    *("relu6", "hardtanh", "hardswish", "silu", "gelu", "celu", "selu", "batch_norm", "instance_norm", "prelu"),
    *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "numpy_T", "cat"),
    *("concat", "concatenate", "stack", "split", "split_with_sizes", "chunk", "unbind", "tensor_split", "slice"),
    *("select", "getitem", "squeeze", "unsqueeze", "expand", "expand_as", "pad", "constant_pad_nd", "contiguous"),
    *("clone", "to", "_to_copy", "detach", "alias", "lift_fresh_copy", "dropout", "feature_dropout", "alpha_dropout"),
    *("zeros_like", "ones_like", "full_like", "empty_like", "type_as", "embedding"),
}
_REDUCES = {"mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "logsumexp", "prod", "any", "all"}


@dataclass(frozen=True)
class Read:
    """A layer that sums over channels with a weight of its own; of a grouped convolution, one group.

    `inputs[i]` is the place among the layer's input channels that column i reads; `channels[i]` is that channel, and
    `outputs[j]` the one that row j makes. Channels are numbers; equal ones go together. `layer` is '' where its weight
    is used by other code than its own; `bias`, and `mean`, that of the batch norm behind a layer without a bias, are ''
    where there are none.
    """

    node: fx.Node
    layer: str
    weight: str
    bias: str
    mean: str
    rows: range
    inputs: range
    channels: Atoms
    outputs: Atoms
    transposed: bool = False

    def columns(self, weight: Tensor) -> Tensor:
        """A view of the layer's weight: (columns, rows, taps...)."""
        if self.transposed:
            return weight[self.inputs.start : self.inputs.stop]
        return weight[self.rows.start : self.rows.stop].transpose(0, 1)


@dataclass(frozen=True)
class Reads:
    """Who reads the channels of a network.

    `of[g][i]` is the number of group g's channel i, `widths[g]` how wide the layer is that makes it; `elsewhere` are
    those that something else than a Read takes in, so that their number or their neighbours count. `shared` are tensors
    that several operations use.
    """

    groups: tuple[ChannelGroup, ...]
    of: tuple[Atoms, ...]
    widths: tuple[int, ...]
    reads: tuple[Read, ...]
    elsewhere: frozenset[int]
    shared: frozenset[str]


def channel_reads(trace: Trace, module: nn.Module) -> Reads:
    """Which layers of `module` read the channels of its groups."""
    reading = channel_reading(trace, module)
    values, roots, groups = reading.values, reading.roots, reading.found.groups
    firsts = [group.members[0] for group in groups]
    made = [roots[reading.weights[first.tensor, first.dim]] for first in firsts]
    of = tuple(made_here[[each[0] for each in first.indices]] for first, made_here in zip(firsts, made, strict=True))
    reads: list[Read] = []
    elsewhere: set[int] = set()
    for node in trace.operations():
        reads += _layer_reads(node, trace, values, roots)
        for atoms in _mixed(node, trace, values):
            elsewhere.update(roots[atoms].tolist())
    widths = tuple(len(each) for each in made)
    return Reads(groups, of, widths, tuple(reads), frozenset(elsewhere), _shared(trace, module))


def _shared(trace: Trace, module: nn.Module) -> frozenset[str]:
    """Tensors with more than one user or more than one name."""
    tensors = named_tensors(module)
    names = Counter(id(tensor) for tensor in tensors.values())
    twice = {name for name, tensor in tensors.items() if names[id(tensor)] > 1}
    users: Counter[str] = Counter()
    for node in trace.graph.find_nodes(op="placeholder"):
        users[trace.weights.get(node.name, "")] += len(node.users)
    return frozenset(twice | {name for name, count in users.items() if count > 1})


def _layer_reads(node: fx.Node, trace: Trace, values: Mapping[fx.Node, Value], roots: Atoms) -> Iterator[Read]:
    """One Read a group of the layer; none where the weight is computed, or each channel is filtered by itself."""
    if not _is_layer(node, trace, values) or _by_itself(node):
        return
    arguments, name = arguments_of(node), operation_name(node)
    axis = channel_axis(node)
    made, taken = _atoms(values, node)[axis], _atoms(values, arguments["input"])[axis]
    if made is None or taken is None:
        return
    weight, bias = trace.weights[arguments["weight"].name], arguments["bias"]
    outputs, channels = roots[made], roots[taken]
    groups = int(arguments.get("groups", 1))
    rows, columns = len(outputs) // groups, len(channels) // groups
    layer = weight.rpartition(".")[0]
    tensors = (
        layer if layer_path(node) == layer else "",
        weight,
        trace.weights.get(bias.name, "") if isinstance(bias, fx.Node) else "",
        "" if isinstance(bias, fx.Node) else _mean_behind(node, trace),
    )
    for group in range(groups):
        mine = range(group * rows, (group + 1) * rows)
        read = range(group * columns, (group + 1) * columns)
        yield Read(node, *tensors, mine, read, channels[read], outputs[mine], name in _TRANSPOSED)


def _mean_behind(layer: fx.Node, trace: Trace) -> str:
    """The mean that a batch norm takes off the layer's outputs; '' where there is none, or others read them too."""
    first, *others = layer.users or (layer,)
    if others or operation_name(first) != "batch_norm" or channel_axis(layer) != 1:
        return ""
    arguments = arguments_of(first)
    mean = arguments["running_mean"]
    return "" if arguments["training"] or mean is None else trace.weights.get(mean.name, "")


def channel_axis(layer: fx.Node) -> int:
    """The dimension of a layer's input, and of its output, that holds the channels."""
    arguments = arguments_of(layer)
    rank = len(arguments["input"].meta["val"].shape)
    if operation_name(layer) == "linear":
        return rank - 1
    return rank - len(arguments["weight"].meta["val"].shape) + 1


def _is_layer(node: fx.Node, trace: Trace, values: Mapping[fx.Node, Value]) -> bool:
    """Whether it multiplies by a weight of the network's, whose rows make channels."""
    if operation_name(node) not in (*_CONVOLUTIONS, *_TRANSPOSED, "linear"):
        return False
    named = arguments_of(node)["weight"].name in trace.weights
    return named and _atoms(values, node)[channel_axis(node)] is not None


def _mixed(node: fx.Node, trace: Trace, values: Mapping[fx.Node, Value]) -> Iterator[Atoms]:
    """The channels whose number, or whose neighbours' values, the operation's result depends on."""
    if (
        _is_layer(node, trace, values)
        or _by_itself(node)
        or not isinstance(node.meta.get("val"), Tensor | tuple | list)
    ):
        return
    arguments, name = arguments_of(node), operation_name(node)
    for value in node.all_input_nodes:
        dims = _atoms(values, value)
        mixed = _reduced(arguments.get("dim"), len(dims)) if name in _REDUCES else range(len(dims))
        for dim in mixed:
            atoms = dims[dim]
            if atoms is not None:
                yield atoms


def _by_itself(node: fx.Node) -> bool:
    """Whether each channel of the result comes from that channel alone."""
    name = operation_name(node)
    if torch.Tag.pointwise in getattr(node.target, "tags", ()) or re.search("pool|upsample", name):
        return True
    if name in (*_CONVOLUTIONS, *_TRANSPOSED):
        arguments = arguments_of(node)
        channels = arguments["input"].meta["val"].shape[channel_axis(node)]
        return int(arguments["groups"]) > 1 and bool(arguments["groups"] == channels)
    return name in _EACH_BY_ITSELF


def _reduced(dim: int | list[int] | None, rank: int) -> set[int]:
    if dim is None or dim == []:
        return set(range(rank))
    return {each % rank for each in ([dim] if isinstance(dim, int) else dim)} if rank else set()


def _atoms(values: Mapping[fx.Node, Value], node: fx.Node) -> Dims:
    """The atoms of each dimension of a value, none where it is several."""
    value = values.get(node, ())
    return value if isinstance(value, tuple) else ()
