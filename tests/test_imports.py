"""Which way the files lean, and what is imported where. `tests/house.py` reads it off the source."""

import ast
import os
import resource
import statistics
import subprocess
import sys

import pytest

from tests import house
from tests.results import written_result

HEAVY = {
    "onnxruntime": {"runtimes.onnx.worker"},
    "onnx": {f"runtimes.onnx.{name}" for name in ("file", "graph", "run", "storage", "write")},
    "onnxscript": {"runtimes.onnx.write"},
    "flatbuffers": {"runtimes.tflite.run", "runtimes.tflite.write"},
    "tflite": set(),
    "ai_edge_litert": {"runtimes.tflite.run", "runtimes.tflite.worker"},
    "tflite_micro": {"runtimes.tflite.micro"},
    "executorch": {"runtimes.executorch.worker", "runtimes.executorch.write"},
    "openvino": {"runtimes.onnx.openvino"},
    "psutil": {"device", "runtimes.turns"},
    "rich": {"cli.terminal", "report.blocks"},
    "typer": {"cli", "cli.commands", "cli.options", "cli.packing", "cli.terminal", "cli.updating"},
    "safetensors": {"surgery.save", "training.tensor_file"},
    "accelerate": {"training.machine"},
    "sklearn": set(),
    "scipy": set(),
    "tensorly": set(),
    "PIL": set(),
    "cbor2": {"update.rules.cbor"},
    "cryptography": {"update.rules.signing"},
    "pickle": {"graph.structure"},
}


def importing(*rooms: str) -> set[str]:
    """The files that import anything of these rooms."""
    return {name for name, others in house.imports().items() if any(each.split(".")[0] in rooms for each in others)}


def test_imports_go_down():
    assert not house.upward()


def test_no_imports_run_in_a_circle():
    assert not house.circles()


@pytest.mark.parametrize("room", ["techniques", "update"])
def test_siblings_do_not_import_each_other(room):
    """What two of them need stands beside them, in a file whose name begins with an underscore, or in `rules`."""
    for name, others in house.imports().items():
        if name.startswith(f"{room}."):
            siblings = {each.split(".")[1] for each in others if each.startswith(f"{room}.")}
            assert all(each in (name.split(".")[1], "rules") or each.startswith("_") for each in siblings), name


def test_runtimes_do_not_import_each_other():
    folders = {path.name for path in (house.PACKAGE / "runtimes").iterdir() if path.is_dir()}
    for name, others in house.imports().items():
        if name.startswith("runtimes.") and name.split(".")[1] in folders:
            there = {each.split(".")[1] for each in others if each.startswith("runtimes.")}
            assert there & folders <= {name.split(".")[1]}, name


def test_the_rules_of_updates_know_bytes_only():
    outside = {"io", "os", "pathlib", "shutil", "socket", "tempfile", "time", "datetime", "urllib", "torch"}
    for name in (each for each in house.files() if each.startswith("update.rules")):
        modules = set(house.imported(house.files()[name]))
        assert not {each.split(".")[0] for each in modules} & outside, name
        assert {each.split(".")[1] for each in modules if each.startswith("haversack.")} <= {
            "coded",
            "errors",
            "update",
        }, name
        calls = {
            node.func.id
            for node in ast.walk(house.source(name))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert "open" not in calls, name


def test_plans_are_handed_what_they_use():
    assert not [name for name in importing("techniques", "runtimes") if name.startswith("plan")]


def test_writers_do_not_know_the_techniques():
    users = {name for name in importing("techniques") if not name.startswith("techniques")}
    assert users <= {"packing", "packing.candidates", "packing.frontier", "packing.spaces", "packing.student"}


@pytest.mark.parametrize("package", sorted(HEAVY))
def test_a_heavy_package_is_imported_only_where_it_is_needed(package):
    users = {
        name
        for name, path in house.files().items()
        if any(each.split(".")[0] == package for each in house.imported(path))
    }
    assert users <= HEAVY[package]


def test_what_pickle_writes_is_compared_and_never_read():
    used = {node.attr for node in ast.walk(house.source("graph.structure")) if isinstance(node, ast.Attribute)}
    assert used.isdisjoint({"load", "loads", "Unpickler"})


@pytest.mark.parametrize("word", ["utils", "common", "helpers", "manager", "base"])
def test_no_file_is_named_after_nothing(word):
    assert not [name for name in house.files() if word in name.split(".")]


def python(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        cwd=house.ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


LIGHT = [
    "haversack",
    "haversack.cli",
    "haversack.device",
    "haversack.errors",
    "haversack.quantity",
    "haversack.measurement",
    "haversack.runtimes",
    "haversack.untrusted",
]
UNWANTED = {"torch", "onnx", "onnxruntime", "numpy", "safetensors"}


@pytest.mark.parametrize("module", LIGHT)
def test_what_is_needed_at_once_imports_nothing_heavy(module):
    loaded = set(python(f"import sys, {module}; print(*sys.modules)").split())
    assert not loaded & UNWANTED


UPDATED = """
import sys
from haversack.update.rules import bundle, cbor, recipient, signing
assert bundle.header_of and not set(sys.argv[1:]) & set(sys.modules)
from haversack.update import publish
print(*sys.modules)
"""


def test_an_update_is_verified_without_numpy_and_decoded_without_torch_or_a_runtime():
    loaded = set(python(UPDATED, *UNWANTED).split())
    assert not loaded & (UNWANTED - {"numpy"})


READ = """
import sys
from pathlib import Path
from haversack.placing import anew, replace_file
from haversack.result import Result

result = Result(Path(sys.argv[1]))
assert result.techniques and result.recipe and result.report and result.measured and result.weights.tensors
assert len(result.files) == 6
replace_file(result.folder, "model.hsk", result.weights.content)
with anew(result.folder) as fresh:
    (fresh / "report.txt").write_text(result.report)
assert [each.name for each in Result(result.folder).files] == ["report.txt"]
print(*sys.modules)
"""


def test_a_result_is_read_and_exchanged_without_torch_and_without_a_runtime(tmp_path):
    loaded = set(python(READ, str(written_result(tmp_path))).split())
    assert not loaded & (UNWANTED - {"numpy"})


def test_every_public_name_is_found_when_it_is_asked_for():
    import haversack

    assert all(getattr(haversack, each) is not None for each in haversack.__all__)
    with pytest.raises(AttributeError, match="no attribute 'packs'"):
        haversack.packs  # noqa: B018


def test_help_comes_quickly():
    def seconds(*command: str) -> float:
        """Of the processor."""
        begin = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "pack" in python(*command)
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        return end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime

    # Held against what its library alone takes, in alternation: processors differ, and so do their busy hours.
    ours = "from haversack.cli import main; main()", "--help"
    turns = [(seconds(*ours), seconds("import typer.main, typer.rich_utils; print('pack')")) for _ in range(5)]
    assert statistics.median(taken / library for taken, library in turns) < 1.6
