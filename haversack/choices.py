"""Choices: where a technique can act on a network, and how, as data. Nothing is measured or trained to list them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Width:
    """So many channels are left of a channel group."""

    group: str
    channels: int


@dataclass(frozen=True)
class Gone:
    """A module gives way to its input."""

    path: str


@dataclass(frozen=True)
class Factors:
    """A layer's weight as a product of smaller ones."""

    path: str
    method: str
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Swapped:
    """A layer as cheaper layers of another kind, such as a depthwise and a pointwise one."""

    path: str
    kind: str
    groups: int = 1


@dataclass(frozen=True)
class Bits:
    """A layer's weights as integers of so many bits; 32 leaves the layer in float."""

    path: str
    bits: int


@dataclass(frozen=True)
class Zeros:
    """A share of a layer's weights is zero, and the others have so few values that they fit into a codebook.

    Coded files are smaller by it, and C where its integers have as many zeros or as few values. A codebook of no
    entries leaves the weights as they are.
    """

    path: str
    share: float
    codebook: int = 0


Effect = Width | Gone | Factors | Swapped | Bits | Zeros
"""What an option does to a network's structure and numbers: all that size, memory and time follow from."""


@dataclass(frozen=True)
class Option:
    """One way a site can be."""

    name: str
    """As people read it: "8 of 16 channels", "gone", "4 bits"."""
    effect: Effect | None = None
    """None leaves the site as it is."""


@dataclass(frozen=True)
class Site:
    """Where a technique can act. The first option leaves it as it is; the others go on from mild to strong."""

    name: str
    """The path of the layer, module or channel group."""
    technique: str
    options: tuple[Option, ...]
