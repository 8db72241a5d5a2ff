"""Reconstruct: the weights of a pruned network with which its layers compute what they did in the original one.

One sweep, layer by layer: a layer reads what the pruned network computes and is fitted by least squares to what the
original computes there; before a sum, to what the sum needs, so that errors do not add up along a residual network
(He et al. 2017, Channel Pruning for Accelerating Very Deep Neural Networks, section 3.2, for all layers).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import torch
from torch import fx

from haversack.graph.annotation import layers
from haversack.graph.inference import inference
from haversack.graph.norms import settled_to_train
from haversack.graph.observe import Batches
from haversack.graph.settle import settleable
from haversack.model import Edits, Model
from haversack.numerics.surgeon import refitted
from haversack.numerics.sweep import Sweep, SweptLayer, sum_after, swept_layers
from haversack.progress import track

_RIDGE = 1e-3


def reconstructed(small: Model, original: Model, edits: Edits, batches: Batches) -> Model:
    """`small`, which `edits` made of `original`, with new weights, biases and batch norms.

    Layers that share weights or compute them, and all that are neither convolutions nor linear, keep what they have;
    zeros that pruning left stay zero. Raises RecipeError for weights that hold NaN or infinity, and TaskError where
    there are no inputs, or the networks compute NaN or infinity on them.
    """
    before, after = inference(original), inference(small)
    chosen = list(_chosen(after, before, settleable(small, after), edits))
    sweep = Sweep(before, after, batches, chosen)
    with torch.no_grad():
        for layer in track(chosen, "reconstructing", len(chosen)):
            fit = sweep.fit(layer, ridge=_RIDGE)
            best = refitted(fit, fit.start != 0) if layer.weight in small.sparse else fit.best
            sweep.choose(layer, best, fit)
    return settled_to_train(small, sweep.tensors, batches)


def _chosen(
    small: fx.GraphModule, original: fx.GraphModule, writable: Collection[str], edits: Edits
) -> Iterator[SweptLayer]:
    """The layers that can be fitted, in the order in which they run."""
    # By their weights: the names of nodes shift with each removal.
    twins, kept = {weight: node for node, weight in layers(original)}, edits.kept
    for layer in swept_layers(small, twins, writable):
        if layer.bias is None or layer.free_bias:
            rows, twin = kept.get(layer.weight, {}).get(0), twins[layer.weight]
            total = None if layer.completes is None else sum_after(twin)
            yield replace(
                layer,
                completes=None if total is None else layer.completes,
                wanted=total or twin,
                rows=None if rows is None else torch.tensor(rows),
            )
