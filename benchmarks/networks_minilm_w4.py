"""A sentence encoder whose weights have 4 bits, its embeddings too, computed in float32.

The layers' integers repair each other's errors on sentences of the training pairs; the embeddings' are the nearest.
Beside it the same with the nearest integers everywhere.
"""

from __future__ import annotations

from pathlib import Path

from minilm import Pairs, Tokenizer, network
from networks_minilm import Made

from haversack.graph.inference import lower
from haversack.model import Model
from haversack.runtimes import host
from haversack.runtimes.onnx import ONNX
from haversack.task import Task
from haversack.techniques.quantize_weights import QuantizeWeights

NAME = "minilm_w4"
GROUP = 32
SEEN = 256
"""Sentences that the integers are fitted on."""


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """The row's figures; `quick` scores 50 pairs and fits on 32 sentences."""
    tokenizer = Tokenizer.of_package()
    pairs = Pairs.of(data, "test", tokenizer, 50 if quick else None)
    seen = Pairs.of(data, "train", tokenizer, 32 if quick else SEEN).left
    model = Model(network(), (seen[:1],))
    task = Task(train=list, calibrate=lambda: list(seen.split(32)), score=lambda _: 0.0, kind="regression")

    def made(step: QuantizeWeights) -> Made:
        return Made.by(lambda: ONNX.write(lower(step.apply(model, task))))

    ours, nearest = made(QuantizeWeights(4, GROUP, "gptq")), made(QuantizeWeights(4, GROUP))
    whole = ONNX.write(lower(model))
    timed = host.time_files([whole, ours.content], seconds=1 if quick else 20, inputs=[seen[:1].numpy()])
    return {
        **ours.figures(f"{NAME}.", pairs),
        f"{NAME}.latency_ratio": timed[1].ratio.value,
        **nearest.figures(f"{NAME}.nearest_", pairs),
        f"{NAME}.float_score": pairs.score(host.load(whole, 1)),
    }
