"""Merge: parallel convolutions of one value whose results are summed become one convolution.

Convolution is linear, so branches with batch norms folded into them add up to one kernel exactly: smaller kernels are
padded with zeros, and a batch norm is a kernel of one tap (ACNet, Ding et al. 2019; RepVGG, Ding et al. 2021). The
network keeps its branches, which help it learn; what is quantized and written has one layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, fx

from haversack.graph.fold import free_name, of_graph
from haversack.graph.folded import Folded, Merged, Norm
from haversack.graph.ops import Trait, traits_of
from haversack.graph.trace import arguments_of

Tensors = Mapping[str, Tensor]


def merge(folded: Folded) -> Folded:
    """The folded graph with parallel convolutions merged, each into that with the most taps.

    Branches read the same value in the same strides, dilations and groups, and nothing but the sum reads them; they may
    be the value's batch norm. The merged weight keeps the name of that layer's, and `merged` says what went into
    it. Left alone are branches whose weights are shared, those with batch norms that learn no scale, and the value
    itself: such a shortcut would put ones beside a kernel's small weights, which then have few of a grid's points.
    """
    graph, merging = fx.Graph(), _Merging(dict(folded.tensors), folded.norms)
    graph.output(graph.graph_copy(folded.graph, {}))
    totals = [node for node in graph.nodes if _is_sum(node) and not _is_summand(node)]
    for total in totals:
        merging.visit(total)
    graph.eliminate_dead_code()
    return of_graph(graph, merging.tensors, folded.own, merging.norms, merging.merged)


def apart(folded: Folded, tensors: Tensors) -> Tensors:
    """`tensors`, weights and biases of the merged graph, as the tensors of the network with its branches.

    Where one of them is of a merged layer, that layer takes all, and its branches contribute nothing any more.
    """
    split = dict(tensors)
    for weight, branches in folded.merged.items():
        if not split.keys().isdisjoint((weight, branches.bias)):
            split = {name: folded.tensor(name) for name in (weight, branches.bias) if name} | split
            split |= {name: torch.zeros(()) for name in branches.zeroed}
    return split


@dataclass(frozen=True, eq=False)
class _Branch:
    """What a summand adds to the layer that takes it in: a kernel of that layer's shape, and a bias."""

    kernel: Tensor
    bias: Tensor | None = None
    norm: Norm | None = None
    weight: str = ""
    zeroed: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Placed:
    """How a kernel lies on its input, one number a dimension: taps, stride, padding before the first, and dilation."""

    taps: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def offset(self, larger: _Placed) -> tuple[int, ...] | None:
        """Where this kernel's first tap lies among those of `larger`; None where that does not hold all of them."""
        if self.stride != larger.stride:
            return None
        found = []
        for dim, taps in enumerate(self.taps):
            place, rest = divmod(larger.padding[dim] - self.padding[dim], larger.dilation[dim])
            spaced = taps == 1 or self.dilation[dim] == larger.dilation[dim]
            if rest or not spaced or not 0 <= place <= larger.taps[dim] - taps:
                return None
            found.append(place)
        return tuple(found)


@dataclass
class _Merging:
    """Rewrites one graph in place."""

    tensors: dict[str, Tensor]
    norms: Mapping[str, Norm]
    merged: dict[str, Merged] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.readers = Counter(norm.variance for norm in self.norms.values())

    def visit(self, total: fx.Node) -> None:
        """Merges what can be merged of one sum."""
        sums, summands = _taken_apart(total)
        layers = [each for each in summands if self._is_layer(each)]
        for layer in sorted(layers, key=lambda each: (_weight(each).numel(), _has_bias(each)), reverse=True):
            others = [each for each in summands if each is not layer] if layer in summands else []
            found = [(each, branch) for each in others if (branch := self._branch(each, layer))]
            if found:
                self._absorb(layer, [branch for _, branch in found])
            for each, _ in found:
                summands.remove(each)
                _take_out(each, sums)

    def _is_layer(self, node: fx.Node) -> bool:
        """Whether it is a convolution that only the sum reads, with weights of its own."""
        if not traits_of(node) & Trait.CONVOLUTION or len(node.users) != 1:
            return False
        weights = [each for each in (_argument(node, "weight"), _argument(node, "bias")) if each is not None]
        return all(each.op == "get_attr" and self._is_alone(each) for each in weights) and self._may_go(_name(node))

    def _is_alone(self, constant: fx.Node) -> bool:
        named = constant.graph.find_nodes(op="get_attr", target=str(constant.target))
        return sum(len(each.users) for each in named) == 1

    def _may_go(self, weight: str) -> bool:
        """Whether the weight's batch norm, if it has one, is scaled and normalizes nothing else."""
        norm = self.norms.get(weight)
        return norm is None or (norm.weight is not None and self.readers[norm.variance] == 1)

    def _branch(self, summand: fx.Node, layer: fx.Node) -> _Branch | None:
        """What the summand adds to the layer; None where it does not fit into it."""
        if self._is_layer(summand):
            return self._convolution(summand, layer) if summand.args[0] is layer.args[0] else None
        return self._normalized(summand, layer)

    def _convolution(self, summand: fx.Node, layer: fx.Node) -> _Branch | None:
        name, bias = _name(summand), _argument(summand, "bias")
        if _argument(summand, "groups") != _argument(layer, "groups"):
            return None
        kernel = _embedded(self.tensors[name], _placed(summand), layer, self.tensors[_name(layer)])
        if kernel is None:
            return None
        norm, bias_name = self.norms.get(name), "" if bias is None else str(bias.target)
        zeroed = _scales(norm) if norm else tuple(each for each in (name, bias_name) if each)
        return _Branch(kernel, self.tensors[bias_name].double() if bias_name else None, norm, name, zeroed)

    def _normalized(self, summand: fx.Node, layer: fx.Node) -> _Branch | None:
        """A batch norm of what the layer reads: x * scale + shift."""
        product, shift = (*summand.args, None, None)[:2]
        if not traits_of(summand) & Trait.SUM or not isinstance(product, fx.Node) or len(product.users) != 1:
            return None
        value, scale = (*product.args, None, None)[:2]
        scales = traits_of(product) & Trait.PRODUCT and value is layer.args[0] and isinstance(scale, fx.Node)
        norm = self.norms.get(str(scale.target)) if scales and isinstance(scale, fx.Node) else None
        if (
            norm is None
            or not isinstance(shift, fx.Node)
            or shift.target != norm.folded_bias
            or len(summand.users) != 1
        ):
            return None
        like, name = self.tensors[_name(layer)], str(cast("fx.Node", scale).target)
        rows = self.tensors[name].double().view(-1, *[1] * (like.dim() - 1))
        kernel = _embedded(rows * _identity(like), _identity_placed(like), layer, like)
        if kernel is None or not self._may_go(name):
            return None
        return _Branch(kernel, self.tensors[norm.folded_bias].double().flatten(), norm, zeroed=_scales(norm))

    def _absorb(self, layer: fx.Node, branches: list[_Branch]) -> None:
        """Adds the branches to the layer's weight and bias."""
        name, node, biases = _name(layer), _argument(layer, "bias"), [each.bias for each in branches]
        weight = self.tensors[name]
        shifts = [each for each in biases if each is not None]
        if node is not None:
            shifts.append(self.tensors[str(node.target)].double())
        self.tensors[name] = sum((each.kernel for each in branches), weight.double()).to(weight.dtype)
        bias = ""
        if shifts:
            node = node or self._new_bias(layer)
            bias = str(node.target)
            self.tensors[bias] = torch.stack(shifts).sum(0).to(weight.dtype)
            node.meta["val"] = self.tensors[bias].to("meta")
        norms = [self.norms.get(name), *(each.norm for each in branches)]
        known = tuple(each for each in norms if each is not None)
        self.merged[name] = Merged(
            bias,
            frozenset(each.weight for each in branches if each.weight),
            frozenset(each for branch in branches for each in branch.zeroed),
            known if len(known) == len(norms) else (),
        )

    def _new_bias(self, layer: fx.Node) -> fx.Node:
        """The bias of a layer that had none; its tensor follows."""
        stem = _name(layer).removesuffix("weight")
        with layer.graph.inserting_before(layer):
            node = layer.graph.create_node("get_attr", free_name(f"{stem}bias", self.tensors))
        node.meta["nn_module_stack"] = layer.meta.get("nn_module_stack", {})
        layer.args = (*layer.args[:2], node, *layer.args[3:])
        layer.kwargs = {name: value for name, value in layer.kwargs.items() if name != "bias"}
        return node


def _is_sum(node: fx.Node) -> bool:
    values = [each for each in node.args if isinstance(each, fx.Node) and each.op != "get_attr"]
    return bool(traits_of(node) & Trait.SUM) and not node.kwargs and len(values) == 2


def _is_summand(node: fx.Node) -> bool:
    """Whether a sum is nothing but a summand of a larger one, of its own shape."""
    reader = next(iter(node.users), None)
    return reader is not None and len(node.users) == 1 and _is_sum(reader) and _shape(reader) == _shape(node)


def _taken_apart(total: fx.Node) -> tuple[list[fx.Node], list[fx.Node]]:
    """The sums that make up `total`, and what they sum: values of its shape."""
    sums, summands = [total], []
    for each in sums:
        for value in cast("tuple[fx.Node, fx.Node]", each.args):
            if _is_sum(value) and _is_summand(value):
                sums.append(value)
            elif _shape(value) == _shape(total):
                summands.append(value)
    return sums, summands


def _take_out(summand: fx.Node, sums: list[fx.Node]) -> None:
    reader = next(each for each in sums if summand in each.args)
    left, right = cast("tuple[fx.Node, fx.Node]", reader.args)
    reader.replace_all_uses_with(right if left is summand else left)
    reader.graph.erase_node(reader)
    sums.remove(reader)


def _shape(node: fx.Node) -> tuple[Any, ...]:
    return tuple(node.meta["val"].shape)


def _argument(node: fx.Node, name: str) -> Any:  # noqa: ANN401 - whatever the operation takes
    return arguments_of(node)[name]


def _name(layer: fx.Node) -> str:
    """The name of the layer's weight."""
    return str(_argument(layer, "weight").target)


def _weight(layer: fx.Node) -> Tensor:
    """The layer's weight without its numbers."""
    weight: Tensor = _argument(layer, "weight").meta["val"]
    return weight


def _has_bias(layer: fx.Node) -> bool:
    return _argument(layer, "bias") is not None


def _scales(norm: Norm) -> tuple[str, ...]:
    return tuple(each for each in (norm.weight, norm.bias) if each)


def _placed(layer: fx.Node) -> _Placed:
    taps = tuple(_weight(layer).shape[2:])
    given = arguments_of(layer)

    def each(value: int | list[int]) -> tuple[int, ...]:
        whole = [value] if isinstance(value, int) else list(value)
        return tuple(whole * len(taps) if len(whole) == 1 else whole)

    placed = _Placed(taps, each(given["stride"]), (0,) * len(taps), each(given["dilation"]))
    if given["padding"] == "same":
        # torch pads before the first tap what is left of half, rounded down.
        around = zip(taps, placed.dilation, strict=True)
        return replace(placed, padding=tuple(space * (count - 1) // 2 for count, space in around))
    return placed if given["padding"] == "valid" else replace(placed, padding=each(given["padding"]))


def _identity(like: Tensor) -> Tensor:
    """The kernel of one tap that gives back its input, in the groups of a weight of as many outputs as inputs."""
    rows = torch.arange(len(like), device=like.device)
    kernel = torch.zeros(*like.shape[:2], *[1] * (like.dim() - 2), dtype=torch.float64, device=like.device)
    kernel[rows, rows % like.shape[1]] = 1.0
    return kernel


def _identity_placed(like: Tensor) -> _Placed:
    ones = (1,) * (like.dim() - 2)
    return _Placed(ones, ones, (0,) * len(ones), ones)


def _embedded(kernel: Tensor, placed: _Placed, layer: fx.Node, like: Tensor) -> Tensor | None:
    """The kernel among zeros, in float64 and in the shape of the layer's weight; None where it does not fit."""
    offset = placed.offset(_placed(layer))
    if offset is None:
        return None
    whole = torch.zeros(like.shape, dtype=torch.float64, device=like.device)
    places = (slice(start, start + taps) for start, taps in zip(offset, placed.taps, strict=True))
    whole[(slice(None), slice(None), *places)] = kernel.double()
    return whole
