"""Prices: what the plans of one space cost on the device, limit by limit, without building one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from haversack.errors import DeviceError
from haversack.measurement import Measurement
from haversack.packing.costs import Costs
from haversack.plan.problem import Measure
from haversack.plan.space import Chosen, Pricing
from haversack.runtimes import estimate, find_runtime
from haversack.runtimes.counts import Counts
from haversack.runtimes.pieces import Piece
from haversack.runtimes.timings import Times


@dataclass(eq=False)
class PricedPlans:
    """What plans cost on a device: sizes by counting, time by timed pieces, or by the rates that the device states.

    Where the network ships as a program, that is by the instructions of its pieces.
    """

    costs: Costs
    whole: Costs
    """The network's own, in float: what ratios are held against."""
    baseline: Measurement
    times: Times | None
    """None where nothing is timed here."""
    counts: Counts | None = None
    """None where no instructions are counted."""
    most_ram: int | None = None
    """What a program may take, where that is limited."""
    coded: bool = True
    """Whether the length of the coded file is told too."""
    _asked: dict[Times | Counts, set[Piece]] = field(default_factory=dict)
    _latency: Measure | None = None
    _instructions: Measure | None = None

    def measures(self) -> Mapping[str, Measure]:
        """Size, memory, update and time."""
        timed = {} if self.times is None else {"latency_ratio": self._ratio(self.times)}
        executed = {} if self.counts is None else self._executed(self.counts)
        return {**self._counted, **timed, **executed}

    def refine(self, chosen: Chosen) -> bool:
        """Times the pieces of a plan that were not timed yet, and counts their instructions."""
        tables = [table for table in (self.times, self.counts) if table is not None]
        new = [self._asks(table, chosen) for table in tables]
        return any(new)

    def _asks(self, table: Times | Counts, chosen: Chosen) -> bool:
        asked = self._asked.setdefault(table, set())
        wanted = {piece for piece in self.costs.pieces(chosen) if not table.timed(piece)} - asked
        if not wanted:
            return False
        table.measure(sorted(wanted))
        asked |= wanted
        self._latency = self._instructions = None
        return True

    @cached_property
    def _counted(self) -> dict[str, Measure]:
        counted = {"flash_bytes": self.costs.flash_bytes, "ram_bytes": self._ram}
        if self.coded:
            counted["update_bytes"] = self.costs.update_bytes
        return {**counted, **self._stated}

    @property
    def _ram(self) -> Measure:
        """Memory as it is measured: what a plan needs more or less than the network as it is, in float.

        As planned where only a part of that is known. Of a program, in proportion to what that of the network needs,
        which may lay results over what they are made of, and compute maps in strips.
        """
        known, planned = self.baseline.ram_bytes, self.costs.ram_bytes()
        if find_runtime(self.costs.device).programs and self.costs.writing.in_integers:
            return planned.scaled(self.costs.writing.program(self.most_ram).ram_bytes / planned.of(self.costs.nothing))
        off = 0.0 if known.part else known.value - self.whole.ram_bytes().of(self.whole.nothing)
        return replace(planned, fixed=planned.fixed + off)

    @property
    def _stated(self) -> dict[str, Measure]:
        """Time and energy on a board by its rates, at the far end of what these may be off: limits are held there."""
        costs, energy, latency = self.costs, self.baseline.energy_mj, self.baseline.latency_ms
        if costs.device.is_host or not costs.whole.macs:
            return {}
        try:
            now = estimate.latency_ms(costs.whole, costs.device, costs.numbers)
        except DeviceError:
            return {}  # it states no rate for these numbers
        time = costs.stated_latency_ms().scaled(now.worst / now.value)
        by_time = {} if not (energy and latency) else {"energy_mj": time.scaled(energy.worst / latency.worst)}
        return {"latency_ms": time, **by_time}

    def _ratio(self, times: Times) -> Measure:
        """What a run of a plan's pieces takes over that of the network as it is, in float."""
        if self._latency is None:
            self.timed_whole(times)
            whole = times.call_ms + sum(map(times.of, self.whole.pieces(self.whole.nothing)))
            run = replace(self.costs.latency(times.of), fixed=times.call_ms)
            self._latency = run.scaled(1 / whole if whole else 1.0)
        return self._latency

    def _executed(self, counts: Counts) -> dict[str, Measure]:
        """Instructions, and the longest time and the most energy that they may take."""
        if self._instructions is None:
            self._asks(counts, tuple(self.costs.nothing))
            self._instructions = self.costs.latency(counts.of)
        device = self.costs.device
        each = {"latency_ms": estimate.instructions_ms(1, device), "energy_mj": estimate.instructions_mj(1, device)}
        known = {name: figure.worst for name, figure in each.items() if figure is not None}
        timed = {name: self._instructions.scaled(one) for name, one in known.items()}
        return {"instructions": self._instructions, **timed}

    def timed_whole(self, times: Times) -> None:
        """Times the pieces of the network as it is, in float and in these numbers: where every plan begins."""
        begin = {*self.whole.pieces(self.whole.nothing), *self.costs.pieces(self.costs.nothing)}
        times.measure(sorted(piece for piece in begin if not times.timed(piece)))


@dataclass(frozen=True, eq=False)
class StoredPlans:
    """What plans cost whose weights are stored in fewer bits and computed in float: a share of the bytes.

    What else the file holds is not told apart: the first file that is built corrects it.
    """

    whole: Pricing
    share: float

    def measures(self) -> Mapping[str, Measure]:
        """As they are in float, files aside."""
        return {
            name: each.scaled(self.share) if name in ("flash_bytes", "update_bytes") else each
            for name, each in self.whole.measures().items()
        }

    def refine(self, chosen: Chosen) -> bool:
        """As in float."""
        return self.whole.refine(chosen)
