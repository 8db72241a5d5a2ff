"""What `weigh` promises of a file before it is written, against the file."""

import pytest
import torch
from prunable_networks import settled
from quantizable_networks import task_on
from test_onnx_levels import Encoder
from torch import Tensor, nn

from haversack.device import Device
from haversack.graph.cost import cost
from haversack.graph.inference import lower
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.runtimes import find_runtime
from haversack.runtimes.estimate import weigh
from haversack.techniques.quantize_static import QuantizeStatic


class Sentences(nn.Module):
    """A mean of embeddings, which stay real, and linear layers; perhaps back onto the words' own embeddings."""

    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.embedding, self.first = nn.Embedding(1000, 64), nn.Linear(64, 64)
        self.head = nn.Linear(64, 1000 if tied else 200, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.first(self.embedding(x))))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(16, 64, 2, batch_first=True), nn.Linear(64, 100)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def convolutional() -> nn.Module:
    pairs = (3, 32), (32, 64), (64, 64)
    blocks = [(nn.Conv2d(*pair, 3, padding=1, bias=False), nn.BatchNorm2d(pair[1]), nn.ReLU()) for pair in pairs]
    layers = [layer for block in blocks for layer in (*block, nn.MaxPool2d(2))]
    return nn.Sequential(nn.BatchNorm2d(3), *layers, nn.Flatten(), nn.Linear(64, 100))


WORDS, FRAMES, IMAGES = torch.randint(0, 20, (32, 7)), torch.randn(32, 9, 16), torch.randn(32, 3, 8, 8)
NETWORKS = {
    "embeddings": (Sentences, WORDS),
    "tied embeddings": (lambda: Sentences(tied=True), WORDS),
    "encoder": (Encoder, WORDS),
    "recurrent": (Recurrent, FRAMES),
    "convolutional": (convolutional, IMAGES),
}
FORMATS = {"float32": None, "int8": QuantizeStatic(8, "int8", "min_max"), "int4": QuantizeStatic(4, "int8", "min_max")}


CASES = [
    *((name, "onnx", "int8") for name in NETWORKS),
    *(("tied embeddings", "onnx", "float32"), ("convolutional", "onnx", "float32"), ("convolutional", "onnx", "int4")),
    *(("convolutional", "litert", number_format) for number_format in FORMATS),
]


@pytest.mark.parametrize(("name", "runtime", "number_format"), CASES)
def test_a_file_is_as_large_as_weigh_promised(name, runtime, number_format):
    torch.manual_seed(0)
    build, x = NETWORKS[name]
    model, step = Model(settled(build()), (x[:1],)), FORMATS[number_format]
    device = Device("board", "a board", runtime)
    promised = weigh(cost(trace(model.module, model.example)), device, number_format).flash_bytes.value
    content = find_runtime(device).write(lower(step.apply(model, task_on(x)) if step else model))
    assert promised == pytest.approx(len(content), rel=0.04)
