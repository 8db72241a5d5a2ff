"""What is proved: how far runtimes agree on what a network computes, and which layers its rounding hurts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Agreement:
    """How far some outputs are from the reference's on the same inputs."""

    samples: int
    equal: float
    """The share of output numbers that are the same."""
    max_steps: float
    """Largest difference: in steps of the output's grid, or relative to the largest output where it has none."""
    mismatching_bytes: int
    same_class: float
    """The share of samples whose largest output is the same one; 1 where outputs are not (batch, classes)."""


def worst(agreements: Iterable[Agreement]) -> Agreement:
    """What can be said of several outputs together."""
    found = list(agreements)
    return Agreement(
        samples=found[0].samples,
        equal=min(each.equal for each in found),
        max_steps=max(each.max_steps for each in found),
        mismatching_bytes=sum(each.mismatching_bytes for each in found),
        same_class=min(each.same_class for each in found),
    )


@dataclass(frozen=True)
class Witness:
    """One runtime: what it promised, how far it is from the reference on both kinds of inputs, and its score."""

    name: str
    file: str
    promise: str
    calibration: Agreement | None
    """None where it gave nothing that could be compared."""
    random: Agreement | None
    score: float | None
    """None where it was not taken, or would have taken too long."""
    broken: str = ""
    """How it broke its promise; empty where it kept it."""


@dataclass(frozen=True)
class Examined:
    """One file of a result: what was looked at in it, and what is wrong with it."""

    file: str
    looked_at: str
    broken: str = ""
    """What is wrong; empty where it is what it should be."""


@dataclass(frozen=True)
class Proof:
    """What all runtimes that are installed made of one network, and what lies in the result's folder."""

    folder: str
    reference: str
    """Whose outputs the others are compared with."""
    on_integers: bool
    """Whether the outputs lie on a grid, so that differences count in its steps."""
    witnesses: tuple[Witness, ...]
    absent: Mapping[str, str]
    """Runtimes that could not be asked, and why."""
    files: tuple[Examined, ...] = ()

    @property
    def broken(self) -> tuple[Witness, ...]:
        """The runtimes that did not keep their promise."""
        return tuple(witness for witness in self.witnesses if witness.broken)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class SecondOpinion:
    """What another emulator makes of the same C, on a board of its own with the same core."""

    emulator: str
    """With its version."""
    machine: str
    """The board, as the emulator calls it."""
    core: str
    """That board's own, which executes all that the core of the proof does."""
    flash_origin: int
    """Where that board has flash, and RAM, for which the program is linked."""
    ram_origin: int
    samples: int
    mismatching_bytes: int
    stack_bytes: int


@dataclass(frozen=True)
class CoreProof:
    """What a network in plain C does on an emulated core, and takes of its board; figures are read off the run."""

    source: str
    board: str
    core: str
    compiler: str
    samples: int
    mismatching_bytes: int
    """Of the outputs, beside the integer reference's."""
    host_samples: int
    """That the same C ran on this host; 0 where no compiler for it is installed."""
    host_mismatching_bytes: int
    flash_bytes: int
    static_bytes: int
    """RAM that is taken all the time, the arena above all."""
    stack_bytes: int
    instructions: int
    """Executed in a run, the most of all samples. No cycles: nothing of a pipeline, a cache or flash is emulated."""
    board_flash_bytes: int | None = None
    """What the device has; None for a core without one."""
    board_ram_bytes: int | None = None
    second: SecondOpinion | None = None
    """None where none was asked for."""

    @property
    def wrong_bytes(self) -> int:
        """All that differ from the integer reference's, wherever."""
        second = self.second.mismatching_bytes if self.second else 0
        return self.mismatching_bytes + self.host_mismatching_bytes + second

    @property
    def ram_bytes(self) -> int:
        """All RAM."""
        return self.static_bytes + self.stack_bytes

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return {**asdict(self), "ram_bytes": self.ram_bytes}


@dataclass(frozen=True)
class Suspect:
    """A quantized layer, and what leaving it float gives back."""

    path: str
    bits: int
    snr_db: float
    alone_db: float
    macs_share: float
    score: float | None
    """The score with this layer alone left float; None where it was not taken."""


@dataclass(frozen=True)
class Remedy:
    """A setting of quantize_static for some layers, with its score and the bytes of flash that it adds."""

    setting: str
    layers: tuple[str, ...]
    score: float
    extra_bytes: int
    unjudged: tuple[str, ...] = ()
    """Limits of the result that may be missed after it, which only a measurement tells."""


@dataclass(frozen=True)
class Blame:
    """Where a quantized network's score went: its layers, the guiltiest first, and a remedy where there is one."""

    folder: str
    score: float
    float_score: float
    snr_db: float
    suspects: tuple[Suspect, ...]
    remedy: Remedy | None
    why_none: str = ""
    """Why nothing is proposed, where nothing is."""

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self)
