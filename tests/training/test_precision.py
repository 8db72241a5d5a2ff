"""What a training computes in bfloat16, on processors that multiply it, and what it does not."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from haversack.model import Model
from haversack.task import Task
from haversack.training import Training, finetune
from haversack.training.machine import mixed_precision

PLAIN, STRIDED = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, stride=2, groups=8)
MAPS = torch.rand(2, 8, 9, 9, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _multiplies_bfloat16(monkeypatch):
    """Training takes every processor for one that multiplies bfloat16: torch computes it on all, if slowly."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)


def test_convolutions_are_computed_in_bfloat16():
    with mixed_precision("cpu"):
        assert PLAIN(MAPS).dtype == torch.bfloat16
        assert nn.Conv2d(8, 8, 3, groups=8)(MAPS).dtype == torch.bfloat16
        assert nn.Conv2d(1, 8, 3, stride=2)(MAPS[:, :1]).dtype == torch.bfloat16


def test_elsewhere_all_is_computed_in_float32(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    with mixed_precision("cpu"):
        assert PLAIN(MAPS).dtype == torch.float32


def test_depthwise_ones_with_a_stride_are_computed_in_float32_however_they_are_called():
    wanted, (weight, bias) = STRIDED(MAPS), STRIDED.parameters()
    with mixed_precision("cpu"):
        assert torch.equal(STRIDED(MAPS), wanted)
        given = F.conv2d(input=MAPS, weight=weight, bias=bias, stride=(2, 2), groups=8)
        halves = STRIDED(MAPS.bfloat16())
    assert torch.equal(given, wanted)
    assert halves.dtype == torch.float32
    assert torch.allclose(halves, wanted, atol=0.01)


def test_afterwards_all_is_as_it_was():
    with mixed_precision("cpu"):
        STRIDED(MAPS)
    assert not torch.is_autocast_enabled("cpu")
    assert PLAIN(MAPS).dtype == torch.float32


@pytest.mark.parametrize(("mixed", "wanted"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_training_computes_in_bfloat16_unless_it_is_told_not_to(mixed, wanted):
    seen = set()

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(8, 2, 9)

        def forward(self, maps):
            scores = self.layer(maps)
            if self.training:
                seen.add(scores.dtype)
            return scores.flatten(1)

    task = Task(train=lambda: [(MAPS, torch.tensor([0, 1]))], calibrate=None, score=lambda _: 0.0)
    finetune(Model(Network(), (MAPS[:1],)), task, Training(epochs=1, mixed_precision=mixed))
    assert seen == {wanted}
