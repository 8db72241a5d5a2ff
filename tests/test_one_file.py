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

from typing import ClassVar

from torch import Tensor, nn

from haversack.zoo._parts import Shrunk, check_sizes, convolution, initialise, repeated, rounded, strides


class ThreeConvolutions(nn.Module):
    """As small as networks get."""

    dimensions: ClassVar[int] = 2

    def __init__(self, *, channels=3, outputs=10, width=1.0, depth=1.0, downsampling=4, shrink=1) -> None:
        super().__init__()
        check_sizes(channels=channels, outputs=outputs, width=width, depth=depth)
        wide = rounded(32 * width)
        self.shrink = Shrunk(shrink, least=downsampling)
        steps = [*strides((2, 2, 2, 2, 2), downsampling), *[1] * repeated(3, depth)]
        blocks = [convolution(wide if place else channels, wide, stride=step) for place, step in enumerate(steps)]
        self.blocks = nn.Sequential(*(nn.Sequential(block, nn.ReLU()) for block in blocks))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, outputs))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.shrink(x)))


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
