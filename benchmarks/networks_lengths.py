"""A sentence encoder whose texts have different lengths: one file, and each of its lengths compared with torch.

all-MiniLM-L6-v2, in float and with int8 layers whose inputs are rounded at run time. The texts are the sentences of the
STS benchmark's test pairs, one after the other, cut into pieces of 4 tokens, of 5, and so on up to 128, none of them
padded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from minilm import Tokenizer, network, rows
from torch import Tensor
from torch.nn import functional as F

from haversack.device import find_device
from haversack.graph.inference import lower
from haversack.packing.check import checked_model
from haversack.runtimes import agreement, host
from haversack.runtimes.agreement import RELATIVE_FLOAT32
from haversack.runtimes.onnx import ONNX
from haversack.task import Predict, Task
from haversack.techniques.quantize_dynamic import QuantizeDynamic

SHORTEST, LONGEST = 4, 128
CALIBRATED = (8, 32, LONGEST)
"""Lengths of the inputs that the network is traced and checked with; any other is new to the file."""


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """How far the files are off torch at most; `quick` tries every eighth length."""
    tokenizer, lengths = Tokenizer.of_package(), range(SHORTEST, LONGEST + 1, 8 if quick else 1)
    seen = list(texts(tokenizer, _sentences(data, "train"), CALIBRATED))
    task = Task(list, lambda: seen, lambda _: 0.0, kind="regression", free={"tokens": {1: "words"}})
    model = checked_model(network(LONGEST), task)
    small = QuantizeDynamic(find_device("host").weight_bits).apply(model, task)
    whole, packed = (agreement.in_torch(each) for each in (model.module, lower(small)))
    file, small_file = (ONNX.write(lower(each)) for each in (model, small))
    tried = list(texts(tokenizer, _sentences(data, "test"), lengths))
    wanted, rounded = ([predict(each) for each in tried] for predict in (whole, packed))
    found, small_found = (_outputs(host.load(each, 1), tried) for each in (file, small_file))
    off, apart, rounding = _farthest(found, wanted), _farthest(small_found, rounded), _farthest(rounded, wanted)
    figures = {
        # Kernels may differ by as much as rounding does: what moves one value over an edge moves many behind it.
        "works": int(off <= RELATIVE_FLOAT32 and apart <= rounding),
        "largest_difference": off,
        "lengths": len(lengths),
        "int8_largest_difference": apart,
        "int8_rounding": rounding,
        "int8_least_cosine": min(float(F.cosine_similarity(*pair)) for pair in zip(small_found, wanted, strict=True)),
        "flash_bytes": len(file),
        "int8_flash_bytes": len(small_file),
    }
    return {f"lengths.{name}": value for name, value in figures.items()}


def texts(tokenizer: Tokenizer, sentences: Iterable[str], lengths: Sequence[int]) -> Iterator[Tensor]:
    """One text of each of these lengths, each of them going on where the one before ended."""
    pieces = (piece for sentence in sentences for piece in tokenizer.pieces(sentence))
    for length in lengths:
        yield tokenizer.framed([next(pieces) for _ in range(length - 2)]).unsqueeze(0)


def _sentences(data: Path, split: str) -> Iterator[str]:
    return (left for left, _, _ in rows(data, split))


def _outputs(predict: Predict, inputs: Sequence[Tensor]) -> list[Tensor]:
    return [predict(each) for each in inputs]


def _farthest(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest difference, as a part of the largest number."""
    largest = max(float(each.abs().max()) for each in wanted)
    return max(float((one - other).abs().max()) for one, other in zip(found, wanted, strict=True)) / largest
