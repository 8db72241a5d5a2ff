"""A network of two outputs: both are learned, weighed, written, scored together and proved."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from haversack.calibration.currency import nats
from haversack.device import find_device
from haversack.errors import TaskError
from haversack.graph.inference import lower
from haversack.limits import Budget
from haversack.packing import Packed, Settings, apply, pack
from haversack.packing.check import checked_model
from haversack.proving.prove import Effort, prove
from haversack.recipe import Recipe
from haversack.runtimes import find_runtime
from haversack.task import Task, TaskFile, read_task_file
from haversack.techniques.distill import Distill
from haversack.training.teacher import distance

TASK = Path(__file__).parents[1] / "tasks" / "located_small.py"


@pytest.fixture(scope="module")
def file() -> TaskFile:
    return read_task_file(TASK)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("located") / "out"


@pytest.fixture(scope="module")
def packed(file: TaskFile, out: Path) -> Packed:
    settings = Settings(out=out, cache=out.parent / "cache", seconds=0.05, epochs=2)
    return pack(file.fresh_network(), file.task, find_device("host"), Budget(flash_bytes=9_500, max_drop=0.1), settings)


def test_it_is_packed_for_one_score_of_both(packed: Packed) -> None:
    measured = packed.artifact.measurement
    assert packed.baseline.flash_bytes.value > 20_000
    assert measured.flash_bytes.value <= 9_500
    assert measured.score is not None
    assert measured.score.value >= 0.9


def test_the_file_gives_both_outputs_near_the_original(packed: Packed, out: Path, file: TaskFile) -> None:
    inputs = file.task.calibration()[0][0]
    session = onnxruntime.InferenceSession((out / "model.onnx").read_bytes())
    assert [each.name for each in session.get_outputs()] == ["class", "place"]
    seen, place = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    wanted = file.fresh_network()(inputs)
    assert (torch.tensor(seen).argmax(1) == wanted["class"].argmax(1)).float().mean() > 0.9
    assert (torch.tensor(place) - wanted["place"]).square().mean() < 0.1 * wanted["place"].var()


def test_both_outputs_are_proved(packed: Packed, out: Path, file: TaskFile) -> None:
    proof = prove(out, file.fresh_network(), file.task, Effort(64))
    assert not proof.broken
    assert any(witness.score is not None for witness in proof.witnesses)


def test_a_file_whose_second_output_alone_is_off_breaks_its_promise(
    packed: Packed, out: Path, file: TaskFile, tmp_path: Path
) -> None:
    damaged = shutil.copytree(out, tmp_path / "out")
    other = copy.deepcopy(packed.model)
    with torch.no_grad():
        other.module.place.bias.add_(1.0)
    (damaged / "model.onnx").write_bytes(find_runtime(find_device("host")).write(lower(other)))
    broken = {witness.name: witness.broken for witness in prove(damaged, file.fresh_network(), file.task).broken}
    assert "is off by" in broken["ONNX Runtime"]


def test_training_moves_both_outputs_towards_their_targets(file: TaskFile) -> None:
    network, draw = file.fresh_network(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for head in (network.seen, network.place):
            head.weight.add_(0.3 * torch.randn(head.weight.shape, generator=draw))
    before = _losses(checked_model(network, file.task).module, file.task)
    step = Distill(epochs=12, distillation=0.0)
    trained = apply(Recipe((step,)), network, file.task, find_device("host"), Settings(seconds=0.05))
    after = _losses(trained.model.module, file.task)
    assert all(now < 0.9 * then for now, then in zip(after, before, strict=True))


@torch.no_grad()
def _losses(module: nn.Module, task: Task) -> tuple[float, float]:
    """Those of each output, over an epoch."""
    batches = [(module(inputs), target) for inputs, target in task.epoch()]
    seen = [F.cross_entropy(ours[0], target[0]) for ours, target in batches]
    place = [F.mse_loss(ours[1], target[1]) for ours, target in batches]
    return float(torch.stack(seen).mean()), float(torch.stack(place).mean())


def test_losses_of_several_outputs_are_the_sum_of_each_by_its_kind() -> None:
    draw = torch.Generator().manual_seed(0)
    ours, theirs = ((torch.randn(8, 4, generator=draw), torch.randn(8, 2, generator=draw)) for _ in range(2))
    both: tuple[str, ...] = ("classification", "regression")
    each = [nats(*pair, kind) for pair, kind in zip(zip(ours, theirs, strict=True), both, strict=True)]  # type: ignore[arg-type]
    assert nats(ours, theirs, both) == pytest.approx(sum(each))  # type: ignore[arg-type]
    far = [distance(a, b, None, kind, "kd", 2.0) for a, b, kind in zip(ours, theirs, both, strict=True)]  # type: ignore[arg-type]
    assert torch.allclose(distance(ours, theirs, None, both, "kd", 2.0), torch.stack(far).sum())  # type: ignore[arg-type]


def test_the_default_loss_reads_a_target_for_each_output(file: TaskFile) -> None:
    _, (classes, places) = next(iter(file.task.epoch()))
    seen, place = torch.randn(64, 4), torch.randn(64, 2)
    wanted = F.cross_entropy(seen, classes) + F.mse_loss(place, places)
    assert torch.allclose(file.task.error((seen, place), (classes, places)), wanted)
    with pytest.raises(TaskError, match=r"outputs \(64, 4\) of float32, \(64, 2\) of float32 and a target \(64,\)"):
        file.task.error((seen, place), classes)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": ("classification", "regression")}, "2 kinds for no named outputs"),
        ({"kind": ("classification",), "outputs": ("a", "b")}, "1 kinds for 2 named outputs"),
        ({"outputs": ("a",)}, "not several"),
        ({"outputs": ("a", "a")}, "not several"),
        ({"kind": ("classification", "ranking"), "outputs": ("a", "b")}, "kind is 'ranking'"),
    ],
)
def test_kinds_and_outputs_that_do_not_fit_are_refused(settings, said) -> None:
    with pytest.raises(TaskError, match=said):
        Task(list, None, lambda predict: 0.0, **settings)
