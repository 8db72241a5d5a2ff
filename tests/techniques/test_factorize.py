"""Layers become products of smaller ones where that pays, and stay as they are elsewhere."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.device import find_device
from haversack.errors import NothingChangedError, RecipeError
from haversack.graph.cost import cost
from haversack.graph.inference import lower
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.progress import shown_by
from haversack.recipe import Recipe, recipe_from_toml
from haversack.runtimes import host
from haversack.runtimes.onnx import ONNX
from haversack.surgery.save import save
from haversack.task import Task
from haversack.techniques.factorize import Factorize
from haversack.techniques.prune_channels import PruneChannels
from tests import warm


class Net(nn.Module):
    """A wide convolution, one with a stride, a depthwise one, a 1 x 1 and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        self.wide, self.deep = nn.Conv2d(24, 32, 3, 2, 1), nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.point, self.head = nn.Conv2d(32, 24, 1), nn.Linear(24 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.deep(F.relu(self.wide(F.relu(self.norm(self.stem(x)))))))
        return self.head(self.point(x).flatten(1))


def task() -> Task:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(96, 2, 8, 8, generator=generator).cumsum(2).cumsum(3) / 4
    target = (images.mean((1, 2, 3)) > 0).long() + 2 * (images[:, 0, 0, 0] > 0).long()
    return Task(
        train=lambda: list(zip(images.split(32), target.split(32), strict=True)),
        calibrate=lambda: list(images.split(32)),
        score=lambda predict: float((predict(images).argmax(1) == target).float().mean()),
    )


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    module = Net()
    with torch.no_grad():
        module(torch.randn(64, 2, 8, 8).cumsum(3))
    return Model(module.eval(), (torch.randn(1, 2, 8, 8),))


def macs(model: Model) -> int:
    return cost(trace(model.module, model.example)).macs


def parameters(model: Model) -> int:
    return sum(each.numel() for each in model.module.parameters())


@dataclass(frozen=True)
class Slow:
    """A target on which a network takes as long as it multiplies, and `per_layer` more for each of its layers.

    Whole networks that were changed take `changed` times as long.
    """

    per_layer: float = 0.0
    changed: float = 1.0

    def latencies_ms(self, models):
        return [self._one(each) for each in models]

    def flash_bytes(self, model):
        return 4 * parameters(model)

    def _one(self, model: Model) -> float:
        taken: list[float] = []

        def count(layer: nn.Module, _: object, output: Tensor) -> None:
            taken.append(layer.weight.numel() * output.numel() / layer.weight.shape[0] + self.per_layer)

        layers = [each for each in model.module.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
        handles = [each.register_forward_hook(count) for each in layers]
        model.module(*model.example)
        for handle in handles:
            handle.remove()
        return sum(taken) * (self.changed if len(layers) > 5 else 1.0)


class Lines:
    def __init__(self) -> None:
        self.said: list[str] = []

    def track(self, items, label, total):
        return iter(items)

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.mark.parametrize("of", ["macs", "parameters"])
@pytest.mark.parametrize("method", ["auto", "svd", "tucker"])
def test_the_network_shrinks_to_the_fraction_asked_for(model, of, method):
    keep = 0.8 if method == "tucker" and of == "parameters" else 0.6
    small = Factorize(keep, of, method, epochs=0).apply(model, task())
    count = {"macs": macs, "parameters": parameters}[of]
    assert 0.5 * keep < count(small) / count(model) <= keep
    assert small.teacher is model.module
    assert isinstance(small.module.norm, nn.BatchNorm2d)


def test_factors_follow_a_step_that_took_channels(model):
    narrow = PruneChannels(keep=0.6, of="parameters", epochs=0).apply(model, task())
    small = Factorize(0.8, "parameters", epochs=0).apply(narrow, task())
    assert parameters(small) < parameters(narrow) < parameters(model)


def test_the_output_stays_near_and_training_brings_it_nearer(model):
    inputs = torch.cat(list(task().calibrate()))

    def away(small: Model) -> float:
        with torch.no_grad():
            wanted = model.module(inputs)
            return float((small.module(inputs) - wanted).pow(2).mean() / wanted.var())

    step = Factorize(0.3, "macs", "svd", epochs=0, learning_rate=0.3)
    untrained = away(step.apply(model, task()))
    assert untrained < 0.2
    distilled = replace(task(), train=lambda: [(batch,) for batch in task().calibrate()], kind="regression")
    assert away(replace(step, epochs=10).apply(model, distilled)) < 0.9 * untrained


def test_without_calibration_inputs_weights_decide(model):
    small = Factorize(0.6, "macs", epochs=0).apply(model, replace(task(), calibrate=None))
    assert macs(small) <= 0.6 * macs(model)


def test_layers_that_are_not_measured_faster_are_left_alone_and_it_is_said(model):
    lines = Lines()
    with shown_by(lines):
        timed = replace(model, target=Slow(per_layer=12_000))
        small = Factorize(0.8, "latency", epochs=0).apply(timed, task())
    assert isinstance(small.module.wide, nn.Sequential)
    assert isinstance(small.module.point, nn.Conv2d)
    assert isinstance(small.module.deep, nn.Conv2d)
    assert any(line.startswith("point is left alone") for line in lines.said)
    assert any(line.startswith("wide: ") for line in lines.said)


def test_nothing_changes_where_no_layer_is_measured_faster(model):
    with pytest.raises(NothingChangedError, match="factors lower the latency of no layer"):
        Factorize(0.8, "latency", epochs=0).apply(replace(model, target=Slow(per_layer=1e9)), task())


def test_a_network_that_is_slower_though_its_layers_are_faster_is_refused_with_the_figure(model):
    with pytest.raises(NothingChangedError, match=r"the network has \d\.\d+ of its latency"):
        Factorize(0.8, "latency", epochs=0).apply(replace(model, target=Slow(changed=10.0)), task())


def test_a_fraction_out_of_reach_names_the_smallest(model):
    with pytest.raises(RecipeError, match=r"the smallest fraction of multiply-accumulates in reach is 0\.\d+"):
        Factorize(0.01, "macs", epochs=0).apply(model, task())


def test_a_network_without_dense_layers_has_nothing_to_factorize():
    model = Model(nn.Sequential(nn.Conv2d(4, 4, 3, groups=4)).eval(), (torch.randn(1, 4, 8, 8),))
    with pytest.raises(NothingChangedError, match="nothing to factorize"):
        Factorize(epochs=0).apply(model, task())
    assert not list(Factorize.options(model, find_device("host")))


def test_energy_chooses_ranks_without_a_fraction():
    """Two layers of low rank with a little noise: the rule finds it."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(60, 80), nn.ReLU(), nn.Linear(80, 50))
    for layer in (module[0], module[2]):
        rows, columns = layer.weight.shape
        weight = torch.randn(rows, 4) @ torch.randn(4, columns) + 0.05 * torch.randn(rows, columns)
        layer.weight.data = weight
    model = Model(module.eval(), (torch.randn(1, 60),))
    inputs = torch.randn(256, 60)
    ours = Task(train=list, calibrate=lambda: [inputs], score=lambda predict: 0.0, kind="regression")
    small = Factorize(0.9, "parameters", "svd", "energy", energy=0.99, epochs=0).apply(model, ours)
    assert [len(small.module[place][0].weight) for place in (0, 2)] == [4, 4]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 0.0}, "keep is 0.0"),
        ({"keep": 1.0}, "keep is 1.0"),
        ({"energy": 1.5}, "energy is 1.5"),
        ({"of": "size"}, "of is 'size'"),
        ({"method": "tt"}, "method is 'tt'"),
        ({"ranks": "guess"}, "ranks is 'guess'"),
        ({"multiple": 0}, "multiple is 0"),
        ({"epochs": -1}, "epochs is -1"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"method": "cp", "ranks": "energy"}, "cp has no matrix"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(RecipeError, match=message) as caught:
        Factorize(**settings)
    assert caught.value.mend


def test_settings_survive_toml():
    recipe = Recipe((Factorize(0.55, "macs", "spatial", multiple=8, epochs=0),))
    assert recipe_from_toml(recipe.to_toml(), {"factorize": Factorize}) == recipe


RELOAD = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_factorize import Net
from haversack.surgery.save import load
model = load(Net(), Path(sys.argv[2]), (torch.zeros(1, 2, 8, 8),))
torch.save(model.module(torch.load(Path(sys.argv[2]) / "inputs.pt")).detach(), Path(sys.argv[2]) / "outputs.pt")
"""


@pytest.mark.parametrize("method", ["svd", "spatial", "tucker", "cp"])
def test_factors_export_and_another_process_rebuilds_them(model, method, tmp_path):
    small = Factorize(0.8, "macs", method, epochs=0).apply(model, task())
    inputs = torch.randn(5, 2, 8, 8)
    with torch.no_grad():
        wanted = small.module(inputs)
    predict = host.load(ONNX.write(lower(small)))
    torch.testing.assert_close(predict(inputs), wanted, rtol=1e-4, atol=1e-4)
    if method == "cp":
        save(small, tmp_path)
        torch.save(inputs, tmp_path / "inputs.pt")
        folder = str(Path(__file__).parent)
        warm.run(RELOAD, folder, tmp_path)
        torch.testing.assert_close(torch.load(tmp_path / "outputs.pt"), wanted)
