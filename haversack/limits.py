"""Limits: what a product allows, one row a limit. Whatever reads, judges or shows a limit goes by its row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

from haversack.device import Device
from haversack.errors import BudgetError
from haversack.quantity import (
    parse_bytes,
    parse_count,
    parse_latency,
    parse_mj,
    parse_share,
    show_bytes,
    show_count,
    show_mj,
    show_ms,
    show_ratio,
    show_score,
)

Show = Callable[[float], str]


@dataclass(frozen=True, eq=False)
class Limit:
    """What is limited, where that is written, how it is judged, and how it is shown."""

    name: str
    """In JSON and in errors. Limits of one name are judged as one: the tightest counts."""
    measure: str
    """What of a network is limited, as people call it."""
    field: str
    """Of a budget, and of a device that has no more of it."""
    option: str
    """On the command line; one option may set several limits."""
    parse: Callable[[str], float | None]
    """The option's words as a number; None where they set another limit."""
    show: Show
    """A figure of it, in a report."""
    help: str
    figure: str = ""
    """Of a measurement, where it is called otherwise than the field."""
    told: Show = "{:.4g}".format
    """A figure of it in an error, beside the name, which may hold the unit."""
    kind: Literal["absolute", "ratio", "drop"] = "absolute"
    """Whether it bounds a figure as it is, one over the original's, or how far one falls below the original's."""
    at_least: bool = False
    """Whether less is worse, as of a score."""
    judged_by: Literal["counts", "file", "samples"] = "counts"
    """What it takes to judge it: counts and what the device states, a written file, or the task's samples."""
    timed: bool = False
    """Whether its figure is a time, whose spread is a confidence interval: a limit within it is too close to call."""

    @property
    def title(self) -> str:
        """What is limited, a ratio told from what it is a ratio of."""
        return f"{self.measure} ratio" if self.kind == "ratio" else self.measure

    def bound(self, allowed: float, baseline_score: float | None) -> float | None:
        """What the figure may be; None where it may fall so far below a score that nobody took."""
        if self.kind != "drop":
            return allowed
        return None if baseline_score is None else baseline_score - allowed


_INFERENCE = "Limit of one inference: 5ms, or 0.45x of the float original."
LIMITS = (
    Limit("flash", "flash", "flash_bytes", "flash", parse_bytes, show_bytes, told=show_bytes,
          help="Limit of the file, such as 90kB or 256KiB."),
    Limit("ram", "RAM", "ram_bytes", "ram", parse_bytes, show_bytes, told=show_bytes,
          help="Limit of the memory while running."),
    Limit("instructions", "instructions", "instructions", "instructions", parse_count, show_count, told=show_count,
          help="Limit of one inference, such as 4M; counted on an emulated core, with --runtime c.", judged_by="file"),
    Limit("latency", "latency", "latency_ms", "latency", lambda words: parse_latency(words)[0], show_ms, told=show_ms,
          help=_INFERENCE, timed=True),
    Limit("latency ratio", "latency", "latency_ratio", "latency", lambda words: parse_latency(words)[1], show_ratio,
          help=_INFERENCE, kind="ratio", judged_by="file", timed=True),
    Limit("energy (mJ)", "energy", "energy_mj", "energy", parse_mj, show_mj,
          help="Limit of one inference, such as 3mJ."),
    Limit("update", "update", "update_bytes", "update", parse_bytes, show_bytes, told=show_bytes,
          help="Limit of the coded file that goes over the link, such as 20kB.", judged_by="file"),
    Limit("score", "score", "max_drop", "max-drop", parse_share, show_score, figure="score",
          help="How far the score may fall: 1% or 0.01.", kind="drop", at_least=True, judged_by="samples"),
    Limit("score", "score", "score_at_least", "score", parse_share, show_score, figure="score",
          help="The lowest score allowed: 90% or 0.9.", at_least=True, judged_by="samples"),
)  # fmt: skip
"""In the order in which they are asked for and shown."""


@dataclass(frozen=True)
class Budget:
    """Limits of the product; None means no limit."""

    flash_bytes: int | None = None
    ram_bytes: int | None = None
    instructions: int | None = None
    """What the device's core may execute for one inference."""
    latency_ms: float | None = None
    latency_ratio: float | None = None
    """Latency as a share of the float original's, measured in alternation on this host."""
    energy_mj: float | None = None
    update_bytes: int | None = None
    """Limit of the coded file, which is what goes over the link."""
    score_at_least: float | None = None
    max_drop: float | None = None
    """How far the score may fall below the original's."""

    def __post_init__(self) -> None:
        for limit, value in self.asked.items():
            if not math.isfinite(value) or (value <= 0 and not limit.at_least):
                raise BudgetError(f"the limit {limit.field} is {value}.", mend="a limit is a finite number above zero.")
        if self.max_drop is not None and self.max_drop < 0:
            raise BudgetError(f"max_drop is {self.max_drop}.", mend="write how far the score may fall, such as 0.01.")

    @property
    def asked(self) -> dict[Limit, float]:
        """The limits that are set, with what they allow."""
        return {limit: allowed for limit in LIMITS if (allowed := getattr(self, limit.field)) is not None}

    def bounds(self, baseline_score: float | None = None) -> dict[Limit, float | None]:
        """What figures may be: of limits of one name the tightest, None where one of them is unknown."""
        asked, bounds = self.asked, dict[Limit, float | None]()
        for _, of_one_name in groupby(asked, key=lambda limit: limit.name):
            limits = list(of_one_name)
            known = [bound for each in limits if (bound := each.bound(asked[each], baseline_score)) is not None]
            tightest = max if limits[0].at_least else min
            bounds[limits[0]] = tightest(known) if len(known) == len(limits) else None
        return bounds

    @property
    def limits_score(self) -> bool:
        """Whether it says how low the score may be."""
        return any(limit.figure == "score" for limit in self.asked)

    def within(self, device: Device) -> Budget:
        """This budget with the device's own flash and RAM where it sets no tighter limit."""
        facts = {limit: getattr(device, limit.field, None) for limit in LIMITS}
        return self.tightened({limit: fact for limit, fact in facts.items() if fact is not None})

    def is_timed_for(self, device: Device) -> bool:
        """Whether one of these limits is held against what is timed on this host."""
        return self.latency_ratio is not None or (device.is_host and self.latency_ms is not None)

    def tightened(self, limits: Mapping[Limit, float]) -> Budget:
        """This budget with these limits where it sets no tighter ones."""
        asked = self.asked
        tighter: dict[str, Any] = {each.field: min(asked.get(each, value), value) for each, value in limits.items()}
        return replace(self, **tighter)


@dataclass(frozen=True)
class Miss:
    """A limit that is not met."""

    limit: str
    allowed: float
    found: float
    """Of a time that is too close to call, the far end of its confidence interval."""
    too_close: bool = False
    """Whether the limit lies within the confidence interval: it may be met, and counts as missed."""

    @property
    def by(self) -> float:
        """How far off it is."""
        return abs(self.found - self.allowed)

    @property
    def share(self) -> float:
        """How far off it is, as a share of what is allowed; as it is where the limit is a score of zero."""
        return self.by / abs(self.allowed) if self.allowed else self.by

    def __str__(self) -> str:
        told = next(limit.told for limit in LIMITS if limit.name == self.limit)
        if self.too_close:
            allowed = f"allowed {told(self.allowed)} (too close to call)"
            return f"{self.limit}: {told(self.found)} at the far end of its confidence interval, {allowed}"
        return f"{self.limit}: {told(self.found)}, allowed {told(self.allowed)} (misses by {told(self.by)})"
