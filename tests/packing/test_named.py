"""A network that takes its inputs by name and returns a dataclass, packed as it is."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch

import haversack
from haversack.device import find_device
from haversack.packing import Packed, Settings, apply
from haversack.proving.prove import Effort, prove
from haversack.recipe import Recipe
from haversack.task import TaskFile, read_task_file
from haversack.techniques.distill import Distill
from haversack.techniques.quantize_static import QuantizeStatic

TASK = Path(__file__).parents[1] / "tasks" / "named_small.py"
RECIPE = Recipe((Distill(epochs=1, learning_rate=1e-3), QuantizeStatic(find_device("host").weight_bits)))


@pytest.fixture(scope="module")
def file() -> TaskFile:
    return read_task_file(TASK)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("named") / "out"


@pytest.fixture(scope="module")
def packed(file: TaskFile, out: Path) -> Packed:
    settings = Settings(out=out, cache=out.parent / "cache", seconds=0.05)
    return apply(RECIPE, file.fresh_network(), file.task, find_device("host"), settings)


def test_it_scores_as_the_network_does(packed: Packed) -> None:
    assert packed.baseline.score is not None
    assert packed.baseline.score.value == 1.0
    assert packed.artifact.measurement.score is not None
    assert packed.artifact.measurement.score.value > 0.9


def test_the_file_has_the_names_of_its_inputs(packed: Packed, out: Path, file: TaskFile) -> None:
    session = onnxruntime.InferenceSession((out / "model.onnx").read_bytes())
    assert {each.name for each in session.get_inputs()} == {"tokens", "mask"}
    batch = file.task.calibrate()[0]  # type: ignore[index, misc]
    found = session.run(None, {name: value.numpy() for name, value in batch.items()})[0]
    wanted = file.fresh_network()(**batch).logits
    assert (torch.tensor(found).argmax(1) == wanted.argmax(1)).float().mean() > 0.9


def test_the_network_reloads_as_the_user_knows_it(packed: Packed, out: Path, file: TaskFile) -> None:
    batch = file.task.calibrate()[0]  # type: ignore[index, misc]
    module = haversack.load(out, file.fresh_network())
    names = dict(zip(("mask", "tokens"), (batch["mask"], batch["tokens"]), strict=True))
    assert torch.equal(module(**batch).logits, packed.model.module(*names.values()))


def test_it_is_proved_from_the_result(packed: Packed, out: Path, file: TaskFile) -> None:
    proof = prove(out, file.fresh_network(), file.task, Effort(64))
    assert not proof.broken
    assert proof.witnesses
