"""Windows: how a kernel's window moves over a map, and what pools take from under it."""

from __future__ import annotations

from collections.abc import Iterator

from haversack.integer import Value
from haversack.integer.parameters import Pooled, WindowedProducts
from haversack.runtimes.c_source.constants import Entry
from haversack.runtimes.c_source.layers.call import Call, Layer, limits


def maps(layer: Layer, x: Value, by: WindowedProducts | Pooled) -> dict[str, Entry]:
    """The sizes of both maps, and how a window moves over the first."""
    (top, _), (left, _) = by.sides
    return {
        **dict(zip(("in_height", "in_width", "in_channels"), x.shape[1:], strict=True)),
        **dict(zip(("out_height", "out_width", "out_channels"), layer.result.shape[1:], strict=True)),
        **pair("kernel", by.window.kernel),
        **pair("stride", by.window.stride),
        "top": top,
        "left": left,
    }


def pair(name: str, sizes: tuple[int, int]) -> dict[str, Entry]:
    """A height and a width."""
    return {f"{name}_height": sizes[0], f"{name}_width": sizes[1]}


def pool(layer: Layer, by: Pooled) -> Iterator[Call]:
    """The largest or the mean number under a window."""
    x = layer.value("input")
    sizes = {name: entry for name, entry in maps(layer, x, by).items() if not name.endswith("_channels")}
    mean = int(layer.operation.kind == "AVERAGE_POOL_2D")
    yield layer.call("pool", "Pool", {**sizes, "channels": x.shape[3], **limits(by.output), "mean": mean}, x)
