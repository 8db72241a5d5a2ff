"""Operations on values whose length is known when the file runs: one file against torch at several lengths."""

from __future__ import annotations

from collections.abc import Callable

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.graph.inference import lower
from haversack.packing.check import checked_model
from haversack.runtimes.onnx.write import write
from haversack.task import Task

SEEN, TRIED = (8, 20, 12), (6, 8, 13, 20, 31)


class Made(nn.Module):
    """A function of the input, and the layers that it uses."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.layers)


def attention(x: Tensor, *layers: nn.Module) -> Tensor:
    heads = (layer(x).unflatten(-1, (2, -1)).transpose(1, 2) for layer in layers)
    return F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2)


def in_waves(x: Tensor) -> Tensor:
    places = torch.arange(x.shape[1]).float().unsqueeze(1) * torch.linspace(0.1, 1, 8)
    return x + torch.cat([places.sin(), places.cos()], 1)


ROWS = {
    "attention to what came before": Made(attention, *(nn.Linear(16, 16) for _ in range(3))),
    "multi-head attention": Made(
        lambda x, layer: layer(x, x, x, need_weights=False)[0], nn.MultiheadAttention(16, 2, batch_first=True)
    ),
    "positions in waves": Made(in_waves),
    "a token before all others": Made(
        lambda x, layer: layer(torch.cat([layer.weight[0].expand(x.shape[0], 1, 16), x], 1)), nn.Linear(16, 4)
    ),
    "a variance": Made(lambda x: x.var(1)),
    "a deviation and a mean": Made(lambda x: torch.cat([x.std(1), x.mean(1)], 1)),
    "a middle": Made(lambda x: x[:, x.shape[1] // 2]),
    "halves": Made(lambda x: torch.cat([part.sum(1) for part in x.chunk(2, 1)], 1)),
    "the larger half": Made(lambda x: x.topk(x.shape[1] // 2, 1)[0].sum(1)),
    "in order": Made(lambda x: x.sort(1)[0]),
    "weights over time": Made(lambda x, layer: (layer(x).softmax(1) * x).sum(1), nn.Linear(16, 1)),
    "turned around": Made(lambda x: x.flip(1)),
    "pairs of neighbours": Made(lambda x: x[:, : x.shape[1] // 2 * 2].reshape(x.shape[0], -1, 32)),
}
"""On (batch, length, 16)."""
MAPS = {
    "a stride": Made(lambda x, layer: layer(x).mean(2), nn.Conv1d(16, 8, 3, 2, 1)),
    "groups": Made(lambda x, layer: layer(x), nn.GroupNorm(4, 16)),
    "shuffled channels": Made(lambda x: F.channel_shuffle(x, 4)),
    "a global average": Made(lambda x: F.adaptive_avg_pool1d(x, 1)),
    "a global maximum": Made(lambda x: F.adaptive_max_pool1d(x, 1)),
    "windows": Made(lambda x: F.max_pool2d(F.avg_pool1d(x, 2)[:, :, None], (1, 2))),
    "twice as long": Made(lambda x: F.interpolate(x, scale_factor=2.0)),
    "as long as before": Made(lambda x: F.interpolate(x[..., ::2], size=x.shape[2])),
    "transposed": Made(lambda x, layer: layer(x), nn.ConvTranspose1d(16, 4, 4, 2, 1)),
    "padded in front": Made(lambda x, layer: layer(F.pad(x, (4, 0))), nn.Conv1d(16, 8, 5)),
}
"""On (batch, 16, length)."""


@pytest.mark.parametrize("name", [*ROWS, *MAPS])
def test_a_file_computes_what_torch_does_at_each_length(name: str) -> None:
    def inputs(samples: int, length: int) -> Tensor:
        return torch.randn((samples, length, 16) if name in ROWS else (samples, 16, length), generator=draw)

    draw = torch.Generator().manual_seed(0)
    network = (ROWS | MAPS)[name].eval()
    seen = [inputs(2, length) for length in SEEN]
    model = checked_model(network, Task(list, lambda: seen, lambda _: 0.0))
    session = onnxruntime.InferenceSession(write(lower(model)))
    for length in TRIED:
        x = inputs(3, length)
        found = torch.tensor(session.run(None, {"x": x.numpy()})[0])
        torch.testing.assert_close(found, network(x).detach(), rtol=1e-5, atol=1e-5)
