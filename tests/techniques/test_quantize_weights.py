from dataclasses import replace

import pytest
import torch
from onnx_files import run
from torch import nn

from haversack.device import find_device
from haversack.errors import NothingChangedError, RecipeError, TaskError
from haversack.graph.inference import lower
from haversack.graph.run import values_of
from haversack.model import Model
from haversack.runtimes.onnx.write import write
from haversack.task import Task
from haversack.techniques.quantize_weights import QuantizeWeights

TASK = Task(train=list, calibrate=list, score=lambda _: 0.0)


@pytest.fixture
def model():
    torch.manual_seed(0)
    layers = nn.Conv2d(8, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 36, 10)
    return Model(nn.Sequential(*layers).eval(), (torch.randn(1, 8, 8, 8),))


COUNT = 8 * 32 * 9 + 32 * 36 * 10


@pytest.mark.parametrize(
    ("step", "bits"), [(QuantizeWeights(16), 16), (QuantizeWeights(8), 8), (QuantizeWeights(4), 4)]
)
def test_a_file_is_as_small_as_its_bits_say_and_computes_what_the_graph_does(model, step, bits):
    lowered = lower(step.apply(model, TASK))
    content, x = write(lowered), torch.randn(4, 8, 8, 8)
    assert COUNT * bits / 8 < len(content) < COUNT * bits / 8 + 2500
    torch.testing.assert_close(run(content, x)[0], lowered(x).detach(), rtol=1e-4, atol=1e-4)


def test_groups_lose_less_than_whole_channels(model):
    x = torch.randn(64, 8, 8, 8)
    with torch.no_grad():
        wanted = model.module(x)
        errors = [
            float((lower(QuantizeWeights(4, group).apply(model, TASK))(x) - wanted).square().mean())
            for group in (0, 36, 12)
        ]
    assert errors[0] > errors[2]
    assert errors[1] > errors[2]


class Words(nn.Module):
    """Embeddings, a layer, and perhaps the words' own embeddings again."""

    def __init__(self, *, tied: bool):
        super().__init__()
        self.embedding, self.mix = nn.Embedding(300, 64), nn.Linear(64, 64)
        self.head = nn.Linear(64, 300 if tied else 8)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(torch.relu(self.mix(self.embedding(x))))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("step", "bits"), [(QuantizeWeights(16), 16), (QuantizeWeights(8), 8), (QuantizeWeights(4), 4)]
)
@torch.no_grad()
def test_embeddings_are_as_small_as_their_bits_say_and_stored_once(step, bits, tied):
    torch.manual_seed(0)
    x = torch.randint(0, 300, (8, 7))
    model = Model(Words(tied=tied).eval(), (x[:1],))
    lowered = lower(step.apply(model, TASK))
    content = write(lowered)
    weights, steps = 300 * 64 + 64 * 64 + (0 if tied else 8 * 64), 300 + 64
    assert weights * bits / 8 < len(content) < weights * bits / 8 + 4 * steps + 4500
    torch.testing.assert_close(run(content, x)[0], lowered(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_rows_of_embeddings_have_a_step_for_each_group(tied):
    torch.manual_seed(0)
    x = torch.randint(0, 300, (8, 7))
    model = Model(Words(tied=tied).eval(), (x[:1],))
    errors = []
    for group in (0, 16):
        small = QuantizeWeights(4, group).apply(model, TASK)
        lowered = lower(small)
        table, grid = model.module.embedding.weight, small.grids["head.weight" if tied else "embedding.weight"]
        rows = grid.round(table.view(len(grid.scale), -1)).view_as(table)[x]
        torch.testing.assert_close(values_of(lowered, (x,), ["embedding"])["embedding"], rows)
        torch.testing.assert_close(run(write(lowered), x)[0], lowered(x), rtol=1e-4, atol=1e-4)
        errors.append(float((rows - table[x]).square().mean()))
    assert errors[1] < errors[0] / 1.5


def test_half_precision_changes_the_network_itself_and_nothing_twice(model):
    half = QuantizeWeights(16).apply(model, TASK)
    assert not half.grids
    with pytest.raises(NothingChangedError, match="float16 already"):
        QuantizeWeights(16).apply(half, TASK)
    assert QuantizeWeights(16) not in QuantizeWeights.options(half, find_device("host"))


@pytest.mark.parametrize(("runtime", "group"), [("onnx", 32), ("litert", 0)])
def test_4_bits_are_tried_in_groups_where_files_can_say_them(model, runtime, group):
    device = replace(find_device("host"), runtime=runtime)
    assert [step.group for step in QuantizeWeights.options(model, device) if step.bits == 4] == [group]


def test_weights_beyond_float16_are_refused(model):
    with torch.no_grad():
        model.module[4].weight[0, 0] = 1e5
    with pytest.raises(RecipeError, match="65504"):
        QuantizeWeights(16).apply(model, TASK)


@pytest.mark.parametrize("settings", [{"bits": 3}, {"bits": 32}, {"bits": 16, "group": 8}, {"group": -1}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(RecipeError):
        QuantizeWeights(**settings)


def test_nothing_is_offered_to_a_runtime_that_refuses_it(model):
    assert not [*QuantizeWeights.options(model, find_device("rp2040"))]
    assert [*QuantizeWeights.options(model, replace(find_device("rp2040"), runtime="litert"))]


class Sentence(nn.Module):
    """Words, two layers that are fitted to what they read, and a sum around one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.first, self.second = nn.Embedding(50, 32), nn.Linear(32, 96), nn.Linear(96, 32)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.words(tokens)
        return x + self.second(torch.relu(self.first(x)))


@pytest.mark.parametrize("group", [0, 16])
@pytest.mark.parametrize("bits", [8, 4])
def test_repaired_integers_lose_less_than_the_nearest_ones_and_lie_on_their_grids(group, bits):
    torch.manual_seed(0)
    x = torch.randint(0, 50, (64, 6))
    model = Model(Sentence().eval(), (x[:1],))
    task = Task(train=list, calibrate=lambda: list(x.split(16)), score=lambda _: 0.0)
    with torch.no_grad():
        wanted, errors = model.module(x), {}
        for rounding in ("nearest", "gptq"):
            small = QuantizeWeights(bits, group, rounding).apply(model, task)
            lowered = lower(small)
            errors[rounding] = float((lowered(x) - wanted).square().mean())
            torch.testing.assert_close(run(write(lowered), x)[0], lowered(x), rtol=1e-4, atol=1e-4)
    assert errors["gptq"] < errors["nearest"] * (0.7 if bits == 4 else 1.0)
    for name, weight in (("first.weight", small.module.first.weight), ("second.weight", small.module.second.weight)):
        rows = weight.detach().reshape(len(small.grids[name].scale), -1)
        assert rows.shape[1] == (group or weight.shape[1])
        torch.testing.assert_close(small.grids[name].round(rows), rows, rtol=1e-5, atol=1e-7)


def test_repairing_needs_inputs_and_integers(model):
    with pytest.raises(RecipeError, match="gptq at bits 16"):
        QuantizeWeights(16, rounding="gptq")
    with pytest.raises(TaskError, match="no calibration inputs"):
        QuantizeWeights(4, rounding="gptq").apply(model, Task(train=list, calibrate=None, score=lambda _: 0.0))
