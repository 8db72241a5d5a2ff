"""Convolutions give way to cheaper blocks where those pay, and stay elsewhere."""

from dataclasses import dataclass, replace

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.device import find_device
from haversack.errors import NothingChangedError, RecipeError, TaskError
from haversack.graph.cost import cost
from haversack.graph.inference import lower
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.progress import shown_by
from haversack.runtimes.onnx import ONNX
from haversack.surgery.save import load, save
from haversack.task import Task
from haversack.techniques.prune_channels import PruneChannels
from haversack.techniques.replace_blocks import ReplaceBlocks


class Net(nn.Module):
    """Two ordinary convolutions, one of them with a stride, a depthwise one, a 1 x 1 and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(4, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        self.wide, self.deep = nn.Conv2d(24, 32, 3, 2, 1), nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.point, self.head = nn.Conv2d(32, 16, 1), nn.Linear(16 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.deep(F.relu(self.wide(F.relu(self.norm(self.stem(x)))))))
        return self.head(self.point(x).flatten(1))


IMAGES = torch.randn(96, 4, 8, 8, generator=torch.Generator().manual_seed(0)).cumsum(2).cumsum(3) / 4
LABELS = (IMAGES.mean((1, 2, 3)) > 0).long() + 2 * (IMAGES[:, 0, 0, 0] > 0).long()
TASK = Task(
    train=lambda: list(zip(IMAGES.split(32), LABELS.split(32), strict=True)),
    calibrate=lambda: list(IMAGES.split(32)),
    score=lambda predict: float((predict(IMAGES).argmax(1) == LABELS).float().mean()),
)
BARE = ReplaceBlocks(0.5, "macs", passes=0, epochs=0)


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    module = Net()
    with torch.no_grad():
        module(IMAGES)
    return Model(module.eval(), (IMAGES[:1],))


def macs(model: Model) -> int:
    return cost(trace(model.module, model.example)).macs


def away(small: Model, model: Model) -> float:
    with torch.no_grad():
        wanted = model.module(IMAGES)
        return float((small.module(IMAGES) - wanted).square().mean() / wanted.var())


@dataclass(frozen=True)
class Slow:
    """A target on which a network takes as long as it multiplies; what has groups, `grouped` times as long."""

    grouped: float

    def latencies_ms(self, models):
        return [self._one(each) for each in models]

    def flash_bytes(self, model):
        return sum(4 * each.numel() for each in model.module.parameters())

    def _one(self, model: Model) -> float:
        taken: list[float] = []

        def count(layer: nn.Module, _: object, output: Tensor) -> None:
            times = self.grouped if getattr(layer, "groups", 1) > 1 else 1
            taken.append(times * layer.weight.numel() * output.numel() / layer.weight.shape[0])

        layers = [each for each in model.module.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
        handles = [each.register_forward_hook(count) for each in layers]
        model.module(*model.example)
        for handle in handles:
            handle.remove()
        return sum(taken)


class Lines:
    def __init__(self) -> None:
        self.said: list[str] = []

    def track(self, items, label, total):
        return iter(items)

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.mark.parametrize("block", ["best", "separable", "grouped", "shuffle"])
def test_the_network_shrinks_to_the_fraction_asked_for_and_stays_near(model, block):
    small = replace(BARE, block=block).apply(model, TASK)
    assert 0.4 < macs(small) / macs(model) <= 0.5
    assert away(small, model) < 0.1
    assert small.teacher is model.module
    assert [type(each) for each in (small.module.deep, small.module.point)] == [nn.Conv2d, nn.Conv2d]
    assert isinstance(small.module.wide, nn.Sequential)


def test_blocks_follow_a_step_that_took_channels(model):
    narrow = PruneChannels(keep=0.5, of="macs", epochs=0).apply(model, TASK)
    small = ReplaceBlocks(0.8, "macs", epochs=0, passes=1).apply(narrow, TASK)
    assert macs(small) < macs(narrow) < macs(model)


def test_imitation_brings_the_outputs_nearer(model):
    step = replace(BARE, keep=0.3)
    untrained = away(step.apply(model, TASK), model)
    assert away(replace(step, passes=20).apply(model, TASK), model) < 0.95 * untrained


def test_training_changes_the_blocks_and_leaves_them_apart(model):
    small, trained = (replace(BARE, epochs=epochs).apply(model, TASK) for epochs in (0, 2))
    assert trained.edits == small.edits
    assert type(trained.module.wide) is nn.Sequential
    assert not torch.equal(trained.module.wide[0].weight, small.module.wide[0].weight)
    assert TASK.score(trained.module) >= TASK.score(model.module)


def test_blocks_that_are_not_measured_faster_are_left_alone_and_it_is_said(model):
    lines = Lines()
    with shown_by(lines):
        timed = replace(model, target=Slow(grouped=1.0))
        small = replace(BARE, of="latency").apply(timed, TASK)
        assert timed.target.latencies_ms([small])[0] <= 0.51 * timed.target.latencies_ms([timed])[0]
        with pytest.raises(NothingChangedError, match="blocks lower the latency of no layer"):
            replace(BARE, of="latency").apply(replace(model, target=Slow(grouped=50.0)), TASK)
    assert any(line.startswith("wide is left alone") for line in lines.said)


def test_a_line_of_samples_gets_blocks_too():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv1d(6, 16, 9, padding=4), nn.ReLU(), nn.Conv1d(16, 16, 9, stride=2), nn.ReLU()).eval()
    x = torch.randn(64, 6, 40).cumsum(2)
    signals = Task(train=list, calibrate=lambda: [x], score=lambda _: 0.0)
    small = BARE.apply(Model(module, (x[:1],)), signals)
    assert small.module[2][0].groups > 1
    with torch.no_grad():
        assert float((small.module(x) - module(x)).square().mean()) < 0.1 * float(module(x).var())


@pytest.mark.parametrize("block", ["separable", "shuffle"])
def test_a_saved_network_loads_and_its_file_gives_the_same_outputs(model, block, tmp_path):
    small = replace(BARE, block=block).apply(model, TASK)
    save(small, tmp_path)
    again = load(Net(), tmp_path, model.example)
    session = onnxruntime.InferenceSession(ONNX.write(lower(small)))
    with torch.no_grad():
        wanted = small.module(*model.example)
        assert torch.equal(again.module(*model.example), wanted)
    found = session.run(None, {session.get_inputs()[0].name: model.example[0].numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), wanted, atol=1e-4, rtol=1e-3)


def test_a_fraction_out_of_reach_names_the_smallest(model):
    with pytest.raises(RecipeError, match=r"the smallest fraction of multiply-accumulates in reach is 0\.\d+"):
        replace(BARE, keep=0.01).apply(model, TASK)


def test_a_network_without_ordinary_convolutions_is_refused():
    module = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, groups=8)).eval()
    with pytest.raises(NothingChangedError, match="no ordinary convolution"):
        BARE.apply(Model(module, (IMAGES[:1],)), TASK)


def test_without_calibration_inputs_it_is_refused(model):
    with pytest.raises(TaskError, match="no calibration inputs"):
        BARE.apply(model, replace(TASK, calibrate=None))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"keep": 1.0}, "keep is 1"),
        ({"keep": float("nan")}, "keep is nan"),
        ({"of": "watts"}, "of is 'watts'"),
        ({"block": "square"}, "block is 'square'"),
        ({"passes": -1}, "passes is -1"),
        ({"epochs": -1}, "epochs is -1"),
    ],
)
def test_settings_that_mean_nothing_are_refused_by_name(wrong, message):
    with pytest.raises(RecipeError, match=message):
        ReplaceBlocks(**wrong)


def test_every_option_is_in_reach(model):
    options = list(ReplaceBlocks.options(model, find_device("host")))
    assert {step.of for step in options} == {"latency", "parameters"}
    for of in ("latency", "parameters"):
        hardest = min((step for step in options if step.of == of), key=lambda step: step.keep)
        small = replace(hardest, passes=0, epochs=0).apply(model, TASK)
        assert away(small, model) < 0.5
