"""Price: what a layer costs as it is and in factors, timed on the target where there is one, and counted otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from haversack.graph.cost import Cost, cost
from haversack.graph.trace import trace
from haversack.model import Layer, Model
from haversack.numerics.factors.geometry import macs, parameters
from haversack.numerics.factors.sites import Site, alone

Measure = Literal["latency", "macs", "parameters"]


@dataclass(frozen=True)
class Price:
    """What counts: the latency, the multiply-accumulates (latency without a target too) or the parameters."""

    model: Model
    of: Measure

    @property
    def timed(self) -> bool:
        """Whether prices are measured times."""
        return self.of == "latency" and self.model.target is not None

    @property
    def worth(self) -> float:
        """A layer in factors pays below this ratio: times are read to a few percent."""
        return 0.97 if self.timed else 1.0

    def shares(self, sites: Sequence[Site]) -> list[float]:
        """How much of the network each layer is."""
        if self.timed:
            whole, *each = self._times([self.model, *(alone(site, [site.whole]) for site in sites)])
        else:
            whole = self._counted(cost(trace(self.model.module, self.model.example)))
            each = [self._count(site, [site.whole]) for site in sites]
        shares = [value * site.calls / whole for value, site in zip(each, sites, strict=True)]
        # Layers that run by themselves pay for starting up, each of them.
        return [share / max(1.0, sum(shares)) for share in shares]

    def ratios(self, site: Site, ways: Sequence[Sequence[Layer]]) -> list[float]:
        """What each way to write a layer costs over the layer as it is."""
        if not ways:
            return []
        every = [[site.whole], *ways]
        counts = [self._count(site, layers) for layers in every]
        values = self._times([alone(site, layers) for layers in every]) if self.timed else counts
        return [value / values[0] for value in values[1:]]

    def ratio(self, after: Model) -> float:
        """What the network costs in the end over what it did; parameters are bytes of the file where there is one."""
        target = self.model.target
        if self.timed:
            before, now = self._times([self.model, after])
            return now / before
        if self.of == "parameters" and target is not None:
            return target.flash_bytes(after) / target.flash_bytes(self.model)
        before_after = (self._counted(cost(trace(each.module, each.example))) for each in (self.model, after))
        before, now = before_after
        return now / before

    def _times(self, models: Sequence[Model]) -> list[float]:
        if self.model.target is None:
            return []
        return self.model.target.latencies_ms(models)

    def _count(self, site: Site, layers: Sequence[Layer]) -> float:
        return float(parameters(layers) if self.of == "parameters" else macs(layers, site.input_shape))

    def _counted(self, whole: Cost) -> float:
        return float(whole.parameters if self.of == "parameters" else whole.macs)
