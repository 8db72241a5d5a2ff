"""Activation memory: when every result is alive, and where it lies in one static arena."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import fx

TRIES = 3000
_PLACEMENTS = 90_000
"""Buffers placed in a whole search, so that a network of hundreds of operations is still planned in 0.3 s."""


@dataclass(frozen=True)
class Buffer:
    """A block of memory that is alive from step `first` to step `last`, both included."""

    name: str
    size_bytes: int
    first: int
    last: int

    def meets(self, other: Buffer) -> bool:
        """Whether both are alive at the same step, so that they must not share bytes."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Overlap:
    """Two buffers that meet, of which the one that is `made` may take bytes of the one that is `read`.

    What is made may start `distance` bytes or more before what is read does; `exact`: at the same byte, or apart.
    """

    read: str
    made: str
    distance: int = 0
    exact: bool = False

    def between(self, read: Buffer, made: Buffer) -> Iterator[tuple[int, int]]:
        """Between which numbers the start of what is read, less that of what is made, must not lie."""
        if self.exact:
            yield -read.size_bytes, 0
            yield 0, made.size_bytes
        else:
            yield -read.size_bytes, min(self.distance, made.size_bytes)

    def saved(self, read: Buffer, made: Buffer) -> int:
        """The bytes that both together take less than each for itself."""
        together = max(self.distance + read.size_bytes, made.size_bytes)
        return max(read.size_bytes + made.size_bytes - together, 0)


@dataclass(frozen=True)
class MemoryPlan:
    """Where each buffer starts in the arena. No plan for this order of operations can need less than `bound_bytes`."""

    buffers: tuple[Buffer, ...]
    offsets: Mapping[str, int]
    peak_bytes: int
    bound_bytes: int


Rivals = Sequence[tuple[int, Sequence[tuple[int, int]]]]
"""The other buffers that a buffer meets, and between which numbers its start less theirs must not lie."""


def plan(buffers: Sequence[Buffer], tries: int = TRIES, seed: int = 0, overlaps: Sequence[Overlap] = ()) -> MemoryPlan:
    """An arena in which no two buffers that are alive together overlap, but for those that may.

    Greedy by size (Pisarchyk and Lee 2020, "Efficient memory management for deep neural net inference"): the largest
    first, each at the lowest offset that is free while it is alive. Or the last first, or those first that are alive
    where most is needed, where that takes less, as in a chain in which each lies over what it is made of. Then at most
    `tries` swaps in that order, each kept unless it is worse, until the peak meets the liveness bound, the most bytes
    alive at one step. Buffers are not aligned. Names must differ. The same input gives the same plan.
    """
    shared = {(overlap.read, overlap.made): overlap for overlap in overlaps}
    rivals = [
        [
            (other, tuple(_apart(ours, theirs, shared)))
            for other, theirs in enumerate(buffers)
            if other != one and ours.meets(theirs)
        ]
        for one, ours in enumerate(buffers)
    ]
    needs = bounds(buffers, overlaps)
    bound = max(needs, default=0)
    by_size = sorted(range(len(buffers)), key=lambda one: (-buffers[one].size_bytes, buffers[one].first, one))
    by_time = sorted(by_size, key=lambda one: -buffers[one].last)
    by_need = sorted(by_time, key=lambda one: -max(needs[buffers[one].first : buffers[one].last + 1]))
    order = min(by_size, by_time, by_need, key=lambda order: _peak(buffers, _placed(order, rivals)))
    best = _placed(order, rivals)
    chance = random.Random(seed)  # noqa: S311 - a reproducible search, not a secret
    for _ in range(min(tries, _PLACEMENTS // max(1, len(order)))):
        if _peak(buffers, best) == bound:
            break
        best = _swapped(buffers, order, rivals, best, chance)
    offsets = {buffers[one].name: offset for one, offset in best.items()}
    return MemoryPlan(tuple(buffers), offsets, _peak(buffers, best), bound)


def _apart(ours: Buffer, theirs: Buffer, shared: Mapping[tuple[str, str], Overlap]) -> Iterator[tuple[int, int]]:
    """Between which numbers our start less theirs must not lie."""
    if (read := shared.get((ours.name, theirs.name))) is not None:
        yield from read.between(ours, theirs)
    elif (made := shared.get((theirs.name, ours.name))) is not None:
        yield from ((-high, -low) for low, high in made.between(theirs, ours))
    else:
        yield -ours.size_bytes, theirs.size_bytes


def bounds(buffers: Sequence[Buffer], overlaps: Sequence[Overlap] = ()) -> list[int]:
    """The bytes below which no plan can be at each step: those alive, less what some of them can share."""
    alive = [0] * (max((buffer.last for buffer in buffers), default=-1) + 1)
    for buffer in buffers:
        for step in range(buffer.first, buffer.last + 1):
            alive[step] += buffer.size_bytes
    shared, named = dict[tuple[int, str], int](), {buffer.name: buffer for buffer in buffers}
    for overlap in overlaps:
        read, made = named[overlap.read], named[overlap.made]
        for step in range(max(read.first, made.first), min(read.last, made.last) + 1):
            key = step, made.name
            shared[key] = min(shared.get(key, 0) + overlap.saved(read, made), made.size_bytes)
    for (step, _), saved in shared.items():
        alive[step] -= saved
    return alive


def _peak(buffers: Sequence[Buffer], offsets: Mapping[int, int]) -> int:
    return max((offset + buffers[one].size_bytes for one, offset in offsets.items()), default=0)


def _placed(order: Iterable[int], rivals: Sequence[Rivals]) -> dict[int, int]:
    """Offsets when the buffers are placed in this order, each as low as those before it allow."""
    offsets: dict[int, int] = {}
    for one in order:
        offset = 0
        taken = sorted(
            (offsets[other] + low, offsets[other] + high)
            for other, apart in rivals[one]
            if other in offsets
            for low, high in apart
        )
        for low, high in taken:
            if offset <= low:
                break
            offset = max(offset, high)
        offsets[one] = offset
    return offsets


def _swapped(
    buffers: Sequence[Buffer], order: list[int], rivals: Sequence[Rivals], best: dict[int, int], chance: random.Random
) -> dict[int, int]:
    """The offsets after one swap in `order`, or `best` and the old order where the swap made it worse.

    Every other swap is of a buffer that ends at the peak with one that it meets.
    """
    one, other = chance.sample(range(len(order)), 2)
    if chance.random() < 1 / 2:
        peak = _peak(buffers, best)
        highest = chance.choice([each for each, offset in best.items() if offset + buffers[each].size_bytes == peak])
        met = [rival for rival, _ in rivals[highest]]
        one, other = order.index(highest), order.index(chance.choice(met)) if met else other
    order[one], order[other] = order[other], order[one]
    offsets = _placed(order, rivals)
    if _peak(buffers, offsets) <= _peak(buffers, best):
        return offsets
    order[one], order[other] = order[other], order[one]
    return best


_SAME_BYTES = frozenset(
    {
        *("view", "reshape", "_unsafe_view", "view_as", "flatten", "unflatten", "squeeze", "unsqueeze", "contiguous"),
        *("detach", "alias", "dropout", "feature_dropout", "alpha_dropout", "getitem"),
    }
)
"""Operations whose result is their input, read differently."""
_SAME_WHEN_WHOLE = frozenset({"slice", "expand", "to", "type_as"})
"""Operations that do nothing where the shape and the type stay."""
_FUSED = frozenset(
    {
        *("batch_norm", "relu", "relu6", "hardtanh", "clamp", "clamp_min", "leaky_relu", "elu", "selu", "gelu", "silu"),
        *("mish", "sigmoid", "tanh", "hardswish", "hardsigmoid", "softplus"),
    }
)
_HOSTS = frozenset(
    {
        *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear", "addmm"),
        *("mm", "bmm", "baddbmm", "matmul", "add", "sub", "mul", "batch_norm", "layer_norm", "group_norm"),
    }
)
"""Operations that write a `_FUSED` one's result in place of their own, as every runtime does."""


def operation(node: fx.Node) -> str:
    """The plain name of what a node computes: `conv2d` for aten.conv2d.default, `relu` for aten.relu_.default."""
    name = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(name, "__name__", name)).rstrip("_")


def lifetimes(graph: fx.Graph, size_bytes: Mapping[fx.Node, int]) -> tuple[Buffer, ...]:
    """One buffer for each network input and each result that needs bytes of its own.

    `size_bytes` holds the graph's activations, the inputs among them. Inputs are alive from the start, outputs to the
    end. Reshapes, dropout and in-place operations share their input's buffer; so does a batch norm or an activation
    function right after a convolution, a matrix product or an addition. What nothing reads is left out. Scratch memory
    inside an operation is not counted.
    """
    steps = {node: step for step, node in enumerate(graph.nodes)}
    readers = _readers(graph, size_bytes)
    shared: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        if node not in readers or node.op == "output":
            continue
        source = _source(node, shared, readers)
        group = shared[source] if source is not None else []
        group.append(node)
        shared[node] = group
    groups = {id(group): group for group in shared.values()}.values()
    return tuple(
        Buffer(
            name=group[0].name,
            size_bytes=size_bytes[group[0]],
            first=0 if group[0].op == "placeholder" else steps[group[0]],
            last=max(steps[reader] for node in group for reader in [node, *readers[node]]),
        )
        for group in groups
    )


def _readers(graph: fx.Graph, activations: Mapping[fx.Node, int]) -> dict[fx.Node, list[fx.Node]]:
    """The nodes that read each activation's data, for those activations that matter to an output."""
    readers: dict[fx.Node, list[fx.Node]] = {}
    for node in reversed(graph.nodes):
        found = [user for user in node.users if user in readers]
        wanted = found or node.op == "placeholder" or _in_place(node)
        if node.op == "output" or (node in activations and wanted):
            readers[node] = found
    return readers


def _source(
    node: fx.Node, shared: Mapping[fx.Node, list[fx.Node]], readers: Mapping[fx.Node, Sequence[fx.Node]]
) -> fx.Node | None:
    """The input whose buffer `node` lives in, or None where it needs its own."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or source not in shared:
        return None
    name = operation(node)
    if name in _SAME_BYTES or _in_place(node) or (name in _SAME_WHEN_WHOLE and _looks_like(node, source)):
        return source
    group = shared[source]
    alone = all(len(readers[each]) == 1 for each in group)
    return source if name in _FUSED and operation(group[0]) in _HOSTS and alone else None


def _in_place(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _looks_like(node: fx.Node, source: fx.Node) -> bool:
    ours, theirs = node.meta["val"], source.meta["val"]
    return bool(ours.shape == theirs.shape and ours.dtype == theirs.dtype)
