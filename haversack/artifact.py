"""Artifact: exported files, and how they came to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from haversack.measurement import Measurement
from haversack.recipe import Recipe

CODED_FILE = "model.hsk"
"""The weights for flash and link, entropy-coded, beside the files that the runtime runs."""
Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Artifact:
    """What ships: files, the first of which the runtime runs, and how they came to be."""

    runtime: str
    files: Files
    recipe: Recipe
    measurement: Measurement

    @property
    def flash_bytes(self) -> int:
        """Bytes of the files that the runtime runs. Its code is not counted."""
        return sum(len(content) for name, content in self.files.items() if name != CODED_FILE)
