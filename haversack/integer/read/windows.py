"""Windows: where convolutions and pools look, and how TensorFlow pads for it."""

from __future__ import annotations

from dataclasses import replace

from haversack.integer.read.builder import Builder, PaddedAxes
from haversack.integer.read.placed import Placed
from haversack.integer.windows import Sides, Window


def is_same(window: Window, sizes: tuple[int, ...], sides: Sides) -> bool:
    """Whether TensorFlow's SAME pads a map of these sizes like this, the odd one behind, to as many windows."""
    return window.same(sizes) == sides and all(
        -(-size // step) == (size + sum(side) - reach) // step + 1
        for size, reach, step, side in zip(sizes, window.reach, window.stride, sides, strict=True)
    )


def fitted(builder: Builder, x: Placed, window: Window, sides: Sides) -> tuple[Placed, str]:
    """The value that a convolution reads, and its padding: SAME where that gives the same, else VALID behind a PAD.

    Zeros that a PAD put around height and width before count as the convolution's own.
    """
    source, before = _without_margin(builder, x)
    wanted = tuple((b + s, e + t) for (b, e), (s, t) in zip(before, sides, strict=True))
    both = (wanted[0], wanted[1])
    if both == ((0, 0), (0, 0)):
        return x, "VALID"
    if is_same(window, source.shape[1:3], both):
        return source, "SAME"
    if sides == ((0, 0), (0, 0)):
        return x, "VALID"
    return padded(builder, source, ((0, 0), *both, (0, 0))), "VALID"


def _without_margin(builder: Builder, x: Placed) -> tuple[Placed, Sides]:
    margin = builder.margins.get(x.name)
    if margin is None or x.order != margin.source.order or any(map(any, (margin.sides[0], *margin.sides[3:]))):
        return x, ((0, 0), (0, 0))
    return margin.source, (margin.sides[1], margin.sides[2])


def padded(
    builder: Builder, x: Placed, sides: tuple[tuple[int, int], ...], filler: str = "", kind: str = "PAD"
) -> Placed:
    """The value with zeros, or what `filler` holds, before and behind each axis; on one that torch lacks, none is."""
    sizes = list(x.sizes)
    for dim, (before, behind) in zip(x.order, sides, strict=True):
        if dim is not None:
            sizes[dim] = sizes[dim]._replace(number=sizes[dim].number + before + behind)
    amounts = builder.table(sides)
    inputs = (x.name, amounts, filler) if filler else (x.name, amounts)
    result = builder.emit("PADV2" if filler else kind, inputs, replace(x, sizes=tuple(sizes)))
    if not filler and kind == "PAD":
        builder.margins[result.name] = PaddedAxes(x, sides)
    return result
