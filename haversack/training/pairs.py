"""Pairs: which layer of a student is held against which of its teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from haversack.errors import RecipeError

_PARTS = 3
"""Networks whose maps all have one size are compared after each third of their layers."""
_ROWS = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.MultiheadAttention, nn.RNNBase)
"""Layers that have channels in the last dimension."""


@dataclass(frozen=True)
class Feature:
    """What a layer gives: its shape for a batch, the dimension of its channels, and how deep the layer lies.

    `depth` is the share of the layers with weights that have been computed by then, `calls` how often the layer runs.
    Layers that hand on the very same tensor, as a block and its last layer do, have the same `result`.
    """

    path: str
    shape: tuple[int, ...]
    channel: int
    depth: float
    calls: int
    result: int

    @property
    def width(self) -> int:
        """How many channels it has."""
        return self.shape[self.channel]

    @property
    def extent(self) -> tuple[int, ...]:
        """Its sizes in space or time; empty where it gives one vector a sample."""
        return tuple(size for dim, size in enumerate(self.shape) if dim not in (0, self.channel))

    @property
    def is_point(self) -> bool:
        """Whether it has an extent of which nothing is left, as after a global pool."""
        return bool(self.extent) and max(self.extent) == 1

    @property
    def level(self) -> int:
        """How many modules it lies in."""
        return self.path.count(".") + bool(self.path)

    def __str__(self) -> str:
        return f"{self.path} ({'x'.join(map(str, (self.width, *self.extent)))})"


@dataclass(frozen=True)
class Pair:
    """A student's layer and the teacher's that it is held against."""

    student: Feature
    teacher: Feature

    def __str__(self) -> str:
        return f"{self.student} = {self.teacher}"


def paired(student: nn.Module, teacher: nn.Module, example: tuple[Tensor, ...], given: Sequence[str]) -> list[Pair]:
    """The pairs that are `given` as "student.path=teacher.path", or else those of the ends of both networks' stages.

    A stage ends where the map changes its size. The last stages are a pair, and so on to the front, until one network
    has no more of them. Where one has a single stage, layers of the same relative depth are pairs. Raises RecipeError,
    naming paths and shapes, where a given pair cannot be compared or none can be found.
    """
    ours, theirs = features_of(student, example), features_of(teacher, example)
    if given:
        return [_given(text, ours, theirs) for text in given]
    for dimensions in (3, 2, 1, 0):
        found = _by_stage(*(_comparable(each.values(), dimensions) for each in (ours, theirs)))
        if found:
            return found
    last = [", ".join(str(each) for each in list(all_.values())[-4:] if each.path) for all_ in (ours, theirs)]
    raise RecipeError(
        f"no layer of the student can be paired with one of the teacher; their last ones are {last[0]} and {last[1]}.",
        mend='write pairs = ["student.path=teacher.path"], or leave features out.',
    )


def features_of(network: nn.Module, example: tuple[Tensor, ...]) -> dict[str, Feature]:
    """What each layer gives that gives one tensor for the batch, by path, in the order in which they end.

    The network, in evaluation mode, runs once on two samples and is left as it was.
    """
    watch = _Watch()
    inputs = tuple(torch.cat([value, value]) if len(value) == 1 else value for value in example)
    with torch.no_grad(), _hooked([(layer, watch.of(path)) for path, layer in network.named_modules()]):
        network(*inputs)
    return watch.features(len(inputs[0]))


@contextmanager
def results_of(network: nn.Module, paths: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Within this block, what the layers at `paths` gave when they ran last; they are left as they were."""
    seen: dict[str, Any] = {}

    def keep(path: str) -> _Hook:
        return lambda _, __, result: seen.update({path: result})

    with _hooked([(network.get_submodule(path), keep(path)) for path in paths]):
        yield seen


_Hook = Callable[[nn.Module, Any, Any], None]


@contextmanager
def _hooked(hooks: Iterable[tuple[nn.Module, _Hook]]) -> Iterator[None]:
    """Within this block, each layer's hook is called with it, its inputs and its result."""
    handles = [layer.register_forward_hook(hook) for layer, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Watch:
    """Sees what the layers of a network give, one after the other."""

    def __init__(self) -> None:
        self._results: dict[str, tuple[Tensor, nn.Module, int, int]] = {}
        self._latest, self._computed = nn.Module(), 0

    def of(self, path: str) -> _Hook:
        """The hook of the layer at `path`."""

        def take(layer: nn.Module, _: object, result: object) -> None:
            if next(layer.parameters(recurse=False), None) is not None:
                self._latest, self._computed = layer, self._computed + 1
            _, _, _, calls = self._results.pop(path, (None, None, None, 0))
            if isinstance(result, Tensor):
                self._results[path] = result, self._latest, self._computed, calls + 1

        return take

    def features(self, samples: int) -> dict[str, Feature]:
        """All tensors that hold so many samples in their first dimension."""
        whole = max(1, self._computed)
        return {
            path: Feature(path, tuple(result.shape), _channel(result, latest), done / whole, calls, id(result))
            for path, (result, latest, done, calls) in self._results.items()
            if result.dim() > 1 and len(result) == samples and result.is_floating_point()
        }


def _channel(result: Tensor, latest: nn.Module) -> int:
    """The dimension of the channels: the last one behind a layer that has them there, unless they were moved."""
    sizes = {size for each in latest.parameters(recurse=False) for size in each.shape}
    return result.dim() - 1 if isinstance(latest, _ROWS) and result.shape[-1] in sizes else 1


def _given(text: str, ours: Mapping[str, Feature], theirs: Mapping[str, Feature]) -> Pair:
    """The pair that is written so."""
    first, second = (each.strip() for each in text.split("="))
    pair = Pair(_named(first, ours, "student"), _named(second, theirs, "teacher"))
    if len(pair.student.extent) != len(pair.teacher.extent):
        raise RecipeError(
            f"{pair} cannot be compared: one has {len(pair.student.extent)} dimensions in space or time, the other "
            f"{len(pair.teacher.extent)}.",
            mend="pair layers whose results have as many dimensions.",
        )
    return pair


def _named(path: str, known: Mapping[str, Feature], whose: str) -> Feature:
    if path not in known:
        raise RecipeError(
            f"the {whose} has no layer '{path}' that gives one tensor with a row for each sample.",
            mend=f"choose from: {', '.join(str(each) for each in known.values() if each.path)}.",
        )
    return known[path]


def _comparable(found: Iterable[Feature], dimensions: int) -> list[Feature]:
    """The maps in so many dimensions that lie between the input and the output, each under its outermost layer's name.

    A layer that runs several times gives several maps, so none of them.
    """
    outermost: dict[int, Feature] = {}
    for each in found:
        other = outermost.pop(each.result, each)
        outermost[each.result] = min(other, each, key=lambda one: one.level)
    return [
        each
        for each in outermost.values()
        if each.path and each.depth > 0 and each.calls == 1
        if len(each.extent) == dimensions
    ]


def _by_stage(ours: Sequence[Feature], theirs: Sequence[Feature]) -> list[Pair]:
    """The ends of stages, the last with the last; layers of one depth where a network has one stage only."""
    ends = _stage_ends(ours), _stage_ends(theirs)
    if not all(ends):
        return []
    count = min(map(len, ends))
    if count > 1:
        return [Pair(*both) for both in zip(*(each[-count:] for each in ends), strict=True)]
    thirds = [part / _PARTS for part in range(1, _PARTS + 1)]
    depths = next(([each.depth / stages[-1].depth for each in stages] for stages in ends if len(stages) > 1), thirds)
    found = zip(_at(depths, ours, ends[0]), _at(depths, theirs, ends[1]), strict=True)
    once = {student.path: Pair(student, teacher) for student, teacher in found}
    return list({pair.teacher.path: pair for pair in once.values()}.values())


def _at(depths: Sequence[float], found: Sequence[Feature], ends: Sequence[Feature]) -> Sequence[Feature]:
    """The ends of stages where there are several; the nearest of the outer layers to each depth elsewhere.

    A depth of 1 is that of the last map.
    """
    if len(ends) > 1:
        return ends
    maps = [each for each in found if not each.is_point]
    levels = sorted(each.level for each in maps)[:_PARTS]
    outer = [each for each in reversed(maps) if each.level <= levels[-1]]
    deepest = max(each.depth for each in outer)
    return [min(outer, key=lambda each: abs(each.depth / deepest - depth)) for depth in depths]


def _stage_ends(found: Sequence[Feature]) -> list[Feature]:
    """The last map of each size, in the order in which the network comes to them.

    Of a size that is only there within blocks that change it, the outermost maps are taken.
    """
    maps = [each for each in found if not each.is_point]
    clear = {each.path for each in maps if not _starts_a_stage(each, found)}
    sizes = {each.extent for each in maps if each.path in clear}
    least = {each.extent: min(one.level for one in maps if one.extent == each.extent) for each in maps}
    kept = [
        each for each in maps if each.path in clear or (each.extent not in sizes and each.level == least[each.extent])
    ]
    return [list(stage)[-1] for _, stage in groupby(kept, key=lambda each: each.extent)]


def _starts_a_stage(feature: Feature, found: Sequence[Feature]) -> bool:
    """Whether it lies in a block that changes the size, before it does: where the block widens, for example.

    What a block sums up in a single point, as squeeze-and-excitation does, is no size of its own.
    """
    for block in found:
        if feature.path.startswith(f"{block.path}.") and block.extent != feature.extent:
            within = (each for each in found if each.path.startswith(f"{block.path}.") and not each.is_point)
            if {each.extent for each in within} <= {feature.extent, block.extent}:
                return True
    return False
