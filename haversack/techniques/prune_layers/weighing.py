"""Weighing: what each block loses that goes, once the layers behind it have been refitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from haversack.calibration.currency import Judge, parted
from haversack.calibration.lane import Lane, Span
from haversack.calibration.sweep import Sweep, swept_layers
from haversack.graph.folded import Folded
from haversack.graph.inference import inference
from haversack.graph.run import Batches, Tensors
from haversack.model import Model
from haversack.progress import track
from haversack.task import Kinds
from haversack.techniques.prune_layers.removable import Removable, without

_MOST_POSITIONS = 12_000
_FOLLOWING = 6
"""So many layers behind the block are refitted: ResNet-20's second loses 0.07 nats with 4, 0.02 with 8 and with all."""
_RIDGE = 1e-3


def lost_nats(model: Model, blocks: Sequence[Removable], batches: Batches, kind: Kinds) -> list[float]:
    """How far the outputs move without each block, the next layers refitted; on inputs that refitted nothing."""
    folded = inference(model)
    fitted, held = parted(folded, batches, 2 * len(blocks))
    judge = Judge.of(folded, held, kind)
    spans = {block.path: span for block in blocks if (span := Span.of(folded.graph, block.path))}
    lost = _lost(spans, folded, fitted, judge)
    # Folding took the others apart.
    lost |= {
        block.path: judge.yardstick.nats(without(model.module, [block.path]))
        for block in blocks
        if block.path not in lost
    }
    return [lost[block.path] for block in blocks]


def _lost(
    spans: Mapping[str, Span], folded: Folded, fitted: tuple[torch.Tensor, ...], judge: Judge
) -> dict[str, float]:
    """The loss by the path of each block, whose operations are the span."""
    lane, places = Lane(folded.module, [fitted]), {node: place for place, node in enumerate(folded.graph.nodes)}
    lost = {}
    in_order = sorted(spans.items(), key=lambda block: min(map(places.__getitem__, block[1].inside)))
    for path, span in track(in_order, "weighing blocks", len(in_order)):
        first = min(span.inside, key=places.__getitem__)
        with torch.no_grad():
            lane.run(0, first, inclusive=False)
            tensors = _refitted(folded, lane, span, len(fitted[0]))
        short = judge.before(first).fork(without=span)
        short.tensors |= tensors
        lost[path] = judge.nats(short)
    return lost


def _refitted(folded: Folded, lane: Lane, span: Span, samples: int) -> Tensors:
    """New weights and biases for the layers that run next after the block before which `lane` stands."""
    end = lane.nodes.index(span.gives)
    behind = [layer for layer in swept_layers(folded, folded.tensors) if lane.nodes.index(layer.node) > end]
    layers = behind[:_FOLLOWING]
    sweep = Sweep(lane.fork({layer.wanted for layer in layers}), lane.fork(without=span), [samples], _MOST_POSITIONS)
    for layer in layers:
        fit = sweep.fit(layer, ridge=_RIDGE)
        sweep.choose(layer, fit.best, fit)
    return sweep.tensors
