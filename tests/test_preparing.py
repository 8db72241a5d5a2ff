"""What a task says of its bytes is checked where it is said, and where the bytes come; and it is torch's arithmetic."""

import math
import re

import pytest
import torch
from torch import nn

import haversack
from haversack.errors import HaversackError, TaskError
from haversack.packing.check import checked_model, wired
from haversack.preparing import Prepare, Prepared
from haversack.task import Task

MEANS, DEVIATIONS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def some_bytes(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def task(prepare: Prepare | None, *batches: object) -> Task:
    return Task(list, lambda: list(batches), lambda predict: 0.5, prepare=prepare)


def network(channels: int = 3, padding: int = 1) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(channels, 4, 3, padding=padding), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4, 40), nn.Linear(40, 3)).eval()


def refusal(action) -> HaversackError:
    with pytest.raises(TaskError) as caught:
        action()
    assert caught.value.what
    assert caught.value.mend
    return caught.value


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"std": 0.0}, "std is 0.0"),
        ({"std": (0.2, -0.2, 0.2)}, "std is (0.2, -0.2, 0.2)"),
        ({"std": math.nan}, "std is nan"),
        ({"std": ()}, "std is ()"),
        ({"mean": (0.5, math.nan)}, "mean is (0.5, nan)"),
        ({"mean": "0.5"}, "mean is '0.5'"),
        ({"mean": math.inf}, "mean is inf"),
        ({"scale": 0}, "scale is 0"),
        ({"scale": -1.0}, "scale is -1.0"),
        ({"scale": True}, "scale is True"),
        ({"layout": "CHWN"}, "layout is 'CHWN'"),
        ({"mean": (0.5, 0.4), "std": (0.2, 0.2, 0.2)}, "2 means and 3 deviations"),
    ],
)
def test_numbers_that_normalize_nothing_are_refused_where_they_are_written(settings, said):
    error = refusal(lambda: Prepare(**settings))
    assert said in error.what
    assert error.where == "Task(prepare=...)"


@pytest.mark.parametrize(
    ("batch", "prepare", "said"),
    [
        (torch.rand(8, 3, 6, 6), Prepare(), "float32, not bytes"),
        (torch.randint(0, 9, (8, 12)), Prepare(), "int64, not bytes"),
        (some_bytes(8, 3, 6, 6), Prepare(mean=(0.5, 0.4), std=0.2), "for 2 channels, and calibrate() yields 3"),
        (some_bytes(8, 3, 6, 6), Prepare(mean=MEANS, layout="NHWC"), "for 3 channels, and calibrate() yields 6"),
        (some_bytes(8), Prepare(), "no channels"),
        ((some_bytes(8, 3, 6, 6), some_bytes(8, 3, 6, 6)), Prepare(), "2 inputs, and one alone can be prepared"),
        ({"image": some_bytes(8, 3, 6, 6), "mask": torch.ones(8, 2)}, Prepare(), "2 inputs, and one alone"),
    ],
)
def test_inputs_that_cannot_be_prepared_are_refused_at_the_door(batch, prepare, said):
    error = refusal(lambda: checked_model(network(), task(prepare, batch)))
    assert said in error.what
    assert error.where == "Task(prepare=...)"


def test_a_later_batch_of_numbers_is_not_taken_for_bytes():
    wired_network = wired(network(), task(Prepare(), some_bytes(8, 3, 6, 6)))
    assert "float32, not bytes" in refusal(lambda: wired_network(torch.rand(8, 3, 6, 6))).what


def test_what_is_no_preparation_is_refused():
    assert "prepare is tuple" in refusal(lambda: task((0.5, 0.2))).what


def test_the_public_name_is_the_class():
    assert haversack.Prepare is Prepare
    assert "Prepare" in dir(haversack)


@pytest.mark.parametrize(
    "prepare",
    [
        Prepare(),
        Prepare(mean=MEANS, std=DEVIATIONS),
        Prepare(mean=[0.5, 0.5, 0.5], std=0.5),
        Prepare(mean=128 / 255, std=0.5, layout="NHWC"),
        Prepare(scale=1.0, mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4), layout="NHWC"),
        Prepare(scale=1.0, mean=128.0),
    ],
)
def test_prepared_bytes_are_what_torch_makes_of_them(prepare):
    raw = some_bytes(5, 3, 7, 4)
    mean, std = (torch.tensor(each, dtype=torch.float64).view(-1, 1, 1) for each in (prepare.mean, prepare.std))
    wanted = ((raw.double() * prepare.scale - mean) / std).float()
    found = Prepared(prepare)(raw.permute(0, 2, 3, 1) if prepare.layout == "NHWC" else raw)
    assert torch.allclose(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("prepare", "zero"),
    [
        (Prepare(), 0),
        (Prepare(mean=128 / 255, std=0.5), 128),
        (Prepare(mean=(128 / 255,) * 3, std=(0.5,) * 3), 128),
        (Prepare(mean=0.5), None),
        (Prepare(mean=MEANS, std=0.5), None),
        (Prepare(std=DEVIATIONS), None),
        (Prepare(mean=-1 / 255), None),
        (Prepare(mean=256 / 255), None),
    ],
)
def test_a_byte_stands_for_zero_only_where_it_does_in_all_channels_exactly(prepare, zero):
    assert prepare.zero == zero


def test_the_network_stays_the_users_and_a_task_without_prepare_leaves_it_alone():
    own = network()
    prepared = wired(own, task(Prepare(mean=MEANS), some_bytes(8, 3, 6, 6)))
    assert prepared[0] is own[0]
    assert list(prepared.state_dict()) == list(own.state_dict())
    assert wired(own, task(None, torch.rand(8, 3, 6, 6))) is own


@pytest.mark.parametrize(("padding", "noted"), [(1, True), (0, False)])
def test_a_normalization_that_stays_an_operation_is_told(padding, noted):
    model = checked_model(network(padding=padding), task(Prepare(mean=MEANS, std=DEVIATIONS), some_bytes(8, 3, 6, 6)))
    assert bool(model.notes) is noted
    assert all(re.search("normalization .* stays .* pads its input with zeros", line) for line in model.notes)
