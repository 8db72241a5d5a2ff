"""Price: what a layer's replacements save of the network, timed on the target where there is one, counted otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from haversack.calibration.patches import macs, parameters
from haversack.channels.cost import Measure
from haversack.graph.cost import cost
from haversack.graph.trace import trace
from haversack.model import Layer, Model, Target
from haversack.techniques._exchange.sites import ExchangeSite, alone

_SAID: dict[Measure, str] = {"latency": "latency", "macs": "multiply-accumulates", "parameters": "parameters"}
# Times are read to a few percent.
_FASTER = 0.97


@dataclass(frozen=True)
class Gain:
    """What one way to write a layer saves of the network, and what it costs over the layer as it is."""

    saved: float
    ratio: float
    pays: bool


@dataclass(frozen=True)
class Price:
    """What counts: the latency, the multiply-accumulates (latency without a target too) or the parameters."""

    model: Model
    of: Measure
    whole: float
    """What the network counts."""

    @property
    def said(self) -> str:
        """What counts, in words."""
        return _SAID[self.of]

    @property
    def timed(self) -> Target | None:
        """Where prices are measured; None where they are counted."""
        return self.model.target if self.of == "latency" else None

    def gains(self, site: ExchangeSite, ways: Sequence[Sequence[Layer]]) -> list[Gain]:
        """What each way to write a layer brings.

        A layer that runs by itself pays for starting up, as the network does once: so only differences count, and all
        are timed in alternation with the network.
        """
        if not ways:
            return []
        every = [[site.whole], *ways]
        if self.timed is None:
            whole, (before, *after) = self.whole, [_count(self.of, site, layers) for layers in every]
        else:
            whole, before, *after = self.timed.latencies_ms([self.model, *(alone(site, each) for each in every)])
        limit = (_FASTER if self.timed else 1.0) * before
        return [Gain((before - each) * site.calls / whole, each / before, each < limit) for each in after]

    def no_gain(self, what: str, gains: Sequence[Gain]) -> str:
        """Why none of the ways to write a layer pays, in figures."""
        if not gains:
            return f"no {what} fits it"
        best = f"the best of {len(gains)} has {min(gain.ratio for gain in gains):.2f}x its {self.said}"
        return f"no {what} pays: {best}{f', and less than {_FASTER}x would pay' if self.timed else ''}"

    def ratio(self, after: Model) -> float:
        """What the network costs in the end over what it did; parameters are bytes of the file where there is one."""
        if self.timed is not None:
            before, now = self.timed.latencies_ms([self.model, after])
            return now / before
        if self.of == "parameters" and self.model.target is not None:
            return self.model.target.flash_bytes(after) / self.model.target.flash_bytes(self.model)
        return _counted(after, self.of) / self.whole


def price_of(model: Model, of: Measure) -> Price:
    """The price of what `model` is made of."""
    return Price(model, of, _counted(model, of))


def _count(of: Measure, site: ExchangeSite, layers: Sequence[Layer]) -> float:
    return float(parameters(layers) if of == "parameters" else macs(layers, site.input_shape))


def _counted(model: Model, of: Measure) -> float:
    if of == "parameters":
        return float(sum(parameter.numel() for parameter in model.module.parameters()))
    return float(cost(trace(model.module, model.example)).macs)
