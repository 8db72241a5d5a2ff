"""A layer of a sentence encoder, as small as it gets, and sentences that are filled up."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, LENGTH, WORDS = 16, 6, 40
TOKENS = torch.randint(1, WORDS, (5, LENGTH), generator=torch.Generator().manual_seed(0))
TOKENS[:, 4:] = 0
TOKENS[0, 1:] = 0


class Encoder(nn.Module):
    """One layer of a sentence encoder, over the words that are there."""

    def __init__(self, activation: str = "gelu") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Parameter(torch.randn(LENGTH + 2, WIDTH))
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH, bias=False)
        self.activation = getattr(F, activation)

    def forward(self, tokens: Tensor) -> Tensor:
        seen = tokens > 0
        x = self.first(self.words(tokens) + self.places[: tokens.shape[1]])
        heads = (each(x).unflatten(-1, (4, -1)).transpose(1, 2) for each in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(*heads, attn_mask=seen[:, None, None])
        x = self.second(x + self.out(mixed.transpose(1, 2).flatten(2)))
        x = x + self.down(self.activation(self.up(x)))
        there = seen.unsqueeze(-1).to(x.dtype)
        total = (x * there).sum(1) / there.sum(1)
        return total * torch.rsqrt((total * total).sum(1, keepdim=True))
