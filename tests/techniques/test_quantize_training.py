import functools
from dataclasses import replace

import pytest
import torch
from onnx_files import WEIGHT_BITS
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from haversack.device import find_device
from haversack.errors import NothingChangedError, RecipeError, TaskError, TrainingError
from haversack.graph.inference import inference, lower
from haversack.graph.write_back import written_back
from haversack.model import Model
from haversack.progress import shown_by
from haversack.runtimes.host import load
from haversack.runtimes.onnx.write import write
from haversack.task import Task
from haversack.techniques.quantize_training import QuantizeTraining
from haversack.techniques.quantize_training.fake import fake_quantized
from haversack.training import Training, finetune
from tests.heard import Heard


class Residual(nn.Module):
    """Every kind of value: the input, one after a ReLU, one that is summed, a mean, the output."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.inner, self.inner_norm = nn.Conv2d(12, 24, 3, 2, padding=1, bias=False), nn.BatchNorm2d(24)
        self.outer, self.outer_norm = nn.Conv2d(24, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        self.head = nn.Linear(24, 10)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(self.inner_norm(self.inner(x)))
        x = F.relu(x + self.outer_norm(self.outer(x)))
        return self.head(x.mean((2, 3)))


@functools.cache
def digits():
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 16
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order], torch.tensor(found.target)[order]


def epoch():
    images, labels = digits()
    return [(images[some], labels[some]) for some in torch.randperm(1300).split(64)]


def score(predict):
    images, labels = digits()
    with torch.no_grad():
        return float((predict(images[1300:]).argmax(1) == labels[1300:]).float().mean())


def task(train=epoch) -> Task:
    return Task(train=train, calibrate=lambda: list(digits()[0][:256].split(64)), score=score)


@functools.cache
def trained() -> Model:
    torch.manual_seed(0)
    example = (digits()[0][:1],)
    return Model(finetune(Model(Residual(), example), task(), Training(epochs=10)), example)


@functools.cache
def few_bits(epochs: int, **settings) -> Model:
    return QuantizeTraining(2, 3, epochs, 1e-3, **settings).apply(trained(), task())


def test_training_wins_back_what_few_bits_lost():
    whole, calibrated = score(trained().module), score(lower(few_bits(0)))
    learned = score(lower(few_bits(6)))
    assert whole > 0.95
    assert calibrated < whole - 0.1
    assert learned > whole - 0.03


@pytest.mark.parametrize("activations", ["uint8", "int8"])
def test_the_lowered_network_and_its_file_compute_what_training_saw(activations):
    model, x = trained(), digits()[0][:32]
    network = inference(model)
    names = {"stem.weight", "stem.bias", "inner.weight", "inner.bias", "outer.weight", "head.weight", "head.bias"}
    grids = QuantizeTraining(4, 4, 0, activations=activations, ends_bits=WEIGHT_BITS).apply(model, task()).grids
    fake = fake_quantized(network, grids, names)
    optimizer = torch.optim.Adam(fake.network.parameters(), lr=0.003)
    for _ in range(4):
        F.cross_entropy(fake.network(x), digits()[1][:32]).backward()
        optimizer.step()
    rounded = fake.read_off(names)
    lowered = lower(replace(written_back(model, inference(model), rounded.tensors), grids=rounded.grids))
    with torch.no_grad():
        seen = fake.network(x)
        torch.testing.assert_close(lowered(x), seen, rtol=1e-5, atol=1e-5)
        assert (seen - model.module(x)).abs().max() > 0.1
        # ONNX Runtime rounds and clamps by its own arithmetic: no grid's top or bottom needs a clamp that it lacks.
        found = load(write(lowered), 1)(x)
    steps = (found - seen).abs() / rounded.grids["linear"].scale[0]
    assert steps.max() < 1.01
    assert (steps > 0.01).float().mean() < 0.02


def test_weights_lie_on_their_grids_and_use_no_more_than_their_integers():
    model = few_bits(3)
    network = inference(model)
    for name, bits in {"stem.weight": 8, "inner.weight": 2, "outer.weight": 2, "head.weight": 8}.items():
        weight, grid = network.tensor(name), model.grids[name]
        assert grid.bits == bits
        torch.testing.assert_close(grid.round(weight), weight, rtol=1e-5, atol=0)
        assert int(grid.quantize(weight).abs().max()) == 2 ** (bits - 1) - 1


def test_values_after_a_relu_that_layers_read_lie_on_few_integers_at_the_top():
    network, grids = inference(few_bits(0)), few_bits(0).grids
    narrow = {name for name in grids if "weight" not in name and grids[name].qmin > 0}
    assert narrow == {"relu", "relu_1", "mean"}
    for name in narrow:
        assert (grids[name].bits, grids[name].qmin, grids[name].qmax) == (8, 248, 255)
        assert grids[name].zero_point == (248,)
    names = [node.name for node in network.graph.nodes]
    others = {name for name in grids if name in names} - narrow
    assert others == {"x", "conv2d_2", "relu_2", "linear"}
    assert all((grids[name].qmin, grids[name].qmax) == (0, 255) for name in others)
    signed = QuantizeTraining(3, 3, 0, activations="int8").apply(trained(), task()).grids
    assert {(signed[name].qmin, signed[name].zero_point[0], signed[name].qmax) for name in narrow} == {(120, 120, 127)}


def test_grids_move_away_from_where_they_were_calibrated_and_stay_of_their_kind():
    before, after = few_bits(0).grids, few_bits(3).grids
    assert before.keys() == after.keys()
    for name in before:
        assert replace(before[name], scale=after[name].scale) == after[name]
        assert before[name] != after[name]


def test_the_network_stays_the_user_s_own_and_the_teacher_his():
    model = few_bits(3)
    assert type(model.module) is Residual
    assert model.teacher is None
    assert model.module.state_dict().keys() == trained().module.state_dict().keys()


def test_a_value_that_may_be_negative_keeps_eight_bits_and_is_named():
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3), nn.Hardswish(), nn.Conv2d(4, 4, 3), nn.ReLU6(), nn.MaxPool2d(2), nn.Flatten())
    module = nn.Sequential(*layers, nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 3)).eval()
    x, heard = torch.randn(32, 1, 8, 8), Heard()
    with shown_by(heard):
        grids = QuantizeTraining(4, 4, 0).apply(Model(module, (x[:1],)), replace(task(), calibrate=lambda: [x])).grids
    assert [name for name, grid in grids.items() if grid.qmin == 240] == ["hardtanh"]
    assert heard.lines == [
        "these keep 8 bits, because they may be negative: hardswish, gelu.",
        "these stay float32: 1 aten.gelu.default.",
    ]


def test_a_sum_of_squeezed_values_after_a_relu_has_few_bits():
    class Squeezed(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.head = nn.Conv2d(1, 4, 8), nn.Conv2d(1, 4, 8), nn.Linear(4, 3)

        def forward(self, x):
            one, two = (F.relu(layer(x)).squeeze(-1).squeeze(-1) for layer in (self.one, self.two))
            return self.head(one + two)

    torch.manual_seed(0)
    x = torch.randn(32, 1, 8, 8)
    model = Model(Squeezed().eval(), (x[:1],))
    grids = QuantizeTraining(4, 4, 0).apply(model, replace(task(), calibrate=lambda: [x])).grids
    assert [name for name, grid in grids.items() if grid.qmin == 240] == ["add"]


def test_a_dictated_range_has_the_dictated_grid_and_concatenated_values_one():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = nn.Conv2d(1, 4, 1), nn.Conv2d(1, 4, 1), nn.Conv2d(8, 4, 1)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            x = torch.cat([F.relu(self.one(x)), F.relu(self.two(x))], 1)
            x = torch.sigmoid(self.three(x)) * torch.tanh(self.three(x))
            return self.head(x.mean((2, 3)))

    torch.manual_seed(0)
    x = torch.randn(32, 1, 8, 8)
    data = [(x, torch.zeros(32, dtype=torch.long))]
    for activations, zero in (("uint8", 0), ("int8", -128)):
        step = QuantizeTraining(4, 4, 1, activations=activations)
        grids = step.apply(Model(Gated().eval(), (x[:1],)), Task(lambda: data, lambda: [x], score)).grids
        assert (grids["sigmoid"].scale, grids["sigmoid"].zero_point) == ((1 / 256,), (zero,))
        assert (grids["tanh"].scale, grids["tanh"].zero_point) == ((1 / 128,), (zero + 128,))
        assert grids["relu"] == grids["relu_1"] == grids["cat"]
        assert grids["cat"].qmax - grids["cat"].qmin == 15


def test_the_data_s_labels_teach_alone_where_distillation_is_zero():
    def unlabelled():
        return [(images,) for images, _ in epoch()]

    QuantizeTraining(3, 3, 1).apply(trained(), task(unlabelled))
    assert few_bits(1, distillation=0.0).grids != few_bits(1).grids


@torch.no_grad()
def test_a_channel_of_vanishing_weights_keeps_its_large_bias():
    torch.manual_seed(0)
    x = torch.randn(48, 3, 8, 8)
    first, last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 1)
    first.weight[1], first.bias[1] = 1e-9, 70.0
    model = Model(nn.Sequential(first, nn.ReLU(), last, nn.Flatten()).eval(), (x[:1],))
    expected = model.module(x)
    lowered = lower(QuantizeTraining(epochs=0).apply(model, replace(task(), calibrate=lambda: [x])))
    assert (lowered(x) - expected).abs().max() < (expected.max() - expected.min()) / 50


def test_a_loss_that_is_no_number_is_refused():
    broken = [(images * float("nan"), labels) for images, labels in epoch()]
    with pytest.raises(TrainingError, match="loss is nan"):
        QuantizeTraining(epochs=1).apply(trained(), task(lambda: broken))


def test_weights_that_are_not_numbers_are_refused_by_name():
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten()).eval()
    with torch.no_grad():
        module[0].weight[0] = float("nan")
    with pytest.raises((RecipeError, TaskError)):
        QuantizeTraining().apply(Model(module, (digits()[0][:1],)), task())


def test_a_network_without_an_integer_form_and_one_that_is_quantized_change_nothing():
    example = (digits()[0][:1],)
    with pytest.raises(NothingChangedError, match="no operation of this network has an integer form"):
        QuantizeTraining().apply(Model(nn.Sequential(nn.GELU()).eval(), example), task())
    with pytest.raises(NothingChangedError, match="quantized already"):
        QuantizeTraining().apply(few_bits(0), task())


@pytest.mark.parametrize(
    "wrong",
    [
        *({"weight_bits": 1}, {"weight_bits": 9}, {"activation_bits": 1}, {"ends_bits": 16}, {"weight_bits": 4.5}),
        *({"epochs": -1}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"activations": "int4"}),
        *({"ranges": "max"}, {"distillation": 1.5}),
    ],
)
def test_settings_out_of_range_are_refused_with_what_to_write(wrong):
    with pytest.raises(RecipeError) as caught:
        QuantizeTraining(**wrong)
    assert caught.value.mend


def test_it_is_offered_where_integers_pay_mildest_first():
    arm = find_device("raspberry-pi-zero-2w")
    offered = list(QuantizeTraining.options(trained(), arm))
    assert [step.weight_bits for step in offered] == [8, 4]
    assert {step.activations for step in offered} == {"int8"}
    assert not list(QuantizeTraining.options(trained(), replace(arm, number_formats=("float32",))))
    assert not list(QuantizeTraining.options(few_bits(0), arm))
