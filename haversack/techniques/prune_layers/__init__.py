"""Whole blocks and layers are removed until the network costs a given fraction of what it did."""

from __future__ import annotations

import functools
import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Self

import torch
from torch import Tensor, nn

from haversack.batches import each_of
from haversack.calibration.currency import nats
from haversack.calibration.sweep import reconstructed
from haversack.channels.cost import Measure
from haversack.choices import Gone, Option, Site
from haversack.device import Device
from haversack.errors import NothingChangedError, RecipeError
from haversack.graph.cost import cost
from haversack.graph.run import Batches, digest, joined
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.positions import that_count
from haversack.recipe import Choices, Stage, Step
from haversack.settings import Count, Fraction, Like, Positive, checked
from haversack.surgery.edit import edit
from haversack.task import Kinds, Task
from haversack.techniques.prune_layers.removable import (
    Removable,
    Removables,
    outermost,
    removable,
    removal,
    without,
)
from haversack.techniques.prune_layers.weighing import lost_nats
from haversack.training import trained
from haversack.wiring import mask_of

_SAMPLES = 128
"""Inputs that tell how far the outputs move: of ResNet-56, which took 160 trials to lose 12 blocks."""
_REFIT_SAMPLES = 256
_PORTION = 0.1
"""So much of the cost is saved between two refits."""
_PAYS = 0.002
"""A removal that saves less than this share is within what a timing varies."""


@dataclass(frozen=True)
class PruneLayers(Step):
    """The network without the blocks and layers that matter least for what they cost, refitted and then fine-tuned.

    `keep` is the fraction that is left of the latency, the multiply-accumulates or the parameters (`of`). Latency is
    what the device's runtime measures; without a target, multiply-accumulates stand in for it. What a removal costs is
    measured too: how far the outputs move away from the network's own on calibration inputs (Veit et al. 2016 take
    blocks out of residual networks; Elkerdawy et al. 2020 find that this beats removing filters at equal latency).
    The layers that are left are refitted (`refit`) to the original's values, as far as they see what the others did
    (see calibration/sweep.py); the original is the teacher of the `epochs` that follow.

    `layers` ("layer3.2") says instead which modules go, by their path. Then `keep` and `of` are not looked at.
    """

    keep: Fraction = 0.7
    of: Measure = "latency"
    refit: bool = True
    epochs: Count = 4
    learning_rate: Positive = 0.02
    seed: int = 0
    layers: tuple[Annotated[str, Like("(?s:.+)", "layer3.2")], ...] = ()

    stage: ClassVar[Stage] = Stage.STRUCTURE
    strength: ClassVar[str] = "keep"

    def __post_init__(self) -> None:
        checked(self)
        twice = [path for path, count in Counter(self.layers).items() if count > 1]
        if twice:
            raise RecipeError(f"layers names {twice[0]} twice.", mend="name each module once.")

    def apply(self, model: Model, task: Task) -> Model:
        """The shorter model, refitted and trained for `epochs`; edits and teacher follow.

        Raises RecipeError, naming the smallest fraction in reach, when `keep` lies below it, and where `layers` names a
        module that may not go; NothingChangedError where no module may go or no removal pays.
        """
        shortened = self._spelled_out if self.layers else self._shortened
        small = replace(shortened(model, task), teacher=model.teacher or model.module)
        return trained(small, task, self.epochs, learning_rate=self.learning_rate, seed=self.seed)

    def skeleton(self) -> Self:
        """As many blocks gone, and nothing done about what is left."""
        return replace(self, refit=False)

    @classmethod
    def options(cls, model: Model, device: Device) -> Iterable[Self]:
        """Fractions of the latency, then of the parameters, that are in reach by counting; each mildest first."""
        del device
        for of in () if model.grids else ("latency", "parameters"):
            yield from cls._reachable(of, replace(model, target=None))

    @classmethod
    def _reachable(cls, of: Measure, model: Model) -> Iterable[Self]:
        try:
            smallest = _Choice.of(model, of).smallest
        except NothingChangedError:
            return
        yield from (cls(keep=keep / 100, of=of) for keep in range(95, 15, -5) if keep / 100 >= smallest)

    @classmethod
    def choices(cls, model: Model, device: Device) -> Choices | None:
        """The blocks that may go; None for a quantized network, and where none may."""
        del device
        blocks = () if model.grids else outermost(removable(model.module, model.example).removable)
        return _Blocks(model, blocks) if blocks else None

    def _shortened(self, model: Model, task: Task) -> Model:
        """The model without the modules that go; its other layers may be refitted whenever some more have gone."""
        choice = _Choice.of(model, self.of)
        if self.keep < choice.smallest:
            raise RecipeError(
                f"keep is {self.keep:.4g}, but the smallest fraction of {self.of} in reach is {choice.smallest:.3f}.",
                mend="keep more, or remove channels (prune_channels) as well.",
            )
        batches, gone, small = _inputs(task), list[Removable](), model
        for share in _portions(1 - self.keep) if self.refit else [1 - self.keep]:
            more = choice.cheapest(share, _losses(small, model, batches, task.kind), gone)
            if more:
                paths = [each.path for each in more]
                gone, small = [*gone, *more], _without(small, paths)
                small = reconstructed(small, model, removal(paths), batches) if self.refit else small
        return small

    def _spelled_out(self, model: Model, task: Task) -> Model:
        """The model without `layers`; its other layers may be refitted after every few that have gone."""
        found, batches, small = removable(model.module, model.example), _inputs(task), model
        _check_may_go(self.layers, found)
        gone = outermost([each for each in found.removable if each.path in self.layers])
        for paths in _in_turns([each.path for each in gone], len(found.removable)):
            small = _without(small, paths)
            small = reconstructed(small, model, removal(paths), batches) if self.refit else small
        return small


@dataclass(frozen=True, eq=False)
class _Blocks:
    """What a planner chooses from: blocks that stay or go."""

    model: Model
    blocks: Sequence[Removable]

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(
            Site(block.path, "prune_layers", (Option("there"), Option("gone", Gone(block.path))))
            for block in self.blocks
        )

    def losses(self, batches: Batches, kind: Kinds = "classification") -> list[tuple[float, ...]]:
        """How far the outputs move without each block, the next layers refitted."""
        return [(0.0, lost) for lost in lost_nats(self.model, self.blocks, batches, kind)]

    def step(self, chosen: Sequence[int]) -> PruneLayers | None:
        gone = tuple(block.path for block, option in zip(self.blocks, chosen, strict=True) if option)
        return PruneLayers(layers=gone, epochs=0) if gone else None


def _check_may_go(layers: Sequence[str], found: Removables) -> None:
    """Raises RecipeError for the path of a module that stays."""
    reasons, may_go = {each.path: each.reason for each in found.staying}, {each.path for each in found.removable}
    for path in layers:
        if path not in may_go:
            listed = ", ".join(sorted(may_go)) or "nothing; no module of this network may go"
            reason = reasons.get(path, "it is a part of another, a chain of others or no module of this network")
            raise RecipeError(f"layers names {path}, which cannot go: {reason}.", mend=f"choose from: {listed}.")


def _in_turns(paths: Sequence[str], of: int) -> Iterator[Sequence[str]]:
    """The paths, a tenth of all `of` modules that may go at a time: refitted, the network stands the next better."""
    size = max(1, round(_PORTION * of))
    return (paths[start : start + size] for start in range(0, len(paths), size))


def _inputs(task: Task) -> list[tuple[Tensor, ...]]:
    return [joined(task.calibration(), _REFIT_SAMPLES)]


Loss = Callable[[frozenset[str]], float]
"""Paths of modules that are gone -> how far the outputs have moved."""


@dataclass(frozen=True)
class _Choice:
    """The removals that pay, in the order in which they run, and the share of the cost that each saves."""

    saved: Mapping[Removable, float]

    @classmethod
    def of(cls, model: Model, measure: Measure) -> _Choice:
        found = removable(model.module, model.example)
        saved = _saved(model, found.removable, measure)
        paying = {each: share for each, share in saved.items() if share > _PAYS}
        if not paying:
            raise NothingChangedError(_why_nothing(found, measure), mend="remove channels instead: prune_channels.")
        return cls(paying)

    @property
    def smallest(self) -> float:
        """The smallest fraction of the cost in reach."""
        return 1 - self._saved(tuple(self.saved))

    def cheapest(self, share: float, loss: Loss, gone: Sequence[Removable] = ()) -> list[Removable]:
        """The modules to remove beside those `gone`, in order, so that `share` of the cost is saved by all.

        Always the one that moves the outputs least for what it saves of what is still asked for: how far several move
        them is not the sum of what each does, so that this is no knapsack (see allocate.py). Prices are looked up
        again only for the module that seems cheapest (Minoux 1978): what others have left behind makes a removal
        dearer, hardly ever cheaper.
        """
        modules, more, fresh = list(self.saved), list[Removable](), dict[int, int]()
        queue, done, share = [(-math.inf, place) for place in range(len(modules))], 0, share - self._saved(gone)
        while queue and share > _TINY:
            _, place = heapq.heappop(queue)
            each = modules[place]
            gain = self._saved((*gone, *more, each)) - self._saved((*gone, *more))
            if gain < _TINY:
                continue
            after = [*(other for other in more if not other.within(each)), each]
            if fresh.get(place) == done:
                more, share, done = after, share - gain, done + 1
                continue
            rise = loss(_paths(after)) - loss(_paths(more))
            fresh[place] = done
            heapq.heappush(queue, (rise / min(gain, share), place))
        return self._needed(more, -share)

    def _needed(self, more: Sequence[Removable], surplus: float) -> list[Removable]:
        """Those of `more` that must go, where later ones saved so much that earlier ones may come back."""
        needed = list(more)
        for each in reversed(more):
            if self.saved[each] <= surplus:
                needed.remove(each)
                surplus -= self.saved[each]
        return needed

    def _saved(self, modules: Sequence[Removable]) -> float:
        """What is saved when all these are gone, of which one may be a part of another or named twice."""
        return sum(self.saved[each] for each in outermost(tuple(dict.fromkeys(modules))))


_TINY = 1e-9


def _portions(share: float) -> Iterator[float]:
    """Shares of the cost to be saved one after the other, the last of them `share`.

    What was refitted stands the next removals better, and tells better which: ResNet-56 without 12 of its 27 blocks,
    before any training, scores 95.1 % on 1,000 training images so, 92.6 % when it is refitted halfway and at the end,
    and 90.9 % when only at the end.
    """
    done = _PORTION
    while done < share - _TINY:
        yield done
        done += _PORTION
    yield share


def _paths(modules: Iterable[Removable]) -> frozenset[str]:
    return frozenset(each.path for each in modules)


def _saved(model: Model, candidates: Sequence[Removable], measure: Measure) -> dict[Removable, float]:
    """The share of the network's cost that goes with each candidate."""
    if not candidates:
        return {}
    if measure == "latency" and model.target is not None:
        return _saved_time(model, candidates)
    layers = cost(trace(model.module, model.example)).layers
    counts = [(each.path, each.parameters if measure == "parameters" else each.macs) for each in layers]
    whole = max(1, sum(count for _, count in counts))
    return {
        each: sum(count for path, count in counts if f"{path}.".startswith(f"{each.path}.")) / whole
        for each in candidates
    }


def _saved_time(model: Model, candidates: Sequence[Removable]) -> dict[Removable, float]:
    """The share of the measured latency that goes with each candidate.

    Candidates of one build take the same time: they are taken out together, so that the difference stands out.
    """
    builds: dict[str, list[Removable]] = {}
    for each in candidates:
        builds.setdefault(each.build, []).append(each)
    alike = [outermost(tuple(each)) for each in builds.values()]
    times = _timed(model, [_paths(each) for each in alike])
    return {
        each: max(0.0, 1 - times[_paths(group)] / times[frozenset()]) / len(group)
        for group, build in zip(alike, builds.values(), strict=True)
        for each in build
    }


def _timed(model: Model, removals: Sequence[frozenset[str]]) -> Mapping[frozenset[str], float]:
    """The latency in milliseconds without each of `removals`, and of the whole network."""
    noted = _noted(f"{_digest(model.module)} {model.target!r}")
    wanted = [frozenset[str](), *removals]
    if model.target is not None and not noted.keys() >= set(wanted):
        variants = [_without(model, each) for each in wanted]
        noted.update(zip(wanted, model.target.latencies_ms(variants), strict=True))
    return noted


def _without(model: Model, paths: Iterable[str]) -> Model:
    edits = removal(sorted(paths))
    return model.with_module(edit(model.module, edits), edits)


def _losses(small: Model, original: Model, batches: Batches, kind: Kinds) -> Loss:
    """How far `small`'s outputs are from the original's when modules are gone; what was measured before is noted."""
    inputs = joined(batches, _SAMPLES)
    mask = mask_of(original.module)
    with torch.no_grad():
        wanted = that_count(mask, original.module(*inputs), inputs)
    noted = _noted(f"{_digest(small.module)} {_digest(*each_of(wanted), *inputs)} {kind}")

    def loss(gone: frozenset[str]) -> float:
        if gone not in noted:
            with torch.no_grad():
                noted[gone] = nats(that_count(mask, without(small.module, sorted(gone))(*inputs), inputs), wanted, kind)
        return noted[gone]

    return loss


@functools.lru_cache(maxsize=64)
def _noted(_: str) -> dict[frozenset[str], float]:
    """What was measured of removals under the same circumstances, so that a ladder of settings measures it once."""
    return {}


def _digest(*parts: nn.Module | Tensor) -> str:
    """A hash of networks and tensors by their content."""
    states = [{"": part} if isinstance(part, Tensor) else part.state_dict() for part in parts]
    tensors = {f"{place}/{name}": each for place, state in enumerate(states) for name, each in state.items()}
    return digest(tensors, *(str(part) for part in parts if isinstance(part, nn.Module)))


def _why_nothing(found: Removables, measure: Measure) -> str:
    if found.removable:
        return f"no removal saves {measure}: {', '.join(each.path for each in found.removable[:3])} were tried."
    reasons = "; ".join(f"{each.path}: {each.reason}" for each in found.staying[:3])
    return f"no block or layer of this network can go ({reasons or 'it has none with weights'})."
