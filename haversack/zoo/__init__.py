"""Compact networks. The folder is the list of families: one file, one family; what they share is in `_parts.py`.

A family's file is named as on the command line, and its `FAMILY` is the network's class.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import ClassVar, Protocol

from torch import nn

from haversack.errors import RecipeError


class Family(Protocol):
    """A network's class whose size can be chosen.

    Widths multiply channel counts, which are rounded to multiples of 8 as Howard et al. (2017) do; depths multiply the
    number of blocks that repeat, never below one. `downsampling` is the input's extent over that of the last map: the
    last of the default's strides become 1 until it fits, so that small images keep enough pixels. `shrink` averages
    that many pixels of the input into one before anything else. The default settings are the paper's network.
    """

    dimensions: ClassVar[int]
    """2 for images and spectrograms (samples, channels, height, width), 1 for sensors (samples, channels, time)."""

    def __call__(  # noqa: PLR0913 - a network has as many sizes
        self,
        *,
        channels: int = 3,
        outputs: int = 1000,
        width: float = 1.0,
        depth: float = 1.0,
        downsampling: int = 32,
        shrink: int = 1,
    ) -> nn.Module:
        """A fresh network for `channels` input channels that gives `outputs` values a sample."""
        ...


def names() -> tuple[str, ...]:
    """The families that are built, without importing any of them."""
    return tuple(sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_")))


def family(name: str) -> Family:
    """The class of that family's networks. Raises RecipeError, listing them, where there is none of this name."""
    if name not in names():
        raise RecipeError(f"there is no family '{name}'.", mend=f"choose from {', '.join(names())}.")
    found: Family = import_module(f"{__name__}.{name}").FAMILY
    return found


def downsampling(extent: int) -> int:
    """The downsampling that leaves 4 to 7 pixels of `extent` for the last map: a power of two, up to the papers' 32."""
    return min(32, 1 << max(0, (extent // 4).bit_length() - 1))


def kind(name: str) -> type[nn.Module] | None:
    """The class of a network or block as edits name it, such as `mobilenet_v2.InvertedResidual`; None for others."""
    module, _, title = name.partition(".")
    found = getattr(import_module(f"{__name__}.{module}"), title, None) if title and module in names() else None
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None
