"""Files that hold integers, read by ONNX Runtime at each of its optimization levels."""

import onnx
import onnxruntime
import pytest
import torch
from onnx_files import WEIGHT_BITS
from quantizable_networks import task_on
from torch import nn

from haversack.graph.inference import lower
from haversack.model import Model
from haversack.runtimes.onnx.write import write
from haversack.techniques.quantize_static import QuantizeStatic
from haversack.techniques.quantize_weights import QuantizeWeights

LEVELS = ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"]


class Encoder(nn.Module):
    """A sentence encoder, small but for its width: 128 channels and more have as many zero points."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.embedding, self.linear, self.norm = nn.Embedding(20, width), nn.Linear(width, width), nn.LayerNorm(width)
        self.layer = nn.TransformerEncoderLayer(width, 4, width, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.norm(self.linear(self.embedding(x)))).mean(1))


def encoder() -> tuple[Model, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randint(0, 20, (32, 6))
    return Model(Encoder().eval(), (x[:1],)), x


def wide() -> tuple[Model, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(32, 3, 8, 8)
    layers = nn.Conv2d(3, 129, 3), nn.ReLU(), nn.Conv2d(129, 9, 3), nn.Flatten(), nn.Linear(144, 5)
    return Model(nn.Sequential(*layers).eval(), (x[:1],)), x


BUILDS = {"encoder": encoder, "convolutions": wide}
STEPS = {
    "int8": QuantizeStatic(WEIGHT_BITS, "int8"),
    "uint8": QuantizeStatic(WEIGHT_BITS, "uint8"),
    "int8, weights of 4 bits": QuantizeStatic(4, "int8"),
    "uint8, weights of 4 bits": QuantizeStatic(4, "uint8"),
    "weights alone of 4 bits": QuantizeWeights(4),
    "weights alone of 4 bits in groups": QuantizeWeights(4, 32),
}


def outputs(content: bytes, level: str, x: torch.Tensor) -> torch.Tensor:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", BUILDS)
@torch.no_grad()
def test_a_file_of_integers_is_of_2023_and_computes_its_graph_at_every_optimization_level(name, step):
    model, x = BUILDS[name]()
    lowered = lower(STEPS[step].apply(model, task_on(x)))
    content, expected = write(lowered), lowered(x)
    written = onnx.load_from_string(content)
    assert (written.opset_import[0].version, written.ir_version) == (18, 8)
    for level in LEVELS:
        found = outputs(content, level, x)
        # Roundings on the edge between two integers fall either way, once in each layer.
        assert (found - expected).abs().max() <= 0.05 * expected.abs().max(), level
        assert (found - expected).square().mean() <= 1e-4 * expected.square().mean(), level
