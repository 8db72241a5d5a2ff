"""Sentiment on a sentence encoder, end to end: a linear probe on its embeddings, then the whole network in 8 bits.

The probe learns from the training sentences, and how much it is held back is chosen on the development sentences. The
test sentences are seen once by the float network and once by the int8 file, one at a time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from minilm import MiniLM, Tokenizer, network
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.device import find_device
from haversack.graph.inference import lower
from haversack.model import Model
from haversack.runtimes import host
from haversack.runtimes.onnx import ONNX
from haversack.task import Predict, Task
from haversack.techniques.quantize_dynamic import QuantizeDynamic

DECAYS = (1e-5, 1e-4, 1e-3, 1e-2)
_TASK = Task(train=list, calibrate=None, score=lambda _: 0.0)


@dataclass(frozen=True)
class Sentences:
    """Sentences of the Stanford Sentiment Treebank (Socher et al. 2013) as tokens, and whether they are kind."""

    tokens: Tensor
    kind: Tensor

    @classmethod
    def of(cls, data: Path, split: str, tokenizer: Tokenizer, most: int | None = None) -> Self:
        """The first `most` sentences of train, dev or test."""
        lines = (data / "text" / f"sst2_{split}.tsv").read_text("utf-8").splitlines()[:most]
        sentences, kinds = zip(*(line.rsplit("\t", 1) for line in lines), strict=True)
        return cls(tokenizer(sentences), torch.tensor([int(kind) for kind in kinds]))

    @torch.no_grad()
    def embedded(self, encoder: MiniLM) -> Tensor:
        """The encoder's rows."""
        return torch.cat([encoder(some) for some in self.tokens.split(64)])

    @torch.no_grad()
    def score(self, predict: Predict) -> float:
        """The share of sentences that are told right, one at a time, as a device sees them."""
        told = torch.cat([predict(row) for row in self.tokens.split(1)])
        return self.told_right(told)

    def told_right(self, told: Tensor) -> float:
        """The share that scores tell right."""
        return float((told.argmax(1) == self.kind).double().mean())


class Classifier(nn.Module):
    """The encoder, and a layer on its embeddings."""

    def __init__(self, encoder: MiniLM, head: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, tokens: Tensor) -> Tensor:
        """The scores of both kinds."""
        return self.head(self.encoder(tokens))


def probe(x: Tensor, kind: Tensor, decay: float) -> nn.Linear:
    """The linear layer of least cross-entropy, with so much weight decay."""
    torch.manual_seed(0)
    head = nn.Linear(x.shape[1], 2)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(head(x), kind) + decay * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return head.requires_grad_(requires_grad=False)


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """The row's figures; `quick` learns from 200 sentences and tells 50."""
    tokenizer, encoder = Tokenizer.of_package(), network()
    train, dev = (Sentences.of(data, split, tokenizer, 200 if quick else None) for split in ("train", "dev"))
    test = Sentences.of(data, "test", tokenizer, 50 if quick else None)
    seen, held = train.embedded(encoder), dev.embedded(encoder)
    heads = [probe(seen, train.kind, decay) for decay in DECAYS]
    scores = [dev.told_right(head(held)) for head in heads]
    best = scores.index(max(scores))
    model = Model(Classifier(encoder, heads[best]).eval(), (train.tokens[:1],))
    started = time.monotonic()
    packed = QuantizeDynamic(find_device("host").weight_bits).apply(model, _TASK)
    file = ONNX.write(lower(packed))
    seconds, whole = time.monotonic() - started, ONNX.write(lower(model))
    timed = host.time_files([whole, file], seconds=1 if quick else 20, inputs=[train.tokens[:1].numpy()])
    figures = {
        "score": test.score(host.load(file, 1)),
        "float_score": test.score(model.module),
        "flash_bytes": len(file),
        "float_flash_bytes": len(whole),
        "latency_ratio": timed[1].ratio.value,
        "seconds": seconds,
        "decay": DECAYS[best],
        "dev_score": scores[best],
    }
    return {f"sst2.{name}": value for name, value in figures.items()}
