import numpy as np
import pytest
import torch
from onnx_files import WEIGHT_BITS
from onnx_files import run as run_onnx
from torch import nn
from torch.nn import functional as F

from haversack.graph.inference import lower
from haversack.integer.read import read
from haversack.integer.reference import run
from haversack.model import Model
from haversack.runtimes.host import load
from haversack.runtimes.onnx import ONNX
from haversack.runtimes.tflite import MICRO
from haversack.task import Task
from haversack.techniques.quantize_static import QuantizeStatic


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.up, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 6, 2, 2), nn.BatchNorm2d(6)
        self.more, self.last = nn.ConvTranspose2d(6, 4, 3, 2, 1, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.last(F.relu(self.more(F.relu(self.norm(self.up(F.relu(self.first(x))))))))


def rounded(weight_bits=8):
    torch.manual_seed(0)
    x = torch.randn(48, 3, 12, 12)
    task = Task(train=list, calibrate=lambda: [x], score=lambda _: 0.0)
    return lower(QuantizeStatic(weight_bits).apply(Model(Decoder().eval(), (x[:1],)), task)), x


@pytest.fixture(scope="module")
def lowered():
    return rounded()


def test_a_transposed_convolution_is_computed_on_integers(lowered):
    graph, _ = lowered
    operations = read(graph).operations
    assert [each.kind for each in operations].count("TRANSPOSE_CONV") == 2
    assert all(each.kind in ("QUANTIZE", "DEQUANTIZE") or "float32" not in each.path for each in operations)
    grids = [read(graph).values[each.outputs[0]].grid for each in operations if each.kind == "TRANSPOSE_CONV"]
    assert all(grids)


def test_tflite_micro_computes_what_the_reference_does(lowered):
    graph, x = lowered
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed")
    step = graph.graph.output_node().args[0].args[1]
    ours = run(read(graph), [x.permute(0, 2, 3, 1).numpy()])[0]
    theirs = load(MICRO.write(graph), runtime="tflite-micro")(x).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(np.round(ours / step), np.round(theirs / step))


def test_onnx_runtime_is_within_a_step():
    graph, x = rounded(WEIGHT_BITS)
    step = graph.graph.output_node().args[0].args[1]
    (outputs,) = run_onnx(ONNX.write(graph), x)
    assert float((outputs - graph(x)).abs().max()) <= step * 1.01
