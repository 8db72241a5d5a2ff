"""Fold: the inference graph, without batch norm and everything else that computes nothing.

Batch norm in evaluation mode is a fixed scale and shift of each channel, so it merges exactly into the convolution or
linear layer before it (Jacob et al. 2018, section 3.2). Grids are keyed by the names of this graph's nodes, which
depend on the network alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, fx

from haversack.graph.folded import Folded, Merged, Norm
from haversack.graph.in_place import CHECKS
from haversack.graph.ops import Trait, channels_follow_batch, traits_of
from haversack.graph.pads import absorb_pads
from haversack.graph.trace import Trace, layer_path
from haversack.grid import blocks

aten = torch.ops.aten

Tensors = dict[str, Tensor]

_PRODUCTS = {aten.addmm.default, aten.matmul.default, aten.mm.default}
# A folded constant may be a little larger than what it was computed from, and small ones always pay.
_SMALL_CONSTANT = 1 << 16


def fold(trace: Trace) -> Folded:
    """The traced network's graph without batch norm and everything else that computes nothing."""
    graph, norms = fx.Graph(), dict[str, Norm]()
    graph.output(graph.graph_copy(trace.structure.plain, {}))
    tensors = {name: trace.tensors[name].detach() for name in _read_by(graph)}
    _remove_checks(graph)
    _remove_identities(graph)
    _fold_constants(graph, tensors)
    for node in list(graph.nodes):
        if node.target in _PRODUCTS and not node.kwargs:
            _product_to_layer(graph, node, tensors)
    for node in list(graph.nodes):
        if traits_of(node) & Trait.NORM and not node.args[5]:
            norms |= _fold_batch_norm(graph, node, tensors)
    for node in list(graph.nodes):
        if traits_of(node) & Trait.AVERAGE and traits_of(node) & Trait.REDUCTION:
            _split_pooling_mean(graph, node)
    absorb_pads(graph)
    graph.eliminate_dead_code()
    return of_graph(graph, tensors, trace.own, norms)


def of_graph(
    graph: fx.Graph,
    tensors: Tensors,
    own: Mapping[str, Tensor],
    norms: Mapping[str, Norm],
    merged: Mapping[str, Merged] = MappingProxyType({}),
) -> Folded:
    """The graph with those of `tensors` that it reads, and with what went into them."""
    used = {name: tensors[name] for name in _read_by(graph)}
    kept = {name: norm for name, norm in norms.items() if name in used}
    return Folded(fx.GraphModule(used, graph, "Folded"), own, kept, merged)


def _read_by(graph: fx.Graph) -> dict[str, None]:
    """The names of the tensors that the graph reads."""
    return dict.fromkeys(str(node.target) for node in graph.find_nodes(op="get_attr"))


def _remove_checks(graph: fx.Graph) -> None:
    for target in CHECKS:
        for node in graph.find_nodes(op="call_function", target=target):
            graph.erase_node(node)


def _remove_identities(graph: fx.Graph) -> None:
    for node in list(graph.nodes):
        if _is_identity(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    # Without the copies that made values contiguous, a view may not do: a reshape copies where it must.
    for target in (aten.view.default, aten._unsafe_view.default):  # noqa: SLF001
        for node in graph.find_nodes(op="call_function", target=target):
            node.target = aten.reshape.default


def _is_identity(node: fx.Node) -> bool:
    traits = traits_of(node)
    if traits & Trait.DROPOUT:
        return not node.args[2]
    # Python's sum() begins at 0.
    adds_nothing = traits & Trait.SUM and isinstance(node.args[1], int) and node.args[1] == 0
    if traits & Trait.CAST or adds_nothing:
        ours, before = node.meta["val"], cast("fx.Node", node.args[0]).meta["val"]
        return bool(ours.dtype == before.dtype and ours.device == before.device)
    return bool(traits & Trait.NOTHING)


def _fold_constants(graph: fx.Graph, tensors: Tensors) -> None:
    """Computes now whatever depends on weights alone, for instance a weight behind a parametrization."""
    known: dict[fx.Node, Any] = {node: tensors[_target(node)] for node in graph.find_nodes(op="get_attr")}
    for node in list(graph.nodes):
        computes = node.op == "call_function" and not traits_of(node) & Trait.RANDOM
        if not computes or any(n not in known for n in node.all_input_nodes):
            continue
        value = _computed(node, known)
        if value is None:
            continue
        known[node] = value
        if isinstance(value, Tensor):
            constant = new_constant(graph, node, free_name(node.name, tensors), value, tensors)
            node.replace_all_uses_with(constant)
            known[constant] = value


def _target(node: fx.Node) -> str:
    return str(node.target)


def _computed(node: fx.Node, known: dict[fx.Node, Any]) -> Any:  # noqa: ANN401
    """The value of a node that depends on constants alone; None where it is larger than what it is made of."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda argument: known[argument])
    with torch.no_grad():
        value = cast("Callable[..., Any]", node.target)(*args, **kwargs)
    before = sum(known[n].numel() for n in node.all_input_nodes if isinstance(known[n], Tensor))
    too_large = isinstance(value, Tensor) and value.numel() > max(_SMALL_CONSTANT, 2 * before)
    return None if too_large else value


def new_constant(graph: fx.Graph, before: fx.Node, name: str, value: Tensor, tensors: Tensors) -> fx.Node:
    """A `get_attr` node for a new tensor, which follows `before`."""
    tensors[name] = value
    with graph.inserting_after(before):
        node = graph.get_attr(name)
    node.meta["val"] = value.to("meta")
    node.meta["nn_module_stack"] = before.meta.get("nn_module_stack", {})
    return node


def free_name(name: str, tensors: Tensors) -> str:
    """`name`, or `name` with a number where a tensor or a layer is called so."""
    taken = set(tensors) | {key[:end] for key in tensors for end, letter in enumerate(key) if letter == "."}
    candidates = (f"{name}_{count}" if count else name for count in itertools.count())
    return next(candidate for candidate in candidates if candidate not in taken)


def _product_to_layer(graph: fx.Graph, product: fx.Node, tensors: Tensors) -> None:
    """A matrix product with a constant is a linear layer, which is what runtimes quantize; so is one with a bias added.

    GPT-2 has all of its layers so.
    """
    *added, value, weight = cast("tuple[Any, ...]", product.args)
    constants = [weight, *added]
    if not all(isinstance(each, fx.Node) and each.op == "get_attr" for each in constants):
        return
    ranks = [each.meta["val"].dim() for each in (*constants, value)]
    if ranks[0] != 2 or ranks[1:-1] not in ([], [1]) or ranks[-1] < 2:
        return
    turned = tensors[_target(weight)].t().contiguous()
    constant = new_constant(graph, weight, free_name(f"{weight.target}_t", tensors), turned, tensors)
    with graph.inserting_before(product):
        layer = graph.call_function(aten.linear.default, (value, constant, *(added or [None])))
    layer.meta = {**product.meta}
    product.replace_all_uses_with(layer)
    graph.erase_node(product)


def _split_pooling_mean(graph: fx.Graph, mean: fx.Node) -> None:
    """A mean over whole maps that drops their dimensions becomes one that keeps them, and a flatten.

    So it is global average pooling for every runtime, and what drops dimensions can carry integers.
    """
    source, dims, keeps = (*cast("tuple[Any, ...]", mean.args), False)[:3]
    rank = len(source.meta["val"].shape)
    if keeps or mean.kwargs or rank < 3 or {dim % rank for dim in dims or ()} != set(range(2, rank)):
        return
    with graph.inserting_after(mean):
        flat = graph.call_function(aten.flatten.using_ints, (mean, 1))
    mean.replace_all_uses_with(flat, delete_user_cb=lambda user: user is not flat)
    flat.meta = {**mean.meta}
    mean.args = (source, dims, True)
    mean.meta["val"] = mean.meta["val"][(..., *[None] * (rank - 2))]


def _fold_batch_norm(graph: fx.Graph, norm: fx.Node, tensors: Tensors) -> dict[str, Norm]:
    """Merges a batch norm into the layer before it, or into a scale and a shift, and says into which weight."""
    scale, shift = _scale_and_shift(norm, tensors)
    layer = norm.args[0]
    if isinstance(layer, fx.Node) and _absorbs(layer):
        _absorb(graph, layer, scale, shift, tensors)
        result, weight, bias = layer, layer.args[1], layer.args[2]
    else:
        result, weight, bias = _multiply_add(graph, norm, scale, shift, tensors)
    merged = {str(cast("fx.Node", weight).target): _norm(norm, cast("fx.Node", bias))}
    norm.replace_all_uses_with(result)
    graph.erase_node(norm)
    return merged


def _norm(norm: fx.Node, folded_bias: fx.Node) -> Norm:
    _, weight, bias, mean, variance, _, _, epsilon, _ = cast("tuple[Any, ...]", norm.args)
    names = [None if each is None else str(each.target) for each in (weight, bias, mean, variance)]
    return Norm(str(folded_bias.target), names[0], names[1], str(names[2]), str(names[3]), epsilon)


def _scale_and_shift(norm: fx.Node, tensors: Tensors) -> tuple[Tensor, Tensor]:
    """Batch norm in float64 as channel * scale + shift."""
    _, weight, bias, mean, variance, _, _, epsilon, _ = cast("tuple[Any, ...]", norm.args)
    scale = torch.rsqrt(tensors[variance.target].double() + epsilon)
    if weight is not None:
        scale = scale * tensors[weight.target].double()
    shift = -tensors[mean.target].double() * scale
    return scale, shift if bias is None else shift + tensors[bias.target].double()


def _absorbs(layer: fx.Node) -> bool:
    """Whether batch norm can go into this operation: channels are its output dimension and nobody else reads it."""
    if not traits_of(layer) & Trait.LAYER or not channels_follow_batch(layer) or len(layer.users) != 1:
        return False
    return all(argument is None or argument.op == "get_attr" for argument in _weights(layer))


def _weights(layer: fx.Node) -> list[Any]:
    bias = layer.args[2] if len(layer.args) > 2 else layer.kwargs.get("bias")
    return [layer.args[1] if len(layer.args) > 1 else layer, bias]


def _absorb(graph: fx.Graph, layer: fx.Node, scale: Tensor, shift: Tensor, tensors: Tensors) -> None:
    weight_node, bias_node = _weights(layer)
    weight = tensors[weight_node.target]
    bias = shift if bias_node is None else tensors[bias_node.target].double() * scale + shift
    scaled = _scaled(weight, along_outputs(layer, weight, scale))
    new_weight = _rewritten(graph, layer, weight_node, scaled, tensors)
    if bias_node is None:
        stem = weight_node.target.removesuffix("weight")
        name = f"{stem}bias" if stem != weight_node.target else f"{stem}_bias"
        new_bias = new_constant(graph, weight_node, free_name(name, tensors), bias.to(weight.dtype), tensors)
    else:
        new_bias = _rewritten(graph, layer, bias_node, bias.to(weight.dtype), tensors)
    layer.args = (layer.args[0], new_weight, new_bias, *layer.args[3:])
    layer.kwargs = {name: value for name, value in layer.kwargs.items() if name != "bias"}


def _scaled(weight: Tensor, scale: Tensor) -> Tensor:
    """The product in float64, in the weight's own type; the float64 numbers of a large weight are never all there."""
    scaled = torch.empty_like(weight)
    for rows in blocks(weight):
        scaled[rows] = weight[rows].double() * scale[rows]
    return scaled


def along_outputs(layer: fx.Node, weight: Tensor, scale: Tensor) -> Tensor:
    """`scale`, one number an output channel, shaped so that it multiplies the layer's weight."""
    if not traits_of(layer) & Trait.TRANSPOSED:
        return scale.view(-1, *[1] * (weight.dim() - 1))
    # A transposed convolution keeps (in, out / groups, ...); inputs come group by group.
    per_group = weight.shape[1]
    spread = scale.view(-1, 1, per_group).expand(-1, weight.shape[0] * per_group // len(scale), per_group)
    return spread.reshape(weight.shape[0], per_group, *[1] * (weight.dim() - 2))


def _rewritten(graph: fx.Graph, layer: fx.Node, node: fx.Node, value: Tensor, tensors: Tensors) -> fx.Node:
    """The node for `value`: the old one where only `layer` reads it, a new one where others do."""
    readers = sum(len(n.users) for n in graph.find_nodes(op="get_attr") if n.target == node.target)
    if readers == 1:
        tensors[str(node.target)] = value
        return node
    return new_constant(graph, node, free_name(f"{node.target}_{layer.name}", tensors), value, tensors)


def _multiply_add(
    graph: fx.Graph, norm: fx.Node, scale: Tensor, shift: Tensor, tensors: Tensors
) -> tuple[fx.Node, fx.Node, fx.Node]:
    """Batch norm that no layer absorbs, as x * scale + shift; with the nodes of scale and shift."""
    value, stem = norm.meta["val"], layer_path(norm) or norm.name
    result, constants = cast("fx.Node", norm.args[0]), []
    for target, name, tensor in ((aten.mul.Tensor, "scale", scale), (aten.add.Tensor, "shift", shift)):
        per_channel = tensor.view(-1, *[1] * (len(value.shape) - 2)).to(value.dtype)
        constant = new_constant(graph, norm.prev, free_name(f"{stem}.{name}", tensors), per_channel, tensors)
        with graph.inserting_before(norm):
            result = graph.call_function(target, (result, constant))
        result.meta = {**norm.meta}
        constants.append(constant)
    return result, constants[0], constants[1]
