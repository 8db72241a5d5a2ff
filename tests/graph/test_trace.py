"""Tracing: the batch stays free, odd signatures are read, and a failure names its layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from haversack.errors import TraceError
from haversack.graph.fold import fold
from haversack.graph.trace import layer_path, trace


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        return self.layer(first + sum(others))


class Picky(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_the_batch_dimension_is_free() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3)).eval()
    read = fold(trace(network, (torch.randn(1, 1, 8, 8),)))
    for batch in (1, 2, 7):
        inputs = torch.randn(batch, 1, 8, 8)
        torch.testing.assert_close(read(inputs), network(inputs))


def test_a_forward_that_takes_any_number_of_inputs_is_read() -> None:
    network, inputs = Sum().eval(), tuple(torch.randn(5, 4) for _ in range(3))
    read = fold(trace(network, tuple(value[:1] for value in inputs)))
    torch.testing.assert_close(read(*inputs), network(*inputs))


class Modes(nn.Module):
    """Parts of it run without gradients, and without a mixed precision that is off anyway."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            y = self.layer(x)
            with torch.autocast("cpu", enabled=False):
                z = y.relu() + x
        return self.layer(y * z), z


def test_what_runs_in_another_mode_is_read_like_all_else() -> None:
    network, x = Modes().eval(), torch.randn(3, 4)
    read = trace(network, (x[:1],))
    assert [layer_path(node) for node in read.operations()].count("layer") == 2
    assert all(isinstance(node.target, torch._ops.OpOverload) for node in read.operations())
    for found, expected in zip(fold(read)(x), network(x), strict=True):
        torch.testing.assert_close(found, expected)


def test_operations_know_their_layer() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)))
    paths = [layer_path(node) for node in trace(network, (torch.randn(1, 4),)).operations()]
    assert paths == ["0", "1.0"]


def test_the_layer_that_cannot_be_traced_is_named() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Picky()))
    with pytest.raises(TraceError, match=r"layer 1\.0: .*\n.*depends on data"):
        trace(network, (torch.randn(1, 4),))


def test_the_mode_of_the_network_stays() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Dropout()).train()
    trace(network, (torch.randn(1, 4),))
    assert network.training


def test_tracing_copies_no_tensor_and_leaves_the_network_in_its_mode():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    traced = trace(network, (torch.randn(2, 3, 8, 8),))
    assert all(layer.training for layer in network.modules())
    own = {each.data_ptr() for each in network.state_dict().values()}
    assert {each.data_ptr() for each in traced.tensors.values()} <= own
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
