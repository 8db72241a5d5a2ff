"""Written: how many bytes files hold beside their numbers, read off files that are really written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import cast

import torch
from torch import fx, nn

from haversack.calibration.dynamic import dynamic_grids
from haversack.calibration.ranges import Observed, recurrent_grids, table_grids, value_grids
from haversack.device import Device
from haversack.errors import ExportError
from haversack.graph.folded import Folded
from haversack.graph.inference import inference
from haversack.graph.ops import Trait, lowest, points, traits_of
from haversack.graph.trace import layer_path
from haversack.grid import symmetric
from haversack.model import Edits, Model, Swap
from haversack.packing.costs.layout import DYNAMIC
from haversack.progress import noted
from haversack.runtimes import Programs, Runtime, Source
from haversack.surgery.edit import edit

_TRIAL = 12
"""Channels of the layers whose bytes beside their numbers are read off: few, and no two counts alike."""
_LEAST = 1e-6
_GOLDEN = 0.618
"""Its multiples, whole numbers aside, lie evenly between 0 and 1."""


@dataclass(frozen=True, eq=False)
class Writing:
    """Files of one network in one number format, as a runtime's writer writes them."""

    model: Model
    folded: Folded
    runtime: Runtime
    numbers: str = "float32"
    signed: bool = True
    _extra: dict[str, tuple[bool, int]] = field(default_factory=dict)

    @property
    def in_integers(self) -> bool:
        """Whether values and weights are integers."""
        return self.numbers != "float32"

    @cached_property
    def weights(self) -> tuple[str, ...]:
        """The weights that have an integer form."""
        return tuple(dict.fromkeys(layer.weight for layer in self.folded.layers(transposed=True)))

    @cached_property
    def size(self) -> int:
        """The bytes of the network's file as it is."""
        return self.bytes_of(self.folded)

    def program(self, most_ram: int | None = None) -> Source:
        """The source of the network's program, within so much RAM where that can be. Raises what its writer does."""
        with noted():
            return self._programs.source(self._lowered(self.folded), most_ram)

    def code_bytes(self, device: Device) -> int:
        """What the network's program takes of the device's flash beside its constants."""
        with noted():
            whole = self._programs.run(self._lowered(self.folded), device, None)
        return whole.flash_bytes - self.program().constant_bytes

    @property
    def _programs(self) -> Programs:
        if self.runtime.programs is None:
            raise ExportError(f"{self.runtime.title} runs files, and no programs.", mend="choose --runtime c.")
        return self.runtime.programs

    def bytes_of(self, folded: Folded, bits: Mapping[str, int] | None = None) -> int:
        """The bytes of the file of a network, some of whose weights have other than 8 bits."""
        network = self._lowered(folded, bits)
        with noted():
            return self.runtime.flash_bytes(network) if self.in_integers else len(self.runtime.write(network))

    def _lowered(self, folded: Folded, bits: Mapping[str, int] | None = None) -> fx.GraphModule:
        network = folded.module
        if self.numbers == DYNAMIC:
            network = folded.lowered(dynamic_grids(folded, bits or {}))
        elif self.in_integers:
            weights = dict.fromkeys((layer.weight for layer in folded.layers(transposed=True)), 8) | dict(bits or {})
            network = _on_any_grids(folded, weights, signed=self.signed)
        return network

    def narrow(self, weight: str) -> tuple[bool, int]:
        """Whether a weight of 4 bits is stored two a byte, and what a file holds beside that for the first of them.

        The steps of its bias, where they follow from its own, are no part of that.
        """
        if weight not in self._extra:
            count = self.folded.tensor(weight).numel()
            saved = self.size - self.bytes_of(self.folded, {weight: 4}) - self._derived(weight)
            packed = saved > count // 4
            self._extra[weight] = packed, (count - (count + 1) // 2 - saved if packed else 0)
        return self._extra[weight]

    @property
    def derives_steps(self) -> bool:
        """Whether a bias beside a weight in 4 bits needs no steps of its own."""
        around = self.runtime.around
        return around is not None and around.derived_steps and self.numbers != DYNAMIC

    def _derived(self, weight: str) -> int:
        """The bytes of a bias's steps that need not be stored when the weight has 4 bits."""
        layers = (each for each in self.folded.layers(transposed=True) if each.weight == weight and each.bias)
        layer = next(layers, None) if self.derives_steps else None
        return 0 if layer is None else 4 * self.folded.tensor(weight).shape[layer.axis]

    def shared(self, first: str, second: str) -> int:
        """What a file holds once for two weights of 4 bits."""
        apart = sum(self.bytes_of(self.folded, {each: 4}) for each in (first, second))
        return max(0, apart - self.size - self.bytes_of(self.folded, {first: 4, second: 4}))

    @cached_property
    def largest(self) -> tuple[str, ...]:
        """The weights with an integer form, those of most numbers first."""
        return tuple(sorted(self.weights, key=lambda name: -self.folded.tensor(name).numel()))

    def without(self, path: str) -> int | None:
        """The bytes of the file without the module at `path`; its input passes through.

        Where a batch norm behind it stays, that is a scale and a shift then. None where there is no such file: programs
        compute on no real numbers.
        """
        left = {norm.mean for weight, norm in self.folded.norms.items() if weight.startswith(f"{path}.")}
        rest = None if any(not name.startswith(f"{path}.") for name in left) else _without(self.folded, path)
        if rest is None:
            rest = inference(self.model.with_module(edit(self.model.module, Edits((Swap(path),)))))
        try:
            return self.bytes_of(rest)
        except ExportError:
            if self.runtime.programs is None:
                raise
            return None


def layer_bytes(writing: Writing, kind: str, numbers: Callable[[int, int], float]) -> float:
    """What one more layer of that kind takes beside its `numbers` (of so many inputs and outputs), without a bias."""
    make = {"linear": nn.Linear, "conv1d": nn.Conv1d, "conv2d": nn.Conv2d}[kind]
    shape = (2, _TRIAL) if kind == "linear" else (2, _TRIAL, *[8] * int(kind[4]))
    kernel = {} if kind == "linear" else {"kernel_size": 1}
    sizes = []
    for count in (2, 3):
        layers = [make(_TRIAL + step, _TRIAL + step + 1, bias=False, **kernel) for step in range(count)]
        folded = inference(Model(nn.Sequential(*layers).eval(), (torch.zeros(shape),)))
        sizes.append(writing.bytes_of(folded))
    return sizes[1] - sizes[0] - numbers(_TRIAL + 2, _TRIAL + 3)


def _on_any_grids(folded: Folded, bits: Mapping[str, int], *, signed: bool) -> fx.GraphModule:
    """The graph on grids that fit nothing but its structure: no two values have the same step, few the same zero."""
    named = {node.name: node for node in folded.graph.nodes}
    seen = {}
    for number, name in enumerate(points(folded.graph)):
        node, top = named[name], 1 + number / 997
        clamped = traits_of(node) & Trait.CLAMP and lowest(node) == 0
        seen[name] = Observed(0.0 if clamped else -top * (number * _GOLDEN % 1), top)
    grids = value_grids(folded, seen, "min_max", "int8" if signed else "uint8")
    for layer in folded.layers(transposed=True):
        rows = folded.tensor(layer.weight).detach().transpose(0, layer.axis).flatten(1)
        limits = rows.abs().amax(1).clamp_min(_LEAST)
        grids[layer.weight] = symmetric(limits, axis=layer.axis, bits=bits[layer.weight])
    return folded.lowered(grids | table_grids(folded, grids, bits.keys()) | recurrent_grids(folded))


def _without(folded: Folded, path: str) -> Folded | None:
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(folded.graph, copied))
    inside = {node for node in graph.nodes if node.op == "call_function" and _is_within(node, path)}
    ends = {node for node in inside if any(user not in inside for user in node.users)}
    starts = {
        source for node in inside for source in node.all_input_nodes if source not in inside and source.op != "get_attr"
    }
    if len(ends) != 1 or len(starts) != 1:
        return None
    end, start = ends.pop(), starts.pop()
    if end.meta["val"].shape != start.meta["val"].shape:
        return None
    end.replace_all_uses_with(start)
    graph.eliminate_dead_code()
    used = {str(node.target): folded.tensor(str(node.target)) for node in graph.find_nodes(op="get_attr")}
    return replace(folded, module=fx.GraphModule(cast("dict[str, object]", used), graph, "Folded"))


def _is_within(node: fx.Node, path: str) -> bool:
    return f"{layer_path(node).partition('@')[0]}.".startswith(f"{path}.")
