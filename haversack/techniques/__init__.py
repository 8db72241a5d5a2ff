"""The folder is the catalogue: one file or folder, one technique; its name is the word on the command line."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from haversack.recipe import Catalogue, Step


def names() -> tuple[str, ...]:
    """The techniques that are built, without importing any of them."""
    return tuple(sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_")))


def catalogue() -> Catalogue:
    """Each technique's step class by name: `prune_channels.py` must define `PruneChannels`."""
    return {name: _step(name) for name in names()}


def _step(name: str) -> type[Step]:
    title = "".join(word.capitalize() for word in name.split("_"))
    step: type[Step] = getattr(import_module(f"{__name__}.{name}"), title)
    return step
