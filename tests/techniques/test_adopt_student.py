"""A student in the place of a network: what it may replace, and that it learns from what it replaces."""

import pytest
import torch
from torch import nn

from haversack.device import find_device
from haversack.errors import HaversackError, NothingChangedError, RecipeError
from haversack.grid import affine
from haversack.model import Model
from haversack.packing.check import checked_model
from haversack.preparing import Prepare
from haversack.surgery.save import load, save
from haversack.task import Task
from haversack.techniques.adopt_student import AdoptStudent, families, interface

IMAGES = torch.randn(32, 2, 8, 8, generator=torch.Generator().manual_seed(0))
STEP = AdoptStudent("ds_cnn", 0.25, 0.5, 2, epochs=0)


class Wide(nn.Module):
    """Classes are the means of quarters of the image, so that there is something to learn."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(8.0))

    def forward(self, x):
        return self.scale * nn.functional.adaptive_avg_pool2d(x.mean(1), 2).flatten(1)


def model() -> Model:
    return Model(Wide().eval(), (IMAGES[:1],))


def task(train=None) -> Task:
    return Task(train=train or (lambda: [(IMAGES,)] * 5), calibrate=lambda: [IMAGES], score=lambda predict: 0.0)


def test_a_student_takes_and_gives_what_the_network_does_and_is_rebuilt_without_pickle(tmp_path):
    student = STEP.apply(model(), task())
    assert student.module(IMAGES).shape == (32, 4)
    save(student, tmp_path)
    again = load(Wide(), tmp_path, student.example)
    assert torch.equal(again.module(IMAGES), student.module(IMAGES))


def test_a_student_learns_from_the_network_alone_where_nobody_labels_anything():
    original = model()
    apart = []
    for epochs in (0, 12):
        student = AdoptStudent("ds_cnn", 0.25, 0.5, 2, epochs=epochs).apply(original, task())
        assert student.teacher is original.module
        agrees = student.module(IMAGES).argmax(1) == original.module(IMAGES).argmax(1)
        apart.append(1 - agrees.float().mean().item())
    assert apart[1] < 0.2 < apart[0]


def test_the_seed_decides_the_weights_and_nothing_else_draws_from_it():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (
        AdoptStudent("ds_cnn", 0.25, 0.5, 2, epochs=0, seed=seed).apply(model(), task()) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.module(IMAGES), same.module(IMAGES))
    assert not torch.equal(one.module(IMAGES), other.module(IMAGES))


def image(*shape, outputs=(4,)):
    """A network for inputs of that shape; it gives zeros of the shape `outputs`."""

    class Zeros(nn.Module):
        def forward(self, x, *_):
            return x.flatten(1).sum(1).reshape(-1, *[1] * len(outputs)) * torch.zeros(outputs)

    return Model(Zeros().eval(), (torch.randn(1, *shape),))


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (image(40), "neither an image nor a series"),
        (image(2, 8, 8, 8), "neither an image nor a series"),
        (image(2, 8, 8, outputs=(4, 8, 8)), r"its output \(1, 4, 8, 8\) is not"),
        (Model(image(2, 8, 8).module, (IMAGES[:1], IMAGES[:1])), "takes 2 inputs"),
        (Model(nn.Embedding(9, 4).eval(), (torch.zeros(1, 3, 3, dtype=torch.long),)), "torch.int64 is neither"),
    ],
)
def test_a_network_that_no_student_can_replace_is_told_why(network, says):
    with pytest.raises(RecipeError, match=says) as caught:
        STEP.apply(network, task())
    assert caught.value.mend
    assert not list(AdoptStudent.options(network, None))


def test_an_unknown_family_is_refused_with_the_list_of_them():
    with pytest.raises(RecipeError, match="no family 'resnet99'") as caught:
        AdoptStudent("resnet99")
    assert "mobilenet_v2" in caught.value.mend


def test_a_family_over_images_is_refused_for_a_series_and_those_over_time_are_named():
    with pytest.raises(RecipeError, match="reads inputs of 2 dimensions, and these have 1") as caught:
        STEP.apply(image(3, 64), task())
    over_time = families(interface(image(3, 64)))
    assert over_time
    assert all(name in caught.value.mend for name in over_time)
    student = AdoptStudent(over_time[0], 0.25, 0.5, 2, epochs=0).apply(image(3, 64), task())
    assert student.module(torch.randn(2, 3, 64)).shape == (2, 4)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [({"width": 0.0}, "width is 0.0"), ({"downsampling": 3}, "downsampling is 3"), ({"shrink": 8}, "too small")],
)
def test_sizes_that_cannot_be_built_are_named(sizes, says):
    settings = {"width": 0.25, "depth": 0.5, "downsampling": 2, "epochs": 0} | sizes
    with pytest.raises(RecipeError, match=says):
        AdoptStudent("ds_cnn", **settings).apply(model(), task())


@pytest.mark.parametrize("settings", [{"epochs": -1}, {"learning_rate": -1.0}, {"distillation": 2.0}])
def test_a_training_that_cannot_be_done_is_refused_when_it_is_written(settings):
    with pytest.raises(HaversackError, match=next(iter(settings))):
        AdoptStudent(**settings)


def test_a_quantized_network_is_not_replaced():
    quantized = Model(Wide().eval(), (IMAGES[:1],), grids={"x": affine(0, 1)})
    with pytest.raises(NothingChangedError, match="quantized already"):
        STEP.apply(quantized, task())


def test_options_have_fewer_parameters_than_the_network():
    big = image(2, 8, 8)
    big.module.add_module("ballast", nn.Linear(100, 300))
    steps = list(AdoptStudent.options(big, None))
    assert steps
    for step in steps:
        assert sum(each.numel() for each in step.network(interface(big)).parameters()) < 30_300


def test_a_network_that_takes_bytes_has_no_student_and_is_told_why():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    raw = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    taken = checked_model(network, Task(list, lambda: [raw], lambda _: 0.5, prepare=Prepare()))
    assert not list(AdoptStudent.options(taken, find_device("host")))
    with pytest.raises(RecipeError, match="takes bytes"):
        interface(taken)


def test_a_network_whose_inputs_differ_in_length_has_no_student_and_is_told_why():
    network = nn.Sequential(nn.Conv1d(2, 4, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten()).eval()
    batches = [torch.randn(4, 2, length, generator=torch.Generator().manual_seed(length)) for length in (9, 12)]
    taken = checked_model(network, Task(list, lambda: batches, lambda _: 0.5))
    assert not list(AdoptStudent.options(taken, find_device("host")))
    with pytest.raises(RecipeError, match="different lengths"):
        interface(taken)
