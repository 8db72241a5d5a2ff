"""Files with several outputs, in every runtime that is here: each output is torch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from haversack.errors import ParityError
from haversack.graph.inference import lower
from haversack.model import Model
from haversack.runtimes import host, rows
from haversack.runtimes.agreement import compare, fidelity

RUNTIMES = [row for row in rows() if row.is_installed and not row.optional]


class Located(nn.Module):
    """What is seen, and where: two outputs of different sizes, one of them a map."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.seen, self.where = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.body(x).relu()
        return self.seen(found.mean((2, 3))), self.where(found)


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    return Model(Located().eval(), (torch.zeros(1, 3, 6, 6),))


@pytest.fixture(scope="module")
def inputs() -> Tensor:
    return torch.randn(7, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda row: row.name)
def test_each_output_of_a_file_is_the_networks(runtime, model, inputs):
    if "float32" not in runtime.number_formats:
        pytest.skip(f"{runtime.title} runs no float32 files")
    lowered = lower(model)
    orders = runtime.orders(lowered) if runtime.orders else None
    found = host.load(runtime.write(lowered), runtime=runtime.name, orders=orders)(inputs)
    wanted = model.module(inputs)
    assert [tuple(each.shape) for each in found] == [(7, 5), (7, 2, 6, 6)]
    for ours, theirs in zip(wanted, found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_file_runs_apart_with_all_its_outputs(model, inputs):
    runtime = RUNTIMES[0]
    found = host.load(runtime.write(lower(model)), apart=True)(inputs)
    for ours, theirs in zip(model.module(inputs), found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_of_several_outputs_the_farthest_counts_by_its_own_size():
    near, far = torch.tensor([[100.0, 0.0]]), torch.tensor([[0.01, 0.02]])
    off = far + torch.tensor([[0.002, 0.0]])
    parity = compare([(near, far)], [(near, off)])
    assert parity.max_steps == pytest.approx(0.1, rel=1e-4)
    assert parity.argmax_agreement == 1.0
    swapped = compare([(near, far)], [(near, far.flip(1))])
    assert swapped.argmax_agreement == 0.0
    assert fidelity([(near, far)], [(near, off)]).mean_difference == pytest.approx(0.002 / 0.03, rel=1e-4)


def test_the_largest_number_of_an_output_that_is_no_class_says_nothing():
    ours, theirs = torch.tensor([[0.1, 0.2]]), torch.tensor([[0.2, 0.1]])
    assert compare([ours], [theirs]).argmax_agreement == 0.0
    assert compare([ours], [theirs], kind="regression").argmax_agreement == 1.0
    assert fidelity([ours], [theirs], "regression").same_class == 1.0
    both = compare([(ours, ours)], [(theirs, ours)], kind=("regression", "classification"))
    assert both.argmax_agreement == 1.0
    assert compare([(ours, ours)], [(theirs, ours)], kind=("classification", "regression")).argmax_agreement == 0.0


def test_a_file_with_another_number_of_outputs_does_not_pass():
    one = torch.ones(2, 3)
    with pytest.raises(ParityError, match="the file has 1 outputs, the network 2"):
        compare([(one, one)], [one])
