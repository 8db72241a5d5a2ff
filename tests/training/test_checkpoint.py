"""Checkpoints: a training that was killed goes on from the very batch, and ends with the same weights to the bit."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_digits import Told, accuracy, broken, digits, digits_task, model, same, trained
from torch import nn

from haversack.progress import shown_by
from haversack.task import Task
from haversack.training import Training, checkpoints_in, finetune
from haversack.training.tensor_file import read_tensors, write_tensors
from tests import warm


class KilledError(Exception):
    """The training's end, before its time."""


def noisy():
    """Batches in random order, each with noise that is drawn when it is asked for."""
    images, labels = digits()
    for some in torch.randperm(1300).split(64):
        yield images[some] + 0.1 * torch.randn(len(some), 1, 8, 8), labels[some]


def dropping() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(288, 10))
    return nn.Sequential(*layers)


class Fatal(Told):
    """A listener that ends the training at a step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._step, self.seen = step, 0

    def track(self, items, label, total):
        for item in items:
            if self.seen == self._step:
                raise KilledError
            self.seen += 1
            yield item


def killed_at(step: int, start, task: Task, training: Training, folder: Path) -> None:
    """Trains up to a step, a checkpoint after each."""
    with checkpoints_in(folder, seconds=0), shown_by(Fatal(step)), pytest.raises(KilledError):
        finetune(start, task, training)


def resumed(start, task: Task, training: Training, folder: Path) -> tuple[nn.Module, int]:
    """What comes out when the training is repeated, and how many steps that took."""
    counted = Fatal(-1)
    with checkpoints_in(folder, seconds=0), shown_by(counted):
        return finetune(start, task, training), counted.seen


def epochs_of_21(**settings) -> Training:
    return Training(epochs=3, seed=4, **settings)


@pytest.mark.parametrize("step", [1, 20, 21, 22, 47, 62])
@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": 0.05},
        {"optimizer": "adam", "learning_rate": 0.01},
    ],
    ids=["sgd", "adam"],
)
def test_a_training_goes_on_from_the_batch_where_it_was_killed_and_ends_the_same(tmp_path, step, settings):
    start, task, training = model(dropping(), trained()), digits_task(noisy), epochs_of_21(**settings)
    whole = finetune(start, task, training)
    killed_at(step, start, task, training, tmp_path / "states")
    after, steps = resumed(start, task, training, tmp_path / "states")
    assert same(whole, after)
    assert steps == 63 - step
    assert not (tmp_path / "states").exists()


def test_a_training_that_is_killed_twice_ends_the_same(tmp_path):
    start, task, training = model(dropping()), digits_task(noisy), epochs_of_21()
    killed_at(10, start, task, training, tmp_path)
    killed_at(20, start, task, training, tmp_path)
    after, steps = resumed(start, task, training, tmp_path)
    assert steps == 33
    assert same(after, finetune(start, task, training))


@pytest.mark.parametrize(
    "change",
    [
        lambda start, training: (start, replace(training, learning_rate=0.04)),
        lambda start, training: (model(broken()), training),
        lambda start, training: (replace(start, teacher=broken()), training),
    ],
    ids=["another rate", "other weights", "another teacher"],
)
def test_another_training_does_not_take_the_checkpoint_for_its_own(tmp_path, change):
    start, training = model(trained(), trained()), epochs_of_21()
    killed_at(10, start, digits_task(), training, tmp_path)
    start, training = change(start, training)
    after, steps = resumed(start, digits_task(), training, tmp_path)
    assert steps == 63
    assert same(after, finetune(start, digits_task(), training))


@pytest.mark.parametrize("damage", [lambda old: old[:-9], lambda old: b"", lambda old: old[:-1] + bytes([old[-1] ^ 1])])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage):
    start, training = model(broken()), epochs_of_21()
    killed_at(10, start, digits_task(), training, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    after, steps = resumed(start, digits_task(), training, tmp_path)
    assert steps == 63
    assert same(after, finetune(start, digits_task(), training))


def test_a_file_of_tensors_that_leads_elsewhere_is_neither_read_nor_written_through(tmp_path):
    path, elsewhere = tmp_path / "a.training", tmp_path / "elsewhere"
    path.symlink_to("/dev/zero")
    assert read_tensors(path) is None
    elsewhere.write_text("mine")
    (tmp_path / f".a.training.{os.getpid()}").symlink_to(elsewhere)
    write_tensors(path, {"x": torch.ones(2)}, "it")
    assert read_tensors(path)["x"].tolist() == [1, 1]
    assert not path.is_symlink()
    assert elsewhere.read_text() == "mine"


def test_trainings_that_nobody_comes_back_to_leave_few_files(tmp_path):
    for seed in range(9):
        killed_at(2, model(broken()), digits_task(), Training(seed=seed), tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_checkpoints_come_no_more_often_than_they_were_asked_for(tmp_path):
    with checkpoints_in(tmp_path, seconds=1000), shown_by(Fatal(10)), pytest.raises(KilledError):
        finetune(model(broken()), digits_task(), Training())
    assert not list(tmp_path.iterdir())


def test_masks_are_not_written_down_so_their_training_starts_anew(tmp_path):
    with checkpoints_in(tmp_path, seconds=0), shown_by(Fatal(10)), pytest.raises(KilledError):
        finetune(model(broken()), digits_task(), Training(), lambda weights, share: {})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_ends_no_training(tmp_path):
    (tmp_path / "file").touch()
    told = Told()
    with checkpoints_in(tmp_path / "file" / "folder", seconds=0), shown_by(told):
        after = finetune(model(broken()), digits_task(), Training())
    assert "cannot be written" in told.lines[0]
    assert accuracy(after) > 0.9


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_checkpoint import digits_task, dropping, epochs_of_21, model, noisy, trained
from haversack.training import checkpoints_in, finetune
start = model(dropping(), trained())
with checkpoints_in(Path({folder!r}), seconds=0.05):
    finetune(start, digits_task(noisy), epochs_of_21())
"""


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_what_another_goes_on_from(tmp_path):
    folder, tests = tmp_path / "states", str(Path(__file__).parent)
    child = warm.Program(CHILD.format(tests=tests, folder=str(folder)))
    deadline = time.monotonic() + 120
    while not list(folder.glob("*.training")) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    start, task, training = model(dropping(), trained()), digits_task(noisy), epochs_of_21()
    after, steps = resumed(start, task, training, folder)
    assert steps < 63
    assert same(after, finetune(start, task, training))
