"""Our integer files run no operator more often than those that ONNX Runtime's own quantizer writes."""

import pytest
import torch
from onnx_files import as_run
from ort_quantizer import quantized_by_onnx_runtime
from prunable_networks import settled
from quantizable_networks import quantized, vgg
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.graph.inference import lower
from haversack.model import Model
from haversack.runtimes.onnx.write import write
from haversack.zoo.ds_cnn import DsCnn
from haversack.zoo.mobilenet_v3 import MobileNetV3
from haversack.zoo.shufflenet_v2 import ShuffleNetV2


def normed(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.BatchNorm2d(layers[-1].out_channels))


class Padded(nn.Module):
    """MobileNetV2's block as ports from TensorFlow have it, with zeros before each depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = normed(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, 2, bias=False))
        self.widen, self.narrow = normed(nn.Conv2d(8, 16, 1)), normed(nn.Conv2d(16, 8, 1))
        self.deep = normed(nn.ZeroPad2d(1), nn.Conv2d(16, 16, 3, groups=16))
        self.down = normed(nn.ConstantPad2d((1, 2, 1, 2), 0.0), nn.Conv2d(8, 8, 5, 2, groups=8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem(x))
        x = x + self.narrow(F.relu6(self.deep(F.relu6(self.widen(x)))))
        return self.head(F.relu6(self.down(x)).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side = normed(nn.Conv2d(3, 8, 3, padding=1)), normed(nn.Conv2d(8, 16, 1, 2))
        self.first, self.second = normed(nn.Conv2d(8, 16, 3, 2, 1)), normed(nn.Conv2d(16, 16, 3, padding=1))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.side(x) + self.second(F.relu(self.first(x))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


EVERYTHING = "ORT_ENABLE_ALL"
IMAGE = (3, 32, 32)
NETWORKS = {
    "padded": (Padded, (3, 16, 16)),
    "residual": (Residual, (3, 8, 8)),
    "vgg": (vgg, (3, 8, 8)),
    "ds_cnn": (lambda: DsCnn(channels=1, outputs=5), (1, 49, 10)),
}
LARGE = {
    "shufflenet_v2": (lambda: ShuffleNetV2(outputs=5), IMAGE),
    "mobilenet_v3": (lambda: MobileNetV3(outputs=5), IMAGE),
}
# A hard swish is one operation to us, rounded once, and two to ONNX Runtime's quantizer, rounded twice: as many nodes
# run, but ours multiply the real numbers that the others have just rounded.
EXCEPTIONS = {"mobilenet_v3": {"Mul"}}


@pytest.mark.parametrize("name", [*NETWORKS, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_no_operator_runs_more_often_than_in_the_file_of_onnx_runtime_s_quantizer(name, tmp_path):
    torch.manual_seed(0)
    build, shape = (NETWORKS | LARGE)[name]
    x = torch.randn(32, *shape)
    model = Model(_varied(settled(build())), (x[:1],))
    ours = as_run(write(lower(quantized(model, x, correct_bias=False))), tmp_path, EVERYTHING)
    theirs = as_run(quantized_by_onnx_runtime(write(lower(model)), x, tmp_path), tmp_path, EVERYTHING)
    assert (ours - theirs).keys() == EXCEPTIONS.get(name, set())
    assert ours.total() <= theirs.total()
    assert not {"Pad", "Conv", "Gemm"} & ours.keys()


def _varied(network: nn.Module) -> nn.Module:
    """The network with biases that differ: of equal ones our float file holds one, which the quantizer cannot share."""
    for parameter in network.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return network
