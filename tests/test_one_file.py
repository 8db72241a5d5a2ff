"""A technique, a device and a family of networks are one file each: what is there finds it and tests it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import haversack

PACKAGE, TESTS = Path(haversack.__file__).parent, Path(__file__).parent
TECHNIQUE = '''
"""Every weight a little smaller."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from haversack.device import Device
from haversack.model import Model
from haversack.recipe import Stage, Step
from haversack.settings import Fraction, checked
from haversack.task import Task


@dataclass(frozen=True)
class DampenWeights(Step):
    """The network with a `share` of all its weights taken off."""

    share: Fraction = 0.1

    stage: ClassVar[Stage] = Stage.RECOVER
    strength: ClassVar[str] = "share"

    def __post_init__(self) -> None:
        checked(self)

    def apply(self, model: Model, task: Task) -> Model:
        module = copy.deepcopy(model.module)
        with torch.no_grad():
            for weight in module.parameters():
                weight.mul_(1 - self.share)
        return model.with_module(module)

    @classmethod
    def options(cls, model: Model, device: Device) -> Iterable[Self]:
        yield from (cls(share) for share in (0.05, 0.1))
'''
FAMILY = '''
"""Three convolutions."""

from __future__ import annotations

from typing import Unpack

from torch import nn

from haversack.zoo._parts import Asked, Compact, Sizes, convolution, staged

_STAGES = ((32, 1, 2, 3), (32, 1, 2, 3), (32, 1, 2, 3), (32, 1, 2, 3), (32, 3, 1, 3))


class ThreeConvolutions(Compact):
    """As small as networks get."""

    def __init__(self, **asked: Unpack[Asked]) -> None:
        sizes = Sizes(**asked)
        first, rows = sizes.strided(2, _STAGES)
        wide = sizes.wide(32)
        stem = convolution(sizes.channels, wide, stride=first).append(nn.ReLU())
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, sizes.outputs))
        super().__init__(sizes, stem=stem, blocks=nn.Sequential(*staged(rows, Rectified, wide, sizes)), head=head)


class Rectified(nn.Sequential):
    """A convolution and a rectifier."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__(convolution(inputs, outputs, kernel, stride), nn.ReLU())


FAMILY = ThreeConvolutions
'''


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A folder that holds the package as it is, and nothing else."""
    shutil.copytree(PACKAGE, tmp_path / "haversack", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\naddopts = -q -p no:cacheprovider\n", "utf-8")
    return tmp_path


def run(folder: Path, *words: str) -> str:
    """What a command says that runs with the package in this folder."""
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def hold(folder: Path, name: str, *files: str) -> None:
    """Runs the tests of `name` in these files, each of which has some."""
    for file in files:
        shutil.copy(TESTS / file, folder)
        assert " passed" in run(folder, "pytest", "-k", name, "-m", "not slow", Path(file).name)


@pytest.mark.slow
def test_a_technique_is_one_file(copied):
    (copied / "haversack" / "techniques" / "dampen_weights.py").write_text(TECHNIQUE, "utf-8")
    hold(copied, "dampen_weights", "techniques/test_contract.py", "test_settings.py", "test_recipe.py")


@pytest.mark.slow
def test_a_device_is_one_file(copied):
    folder = copied / "haversack" / "devices"
    text = (folder / "raspberry-pi-5.toml").read_text("utf-8")
    (folder / "another-board.toml").write_text(text.replace('"raspberry-pi-5"', '"another-board"'), "utf-8")
    assert "another-board" in run(copied, "haversack", "devices", "list")
    assert "another-board" in run(copied, "haversack", "devices", "show", "another-board")
    hold(copied, "another-board", "test_device.py")


@pytest.mark.slow
def test_a_family_of_networks_is_one_file(copied):
    (copied / "haversack" / "zoo" / "three_convolutions.py").write_text(FAMILY, "utf-8")
    hold(copied, "three_convolutions", "zoo/test_zoo.py", "zoo/test_rebuilt.py")
