"""A text classifier whose batches have different lengths: attention under a mask, and learned places."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.task import Task

WORDS, LONGEST, CLASSES, WIDTH = 40, 24, 3, 16
LENGTHS = (5, LONGEST, 11)


class Encoder(nn.Module):
    """One layer of a transformer, and the mean of the words that a mask leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Parameter(torch.randn(LONGEST, WIDTH) / 4)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down, self.norm = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        x = self.words(tokens) + self.places[: tokens.shape[1]]
        heads = (each(x).unflatten(-1, (2, -1)).transpose(1, 2) for each in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(*heads, attn_mask=mask[:, None, None] > 0)
        x = self.norm(x + self.out(mixed.transpose(1, 2).flatten(2)))
        x = x + self.down(F.gelu(self.up(x)))
        kept = mask.unsqueeze(-1).float()
        return {"words": x, "logits": self.head((x * kept).sum(1) / kept.sum(1))}


def batch(length: int, samples: int = 32) -> dict[str, Tensor]:
    """Random words of one length, some masked at the end, as where a shorter text was padded."""
    draw = torch.Generator().manual_seed(length)
    tokens = torch.randint(0, WORDS, (samples, length), generator=draw)
    kept = torch.randint(1 + length // 2, length + 1, (samples, 1), generator=draw)
    return {"tokens": tokens, "mask": (torch.arange(length) < kept).long()}


def network() -> Encoder:
    """The network, the same each time."""
    torch.manual_seed(0)
    return Encoder().eval()


def task(outputs: str = "logits", free: object = None) -> Task:
    """Its task: the labels are what the untouched network says."""
    batches = [batch(length) for length in LENGTHS]
    with torch.no_grad():
        labels = [network()(**each)["logits"].argmax(1) for each in batches]

    def train() -> list[dict[str, Tensor]]:
        return [{**each, "labels": said} for each, said in zip(batches, labels, strict=True)]

    def score(predict) -> float:
        found = [predict(**each).flatten(1)[:, :CLASSES].argmax(1) for each in batches]
        return float((torch.cat(found) == torch.cat(labels)).float().mean())

    kind = "classification" if outputs == "logits" else "regression"
    return Task(train, lambda: batches, score, outputs=outputs, free=free, kind=kind)  # type: ignore[arg-type]
