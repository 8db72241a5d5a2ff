from pathlib import Path

import pytest
import torch
from onnx_files import WEIGHT_BITS, as_run, session_of
from prunable_networks import conv, settled
from quantizable_networks import NETWORKS, build, quantized
from torch import nn

from haversack.graph.inference import lower
from haversack.graph.pairs import output_step
from haversack.model import Model
from haversack.runtimes.host import time_files
from haversack.runtimes.onnx.write import write
from haversack.task import Task
from haversack.techniques.quantize_static import QuantizeStatic

ATTENTIVE = ("transformer", "whole heads")
CONVOLUTIONAL = [name for name in NETWORKS if name not in (*ATTENTIVE, "autoencoder", "recurrent")]
FULLY_INTEGER = ["padded residual", "mobile", "signal", "excited", "grouped", "shuffled", "vgg", "autoencoder"]
FLOAT_LAYERS = {"Conv", "FusedConv", "Gemm", "FusedGemm"}
MOVES = {"MaxPool", "Slice", "Pad", "Flatten", "Reshape", "Transpose", "Split", "Resize"}


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_the_file_of_every_build_agrees_with_its_rounded_graph(name, activations, tmp_path):
    model, x = build(name)
    lowered = lower(quantized(model, x, "mse", activations=activations, weight_bits=WEIGHT_BITS))
    content = write(lowered)
    session = session_of(content)
    step = output_step(lowered)
    assert step is not None
    for batch in (x, x[:1], x[:5]):
        (found,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
        found, expected = torch.from_numpy(found), lowered(batch)
        assert (found - expected).abs().max() <= 2.01 * step
        assert (found.flatten(1).argmax(1) == expected.flatten(1).argmax(1)).float().mean() >= 0.97
    ran = as_run(content, tmp_path)
    if name in CONVOLUTIONAL:
        assert ran["QLinearConv"]
        assert not FLOAT_LAYERS & ran.keys()
    assert name in ATTENTIVE or not ran["MatMul"]


@pytest.mark.parametrize("name", FULLY_INTEGER)
def test_networks_of_integer_operations_convert_only_at_both_ends(name, tmp_path):
    model, x = build(name)
    ran = as_run(write(lower(quantized(model, x))), tmp_path)
    assert ran.pop("QuantizeLinear") == ran.pop("DequantizeLinear") == 1
    assert all(operator.startswith("Q") or operator in MOVES for operator in ran)


class InvertedResidual(nn.Module):
    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        inner = 6 * into
        self.body = nn.Sequential(
            conv(into, inner, 1),
            conv(inner, inner, 3, stride, inner),
            nn.Conv2d(inner, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.adds = stride == 1 and into == out

    def forward(self, x):
        return x + self.body(x) if self.adds else self.body(x)


def mobilenet() -> nn.Module:
    """MobileNetV2 at half its width (Sandler et al. 2018), without its first and last blocks."""
    widths = [(16, 16, 2), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 48, 1), (48, 48, 1), (48, 80, 2), (80, 80, 1)]
    blocks = [InvertedResidual(*each) for each in widths]
    head = (conv(80, 320, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(320, 10))
    return nn.Sequential(conv(3, 16, 3, 2), *blocks, *head)


@pytest.mark.slow
@pytest.mark.skipif(
    "avx512_vnni" not in Path("/proc/cpuinfo").read_text(encoding="utf-8"), reason="needs a CPU that multiplies bytes"
)
def test_a_mobilenet_in_integers_is_faster_than_in_float(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(8, 3, 96, 96)
    model = Model(settled(mobilenet()), (x[:1],))
    task = Task(train=list, calibrate=lambda: [x], score=lambda predict: 0.0)
    content = write(lower(QuantizeStatic().apply(model, task)))
    ran = as_run(content, tmp_path)
    assert not {"Clip", "Relu", *FLOAT_LAYERS} & ran.keys()
    ratio = time_files([write(lower(model)), content], seconds=4)[1].ratio.value
    assert ratio < 1
