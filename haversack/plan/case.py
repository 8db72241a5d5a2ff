"""The case for advice: a network, a device and limits, and what their figures say before anything is run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from haversack.device import Device
from haversack.graph.cost import Cost, LayerCost
from haversack.limits import Budget, Limit
from haversack.measurement import Measurement
from haversack.quantity import show_ms

_ASSUMED_INT8_TIME = 0.5
"""int8 latency over float32 where no rates are stated but int8 pays: ONNX Runtime took 0.47x for CIFAR ResNet-20."""
_MACS_PER_BYTE = 1.0
"""Below this, memory counts as the limit where no bandwidth is stated: one core of a Raspberry Pi 5 multiplies 1.1
float32 for each byte that its memory delivers."""
LARGE_SIDE = 64
"""The smaller side from which on a weight matrix counts as large: halving a narrower one leaves too few ranks."""
_RANKED = {"linear": 1 / 3, "conv": 1 / 2}
"""Share of a large layer's weights after low-rank factorization. Denton et al. 2014 keep 1/2 to 1/3 of a convolution
and 1/5 to 1/13 of a fully connected layer at one point of loss; the milder end is used."""
STRONGEST_PRUNING = 0.2
_NOTHING = 1e-9
"""A share that counts as none left, whose logarithm is finite."""
_INT8_COSTS, _INT4_COSTS = 0.001, 0.006
"""Of the score, in closed form: at most so much on ResNet-20, ResNet-56 and MLPerf Tiny's ResNet-8."""
_PRUNING_COSTS = 0.02
"""Of the score, at half the multiply-accumulates: ResNet-56 and ResNet-20 lost 0.011 and 0.022 on CIFAR-10."""
CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
_PRODUCTS = (*CONVOLUTIONS, "linear", "addmm", "mm")


_PARTS = {"flash": "flash", "RAM": "ram", "latency": "time", "energy": "time"}
"""What is limited, and the part of an effect that changes it; of all else, only a measurement tells."""


@dataclass(frozen=True)
class Effect:
    """Shares of the float network's bytes and time that are expected to be left."""

    flash: float = 1.0
    ram: float = 1.0
    time: float = 1.0
    drop: float = 0.0
    """How far a score between 0 and 1 fell in our own benchmarks, recovery included."""

    def then(self, other: Effect) -> Effect:
        """What is left after both."""
        drop = self.drop + other.drop
        return Effect(self.flash * other.flash, self.ram * other.ram, self.time * other.time, drop)


@dataclass(frozen=True)
class Matrix:
    """A layer's weights as a matrix: products summed for one output, times outputs."""

    layer: LayerCost
    inner: int
    outer: int

    @property
    def kept(self) -> float:
        """The share of its weights after factorization."""
        return _RANKED["conv" if self.layer.operation in CONVOLUTIONS else "linear"]

    @property
    def rank(self) -> int:
        """The rank at which two factors hold that share."""
        return max(1, round(self.kept * self.inner * self.outer / (self.inner + self.outer)))


@dataclass(frozen=True)
class Need:
    """A limit, and how much a network is expected to need of what it limits."""

    limit: Limit
    allowed: float
    needed: float

    @property
    def part(self) -> str:
        """The part of an effect that changes it."""
        return _PARTS.get(self.limit.measure, "drop")

    def shown(self, value: float) -> str:
        """A value of it with its unit, as rough as an estimate is."""
        if self.limit.kind == "drop":
            return points(value)
        return f"{value:.2f}x" if self.limit.kind == "ratio" else self.limit.show(value)


@dataclass(frozen=True)
class Case:
    """The network, the device and the limits, and what follows from them."""

    cost: Cost
    whole: Measurement
    integer: Measurement
    halved: Measurement
    """With weights in 4 bits."""
    device: Device
    budget: Budget

    @cached_property
    def quantized(self) -> Effect:
        """What int8 gives, from the weighings."""
        pays = "int8" in self.device.number_formats
        time = _ASSUMED_INT8_TIME if pays else 1.0
        if pays and self.whole.latency_ms and self.integer.latency_ms and self.whole.latency_ms.value:
            time = self.integer.latency_ms.value / self.whole.latency_ms.value
        flash = self.integer.flash_bytes.value / max(1.0, self.whole.flash_bytes.value)
        ram = self.integer.ram_bytes.value / max(1.0, self.whole.ram_bytes.value)
        return Effect(flash, ram if pays else 1.0, time, _INT8_COSTS)

    @cached_property
    def in_4_bits(self) -> Effect:
        """What 4-bit weights give: they save flash beyond int8, and no time."""
        flash = self.halved.flash_bytes.value / max(1.0, self.whole.flash_bytes.value)
        return replace(self.quantized, flash=flash, drop=_INT4_COSTS)

    @cached_property
    def latency_ms(self) -> float | None:
        """The slow end of the float network's latency; from int8's where the device states a rate for that only."""
        if self.whole.latency_ms:
            return self.whole.latency_ms.worst
        return self.integer.latency_ms.worst / self.quantized.time if self.integer.latency_ms else None

    @cached_property
    def needs(self) -> tuple[Need, ...]:
        """What the float network needs of each limit that can be estimated."""
        found = ((limit, allowed, self._estimated(limit)) for limit, allowed in self.budget.asked.items())
        return tuple(Need(limit, allowed, needed) for limit, allowed, needed in found if needed is not None)

    def _estimated(self, limit: Limit) -> float | None:
        if limit.measure == "latency":
            return 1.0 if limit.kind == "ratio" else self.latency_ms
        figure = self.whole.figure(limit) if limit.measure in _PARTS else None
        return figure.worst if figure else None

    @cached_property
    def unknown(self) -> tuple[str, ...]:
        """Limits that no estimate can judge; of a drop it is known what benchmarks lost."""
        known = {need.limit for need in self.needs}
        return tuple(limit.title for limit in self.budget.asked if limit not in known and limit.kind != "drop")

    def said(self, need: Need) -> str:
        """The title of a limit, and that its figure is a part where it is one."""
        figure = self.whole.figure(need.limit)
        return f"{need.limit.title} (activations alone)" if figure and figure.part else need.limit.title

    @cached_property
    def gaps(self) -> dict[str, float]:
        """For each part that misses a limit, the share that may be left."""
        gaps: dict[str, float] = {}
        for need in self.needs:
            if need.needed > need.allowed:
                gaps[need.part] = min(gaps.get(need.part, 1.0), max(_NOTHING, need.allowed / need.needed))
        return gaps

    def closed(self, effect: Effect) -> float:
        """The share of the gaps that an effect closes; without gaps, what it saves of weights and time."""
        if not self.gaps:
            return 1 - (effect.flash + effect.time) / 2
        shares = [math.log(max(_NOTHING, getattr(effect, part))) / math.log(need) for part, need in self.gaps.items()]
        return sum(min(1.0, max(0.0, share)) for share in shares) / len(shares)

    def closes(self, effect: Effect) -> bool:
        """Whether nothing is left of any gap, and the score is expected to fall no further than it may."""
        return not any(self.misses(effect))

    def misses(self, effect: Effect) -> Iterator[Need]:
        """What is needed after an effect of the limits that it misses."""
        for need in self.needs:
            expected = need.needed * getattr(effect, need.part)
            if expected > need.allowed * (1 + 1e-9):
                yield replace(need, needed=expected)
        for limit, allowed in self.budget.asked.items():
            if limit.kind == "drop" and effect.drop > allowed:
                yield Need(limit, allowed, effect.drop)

    def suits(self, effect: Effect, condition: float, effort: float) -> float:
        """How well an effect suits, 0 to 1: above one half where it is expected to be enough, below it where it is not.

        `condition` is how far its preconditions are met, `effort` is less than 1 for what must train.
        """
        merit = condition * effort * self.closed(effect)
        if not self.gaps and self.budget.max_drop is None:
            return merit
        return (1 + merit) / 2 if self.closes(effect) else merit / 2

    @cached_property
    def out_of_reach(self) -> bool:
        """Whether even strong pruning with 4-bit weights on top leaves a gap."""
        strongest = pruned(STRONGEST_PRUNING).then(self.in_4_bits)
        return any(not need.limit.at_least for need in self.misses(strongest))

    @cached_property
    def matrices(self) -> tuple[Matrix, ...]:
        """Weights of convolutions and linear layers that are large both ways, the largest first."""
        found = [
            Matrix(layer, inner, channels(layer))
            for layer in self.cost.layers
            if layer.parameters
            and layer.operation in _PRODUCTS
            and (inner := layer.macs // max(1, layer.output_elements))
        ]
        large = [each for each in found if min(each.inner, each.outer) >= LARGE_SIDE]
        return tuple(sorted(large, key=lambda each: -each.layer.parameters))

    @cached_property
    def convolved(self) -> float:
        """The share of the multiply-accumulates in convolutions."""
        return self.share_of_macs(layer for layer in self.cost.layers if layer.operation in CONVOLUTIONS)

    def share_of_macs(self, layers: Iterable[LayerCost]) -> float:
        """The share of the multiply-accumulates that `layers` hold."""
        return sum(layer.macs for layer in layers) / max(1, self.cost.macs)

    @cached_property
    def traffic_bytes(self) -> float:
        """Weights and activations of the float network, each moved once."""
        return self.whole.flash_bytes.value + sum(buffer.size_bytes for buffer in self.cost.memory.buffers)

    @cached_property
    def _roofline(self) -> tuple[bool, str]:
        """Whether memory binds more than arithmetic, and the figures that say so (Williams et al. 2009)."""
        clock, rate, bandwidth = self.device.clock_hz, self.device.macs_per_cycle_float32, self.device.memory_bandwidth
        if clock and rate and bandwidth:
            moving, computing = 1e3 * self.traffic_bytes / bandwidth, 1e3 * self.cost.macs / (clock * rate)
            bound = moving > computing
            against = f"moving its bytes takes {show_ms(moving)}, multiplying {show_ms(computing)} at the stated rates"
        else:
            per_byte = self.cost.macs / max(1.0, self.traffic_bytes)
            bound = per_byte < _MACS_PER_BYTE
            against = f"{per_byte:.2g} MACs for each byte of weights and activations"
        return bound, f"{'memory' if bound else 'arithmetic'} binds ({against})"

    @property
    def memory_binds(self) -> bool:
        """Whether moving bytes takes longer than multiplying."""
        return self._roofline[0]

    @property
    def bound(self) -> str:
        """What binds, in figures."""
        return self._roofline[1]


def pruned(keep: float, share: float = 1.0) -> Effect:
    """What pruning leaves that keeps so much of the `share` of the network which can be pruned.

    Multiply-accumulates and weights go with the square of the widths, activations with the widths.
    """
    left = 1 - share * (1 - keep)
    return Effect(left, 1 - share * (1 - math.sqrt(keep)), left, 2 * _PRUNING_COSTS * share * (1 - keep))


def channels(layer: LayerCost) -> int:
    """How many channels, or features, a layer puts out."""
    place = 1 if layer.operation in CONVOLUTIONS else -1
    return layer.output_shape[place] if len(layer.output_shape) > 1 else 1


def points(drop: float) -> str:
    """How far a score falls: 1.5 points."""
    return f"{100 * drop:.2g} points"
