"""Pads: zeros around maps that a convolution adds itself, so that no operation needs to.

Averages of windows keep the pads before them: XNNPACK and TFLite have none that counts zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, fx

from haversack.graph.ops import Trait, traits_of
from haversack.graph.trace import arguments_of


@dataclass(frozen=True)
class Margin:
    """A value, and how many zeros a pad puts before and behind each dimension of its maps."""

    value: fx.Node
    before: tuple[int, ...]
    behind: tuple[int, ...]


def margin_of(padded: fx.Node, dims: int, zero: int = 0) -> Margin | None:
    """What a pad puts around maps of so many dimensions; None for what pads otherwise, or with numbers but `zero`."""
    if not traits_of(padded) & Trait.PAD or len(padded.meta["val"].shape) != dims + 2:
        return None
    given = arguments_of(padded)
    plain = all(isinstance(amount, int) and amount >= 0 for amount in given["pad"])
    if given.get("mode", "constant") != "constant" or (given["value"] or 0) != zero or not plain:
        return None
    # torch begins with the last dimension, and says nothing of the first ones.
    sides = [*given["pad"], *[0] * (2 * dims)]
    if any(sides[2 * dims :]):
        return None
    before, behind = (tuple(sides[end : 2 * dims : 2][::-1]) for end in (0, 1))
    return Margin(cast("fx.Node", padded.args[0]), before, behind)


def absorb_pads(graph: fx.Graph) -> None:
    """Convolutions take in the zeros before them that are as many on both sides, which is what their padding says."""
    for layer in graph.nodes:
        if traits_of(layer) & Trait.CONVOLUTION:
            _absorb(layer)


def _absorb(layer: fx.Node) -> None:
    given = arguments_of(layer)
    weight: Tensor = given["weight"].meta["val"]
    margin = margin_of(cast("fx.Node", given["input"]), weight.dim() - 2)
    if margin is None or isinstance(given["padding"], str) or margin.before != margin.behind:
        return
    own = [given["padding"]] if isinstance(given["padding"], int) else list(given["padding"])
    own = own * len(margin.before) if len(own) == 1 else own
    given["input"] = margin.value
    given["padding"] = [mine + more for mine, more in zip(own, margin.before, strict=True)]
    layer.args, layer.kwargs = tuple(given.values()), {}
