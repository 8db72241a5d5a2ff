"""Distributions: the mean and the variance of what normalized layers compute, channel by channel."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from haversack.graph.folded import Folded, Norm
from haversack.graph.ops import channel_dim
from haversack.graph.positions import by_channel, with_mask
from haversack.graph.run import Batches, Visit, numbers_a_sample, spacing, watch

Tensors = Mapping[str, Tensor]

# Fewer samples than this estimate worse than what training left behind; more than the limit change nothing, and of
# networks whose largest value takes much memory, the fewest will do: each sample tells much of every channel.
_FEWEST, _MOST, _MOST_NUMBERS = 64, 256, 1 << 24
# Of a map of more places, every so manyth counts, up to so many.
_MOST_PLACES = 1024
# Less than this share of what training saw is nothing to take a ratio to.
_LEAST_SHARE, _TINY = 1e-4, 1e-12


@dataclass(frozen=True)
class Distribution:
    """Mean and variance of a layer's outputs after its batch norm, in float64, one number a channel."""

    mean: Tensor
    variance: Tensor


class Noted:
    """Calibration inputs, and how the outputs of a network's layers on the first of them are distributed.

    The latter is noted by `watch`, while the network runs for something else.
    """

    def __init__(self, folded: Folded, batches: Batches) -> None:
        self.folded, self.batches = folded, batches
        self.first = list(_some(folded, batches))
        layers = [layer.node for layer in folded.layers(transposed=True)]
        self._parts: dict[str, list[_Part]] = {node.name: [] for node in (*layers, *map(folded.layer_of, folded.norms))}
        self._channels = {node.name: channel_dim(node) for node in layers}

    def watch(self, network: fx.GraphModule, batches: Batches, names: Collection[str], visit: Visit) -> None:
        """Runs the network on the batches like `run.watch`, and notes what its layers compute."""
        ours, note = with_mask(self.folded.positions, self._parts, self._note)

        def both(name: str, value: Tensor) -> None:
            if name in ours:
                note(name, value)
            if name in names:
                visit(name, value)

        watch(network, self.first, {*names, *ours}, both)
        watch(network, list(_rest(batches, _samples(self.first))), names, visit)

    def _note(self, name: str, value: Tensor, mask: Tensor | None) -> None:
        kept = by_channel(self.folded.positions, name, value, mask, self._channels.get(name, 1))
        if kept.numel():
            self._parts[name].append(_part(kept))

    def distributions(self, weights: Collection[str]) -> dict[str, Distribution] | None:
        """Those of the layers of these weights; None where they were not noted."""
        noted = {weight: self._parts[self.folded.layer_of(weight).name] for weight in weights}
        return {weight: _joined(some) for weight, some in noted.items()} if all(noted.values()) else None

    def means(self, folded: Folded, layers: Collection[str], samples: int) -> dict[str, Tensor] | None:
        """The mean outputs of these layers, channel by channel.

        None where not just so many samples were noted, or not every place of them.
        """
        noted = folded is self.folded and samples == _samples(self.first)
        parts = {name: self._parts.get(name, []) for name in layers}
        if not noted or not all(some and all(part.is_whole for part in some) for some in parts.values()):
            return None
        return {name: _joined(some).mean for name, some in parts.items()}


def expected(
    folded: Folded, changed: Tensors, names: Mapping[str, Norm], inputs: Batches | Noted | None
) -> dict[str, Distribution]:
    """What the layers of the weights `names` give once the inference graph computes with `changed`.

    Training left behind how they are distributed. Batches are not the training
    data with its augmentation, so only the change is taken from them; with none, or with few, there is none. Layers
    that branches were merged into have no batch norm that says how their sum varies: they are measured.
    """
    norms = {weight: _norms(folded, weight, norm) for weight, norm in names.items()}
    before = {weight: _left_behind(each, folded.own) for weight, each in norms.items()}
    some = inputs.first if isinstance(inputs, Noted) else list(_some(folded, inputs or ()))
    if not some or not names:
        return before
    seen = inputs.distributions(names) if isinstance(inputs, Noted) else None
    seen, now = seen or _measured(folded, names, some), _measured(folded.with_tensors(changed), names, some)
    return {
        weight: _moved(before[weight], seen[weight], now[weight]) if len(norms[weight]) == 1 else now[weight]
        for weight in names
    }


def _norms(folded: Folded, weight: str, norm: Norm) -> tuple[Norm, ...]:
    """The batch norms whose results the layer gives: its own, and those of the branches that it took in."""
    return (folded.merged[weight].norms if weight in folded.merged else ()) or (norm,)


def _left_behind(norms: tuple[Norm, ...], own: Tensors) -> Distribution:
    """As the batch norms expect it; sums are taken for sums of independent values."""
    means, variances = [], []
    for norm in norms:
        variance = own[norm.variance].double()
        scale = own[norm.weight].double() if norm.weight else torch.ones_like(variance)
        means.append(own[norm.bias].double() if norm.bias else torch.zeros_like(variance))
        variances.append(scale.square() * variance / (variance + norm.epsilon))
    return Distribution(torch.stack(means).sum(0), torch.stack(variances).sum(0))


def _moved(trained: Distribution, before: Distribution, now: Distribution) -> Distribution:
    """`trained`, moved as the measured ones moved: the variance by their ratio, the mean in standard deviations."""
    least = _LEAST_SHARE * trained.variance + _TINY
    ratio = (now.variance + least) / (before.variance + least)
    return Distribution(now.mean + (trained.mean - before.mean) * ratio.sqrt(), trained.variance * ratio)


def _measured(folded: Folded, weights: Mapping[str, Norm], batches: Batches) -> dict[str, Distribution]:
    readers = {weight: folded.layer_of(weight).name for weight in weights}
    seen: dict[str, list[_Part]] = {readers[weight]: [] for weight in weights}

    def visit(name: str, value: Tensor, mask: Tensor | None) -> None:
        kept = by_channel(folded.positions, name, value, mask, 1)
        if kept.numel():
            seen[name].append(_part(kept))

    watch(folded.module, batches, *with_mask(folded.positions, seen.keys(), visit))
    return {weight: _joined(seen[readers[weight]]) for weight in weights}


@dataclass(frozen=True)
class _Part:
    """One batch: how many values a channel, how they are distributed, and whether these are all values."""

    count: int
    values: Distribution
    is_whole: bool = True


def _part(value: Tensor) -> _Part:
    # In two steps: torch.var_mean takes seven times as long.
    maps = value.detach().reshape(*value.shape[:2], -1)
    places = maps.shape[2]
    apart = spacing(places, _MOST_PLACES, places)
    maps = maps[..., ::apart]
    mean = maps.mean((0, 2), keepdim=True)
    variance = (maps - mean).square_().mean((0, 2))
    return _Part(len(maps) * maps.shape[2], Distribution(mean.flatten().double(), variance.double()), apart == 1)


def _joined(some: list[_Part]) -> Distribution:
    shares = torch.tensor([part.count for part in some], dtype=torch.float64).view(-1, 1)
    shares = shares / shares.sum()
    means = torch.stack([part.values.mean for part in some])
    variances = torch.stack([part.values.variance for part in some])
    mean = (shares * means).sum(0)
    return Distribution(mean, (shares * (variances + (means - mean).square())).sum(0))


def _samples(batches: Batches) -> int:
    return sum(len(batch[0]) for batch in batches)


def _some(folded: Folded, batches: Batches) -> Iterator[tuple[Tensor, ...]]:
    """The first samples of the batches; none where they are too few."""
    most = min(_MOST, max(_FEWEST, _MOST_NUMBERS // numbers_a_sample(folded.graph)))
    left = most if _samples(batches) >= _FEWEST else 0
    for batch in batches:
        if left > 0:
            yield tuple(value[:left] for value in batch)
        left -= len(batch[0])


def _rest(batches: Batches, count: int) -> Iterator[tuple[Tensor, ...]]:
    """The samples after the first `count`."""
    for batch in batches:
        if count < len(batch[0]):
            yield tuple(value[count:] for value in batch)
        count = max(0, count - len(batch[0]))
