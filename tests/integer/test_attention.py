"""Transformers in .tflite files: norms, attention and masks as LiteRT and the reference compute them, against torch."""

import numpy as np
import pytest
import torch
from encoders import LENGTH, TOKENS, WIDTH, WORDS, Encoder
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.errors import ExportError
from haversack.graph.inference import lower
from haversack.integer.read import read
from haversack.integer.reference import run
from haversack.integer.shapes import check_shapes
from haversack.model import Model
from haversack.runtimes import host, named
from haversack.runtimes.tflite.read import read as read_file

LITERT, MICRO = named("litert"), named("tflite-micro")
ROWS = torch.randn(4, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))


class Computed(nn.Module):
    """A network that only computes `function` of its inputs."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def agrees(module: nn.Module, inputs: Tensor, runtime=LITERT) -> None:
    model = Model(module.eval(), (inputs[:1],))
    lowered = lower(model)
    graph = read(lowered)
    check_shapes(graph)
    with torch.no_grad():
        wanted = model.module(inputs)
    content = runtime.write(lowered)
    found = host.load(content, 1, runtime=runtime.name, orders=runtime.orders(lowered))(inputs)
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)
    if runtime is LITERT:
        arrays = [inputs.numpy().astype(np.int32 if inputs.dtype == torch.int64 else np.float32)]
        laid = [array.transpose(order) for array, order in zip(arrays, graph.input_orders, strict=True)]
        exact = torch.from_numpy(run(graph, laid)[0]).permute(np.argsort(graph.output_orders[0]).tolist())
        torch.testing.assert_close(exact, wanted, atol=2e-5, rtol=1e-4)
        copy = torch.from_numpy(run(read_file(content), laid)[0])
        torch.testing.assert_close(copy.permute(np.argsort(graph.output_orders[0]).tolist()), exact)


def test_an_encoder_is_written_and_computed_as_in_torch():
    agrees(Encoder(), TOKENS)


def test_one_without_gelu_is_computed_so_by_tflite_micro_as_well_and_one_with_it_is_refused():
    if not MICRO.is_installed:
        pytest.skip(MICRO.install)
    agrees(Encoder("relu"), TOKENS, MICRO)
    with pytest.raises(ExportError, match=r"(?s)no GELU on float32.*another activation"):
        MICRO.write(lower(Model(Encoder().eval(), (TOKENS[:1],))))


HEADS = ROWS.unflatten(-1, (2, -1)).transpose(1, 2)
MASK = torch.randn(LENGTH, LENGTH, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.scaled_dot_product_attention(x, x * 2, x + 1),
        lambda x: F.scaled_dot_product_attention(x, x * 2, x + 1, scale=0.3, is_causal=True),
        lambda x: F.scaled_dot_product_attention(x, x * 2, x + 1, attn_mask=MASK),
        lambda x: F.scaled_dot_product_attention(x, x * 2, x + 1, attn_mask=MASK > -0.5),
        lambda x: F.scaled_dot_product_attention(x, x * 2, x + 1, attn_mask=x[:, :1, :, :LENGTH]),
        lambda x: torch.softmax(x @ x.transpose(-1, -2), -1) @ x,
        lambda x: x @ MASK[:1, :1].expand(WIDTH // 2, 3),
        lambda x: (x * x) / ((x * x).sum((1, 2), keepdim=True) + 1),
    ],
    ids=["plain", "causal", "constant mask", "constant choice", "mask", "by hand", "by a constant", "quotient"],
)
def test_attention_and_products_are_torch_s(function):
    agrees(Computed(function), HEADS)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.layer_norm(x, (WIDTH,), None, None, 1e-3),
        lambda x: F.layer_norm(x, (LENGTH, WIDTH), MASK.repeat(1, 3)[:, :WIDTH], torch.ones(LENGTH, WIDTH)),
        lambda x: torch.relu(F.layer_norm(x.transpose(1, 2), (LENGTH,))),
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: F.gelu(x).sum(2),
    ],
    ids=["no weights", "over two dimensions", "of what is turned", "by a tanh", "sum"],
)
def test_norms_and_gelu_are_torch_s(function):
    agrees(Computed(function), ROWS)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x > 7).float(),
        lambda x: (x >= 7).float(),
        lambda x: (x < 7).float(),
        lambda x: (x <= 7).float(),
        lambda x: (x != 7).float(),
        lambda x: x.float(),
        lambda x: (x[:, None, None] > 7).float(),
        lambda x: x[:, 2:].unsqueeze(1).float(),
    ],
    ids=["gt", "ge", "lt", "le", "ne", "float", "moved", "moved, and real"],
)
def test_what_is_asked_of_whole_numbers_is_answered_exactly(function):
    numbers = torch.arange(2 * LENGTH).reshape(2, LENGTH)
    agrees(Computed(function), numbers)


class Masked(nn.Module):
    """Attention by hand, over what a mask of whole numbers shows, and nothing that comes later."""

    def __init__(self, filler: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.filler = nn.Embedding(WORDS, WIDTH), filler

    def forward(self, tokens: Tensor) -> Tensor:
        x, later = self.words(tokens), torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
        scores = (x @ x.transpose(1, 2)).masked_fill((tokens == 0)[:, None], self.filler)
        return torch.softmax(scores.masked_fill(later, self.filler), -1) @ x


@pytest.mark.parametrize("filler", [-1e4, float("-inf"), torch.finfo(torch.float32).min])
def test_scores_may_be_filled_by_hand(filler):
    agrees(Masked(filler), TOKENS)


class Patches(nn.Module):
    """A picture's patches behind a token of their own, as torch's own encoder layer reads them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.token = nn.Conv2d(3, WIDTH, 4, 4), nn.Parameter(torch.randn(1, 1, WIDTH))
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 24, batch_first=True, norm_first=True, activation="gelu")
        self.end = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        return self.end(self.layer(x)[:, 0])


def test_a_vision_transformer_of_torch_s_own_layers_is_written():
    agrees(Patches(), torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(5)))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: (x > 6.5).float(), "6.5, which is no whole number"),
        (lambda x: (x.float() > 6).float(), "of what are no whole numbers"),
        (lambda x: x.float().masked_fill(x > 6, float("inf")), "with inf"),
        (lambda x: F.scaled_dot_product_attention(x.float(), x.float(), x.float(), dropout_p=0.5), "with dropout"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(function, message):
    with pytest.raises(ExportError, match=message):
        read(lower(Model(Computed(function).eval(), (torch.arange(12).reshape(1, 2, 6),))))
