"""A technique, a device and a family of networks are one file each, an operator of one number is five."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
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

# What each file gets for aten.abs, and the line that it goes behind. ONNX's writer has it already.
OPERATOR = {
    "graph/ops.py": (
        "    | _rows(_CURVE | Trait.KEEPS_SIGN, aten.hardswish.default)\n",
        "    | _rows(_CURVE | Trait.KEEPS_SIGN, aten.abs.default)\n",
    ),
    "integer/kinds.py": (
        "KINDS: Mapping[str, Kind] = MappingProxyType(\n    {\n",
        """        "ABS": Kind(
            (_DATA,), dtypes=(FLOAT, INT8), curve=Curve(np.abs, lambda before, behind: np.asarray(np.clip(np.round(
                np.abs(np.arange(-128, 128) - before[1]) * before[0] / behind[0]) + behind[1], -128, 127), np.int8)
            )
        ),
""",
    ),
    "integer/read/elementwise.py": (
        '    aten.hardswish.default: Rule(unary("HARD_SWISH"), (8,)),\n',
        '    aten.abs.default: Rule(unary("ABS"), (8,)),\n',
    ),
    "runtimes/tflite/schema.py": (
        '        "HARD_SWISH": Builtin(117, versions=(1, 1), releases="1.15.0"),\n',
        '        "ABS": Builtin(101, 78, versions=(1, 2), releases="1.13.0 2.4.0"),\n',
    ),
    "runtimes/onnx/operators/activations.py": ("TABLE: Table = {\n", '    "aten.abs": same("Abs"),\n'),
}
NETWORK = """
import numpy as np
import pytest
import torch
from torch import nn

from haversack.device import find_device
from haversack.graph.inference import inference, lower
from haversack.graph.ops import left_float, points
from haversack.graph.pairs import output_step
from haversack.integer.read import read
from haversack.integer.reference import run
from haversack.integer.shapes import check_shapes
from haversack.model import Model
from haversack.runtimes import agreement, host, rows
from haversack.task import Task
from haversack.techniques.quantize_static import QuantizeStatic


class Absolute(nn.Module):
    def forward(self, x):
        return x.abs()


def images(count):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(count)) * 2 - 1


def built():
    torch.manual_seed(0)
    head = (Absolute(), nn.Flatten(), nn.Linear(144, 5))
    model = Model(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), *head).eval(), (images(1),))
    return {"float32": model, "int8": QuantizeStatic(BITS, "int8").apply(model, TASK)}


TASK = Task(train=list, calibrate=lambda: [images(64)], score=lambda _: 0.0)
BITS = find_device("host").weight_bits
MODELS = built()


def test_it_is_folded_and_computed_on_integers():
    graph = inference(MODELS["int8"]).graph
    assert points(graph) == ("input_1", "conv2d", "abs_1", "linear") and not left_float(graph)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("runtime", ["onnx", "litert", "tflite-micro"])
def test_a_file_agrees_with_torch(runtime, name):
    row, lowered = next(row for row in rows() if row.name == runtime), lower(MODELS[name])
    if not row.is_installed:
        pytest.skip(row.install)
    orders = row.orders(lowered) if row.orders else None
    theirs = agreement.outputs(host.load(row.write(lowered), 1, runtime=runtime, orders=orders), [(images(20),)])
    gate = agreement.Gate(name == "int8", output_step(lowered))
    ours = agreement.outputs(agreement.in_torch(lowered), [(images(20),)])
    assert gate.lets(agreement.compare(ours, theirs, gate.step))


@pytest.mark.parametrize("name", MODELS)
def test_the_reference_agrees_with_torch(name):
    lowered = lower(MODELS[name])
    graph = read(lowered)
    check_shapes(graph)
    assert "ABS" in [operation.kind for operation in graph.operations]
    with torch.no_grad():
        wanted = lowered(images(20))
    (given,) = run(graph, [images(20).permute(graph.input_orders[0]).contiguous().numpy()])
    assert np.allclose(given, wanted, atol=1e-5 if name == "float32" else 2 * output_step(lowered))
"""


def copied(folder: Path) -> Path:
    """The folder, which holds the package as it is, and nothing else."""
    shutil.copytree(PACKAGE, folder / "haversack", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = slow\naddopts = -q -p no:cacheprovider\n", "utf-8")
    return folder


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


TESTS_OF = {
    "dampen_weights": ("techniques/test_contract.py", "test_settings.py", "test_recipe.py"),
    "another-board": ("test_device.py",),
    "three_convolutions": ("zoo/test_zoo.py", "zoo/test_rebuilt.py"),
}


@dataclass(frozen=True)
class Grown:
    """A copy of the package with a technique, a device and a family more, and the tests of these that passed in it."""

    folder: Path
    passed: str

    def holds(self, name: str) -> bool:
        """Whether each file with tests of `name` has some that passed; one that failed ended them all."""
        lines = self.passed.splitlines()
        return all(
            any(each.startswith(f"PASSED {Path(file).name}::") and name in each for each in lines)
            for file in TESTS_OF[name]
        )


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Grown:
    """All in one process: importing torch takes longer than the tests."""
    folder = copied(tmp_path_factory.mktemp("grown"))
    package = folder / "haversack"
    (package / "techniques" / "dampen_weights.py").write_text(TECHNIQUE, "utf-8")
    text = (package / "devices" / "raspberry-pi-5.toml").read_text("utf-8")
    (package / "devices" / "another-board.toml").write_text(
        text.replace('"raspberry-pi-5"', '"another-board"'), "utf-8"
    )
    (package / "zoo" / "three_convolutions.py").write_text(FAMILY, "utf-8")
    files = [shutil.copy(TESTS / file, folder) for several in TESTS_OF.values() for file in several]
    return Grown(folder, run(folder, "pytest", "-rp", "-k", " or ".join(TESTS_OF), "-m", "not slow", *files))


@pytest.mark.slow
def test_a_technique_is_one_file(grown):
    assert grown.holds("dampen_weights")


@pytest.mark.slow
def test_a_device_is_one_file(grown):
    assert "another-board" in run(grown.folder, "haversack", "devices", "list")
    assert "another-board" in run(grown.folder, "haversack", "devices", "show", "another-board")
    assert grown.holds("another-board")


@pytest.mark.slow
def test_a_family_of_networks_is_one_file(grown):
    assert grown.holds("three_convolutions")


@pytest.mark.slow
def test_an_operator_of_one_number_is_five_files(tmp_path):
    copied(tmp_path)
    assert len(OPERATOR) <= 5
    for name, (line, more) in OPERATOR.items():
        file = tmp_path / "haversack" / name
        text = file.read_text("utf-8")
        assert text.count(line) == 1
        assert ('"ABS"' in text or "aten.abs" in text) == (more in text)
        file.write_text(text if more in text else text.replace(line, line + more), "utf-8")
    (tmp_path / "test_absolute.py").write_text(NETWORK, "utf-8")
    assert " passed" in run(tmp_path, "pytest", "test_absolute.py")
