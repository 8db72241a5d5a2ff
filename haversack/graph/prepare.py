"""Prepare: the normalization of an image's bytes goes into the layers that read it, where that is exact.

A layer that pads its input with zeros has zeros of the normalized image there, which often no byte stands for. Then the
normalization stays, as one convolution of a single tap a channel. So it does before layers of many weights: what took
it in is computed by the network, and no step would prune or round it as it does all others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx

from haversack.graph.bytes import in_steps
from haversack.graph.fold import Tensors, free_name, new_constant, of_graph
from haversack.graph.folded import Folded
from haversack.graph.ops import FoldedLayer, Trait, layer_at, moves, traits_of
from haversack.graph.trace import arguments_of

aten = torch.ops.aten
NAME = "prepare"
_DEPTHWISE = {3: aten.conv1d.default, 4: aten.conv2d.default}
"""By the number of dimensions of what they read."""
_MOST = 0.5
"""Of the network's weights."""


@dataclass(frozen=True, eq=False)
class _Affine:
    """A value that is real * factor + shift, these being of as many dimensions, or of one number."""

    real: fx.Node
    value: fx.Node
    factor: Tensor
    shift: Tensor


def prepared(folded: Folded) -> Folded:
    """The graph with the normalization of bytes in the weights of the layers that read it, or as a layer before them.

    What is in steps of a byte stays: integer files have it for the grid of their input, and for others `in_weights`
    does the rest. Weights that take it in get names of their own: the network computes them. They are at most half
    of all.
    """
    if not any(_affine_at(node, folded.tensors) for node, _ in in_steps(folded.graph)):
        return folded
    graph, tensors = _copied(folded)
    for node, _ in list(in_steps(graph)):
        affine = _affine_at(node, tensors)
        most = _MOST * sum(tensor.numel() for tensor in tensors.values())
        if affine is not None and not _into_readers(graph, affine, tensors, most):
            _as_layer(graph, affine, tensors)
    return _finished(folded, graph, tensors)


def in_weights(folded: Folded) -> Folded:
    """The graph with normalizations of bytes in the weights of the layers that read them: for files of real numbers."""
    if not any(True for _ in in_steps(folded.graph)):
        return folded
    graph, tensors = _copied(folded)
    for node, steps in list(in_steps(graph)):
        affine = _affine_at(node, tensors) or _layer_at(node, tensors)
        if affine is not None and not any(_is_halved(tensors, reader) for reader in affine.value.users):
            _into_readers(graph, affine, tensors)
        if node.target is not aten.mul.Tensor or any(_is_halved(tensors, reader) for reader in node.users):
            continue
        before = cast("fx.Node", node.args[0])
        step, shift = torch.tensor([steps.step]).double(), torch.tensor([-steps.step * steps.zero]).double()
        plain = before if not steps.zero else cast("fx.Node", before.args[0])
        if not _into_readers(graph, _Affine(plain, node, step, shift), tensors):
            _into_readers(graph, _Affine(before, node, step, torch.zeros(1).double()), tensors)
    return _finished(folded, graph, tensors)


def notes_of(folded: Folded) -> tuple[str, ...]:
    """What its user must know: that the normalization stays an operation, and why."""
    kept = next((node for node in folded.graph.nodes if node.name == NAME), None)
    left = [node for node, _ in in_steps(folded.graph) if _affine_at(node, folded.tensors)]
    if kept is None and not left:
        return ()
    readers = list(kept.users) if kept is not None else []
    if any(traits_of(reader) & Trait.CONVOLUTION and not _is_unpadded(reader) for reader in readers):
        why = "a layer pads its input with zeros, for which no byte stands"
    elif in_weights(folded) is not folded and _is_whole(in_weights(folded)):
        why = "in integer files, for that layer holds many of the weights, which steps change best as they are"
    else:
        why = "what reads it is no layer that could take it in"
    return (f"the normalization of the input stays an operation before the first layer: {why}.",)


def _is_whole(folded: Folded) -> bool:
    """Whether no normalization is left."""
    left = any(_affine_at(node, folded.tensors) for node, _ in in_steps(folded.graph))
    return not left and all(node.name != NAME for node in folded.graph.nodes)


def _copied(folded: Folded) -> tuple[fx.Graph, Tensors]:
    graph = fx.Graph()
    graph.output(graph.graph_copy(folded.graph, {}))
    return graph, dict(folded.tensors)


def _finished(folded: Folded, graph: fx.Graph, tensors: Tensors) -> Folded:
    graph.eliminate_dead_code()
    return of_graph(graph, tensors, folded.own, folded.norms, folded.merged)


def _affine_at(real: fx.Node, tensors: Any) -> _Affine | None:  # noqa: ANN401 - Tensors, or the graph's
    """The normalization of bytes that `real` begins, a constant times them and another one more; None for all else."""
    product = _sole(real, aten.mul.Tensor)
    total = None if product is None else _sole(product, aten.add.Tensor)
    if product is None or total is None:
        return None
    factor, shift = (_spread(each.args[1], real, tensors) for each in (product, total))
    return None if factor is None or shift is None else _Affine(real, total, factor, shift)


def _layer_at(real: fx.Node, tensors: Tensors) -> _Affine | None:
    """The normalization of bytes that is a layer by now."""
    reader = next(iter(real.users), None)
    if reader is None or reader.name != NAME or len(real.users) != 1:
        return None
    numbers = [tensors[str(cast("fx.Node", each).target)].detach().reshape(-1).double() for each in reader.args[1:3]]
    return _Affine(real, reader, *numbers)


def _sole(value: fx.Node, target: object) -> fx.Node | None:
    """The one operation that reads the value, as its first argument, where it is of that kind."""
    reader = next(iter(value.users), None)
    fits = reader is not None and len(value.users) == 1 and reader.target is target
    return reader if fits and reader and not reader.kwargs and reader.args[0] is value else None


def _spread(argument: object, value: fx.Node, tensors: Any) -> Tensor | None:  # noqa: ANN401
    """A constant of one number or of one for each channel, as float64; None for any other."""
    if isinstance(argument, int | float):
        return torch.tensor([float(argument)]).double()
    if not isinstance(argument, fx.Node) or argument.op != "get_attr":
        return None
    numbers, shape = tensors[str(argument.target)], value.meta["val"].shape
    if numbers.numel() == 1:
        return cast("Tensor", numbers.reshape(1).double())
    along = numbers.dim() == len(shape) - 1 and tuple(numbers.shape) == (shape[1], *[1] * (len(shape) - 2))
    return cast("Tensor", numbers.reshape(-1).double()) if along else None


def _into_readers(graph: fx.Graph, affine: _Affine, tensors: Tensors, most: float = math.inf) -> bool:
    """Puts it into the weights of all layers that read it, `most` of them.

    It does nothing where one of them cannot have it exactly, or has more.
    """
    found = [_reading(reader, affine, affine.factor, affine.shift) for reader in affine.value.users]
    if not found or any(each is None for each in found):
        return False
    if sum(tensors[each[0].weight].numel() for each in found if each) > most:
        return False
    for each in found:
        _take_in(graph, *cast("tuple[FoldedLayer, Tensor, Tensor]", each), tensors)
    affine.value.replace_all_uses_with(affine.real)
    return True


def _reading(
    reader: fx.Node, affine: _Affine, factor: Tensor, shift: Tensor
) -> tuple[FoldedLayer, Tensor, Tensor] | None:
    """The layer that reads the value, behind what moves it, and the constants of each of its inputs."""
    value = affine.value
    while moves(reader) and len(reader.users) == 1 and not traits_of(reader) & (Trait.PAD | Trait.SPLIT):
        if len(factor) > 1 or len(shift) > 1:
            turned = [_moved(each, value, reader) for each in (factor, shift)]
            if turned[0] is None or turned[1] is None:
                return None
            factor, shift = turned[0], turned[1]
        value, reader = reader, next(iter(reader.users))
    layer = layer_at(reader)
    if layer is None or layer.inputs is not value or layer.transposed or layer.computes_bias:
        return None
    if not bool(shift.any()) or traits_of(reader) & Trait.LINEAR or _is_unpadded(reader):
        one = len(factor) == len(shift) == 1
        return (layer, factor, shift) if one or _are_channels(reader, value, max(len(factor), len(shift))) else None
    return None


def _are_channels(layer: fx.Node, value: fx.Node, count: int) -> bool:
    """Whether so many numbers are one for each input of the layer."""
    shape = value.meta["val"].shape
    return (not traits_of(layer) & Trait.LINEAR or len(shape) == 2) and shape[1] == count


def _moved(numbers: Tensor, value: fx.Node, move: fx.Node) -> Tensor | None:
    """The numbers of each channel for each feature that flattening makes of them."""
    shape, flat = value.meta["val"].shape[1:], move.meta["val"].shape
    if move.target is not aten.flatten.using_ints or len(flat) != 2 or not all(isinstance(size, int) for size in shape):
        return None
    return numbers.view(-1, *[1] * (len(shape) - 1)).expand(*shape).reshape(-1)


def _is_unpadded(layer: fx.Node) -> bool:
    padding = arguments_of(layer)["padding"]
    if isinstance(padding, str):
        return padding == "valid"
    return not any(padding if isinstance(padding, Sequence) else [padding])


def _is_halved(tensors: Tensors, reader: fx.Node) -> bool:
    """Whether a layer's weights were rounded to 16 bits, which they would not be any more."""
    layer = layer_at(reader)
    if layer is None:
        return False
    weight = tensors[layer.weight]
    return bool((weight == weight.half().to(weight.dtype)).all())


def _take_in(graph: fx.Graph, layer: FoldedLayer, factor: Tensor, shift: Tensor, tensors: Tensors) -> None:
    """The layer of the bytes: its weight times the factors of its inputs, and in its bias what was added to them."""
    weight = tensors[layer.weight].detach().double()
    by_input = [_by_input(each, weight, layer.groups) for each in (factor, shift)]
    added = (weight * by_input[1]).flatten(1).sum(1)
    bias = added if not layer.bias else tensors[layer.bias].detach().double() + added
    node, numbers = layer.node, tensors[layer.weight].dtype
    stem = f"{NAME}.{layer.weight.removesuffix('weight').removesuffix('.')}".removesuffix(".")
    constants = []
    for name, tensor in (("weight", weight * by_input[0]), ("bias", bias)):
        with_name = free_name(f"{stem}.{name}", tensors)
        constants.append(new_constant(graph, node.prev, with_name, tensor.to(numbers), tensors))
    node.args = (node.args[0], *constants, *node.args[3:])
    node.kwargs = {name: value for name, value in node.kwargs.items() if name != "bias"}


def _by_input(numbers: Tensor, weight: Tensor, groups: int) -> Tensor:
    """A number for each input, shaped so that it multiplies the weight, whose rows read the inputs of their group."""
    outputs, width = weight.shape[:2]
    spread = numbers.expand(groups * width) if len(numbers) == 1 else numbers
    rows = spread.view(groups, 1, width).expand(groups, outputs // groups, width).reshape(outputs, width)
    return rows.view(outputs, width, *[1] * (weight.dim() - 2))


def _as_layer(graph: fx.Graph, affine: _Affine, tensors: Tensors) -> None:
    """The normalization as one convolution that every runtime computes on integers, where it is of maps."""
    shape = affine.value.meta["val"].shape
    target, count, dims = _DEPTHWISE.get(len(shape)), shape[1], len(shape) - 2
    if target is None or not isinstance(count, int):
        return
    constants = []
    for name, numbers in (("weight", affine.factor), ("bias", affine.shift)):
        spread = numbers.expand(count).to(torch.float32)
        tensor = spread.reshape(count, 1, *[1] * dims).contiguous() if name == "weight" else spread.contiguous()
        constants.append(new_constant(graph, affine.real, free_name(f"{NAME}.{name}", tensors), tensor, tensors))
    arguments: tuple[Any, ...] = (affine.real, *constants, [1] * dims, [0] * dims, [1] * dims, count)
    with graph.inserting_before(affine.value):
        layer = graph.create_node("call_function", target, arguments, name=NAME)
    layer.meta = {**affine.value.meta}
    affine.value.replace_all_uses_with(layer)
