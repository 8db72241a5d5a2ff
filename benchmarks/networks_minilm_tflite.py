"""A sentence encoder as `.tflite` for LiteRT, all sentences filled up to one length: in float and in integers.

Dynamic int8 without calibration is the row's own file: layers of integers that round each row that they read, and
embeddings in 8 bits. Beside it stand the same with words in 4 bits, and static int8 by sentences of the training pairs.
All files are scored on the test pairs of the STS benchmark and timed in alternation with the float `.tflite` on one
thread.
"""

from __future__ import annotations

from pathlib import Path

from minilm import Pairs, Tokenizer, network
from networks_minilm import Made, spread
from torch import Tensor

from haversack.errors import ParityError
from haversack.graph.inference import lower
from haversack.model import Model
from haversack.recipe import Step
from haversack.runtimes import agreement, host
from haversack.runtimes.tflite import LITERT
from haversack.task import Task
from haversack.techniques.quantize_dynamic import QuantizeDynamic
from haversack.techniques.quantize_static import QuantizeStatic

NAME = "minilm_tflite"
SEEN = 256
"""Sentences on which the file is held against its network, and by which static ranges are found."""
STEPS: dict[str, Step] = {
    "": QuantizeDynamic(),
    "words4_": QuantizeDynamic(layer_bits=("words=4",)),
    "static_": QuantizeStatic(activations="int8"),
}
"""The files beside the float one, by what their figures begin with."""


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """The row's figures; `quick` scores 50 pairs, times for a second and calibrates on 32 sentences."""
    tokenizer = Tokenizer.of_package()
    pairs = Pairs.of(data, "test", tokenizer, 50 if quick else None)
    seen = Pairs.of(data, "train", tokenizer, 32 if quick else SEEN).left
    model = Model(network(), (seen[:1],))
    task = Task(train=list, calibrate=lambda: list(seen.split(32)), score=lambda _: 0.0, kind="regression")

    def made(step: Step) -> Made:
        return Made.by(lambda: LITERT.write(lower(step.apply(model, task))))

    files = {name: made(step) for name, step in STEPS.items()}
    whole = LITERT.write(lower(model))
    contents = [whole, *(each.content for each in files.values())]
    timed = host.time_files(contents, seconds=1 if quick else 60, inputs=[seen[:1].numpy()])
    figures = _parity(files[""].content, STEPS[""].apply(model, task), seen)
    for (name, file), timing in zip(files.items(), timed[1:], strict=True):
        figures |= file.figures(f"{NAME}.{name}", pairs)
        figures[f"{NAME}.{name}ratio_bytes"] = len(file.content) / len(whole)
        figures |= spread(f"{NAME}.{name}latency_ratio", timing, timed[0])
    return {
        **figures,
        f"{NAME}.float_score": pairs.score(host.load(whole, 1)),
        f"{NAME}.float_flash_bytes": len(whole),
        f"{NAME}.float_latency_ms": timed[0].latency_ms.value,
    }


def _parity(content: bytes, packed: Model, sentences: Tensor) -> dict[str, object]:
    """How far the file is off the network as LiteRT rounds it, and that off the float one, of the largest output.

    Raises ParityError where the file is further off. What moves one value across the edge between two integers moves
    many behind it, so that kernels which add up in another order may differ by as much as rounding does.
    """
    batches = [(each,) for each in sentences.split(1)]
    runs = host.load(content, 1), agreement.in_torch(LITERT.computed(lower(packed))), agreement.in_torch(packed.module)
    theirs, ours, whole = (list(agreement.outputs(each, batches)) for each in runs)
    apart, rounding = agreement.compare(ours, theirs).max_steps, agreement.compare(whole, ours).max_steps
    if apart > rounding:
        raise ParityError(f"the file is {apart:.3g} of the largest output off its network; rounding, {rounding:.3g}.")
    return {f"{NAME}.parity": apart, f"{NAME}.rounding": rounding}
