"""The case for advice: a network, a device and limits, and what their figures say before anything is run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from haversack.device import Budget, Device
from haversack.graph.cost import Cost, LayerCost
from haversack.measurement import Measurement
from haversack.quantity import show_bytes, show_ms

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
        if pays and self.whole.latency_ms and self.integer.latency_ms:
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
    def limits(self) -> tuple[tuple[str, str, float, float], ...]:
        """Each limit that can be estimated: (as shown, the effect that it takes, allowed, the float network's)."""
        ratio = 1.0 if self.budget.latency_ratio is not None else None
        energy = self.whole.energy_mj.worst if self.whole.energy_mj else None
        rows = (
            ("flash", "flash", self.budget.flash_bytes, self.whole.flash_bytes.worst),
            ("RAM", "ram", self.budget.ram_bytes, self.whole.ram_bytes.worst),
            ("latency", "time", self.budget.latency_ms, self.latency_ms),
            ("latency ratio", "time", self.budget.latency_ratio, ratio),
            ("energy", "time", self.budget.energy_mj, energy),
        )
        return tuple(
            (name, part, float(allowed), found)
            for name, part, allowed, found in rows
            if allowed is not None and found is not None
        )

    @cached_property
    def unknown(self) -> tuple[str, ...]:
        """Limits that no estimate can judge."""
        known = {name for name, *_ in self.limits}
        asked = {
            "latency": self.budget.latency_ms,
            "energy": self.budget.energy_mj,
            "score": self.budget.score_at_least,
        }
        return tuple(name for name, limit in asked.items() if limit is not None and name not in known)

    def said(self, limit: str) -> str:
        """The name of a limit, and that its figure is a part where it is one."""
        return f"{limit} (activations alone)" if limit == "RAM" and self.whole.ram_bytes.part else limit

    @cached_property
    def gaps(self) -> dict[str, float]:
        """For each part that misses a limit, the share that may be left."""
        gaps: dict[str, float] = {}
        for _, part, allowed, found in self.limits:
            if found > allowed:
                gaps[part] = min(gaps.get(part, 1.0), max(_NOTHING, allowed / found))
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

    def misses(self, effect: Effect) -> Iterator[tuple[str, float, float]]:
        """The limits missed after an effect: (name, allowed, expected)."""
        for name, part, allowed, found in self.limits:
            expected = found * getattr(effect, part)
            if expected > allowed * (1 + 1e-9):
                yield name, allowed, expected
        if self.budget.max_drop is not None and effect.drop > self.budget.max_drop:
            yield "score", self.budget.max_drop, effect.drop

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
        return any(name != "score" for name, *_ in self.misses(strongest))

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


def shown(limit: str, value: float) -> str:
    """The value of a limit with its unit."""
    if limit in ("flash", "RAM"):
        return show_bytes(value)
    if limit == "score":
        return f"{100 * value:.2g} points"
    return show_ms(value) if limit == "latency" else f"{value:.3g} mJ" if limit == "energy" else f"{value:.2f}x"
