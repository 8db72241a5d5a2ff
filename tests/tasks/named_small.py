"""A network as text libraries have them: inputs by name, a dataclass as output, labels within the batch."""

from collections import UserDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.task import Task

WORDS, LENGTH, CLASSES, SAMPLES = 40, 8, 4, 256


@dataclass
class Output:
    """As a library returns it."""

    logits: Tensor
    pooled: Tensor


class Classifier(nn.Module):
    """The mean of the words that a mask leaves, in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden, self.head = nn.Embedding(WORDS, 16), nn.Linear(16, 64), nn.Linear(64, CLASSES)

    def forward(self, tokens: Tensor, mask: Tensor) -> Output:
        kept = mask.unsqueeze(-1).float()
        pooled = (self.embed(tokens) * kept).sum(1) / kept.sum(1)
        return Output(self.head(F.relu(self.hidden(pooled))), pooled)


def samples() -> dict[str, Tensor]:
    """Random words, of which the last few are masked; their labels are what the untouched network says."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, WORDS, (SAMPLES, LENGTH), generator=draw)
    lengths = torch.randint(2, LENGTH + 1, (SAMPLES, 1), generator=draw)
    batch = {"tokens": tokens, "mask": (torch.arange(LENGTH) < lengths).long()}
    with torch.no_grad():
        return {**batch, "labels": network()(**batch).logits.argmax(1)}


def network() -> Classifier:
    """The network, the same each time."""
    torch.manual_seed(0)
    return Classifier().eval()


def task() -> Task:
    """Its task: all is handed over by name."""
    known = samples()
    inputs = {name: value for name, value in known.items() if name != "labels"}

    def train() -> list[dict[str, Tensor]]:
        return [{name: value[start : start + 64] for name, value in known.items()} for start in range(0, SAMPLES, 64)]

    def score(predict) -> float:
        return float((predict(**inputs).argmax(1) == known["labels"]).float().mean())

    return Task(train, lambda: [UserDict(inputs)], score)
