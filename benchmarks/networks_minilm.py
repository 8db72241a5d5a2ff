"""A sentence encoder in 8 bits without calibration, beside ONNX Runtime's own quantizer of that kind.

Its file is what one has without us: torch's exporter, its preprocessing, then its quantizer. All files are scored on
the test pairs of the STS benchmark, one sentence at a time, and timed in alternation with the float file on one thread.
What its quantizer makes of our float file, whose operations are fewer, is timed beside them.
"""

from __future__ import annotations

import gc
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from memory import status_bytes
from minilm import Pairs, Tokenizer, network
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

from haversack.device import find_device
from haversack.errors import ParityError
from haversack.graph.inference import lower
from haversack.model import Model
from haversack.runtimes import agreement, host
from haversack.runtimes.host import Timing, median_interval
from haversack.runtimes.onnx import ONNX
from haversack.task import Task
from haversack.techniques.quantize_dynamic import QuantizeDynamic

NAME = "minilm_int8"
_GATE = 256
"""Sentences on which the file is held against the network that it was written from."""


@dataclass(frozen=True)
class Made:
    """A file, and what making it took."""

    content: bytes
    seconds: float
    peak_bytes: int

    @classmethod
    def by(cls, make: Callable[[], bytes]) -> Made:
        """What `make` gives; its memory counts from what this process holds before."""
        gc.collect()
        before, started = status_bytes("VmRSS"), time.monotonic()
        # From here on the kernel keeps a new peak (proc(5): clear_refs).
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        content = make()
        return cls(content, time.monotonic() - started, status_bytes("VmHWM") - before)

    def figures(self, row: str, pairs: Pairs) -> dict[str, object]:
        """Its score in ONNX Runtime, its size, and what making it took."""
        return {
            f"{row}score": pairs.score(host.load(self.content, 1)),
            f"{row}flash_bytes": len(self.content),
            f"{row}seconds": self.seconds,
            f"{row}peak_mb": self.peak_bytes / 1e6,
        }


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """The row's figures; `quick` scores 50 pairs and times for a second."""
    tokenizer = Tokenizer.of_package()
    pairs = Pairs.of(data, "test", tokenizer, 50 if quick else None)
    seen = Pairs.of(data, "train", tokenizer, _GATE).left
    model = Model(network(), (seen[:1],))
    step = QuantizeDynamic(find_device("host").weight_bits)
    ours = Made.by(lambda: ONNX.write(lower(step.apply(model, _TASK))))
    exact = _parity(ours.content, step.apply(model, _TASK), seen)
    whole = ONNX.write(lower(model))
    theirs = Made.by(lambda: by_onnx_runtime(exported_by_torch(model), reduce_range=step.weight_bits < 8))
    of_ours = by_onnx_runtime(whole, reduce_range=step.weight_bits < 8)
    files = [whole, theirs.content, of_ours, ours.content]
    timed = host.time_files(files, seconds=1 if quick else 60, inputs=[seen[:1].numpy()])
    return {
        **ours.figures(f"{NAME}.", pairs),
        **exact,
        **spread(f"{NAME}.latency_ratio", timed[3], timed[0]),
        **spread(f"{NAME}.latency_over_ort", timed[3], timed[1]),
        **spread(f"{NAME}.latency_over_ort_of_our_float", timed[3], timed[2]),
        **theirs.figures(f"{NAME}.ort_", pairs),
        **spread(f"{NAME}.ort_latency_ratio", timed[1], timed[0]),
        f"{NAME}.float_score": pairs.score(host.load(whole, 1)),
        f"{NAME}.float_flash_bytes": len(whole),
        f"{NAME}.float_latency_ms": timed[0].latency_ms.value,
    }


_TASK = Task(train=list, calibrate=None, score=lambda _: 0.0)


def _parity(content: bytes, packed: Model, sentences: Tensor) -> dict[str, object]:
    """How far the file is off the network that it was written from, and that off the float one, of the largest output.

    Raises ParityError where the file is further off. What moves one value across the edge between two integers moves
    many behind it: kernels may differ by as much as rounding does, and an output's largest number is no class.
    """
    batches = [(each,) for each in sentences.split(1)]
    runs = host.load(content, 1), agreement.in_torch(lower(packed)), agreement.in_torch(packed.module)
    theirs, ours, whole = (list(agreement.outputs(each, batches)) for each in runs)
    apart, rounding = agreement.compare(ours, theirs).max_steps, agreement.compare(whole, ours).max_steps
    if apart > rounding:
        raise ParityError(
            f"the file is {apart:.3g} of the largest output off its network, and rounding {rounding:.3g}."
        )
    return {f"{NAME}.parity": apart, f"{NAME}.rounding": rounding}


def exported_by_torch(model: Model) -> bytes:
    """The float file that torch's exporter writes, for any number of sentences."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file, tokens = Path(folder) / "float.onnx", torch.cat([model.example[0]] * 2)
        shapes = ({0: torch.export.Dim("batch")},)
        torch.onnx.export(
            model.module, (tokens,), file, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False
        )
        return file.read_bytes()


def by_onnx_runtime(whole: bytes, *, reduce_range: bool) -> bytes:
    """What ONNX Runtime's quantizer makes of a float file, as it is called by default but for signed weights.

    Products by unsigned weights take longer on x86. Without VNNI weights get 7 bits, as ours do.
    """
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, result = (Path(folder) / f"{name}.onnx" for name in ("float", "prepared", "dynamic"))
        source.write_bytes(whole)
        quant_pre_process(source, prepared)
        quantize_dynamic(prepared, result, weight_type=QuantType.QInt8, reduce_range=reduce_range)
        return result.read_bytes()


def spread(name: str, file: Timing, other: Timing) -> dict[str, object]:
    """The time of one file over another's in the same round: the median and its interval."""
    ratios = [one / other for (one, _), (other, _) in zip(file.rounds, other.rounds, strict=True)]
    return {name: statistics.median(ratios), f"{name}_interval": list(median_interval(ratios))}
