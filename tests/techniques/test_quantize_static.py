import time
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from onnx_files import WEIGHT_BITS, run
from torch import nn
from torch.nn import functional as F

from haversack import techniques
from haversack.device import find_device
from haversack.errors import NothingChangedError, RecipeError, TaskError
from haversack.graph.inference import lower
from haversack.model import Model
from haversack.progress import shown_by
from haversack.recipe import Recipe, describe, recipe_from_toml
from haversack.runtimes.host import load
from haversack.runtimes.onnx.write import write
from haversack.task import Task
from haversack.techniques.quantize_static import QuantizeStatic
from tests.heard import Heard


def task_on(x) -> Task:
    return Task(train=list, calibrate=lambda: list(x.split(16)), score=lambda predict: 0.0)


def small(*layers, shape=(3, 8, 8)) -> tuple[Model, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(48, *shape)
    return Model(nn.Sequential(*layers).eval(), (x[:1],)), x


def convolutional() -> tuple[Model, torch.Tensor]:
    return small(nn.Conv2d(3, 6, 3), nn.ReLU6(), nn.Conv2d(6, 4, 3), nn.Flatten())


@pytest.mark.parametrize("bits", [7, 8])
def test_weights_use_all_of_their_bits_and_no_more(bits):
    model, x = convolutional()
    lowered = lower(QuantizeStatic(bits, ranges="min_max").apply(model, task_on(x)))
    weights = [tensor for name, tensor in lowered.named_buffers() if "weight_integers" in name]
    assert len(weights) == 2
    assert all(int(weight.max()) <= 2 ** (bits - 1) - 1 for weight in weights)
    assert all(bool((weight.flatten(1).abs().amax(1) == 2 ** (bits - 1) - 1).all()) for weight in weights)


@pytest.mark.parametrize("ranges", ["min_max", "percentile", "mse"])
@pytest.mark.parametrize(("activations", "lowest"), [("uint8", 0), ("int8", -128)])
def test_relu6_begins_at_the_lowest_integer_and_ends_at_six(ranges, activations, lowest):
    model, x = convolutional()
    grids = QuantizeStatic(8, activations, ranges).apply(model, task_on(x * 20)).grids
    clamp = grids["hardtanh"] if "hardtanh" in grids else grids["relu6"]
    assert clamp.zero_point == (lowest,)
    assert clamp.high <= 6 * (1 + 1e-6)


@torch.no_grad()
def test_a_channel_of_vanishing_weights_keeps_its_large_bias():
    torch.manual_seed(0)
    model, x = small(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.Flatten())
    first, last = model.module[0], model.module[2]
    first.weight[1] = 1e-9
    first.bias[1] = 70.0
    last.weight[2] = 0
    last.bias[2] = -30.0
    expected = model.module(x)
    lowered = lower(QuantizeStatic(ranges="min_max").apply(model, task_on(x)))
    step = expected.abs().max() / 255
    assert (lowered(x) - expected).abs().max() < 4 * step
    assert (load(write(lowered), 1)(x) - lowered(x)).abs().max() < 2 * step


@torch.no_grad()
def test_layers_that_share_a_weight_share_a_grid_that_fits_both_biases():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4) * 1e-6)
            self.first, self.second = nn.Parameter(torch.full((4,), 50.0)), nn.Parameter(torch.zeros(4))

        def forward(self, x):
            return F.linear(F.relu(F.linear(x, self.weight, self.first)), self.weight, self.second)

    torch.manual_seed(0)
    x = torch.randn(32, 4)
    model = Model(Shared().eval(), (x[:1],))
    quantized = QuantizeStatic(ranges="min_max").apply(model, task_on(x))
    hidden = float(quantized.grids["relu"].high)
    assert hidden == pytest.approx(50, rel=0.01)
    assert lower(quantized)(x).isfinite().all()


def test_a_network_that_is_quantized_is_not_quantized_again():
    model, x = convolutional()
    with pytest.raises(NothingChangedError, match="quantized already"):
        QuantizeStatic().apply(QuantizeStatic().apply(model, task_on(x)), task_on(x))


def test_a_network_without_an_integer_form_is_an_error():
    model, x = small(nn.GELU(), nn.LayerNorm(8))
    with pytest.raises(NothingChangedError, match="no operation of this network has an integer form"):
        QuantizeStatic().apply(model, task_on(x))


def test_operations_that_stay_float_are_said_and_so_are_constants():
    model, x = small(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 2, 1), nn.ReLU(), nn.Flatten())
    with torch.no_grad():
        model.module[2].weight.zero_()
        model.module[2].bias.fill_(-1)
    heard = Heard()
    with shown_by(heard):
        QuantizeStatic().apply(model, task_on(x))
    assert heard.lines == [
        "constant on all calibration inputs: relu. Are the inputs typical?",
        "these stay float32: 1 aten.gelu.default.",
    ]


def test_inputs_that_never_vary_are_refused():
    model, x = convolutional()
    with pytest.raises(TaskError, match=r"calibrate\(\)"):
        QuantizeStatic().apply(model, task_on(torch.zeros_like(x)))


def test_weights_that_are_not_numbers_are_refused_by_name():
    model, x = small(nn.Conv2d(3, 4, 3), nn.Flatten())
    with torch.no_grad():
        model.module[0].weight[0] = float("inf")
    with pytest.raises((RecipeError, TaskError)):
        QuantizeStatic().apply(model, task_on(x))


@pytest.mark.parametrize(
    "wrong",
    [
        {"ranges": "max"},
        {"activations": "int4"},
        {"rounding": "up"},
        {"weight_bits": 1},
        {"weight_bits": 9},
        {"weight_bits": True},
        {"weight_bits": 4.0},
        {"layer_bits": ("head",)},
        {"layer_bits": ("head=12",)},
        {"layer_bits": ("head=4", "head=8")},
        {"layer_bits": "head=4"},
        {"leave_float": ("",)},
        {"leave_float": (3,)},
        {"layer_bits": ("head=4",), "leave_float": ("head",)},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_with_what_to_write(wrong):
    with pytest.raises(RecipeError) as caught:
        QuantizeStatic(**wrong)
    assert caught.value.mend


@pytest.mark.parametrize("wrong", [{"layer_bits": ("lost=4",)}, {"leave_float": ("lost",)}, {"leave_float": ("1",)}])
def test_a_path_that_holds_no_layer_is_refused_with_those_that_do(wrong):
    model, x = convolutional()
    with pytest.raises(RecipeError, match="no layer with an integer form lies at") as caught:
        QuantizeStatic(**wrong).apply(model, task_on(x))
    assert "0, 2" in caught.value.mend


def test_exceptions_survive_toml_and_are_shown():
    step = QuantizeStatic(4, layer_bits=("0=8", "2=6"), leave_float=("3",))
    assert recipe_from_toml(Recipe((step,)).to_toml(), techniques.catalogue()) == Recipe((step,))
    assert describe(step).startswith("quantize_static(weight_bits=4, layer_bits=")


class Blocks(nn.Module):
    """Two blocks of two convolutions each, and a classifier."""

    def __init__(self):
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 1))
        self.b = nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 1))
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.head(F.relu(self.b(x) + x).mean((2, 3)))


def blocks() -> tuple[Model, torch.Tensor]:
    model, x = small(Blocks())
    with torch.no_grad():
        model.module.train()(x * 2 + 1)
    return Model(model.module.eval(), model.example), x


def test_the_longest_path_decides_over_a_layers_bits():
    model, x = blocks()
    grids = QuantizeStatic(4, layer_bits=("0.b=3", "0.b.2=6", "0.head=8")).apply(model, task_on(x)).grids
    bits = {name: grid.bits for name, grid in grids.items() if name.endswith(".weight")}
    wanted = {"0.a.0.weight": 4, "0.a.3.weight": 4, "0.b.0.weight": 3, "0.b.2.weight": 6, "0.head.weight": 8}
    assert bits == wanted
    assert grids["0.b.0.weight"].qmax == 3


@torch.no_grad()
def test_what_is_left_float_loses_its_grids_but_those_that_others_need():
    model, x = blocks()
    whole = QuantizeStatic().apply(model, task_on(x)).grids
    small = QuantizeStatic(leave_float=("0.b", "0.head")).apply(model, task_on(x))
    lost = whole.keys() - small.grids.keys()
    assert {"0.b.0.weight", "0.b.2.weight", "0.head.weight", "linear"} <= lost
    assert {"input_1", "0.a.0.weight", "0.a.3.weight"} <= small.grids.keys()
    assert all(grid == whole[name] for name, grid in small.grids.items() if name.endswith("weight"))
    assert (lower(small)(x) - model.module(x)).abs().max() < 0.1


def test_sixteen_bits_are_symmetric_around_zero_and_nearly_exact():
    model, x = blocks()
    step = QuantizeStatic(8, "int16", layer_bits=("0.a.0=8",))
    small = step.apply(model, task_on(x))
    values = [grid for grid in small.grids.values() if grid.axis is None]
    assert all((grid.bits, grid.signed, grid.zero_point, grid.qmin) == (16, True, (0,), -32768) for grid in values)
    with torch.no_grad():
        ours = QuantizeStatic(8, "int8").apply(model, task_on(x))
        errors = [(lower(each)(x) - model.module(x)).square().mean() for each in (small, ours)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize(("activations", "step"), [("uint8", 1 / 256), ("int8", 1 / 256), ("int16", 1 / 32768)])
def test_a_sigmoid_lies_on_the_grid_that_the_specification_demands(activations, step):
    model, x = small(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.Conv2d(4, 2, 1), nn.Tanh())
    grids = QuantizeStatic(8, activations).apply(model, task_on(x)).grids
    lowest = {"uint8": 0, "int8": -128, "int16": 0}[activations]
    assert (grids["sigmoid"].scale, grids["sigmoid"].zero_point) == ((step,), (lowest,))
    middle = {"uint8": 128, "int8": 0, "int16": 0}[activations]
    assert (grids["tanh"].scale, grids["tanh"].zero_point) == ((max(step, step * 2 if step > 1e-3 else 0),), (middle,))


@torch.no_grad()
def test_correcting_biases_and_equalizing_keep_the_float_network_and_help_the_rounded_one():
    model, x = blocks()
    with torch.no_grad():
        model.module[0].b[0].weight *= torch.logspace(-1, 1, 6).view(-1, 1, 1, 1)
    wanted = model.module(x)

    def error(**settings) -> float:
        small = QuantizeStatic(4, ranges="min_max", **settings).apply(model, task_on(x))
        return float((lower(small)(x) - wanted).square().mean())

    plain, corrected = error(correct_bias=False), error(correct_bias=True)
    assert corrected < plain
    equalized = QuantizeStatic(8, equalize=True, correct_bias=False).apply(model, task_on(x))
    torch.testing.assert_close(equalized.module(x), wanted, rtol=1e-4, atol=1e-4)
    assert error(equalize=True) < 2 * plain


@torch.no_grad()
def test_without_inputs_ranges_come_from_batch_norm_which_is_said():
    model, x = small(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten())
    model.module[1].momentum = None
    model.module.train()(x.clamp(-3, 3))
    model.module.eval()
    heard = Heard()
    with shown_by(heard):
        quantized = QuantizeStatic().apply(model, replace(task_on(x), calibrate=None))
    assert "no calibration inputs" in heard.lines[0]
    wanted = model.module(x)
    noise = lower(quantized)(x) - wanted
    assert 10 * torch.log10(wanted.square().mean() / noise.square().mean()) > 20


def test_without_inputs_what_needs_them_is_refused():
    model, x = convolutional()
    for step in (QuantizeStatic(rounding="gptq"), QuantizeStatic(rounding="learned"), QuantizeStatic()):
        with pytest.raises(TaskError) as caught:
            step.apply(model, replace(task_on(x), calibrate=None))
        assert "calibrate()" in caught.value.mend


def test_few_inputs_are_said():
    model, x = convolutional()
    heard = Heard()
    with shown_by(heard):
        QuantizeStatic().apply(model, task_on(x[:5]))
    assert heard.lines[0].startswith("only 5 calibration inputs")


@pytest.mark.parametrize(("simd", "bits"), [("avx2", [7, 4]), ("avx2 avx512_vnni", [8, 4])])
def test_four_bits_are_offered_after_as_many_as_the_kernels_multiply_exactly(simd, bits):
    model, _ = convolutional()
    device = replace(find_device("host"), isa="x86-64", simd=simd)
    assert [step.weight_bits for step in QuantizeStatic.options(model, device)] == bits
    choices = QuantizeStatic.choices(model, device)
    assert choices is not None
    assert choices.step([0] * len(choices.sites)).weight_bits == bits[0]
    assert {site.options[0].effect.bits for site in choices.sites} == {bits[0]}


def test_activations_are_signed_where_the_device_wants_it_and_nothing_is_offered_where_integers_do_not_pay():
    model, _ = convolutional()
    arm = find_device("raspberry-pi-zero-2w")
    assert {step.activations for step in QuantizeStatic.options(model, arm)} == {"int8"}
    x86 = replace(arm, isa="x86-64")
    assert {step.activations for step in QuantizeStatic.options(model, x86)} == {"uint8"}
    assert not list(QuantizeStatic.options(model, replace(arm, number_formats=("float32",))))


@pytest.mark.slow
def test_five_hundred_images_calibrate_a_resnet20_in_seconds():
    class Block(nn.Module):
        def __init__(self, into, out, stride):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
                nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out),
            )  # fmt: skip
            self.short = nn.Identity() if stride == 1 else nn.AvgPool2d(1, 2)
            self.pad = (out - into) // 2

        def forward(self, x):
            return F.relu(self.body(x) + F.pad(self.short(x), (0, 0, 0, 0, self.pad, self.pad)))

    widths = [16, *[16] * 3, *[32] * 3, *[64] * 3]
    blocks = [Block(a, b, 1 if a == b else 2) for a, b in pairwise(widths)]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    model, _ = small(nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), *blocks, *head, shape=(3, 32, 32))
    x = torch.randn(500, 3, 32, 32)
    # Some times what it takes alone on one core (3 and 4.4 s): other tests may run beside it.
    for ranges, seconds in (("min_max", 12), ("mse", 18)):
        start = time.process_time()
        QuantizeStatic(ranges=ranges).apply(model, task_on(x))
        assert time.process_time() - start < seconds


def test_mixed_precision_spends_its_bits_where_few_hurt_most():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    with torch.no_grad():
        network[2].weight[:, :, 0, 0] *= 20  # one large weight a channel leaves the others few steps
    x = torch.randn(64, 3, 8, 8)
    task = Task(train=list, calibrate=lambda: [x], score=lambda _: 0.0)
    model = Model(network.eval(), (x[:1],))
    grids = QuantizeStatic(4, average_bits=6).apply(model, task).grids
    bits = {name: grids[name].bits for name in ("0.weight", "2.weight", "4.weight")}
    counts = {"0.weight": 216, "2.weight": 576, "4.weight": 576}
    assert bits["2.weight"] == 8
    assert set(bits.values()) == {4, 8}
    assert sum(counts[name] * bits[name] for name in bits) <= 6 * sum(counts.values())
    everywhere = QuantizeStatic(4, average_bits=8).apply(model, task).grids
    assert {everywhere[name].bits for name in bits} == {8}
    fixed = QuantizeStatic(4, average_bits=6, layer_bits=("2=4",)).apply(model, task).grids
    assert fixed["2.weight"].bits == 4


def test_a_joint_linear_layer_has_one_step():
    torch.manual_seed(0)
    x = torch.randn(64, 1, 8, 8)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 5)).eval()
    task = Task(train=list, calibrate=lambda: [x], score=lambda _: 0.0)
    grids = QuantizeStatic(joint_linear=True).apply(Model(network, (x[:1],)), task).grids
    assert len(set(grids["2.weight"].scale)) == 1
    assert len(set(grids["0.weight"].scale)) == 4


@pytest.mark.parametrize(
    "settings",
    [{"average_bits": 9.0}, {"weight_bits": 4, "average_bits": 3.5}, {"joint_linear": True, "rounding": "gptq"}],
)
def test_mixed_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(RecipeError):
        QuantizeStatic(**settings)


class Words(nn.Module):
    """Two embeddings of each word in one sum, or words that a norm reads; and the words again at the end."""

    def __init__(self, *, summed: bool, tied: bool):
        super().__init__()
        self.words, self.places, self.norm = nn.Embedding(300, 32), nn.Embedding(300, 32), nn.LayerNorm(32)
        self.head, self.summed = nn.Linear(32, 300), summed
        if tied:
            self.head.weight = self.words.weight

    def forward(self, x):
        words = self.words(x)
        return self.head(words + self.places(x) if self.summed else self.norm(words))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("summed", [False, True])
@torch.no_grad()
def test_embeddings_are_stored_in_a_byte_a_number_and_round_no_more_than_their_values_did(summed, tied):
    torch.manual_seed(0)
    x = torch.randint(0, 300, (64, 5))
    model = Model(Words(summed=summed, tied=tied).eval(), (x[:1],))
    small = QuantizeStatic(WEIGHT_BITS).apply(model, task_on(x))
    lowered = lower(small)
    content = write(lowered)
    weights = 300 * 32 * (1 + summed + (not tied))
    assert weights < len(content) < weights + 4 * 300 * (3 + (not summed)) + 3500
    wanted, (found,) = lowered(x), run(content, x)
    assert (found - wanted).abs().max() <= 0.02 * wanted.abs().max()
    if summed and not tied:
        tables = {"words.weight", "places.weight"}
        assert tables < small.grids.keys()
        rest = {name: grid for name, grid in small.grids.items() if name not in tables}
        assert torch.equal(lower(replace(small, grids=rest))(x), wanted)


@torch.no_grad()
def test_an_embedding_that_is_read_twice_on_two_grids_has_a_step_a_row():
    torch.manual_seed(0)
    x = torch.randint(0, 300, (64, 4))

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(300, 8), nn.Linear(8, 5)

        def forward(self, x):
            few, all_ = self.words(x[:, :2]), self.words(x)
            return self.head(few + 1.5 * few) + self.head(all_).mean(1, keepdim=True)

    model = Model(Twice().eval(), (x[:1],))
    small = QuantizeStatic(WEIGHT_BITS).apply(model, task_on(x))
    assert small.grids["words.weight"].axis == 0
    wanted = lower(small)(x)
    assert (run(write(lower(small)), x)[0] - wanted).abs().max() <= 0.02 * wanted.abs().max()


def test_an_embedding_may_stay_float():
    torch.manual_seed(0)
    x = torch.randint(0, 300, (64, 5))
    model = Model(Words(summed=False, tied=False).eval(), (x[:1],))
    assert "words.weight" not in QuantizeStatic(leave_float=("words",)).apply(model, task_on(x)).grids
