"""Costs are held against torch.utils.flop_counter on real values, and against torch's own parameters."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from haversack.errors import TraceError
from haversack.graph.cost import Cost, cost
from haversack.graph.trace import trace

RESNET20 = Path(__file__).parents[2].parent / "shared/data/cifar10-resnets/resnet20.safetensors"


class Residual(nn.Module):
    """The CIFAR ResNet's block with the shortcut that pads channels with zeros."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.padding = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(y + x)


class CifarResNet(nn.Module):
    def __init__(self, blocks: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        same = [[Residual(width, width, 1) for _ in range(blocks - 1)] for width in (16, 32, 64)]
        self.layer1 = nn.Sequential(Residual(16, 16, 1), *same[0])
        self.layer2 = nn.Sequential(Residual(16, 32, 2), *same[1])
        self.layer3 = nn.Sequential(Residual(32, 64, 2), *same[2])
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        x = F.avg_pool2d(x, x.size()[3])
        return self.linear(x.view(x.size(0), -1))


class Attention(nn.Module):
    """Merges the batch into the sequence and asks for tensors on the input's device."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, 4, 8).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v) + torch.arange(length, device=x.device)[:, None]
        y = y + torch.ones(8).to(x.device)
        return self.out(y.transpose(1, 2).reshape(batch * length, width)).view(batch, length, width)


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


class Einsum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bhid,hde->bhie", x, self.weight) @ x.transpose(-1, -2)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.out = nn.GRU(16, 24, batch_first=True), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gru(x)[0][:, -1])


class Tied(nn.Module):
    """One weight in two layers, and a layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(50, 16), nn.Linear(16, 50, bias=False)
        self.out.weight = self.embedding.weight
        self.unused = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.embedding(x))


def transformer() -> nn.Module:
    return nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)


def separable() -> nn.Module:
    depthwise = nn.Conv2d(8, 8, 3, 2, 1, groups=8)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU6(), depthwise, nn.BatchNorm2d(8), nn.Conv2d(8, 24, 1))


def up_and_grouped() -> nn.Module:
    return nn.Sequential(nn.ConvTranspose2d(4, 6, 3, 2, groups=2), nn.ReLU(True), nn.Conv2d(6, 9, 3, groups=3))


NETWORKS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 5)), (12,)),
    "cnn": (lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 10)), (1, 8, 8)),
    "separable": (separable, (3, 12, 12)),
    "residual": (CifarResNet, (3, 16, 16)),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(9, 16, 5, 2, dilation=2), nn.GELU(), nn.Conv1d(16, 4, 1)), (9, 64)),
    "conv3d": (lambda: nn.Conv3d(2, 4, 3, padding="same"), (2, 5, 5, 5)),
    "transposed": (up_and_grouped, (4, 5, 5)),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 6, 4, 2, 1), (4, 9)),
    "attention": (Attention, (7, 32)),
    "multihead": (SelfAttention, (7, 32)),
    "transformer": (transformer, (7, 32)),
    "einsum": (Einsum, (4, 5, 8)),
    "gru": (Recurrent, (7, 16)),
}


def weighed(network: nn.Module, example: Tensor) -> Cost:
    return cost(trace(network, (example,)))


def counted(network: nn.Module, example: Tensor) -> int:
    """Half the FLOPs of torch's counter for real values; the CPU's fused attention escapes that counter."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(example)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", NETWORKS)
def test_macs_and_parameters_equal_those_that_torch_counts(name: str) -> None:
    build, shape = NETWORKS[name]
    network, example = build().eval(), torch.randn(1, *shape)
    found = weighed(network, example)
    assert found.macs == counted(network, example)
    assert found.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert found.macs == sum(layer.macs for layer in found.layers)
    assert found.parameters == sum(layer.parameters for layer in found.layers)


def test_the_counts_are_of_one_sample_whatever_the_example_batch() -> None:
    network = CifarResNet()
    assert weighed(network, torch.randn(5, 3, 16, 16)) == weighed(network, torch.randn(1, 3, 16, 16))


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.linear(x.view(2, 16)))


def test_a_network_that_is_written_for_a_batch_of_two_costs_half_a_sample_each() -> None:
    found = weighed(FixedBatch(), torch.randn(2, 2, 8))
    assert (found.macs, found.layers[0].output_shape, found.layers[0].output_elements) == (64, (1, 4), 4)
    assert found.memory.peak_bytes == (16 + 4) * 4


def test_a_shared_parameter_counts_once_with_its_first_user_and_an_unused_one_in_no_layer() -> None:
    found = weighed(Tied(), torch.zeros(1, 5, dtype=torch.long))
    assert [(layer.path, layer.operation, layer.parameters) for layer in found.layers] == [
        ("embedding", "embedding", 800),
        ("out", "linear", 0),
    ]
    assert found.parameters == 800 + 16


def test_each_layer_is_named_and_shaped_as_for_one_sample() -> None:
    found = weighed(CifarResNet(), torch.randn(1, 3, 16, 16))
    first, last = found.layers[0], found.layers[-1]
    assert (first.path, first.operation, first.parameters, first.macs) == ("conv1", "conv2d", 432, 432 * 256)
    assert (first.output_shape, first.output_elements) == ((1, 16, 16, 16), 4096)
    assert (last.path, last.operation, last.macs, last.output_shape) == ("linear", "linear", 640, (1, 10))


def test_int8_activations_need_a_quarter_of_the_arena() -> None:
    traced = trace(CifarResNet(), (torch.randn(1, 3, 16, 16),))
    assert cost(traced, bytes_per_element=1).memory.peak_bytes * 4 == cost(traced).memory.peak_bytes == 3 * 4096 * 4


class Squeezing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool, self.linear = nn.AdaptiveAvgPool2d(1), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.pool(x).squeeze().flatten(1))


def test_a_network_that_cannot_take_a_single_sample_is_refused() -> None:
    with pytest.raises(TraceError, match="flatten does not run on a single sample"):
        weighed(Squeezing(), torch.randn(2, 3, 4, 4))


def test_weighing_leaves_the_network_as_it_was_and_computes_nothing() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    traced = trace(network, (torch.randn(2, 4),))
    with torch.no_grad():
        for tensor in traced.tensors.values():
            tensor.fill_(float("nan") if tensor.is_floating_point() else 0)
    assert cost(traced) == cost(traced)
    assert network.training


@pytest.mark.skipif(not RESNET20.is_file(), reason="needs ../shared/data/cifar10-resnets")
def test_the_pretrained_resnet_20_weighs_what_torch_says() -> None:
    from safetensors.torch import load_file

    network = CifarResNet(blocks=3).eval()
    network.load_state_dict(load_file(RESNET20))
    found, example = weighed(network, torch.randn(1, 3, 32, 32)), torch.randn(1, 3, 32, 32)
    assert found.macs == counted(network, example) == 40_551_040
    assert found.parameters == 269_722
    assert found.memory.peak_bytes == found.memory.bound_bytes == 3 * 16 * 32 * 32 * 4
