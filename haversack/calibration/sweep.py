"""Sweep: layer after layer is chosen anew, while the network before it already computes with what was chosen.

A layer reads what the changed layers before it compute and is fitted to what the original network computes there;
before a sum, to what the sum needs, so that errors do not add up along a residual network (He et al. 2017, Channel
Pruning for Accelerating Very Deep Neural Networks, section 3.2, for all layers). Between two layers a graph holds only
what later operations read, and rounded values as their integers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self, cast

import torch
from torch import Tensor, fx

from haversack.calibration.lane import Lane
from haversack.calibration.least_squares import Fit, Moments, refitted
from haversack.calibration.patches import Patches
from haversack.errors import RecipeError
from haversack.graph.folded import Folded
from haversack.graph.inference import inference
from haversack.graph.ops import Trait, channel_dim, traits_of
from haversack.graph.run import Batches, is_finite
from haversack.graph.write_back import written_back_to_train
from haversack.model import Edits, Model
from haversack.progress import track

# Neighbouring positions of a map say nearly the same: more of them change nothing but the time.
_MOST_POSITIONS = 100_000
# What all channels of a layer read at these positions: where each has a small kernel of its own, fewer tell as much.
_MOST_NUMBERS = 1 << 26


@dataclass(frozen=True)
class SweptLayer:
    """A layer whose weight is chosen; `bias` is the name of its bias, `free_bias` whether that may change.

    `reads` is the value whose grid its inputs lie on.

    `wanted` is the value of the original network that it shall repeat, in the channels `rows` where not in all: its
    own, or that of the sum that it completes; `completes` is that sum in the network of `node`.
    """

    node: fx.Node
    reads: str
    weight: str
    bias: str
    free_bias: bool
    completes: fx.Node | None
    wanted: fx.Node
    rows: Tensor | None = None


def swept_layers(folded: Folded, names: Collection[str]) -> list[SweptLayer]:
    """The layers in `names` whose weight may be any, in the order in which they run.

    Raises RecipeError for weights that hold NaN or infinity.
    """
    places = {node: place for place, node in enumerate(folded.graph.nodes)}
    own, swept = {name for name in folded.writable if folded.readers[name] == 1}, []
    for layer in folded.layers():
        node, weight = layer.node, layer.weight
        if weight in names and weight in own and Patches.know(node) and not layer.computes_bias:
            if not is_finite(folded.tensor(weight)):
                raise RecipeError("the weights hold NaN or infinity.", where=weight, mend="train the network again.")
            total = _completed(node, places)
            swept.append(SweptLayer(node, layer.reads, weight, layer.bias, layer.bias in own, total, total or node))
    return swept


class Sweep:
    """The original network and the changed one, side by side; `tensors` holds what was chosen so far.

    The layers are those of the changed network, or of the one that it rounds, in which they have the same names. Both
    have run `sizes` samples a batch up to somewhere before them; layers are fitted to at most `most` positions.
    """

    def __init__(self, original: Lane, changed: Lane, sizes: Sequence[int], most: int = _MOST_POSITIONS) -> None:
        self._real, self._changed, self._sizes, self._most = original, changed, sizes, most
        self._twins = {node.name: node for node in changed.nodes}
        self.tensors: dict[str, Tensor] = {}

    @classmethod
    def over(cls, original: Folded, changed: fx.GraphModule, batches: Batches, chosen: Collection[SweptLayer]) -> Self:
        """Both networks from their inputs on, to choose the layers `chosen` one after the other."""
        real = Lane(original.module, batches, {each.wanted for each in chosen})
        return cls(real, Lane(changed, batches), [len(batch[0]) for batch in batches])

    def fit(self, layer: SweptLayer, *, ridge: float) -> Fit:
        """The weights with which the layer comes closest to what is wanted of it, near those that it has."""
        weight = self._changed.tensors[layer.weight]
        moments = Moments(layer.node, weight, centred=layer.free_bias)
        most = min(self._most, _MOST_NUMBERS // moments.numbers)
        for batch, size in enumerate(self._sizes):
            inputs, outputs = self._inputs_and_outputs(layer, batch)
            moments.add(inputs, outputs, most * size // sum(self._sizes))
        bias = self._changed.tensors[layer.bias] if layer.bias else None
        return moments.fit(weight, bias, ridge=ridge)

    def choose(self, layer: SweptLayer, weight: Tensor, fit: Fit) -> None:
        """Gives the layer this weight, in its own shape or the fit's, and the bias that goes with it."""
        old = self._changed.tensors[layer.weight]
        self.tensors[layer.weight] = weight.reshape(old.shape).to(old.dtype)
        if layer.free_bias:
            bias = fit.bias(weight.double().reshape(fit.best.shape)).flatten()
            self.tensors[layer.bias] = bias.to(old.dtype)
        self._changed.tensors |= self.tensors

    def _inputs_and_outputs(self, layer: SweptLayer, batch: int) -> tuple[Tensor, Tensor]:
        """What the layer reads in the changed network, and what it should make of it."""
        twin = self._twins[layer.node.name]
        self._changed.run(batch, twin, inclusive=False)
        self._real.run(batch, layer.wanted, inclusive=True)
        inputs = self._changed.read(batch, cast("fx.Node", twin.args[0]))
        wanted = self._real.take(batch, layer.wanted)
        if layer.rows is not None:
            wanted = wanted.index_select(channel_dim(layer.node), layer.rows)
        if layer.completes is not None:
            # The other summand's error is known by now: this layer makes up for it as well.
            other = self._twins[layer.completes.name].args[1 - layer.completes.args.index(layer.node)]
            wanted = wanted - self._changed.read(batch, cast("fx.Node", other))
        return inputs, wanted


def sum_after(layer: fx.Node) -> fx.Node | None:
    """The sum of which the layer's result is a summand of equal shape, and nothing else."""
    reader = next(iter(layer.users))
    plain = len(layer.users) == 1 and traits_of(reader) & Trait.SUM and not reader.kwargs
    return reader if plain and reader.meta["val"].shape == layer.meta["val"].shape else None


def _completed(layer: fx.Node, places: Mapping[fx.Node, int]) -> fx.Node | None:
    """The sum after the layer, if its other summand is there before the layer runs."""
    total = sum_after(layer)
    other = None if total is None else total.args[1 - total.args.index(layer)]
    return total if isinstance(other, fx.Node) and places[other] < places[layer] else None


_RIDGE = 1e-3


def reconstructed(small: Model, original: Model, edits: Edits, batches: Batches) -> Model:
    """`small`, which `edits` made of `original`, with new weights, biases and batch norms.

    Layers that share weights or compute them, and all that are neither convolutions nor linear, keep what they have;
    zeros that pruning left stay zero. Raises RecipeError for weights that hold NaN or infinity, and TaskError where
    there are no inputs, or the networks compute NaN or infinity on them.
    """
    before, after = inference(original), inference(small)
    chosen = list(_chosen(after, before, edits))
    sweep = Sweep.over(before, after.module, batches, chosen)
    with torch.no_grad():
        for layer in track(chosen, "reconstructing", len(chosen)):
            fit = sweep.fit(layer, ridge=_RIDGE)
            best = refitted(fit, fit.start != 0) if layer.weight in small.sparse else fit.best
            sweep.choose(layer, best, fit)
    return written_back_to_train(small, after, sweep.tensors, batches)


def _chosen(small: Folded, original: Folded, edits: Edits) -> Iterator[SweptLayer]:
    """The layers that can be fitted, in the order in which they run."""
    # By their weights: the names of nodes shift with each removal.
    twins, kept = {layer.weight: layer.node for layer in original.layers()}, edits.kept
    for layer in swept_layers(small, twins):
        if not layer.bias or layer.free_bias:
            rows, twin = kept.get(layer.weight, {}).get(0), twins[layer.weight]
            total = None if layer.completes is None else sum_after(twin)
            yield replace(
                layer,
                completes=None if total is None else layer.completes,
                wanted=total or twin,
                rows=None if rows is None else torch.tensor(rows),
            )
