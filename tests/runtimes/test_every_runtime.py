"""What every runtime promises, whoever adds it; and that adding one is a new folder and nothing else."""

import ast
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from litert_files import images, network

from haversack.device import find_device
from haversack.errors import MeasureError
from haversack.graph.inference import lower
from haversack.graph.pairs import output_step
from haversack.model import Model
from haversack.runtimes import agreement, formats, host, rows
from haversack.runtimes.files import runtime_of
from haversack.task import Task
from haversack.techniques.quantize_static import QuantizeStatic
from haversack.techniques.quantize_weights import QuantizeWeights
from tests import house

STEPS = {
    "float16": lambda _: QuantizeWeights(16),
    "int16": lambda bits: QuantizeStatic(bits, "int16"),
    "int8": lambda bits: QuantizeStatic(bits, "int8"),
    "int4": lambda _: QuantizeStatic(4, "int8"),
}
"""How a network comes to numbers of each format, with weights of 8 bits or fewer; as it is, it is in float32."""
HELD = [(row, name) for row in rows() for name in sorted(row.number_formats)]
TASK = Task(train=list, calibrate=lambda: [images(64)], score=lambda _: 0.0)


def installed(row):
    if not row.is_installed:
        pytest.skip(f"{row.name} is not installed: {row.install}")


def lowered_in(name, weight_bits=8):
    model = Model(network(), (images(1),))
    return lower(STEPS[name](weight_bits).apply(model, TASK) if name in STEPS else model)


def test_names_and_files_are_told_apart_and_one_format_alone_needs_no_mark():
    for words in ([row.name for row in rows()], [row.title for row in rows()], [known.file for known in formats()]):
        assert len(words) == len(set(words))
    assert sum(not known.mark for known in formats()) == 1
    assert not any(known.worker == other.worker for known in formats() for other in formats() if known is not other)


@pytest.mark.parametrize(("row", "name"), HELD, ids=[f"{row.name}-{name}" for row, name in HELD])
def test_a_file_is_known_as_its_own_and_agrees_with_torch(row, name):
    installed(row)
    lowered = lowered_in(name, replace(find_device("host"), runtime=row.name).weight_bits)
    content = row.write(lowered)
    assert runtime_of(content) == row.first
    orders = row.orders(lowered) if row.orders else None
    found = agreement.outputs(host.load(content, 1, runtime=row.name, orders=orders), [(images(20),)])
    gate = agreement.Gate(name in ("int16", "int8", "int4"), output_step(lowered))
    parity = agreement.compare(agreement.outputs(agreement.in_torch(lowered), [(images(20),)]), found, gate.step)
    assert gate.lets(parity), parity


@pytest.mark.parametrize("known", formats(), ids=lambda known: known.kind)
def test_a_file_of_each_format_is_timed_and_weighed_or_it_is_said_why_not(known):
    row = next(row for row in rows() if row.format == known)
    installed(row)
    content = row.write(lowered_in("float32"))
    assert host.time_files([content], seconds=0.05)[0].latency_ms.runtime == row.name
    if known.opaque:
        with pytest.raises(MeasureError, match=r"(?s)not a device's.*choose another runtime"):
            host.contents(content, 1)
        return
    assert sum(host.contents(content, 1).operators.values()) >= 5
    assert runtime_of(known.empty()) == row


@pytest.mark.parametrize("known", formats(), ids=lambda known: known.kind)
def test_the_program_that_measures_holds_its_runtime_and_of_ours_only_the_turns(known):
    """The peak memory that it reports would hold all else too."""
    installed(next(row for row in rows() if row.format == known))
    code = (
        f"import runpy, sys; runpy.run_path({str(known.worker)!r}, run_name='worker'); print(*sys.modules, *sys.path)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert str(known.worker.parents[1]) not in loaded, (
        "our folders are called as packages are, and would be found first"
    )
    others = {package for row in rows() if row.format != known for package in row.packages}
    assert "turns" in loaded
    assert not loaded & ({"haversack", "safetensors", "rich"} | others)
    assert known.opaque or not loaded & {"torch", "onnx"}


NAMED = {
    "device": {"onnx", "litert", "tflite-micro", "c"},
    "integer.passes": {"LiteRT", "tflite-micro"},
    "techniques.quantize_weights": {"onnx"},
    "techniques.cluster_weights": {"onnx"},
}
"""The host, which is no TOML file; and on floors below the runtimes, what only some files say, or runtimes compute."""


def test_no_runtime_is_named_outside_its_folder():
    words = {word for row in rows() for word in (row.name, row.title, row.format.file)}
    for name in house.files():
        strings = (node.value for node in ast.walk(house.source(name)) if isinstance(node, ast.Constant))
        said = {text for text in strings if isinstance(text, str) and text in words}
        assert name.startswith("runtimes.") or said <= NAMED.get(name, set()), name


TASK_FILE = """
import torch
from torch import nn
from haversack import Task

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

inputs = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))

def task():
    return Task(train=list, calibrate=lambda: [inputs], score=lambda predict: predict(inputs).mean().item())
"""


COMMANDS = [
    ["pack", "--help"],
    ["bench", "--help"],
    ["pack", "task.py", "--runtime", "none"],
    ["apply", "recipe.toml", "task.py", "--runtime", "plain", "--seconds", "0.1"],
    ["prove", "out", "task.py", "--samples", "4", "--json"],
    ["bench", "out/model.json", "--seconds", "0.1"],
]
PROGRAM = """
import contextlib, io, json, sys
from haversack.cli import main
said = []
for words in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        main(words)
    said.append(out.getvalue())
print(json.dumps(said))
"""


def said_by(folder, commands):
    """What the package in `folder` prints for each command."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def contents_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*") if path.suffix != ".pyc"}


@pytest.mark.slow
def test_a_new_runtime_is_one_new_folder_and_nothing_else(tmp_path):
    """It is packed for, proved and timed like all others, and is named wherever they are."""
    package, folder = tmp_path / "haversack", tmp_path / "haversack" / "runtimes" / "plain"
    shutil.copytree(house.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(Path(__file__).parent / "plain", folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "task.py").write_text(TASK_FILE)
    (tmp_path / "recipe.toml").write_text('[[step]]\ntechnique = "quantize_weights"\nbits = 16\n')
    help_of_pack, help_of_bench, refused, packed, proved, measured = said_by(tmp_path, COMMANDS)
    assert "onnx, plain, litert" in help_of_pack
    assert "ONNX, .json or .tflite" in help_of_bench
    assert "choose a --runtime: onnx, plain, litert" in refused
    assert (tmp_path / "out" / "model.json").read_bytes().startswith(b'{"plain"'), packed
    (witness,) = (each for each in json.loads(proved)["witnesses"] if each["name"] == "Plain NumPy")
    assert witness["file"] == "model.json"
    assert witness["calibration"]["max_steps"] < 1e-5
    assert not witness["broken"]
    assert "Plain NumPy" in measured
    new = contents_of(package).items() ^ contents_of(house.PACKAGE).items()
    assert {package / path for path, _ in new} == set(folder.glob("*.py"))
