"""Fake quantization: a float network that rounds as the device will, and learns its weights and steps that way.

It is the lowered graph itself with its pairs of quantize and dequantize exchanged for roundings that let gradients
through, so training sees what the device computes, down to the 32-bit biases. Steps are learned as in LSQ (Esser et
al. 2020, "Learned Step Size Quantization"), as exponents: a step stays positive, and its learning rate is relative.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from haversack.calibration.blocks import round_to_steps
from haversack.calibration.ranges import Rounded
from haversack.graph.bytes import in_steps
from haversack.graph.folded import Folded
from haversack.graph.ops import FoldedLayer, Trait, fixed_ranges, sharing, traits_of
from haversack.graph.run import named_tensors
from haversack.grid import Grid

_PAIRS = torch.ops.quantized_decomposed


class Rounding(nn.Module):
    """Moves numbers to the nearest points of a grid, whose steps are learned unless `fixed`.

    `growth` is the logarithm of what the steps became, as a multiple of what they were; a step never falls below its
    `floor`. `sharing` is how many numbers of one example, or of a weight, each step rounds.
    """

    start: Tensor
    floor: Tensor

    def __init__(self, grid: Grid, sharing: int, *, fixed: bool = False, floor: Tensor | None = None) -> None:
        super().__init__()
        start = torch.tensor(grid.scale)
        self.grid, self._gradient_scale = grid, (sharing * max(grid.qmax - grid.zero_point[0], 1)) ** -0.5
        self.growth = nn.Parameter(torch.zeros_like(start), requires_grad=not fixed)
        self.register_buffer("start", start)
        self.register_buffer("floor", torch.full_like(start, 1e-8) if floor is None else floor)

    @property
    def steps(self) -> Tensor:
        """The positive steps as they are now, one or one a channel."""
        return torch.maximum(self.start * self.growth.exp(), self.floor)

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid; same shape and type."""
        low, high = (end - self.grid.zero_point[0] for end in (self.grid.qmin, self.grid.qmax))
        steps = self.steps
        if self.grid.axis is not None:
            steps = steps.view([-1 if dim == self.grid.axis else 1 for dim in range(x.dim())])
        return round_to_steps(x, steps, low, high, self._gradient_scale)

    def read_off(self) -> Grid:
        """The grid with the learned steps."""
        return replace(self.grid, scale=tuple(float(step) for step in self.steps.detach().reshape(-1)))


class BiasRounding(nn.Module):
    """Moves a bias to multiples of input step x weight step, the unit of the device's sums (Jacob et al. 2018).

    Gradients pass to the bias as if it were not rounded.
    """

    def __init__(self, inputs: Rounding, weights: Rounding) -> None:
        super().__init__()
        self.inputs, self.weights = inputs, weights

    def forward(self, bias: Tensor) -> Tensor:
        """`bias` on the sums' grid."""
        with torch.no_grad():
            # Integers of 32 bits need more than the 24 bits that float32 counts exactly.
            step = (self.weights.steps.float() * self.inputs.steps.float()).double()
            change = (torch.round(bias.double() / step) * step).float() - bias
        return bias + change


@dataclass(frozen=True)
class FakeQuantized:
    """A float network that rounds as the lowered graph does, and where its roundings are.

    `roundings` maps the names of grids to modules of the network.
    """

    network: nn.Module
    roundings: Mapping[str, str]

    def read_off(self, names: Collection[str]) -> Rounded:
        """The tensors called `names`, weights moved to their grid points, and all grids."""
        modules = {name: cast("Rounding", self.network.get_submodule(path)) for name, path in self.roundings.items()}
        grids = {name: module.read_off() for name, module in modules.items()}
        tensors = {name: self.network.get_parameter(name).detach() for name in names}
        with torch.no_grad():
            tensors |= {name: modules[name](tensors[name]) for name in tensors.keys() & modules.keys()}
        return Rounded(tensors, grids)


def fake_quantized(
    folded: Folded,
    grids: Mapping[str, Grid],
    trainable: Collection[str],
    floors: Mapping[str, Tensor] | None = None,
) -> FakeQuantized:
    """A network that computes what `folded.lowered(grids)` computes, and learns.

    Its parameters are the tensors of `folded` named in `trainable` and the steps of all grids, those of fixed ranges
    and of bytes aside; values that should share a grid and start on one share its step. `floors` holds the least steps
    of weights.
    """
    roundings = _roundings(folded, grids, floors or {})
    exchange = _Exchange(folded, folded.lowered(grids, from_bytes=False), roundings)
    exchange.exchange()
    return exchange.finished(trainable)


def _roundings(folded: Folded, grids: Mapping[str, Grid], floors: Mapping[str, Tensor]) -> dict[str, Rounding]:
    groups = {name: group for group in sharing(folded.graph) for name in group}
    fixed = {*fixed_ranges(folded.graph), *(node.name for node, _ in in_steps(folded.graph))}
    values = {node.name: node.meta["val"].shape[1:].numel() for node in folded.graph.nodes if node.name in grids}
    made: dict[str, Rounding] = {}
    for name, grid in grids.items():
        sharers = values[name] if name in values else folded.tensor(name)[0].numel()
        same = (made[other] for other in groups.get(name, ()) if other in made and grids[other] == grid)
        made[name] = next(same, None) or Rounding(grid, sharers, fixed=name in fixed, floor=floors.get(name))
    return made


class _Exchange:
    """Turns the lowered graph into one that trains, in order."""

    def __init__(self, folded: Folded, lowered: fx.GraphModule, roundings: Mapping[str, Rounding]) -> None:
        self.graph, self.tensors = lowered.graph, {**named_tensors(lowered), **folded.tensors}
        self.layers = {layer.node.name: layer for layer in folded.layers()}
        modules = list(dict.fromkeys(roundings.values()))
        self.modules: dict[str, nn.Module] = {f"rounding_{place}": each for place, each in enumerate(modules)}
        paths = {each: path for path, each in self.modules.items()}
        self.roundings = {name: paths[each] for name, each in roundings.items()}
        # The grid, by name, on which what a node carries lies.
        self.lies_on: dict[fx.Node, str] = {}

    def exchange(self) -> None:
        """Exchanges each pair for a rounding, and each dequantized weight and bias for a rounded one."""
        for node in list(self.graph.nodes):
            if node.target is _PAIRS.quantize_per_tensor.default:
                self._value(node)
            elif node.target is _PAIRS.dequantize_per_tensor.default:
                node.replace_all_uses_with(node.args[0])
                self.graph.erase_node(node)
            elif node.name in self.layers:
                self._layer(node, self.layers[node.name])
            elif traits_of(node) & Trait.PAD and not node.meta["val"].dtype.is_floating_point:
                self._pad(node)

    def finished(self, trainable: Collection[str]) -> FakeQuantized:
        """The network, its tensors in `trainable` made parameters."""
        for node in reversed(self.graph.nodes):
            if not node.users and node.op in ("get_attr", "call_function"):
                self.graph.erase_node(node)
        root: dict[str, Any] = dict(self.modules)
        for name in {str(node.target) for node in self.graph.find_nodes(op="get_attr")}:
            tensor = self.tensors[name].detach()
            root[name] = nn.Parameter(tensor.clone()) if name in trainable else tensor
        return FakeQuantized(fx.GraphModule(root, self.graph, "FakeQuantized"), self.roundings)

    def _value(self, quantize: fx.Node) -> None:
        value = cast("fx.Node", quantize.args[0])
        if value.name in self.roundings:
            self._round(quantize, value.name)
        elif traits_of(value) & Trait.WINDOW:
            self._round(quantize, self._grid_of(value))
        else:
            # Picked values are on the grid already; rounded again, those at its ends would pass no gradient.
            quantize.replace_all_uses_with(value)
            self.graph.erase_node(quantize)

    def _round(self, quantize: fx.Node, name: str) -> None:
        with self.graph.inserting_before(quantize):
            rounded = self.graph.create_node("call_module", self.roundings[name], (quantize.args[0],))
        self.lies_on[rounded] = name
        quantize.replace_all_uses_with(rounded)
        self.graph.erase_node(quantize)

    def _grid_of(self, node: fx.Node) -> str:
        """The grid that a value which was moved or picked lies on."""
        while node not in self.lies_on:
            node = cast("fx.Node", node.args[0])
        return self.lies_on[node]

    def _pad(self, pad: fx.Node) -> None:
        """Writes the real number in place of the integer that is padded with."""
        if isinstance(pad.args[-1], int):
            grid = cast("Rounding", self.modules[self.roundings[self._grid_of(pad)]]).grid
            pad.args = (*pad.args[:-1], float(grid.dequantize(torch.tensor(pad.args[-1]))))

    def _layer(self, lowered: fx.Node, layer: FoldedLayer) -> None:
        arguments = list(lowered.args)
        if _is_dequantized(arguments[1]):
            arguments[1] = self._rounded(lowered, layer.weight, self.roundings[layer.weight])
        if len(arguments) > 2 and _is_dequantized(arguments[2]):
            inputs, weights = (self.modules[self.roundings[name]] for name in (layer.reads, layer.weight))
            path = f"bias_rounding_{len(self.modules)}"
            self.modules[path] = BiasRounding(cast("Rounding", inputs), cast("Rounding", weights))
            arguments[2] = self._rounded(lowered, layer.bias, path)
        lowered.args = tuple(arguments)

    def _rounded(self, before: fx.Node, name: str, path: str) -> fx.Node:
        with self.graph.inserting_before(before):
            return self.graph.create_node("call_module", path, (self.graph.create_node("get_attr", name),))


def _is_dequantized(argument: object) -> bool:
    return isinstance(argument, fx.Node) and argument.target is _PAIRS.dequantize_per_channel.default
