"""Artifact and Runtime: exported files, and the two functions that a runtime is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from haversack.measurement import Measurement
from haversack.recipe import Recipe

if TYPE_CHECKING:
    from torch import fx

CODED_FILE = "model.hsk"
"""The weights for flash and link, entropy-coded, beside the files that the runtime runs."""
Files = Mapping[str, bytes]
Orders = tuple[Sequence[tuple[int, ...]], Sequence[tuple[int, ...]]]
"""For each input and each output of a file: which of torch's dimensions stand along its axes."""


@dataclass(frozen=True)
class Runtime:
    """What a device runs files with: a row, not a class tree. `write` takes the lowered graph of a model."""

    name: str
    number_formats: frozenset[str]
    write: Callable[[fx.GraphModule], Files]
    orders: Callable[[fx.GraphModule], Orders] | None = None
    """How the files' inputs and outputs lie; None where that is torch's layout."""


@dataclass(frozen=True)
class Artifact:
    """What ships: files, and how they came to be."""

    runtime: str
    files: Files
    recipe: Recipe
    measurement: Measurement

    @property
    def flash_bytes(self) -> int:
        """Bytes of the files that the runtime runs. Its code is not counted."""
        return sum(len(content) for name, content in self.files.items() if name != CODED_FILE)
