"""Which way the files lean. Read off the source, so that an import under TYPE_CHECKING or in a function counts too."""

import ast
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "haversack").rglob("*.py"))
LAYERS = (
    "errors",
    "coded",
    "disk fingerprint scratch quantity progress interrupt task untrusted zoo",
    "grid device",
    "model",
    "graph recipe",
    "finetune",
    "numerics",
    "techniques measurement proof",
    "plan artifact",
    "report",
    "door export update measure result workspace",
    "target student offers gauge parties",
    "examine",
    "packing prove blame",
    "__init__ cli",
    "__main__",
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names.split()}
HEAVY = {
    "onnxruntime": {"measure/worker.py"},
    "onnx": {
        "export/onnx/file.py",
        "export/onnx/graph.py",
        "export/onnx/writer.py",
        "export/onnx/fallback.py",
        "export/onnx/storage.py",
        "measure/onnx_file.py",
    },
    "onnxscript": {"export/onnx/fallback.py"},
    "flatbuffers": {"export/litert/tables.py", "measure/litert_file.py"},
    "tflite": set(),
    "ai_edge_litert": {"measure/worker_litert.py", "measure/litert_file.py"},
    "tflite_micro": {"measure/micro_file.py"},
    "executorch": {"export/executorch.py", "measure/worker_executorch.py"},
    "openvino": {"measure/openvino_file.py"},
    "psutil": {"device.py", "measure/turns.py"},
    "rich": {"report/bars.py", "report/tables.py"},
    "typer": {
        f"cli/{name}.py" for name in ("__init__", "coding", "looking", "options", "packing", "proving", "running")
    },
    "safetensors": {"graph/surgery.py", "finetune/tensor_file.py"},
    "accelerate": {"finetune/processes.py"},
    "sklearn": set(),
    "scipy": set(),
    "tensorly": set(),
    "PIL": set(),
    "pickle": set(),
}


def name(path: Path) -> str:
    return path.relative_to(ROOT / "haversack").as_posix()


@cache
def imports(path: Path) -> tuple[str, ...]:
    """The modules that a file imports, however deep inside it."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}: a relative import"
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names if node.module.startswith("haversack"))


def ours(path: Path) -> Iterator[tuple[str, ...]]:
    """Our own modules among them, in parts: ("graph", "trace"); names within modules do not count."""
    for each in imports(path):
        parts = tuple(each.split("."))[1:]
        place = ROOT.joinpath("haversack", *parts)
        if each.startswith("haversack.") and (place.is_dir() or place.with_suffix(".py").is_file()):
            yield parts


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_go_down(path):
    home = name(path).removesuffix(".py").split("/")[0]
    for parts in ours(path):
        down = RANK[parts[0]] < RANK[home]
        within = parts[0] == home or (RANK[home] == RANK[parts[0]] == RANK["task"])
        assert down or within or home == "__init__", f"{name(path)} imports {'.'.join(parts)}"


@pytest.mark.parametrize("folder", ["techniques", "export", "update"])
def test_siblings_do_not_import_each_other(folder):
    for path in FILES:
        below = name(path).removesuffix(".py").split("/")
        if below[0] == folder and below[1] != "__init__":
            others = {parts[1] for parts in ours(path) if parts[0] == folder and len(parts) > 1}
            assert others <= {below[1]}, name(path)


def test_plans_are_handed_what_they_use():
    for path in FILES:
        if name(path).startswith("plan/"):
            assert not {parts[0] for parts in ours(path)} & {"techniques", "export", "measure"}, name(path)


def test_writers_do_not_know_the_techniques():
    users = {name(path) for path in FILES if any(parts[0] == "techniques" for parts in ours(path))}
    assert {each for each in users if not each.startswith("techniques/")} <= {
        "packing.py",
        "offers.py",
        "student.py",
        "cli/looking.py",
    }


@pytest.mark.parametrize("package", sorted(HEAVY))
def test_a_heavy_package_is_imported_only_where_it_is_needed(package):
    users = {name(path) for path in FILES if any(each.split(".")[0] == package for each in imports(path))}
    assert users <= HEAVY[package]


@pytest.mark.parametrize("word", ["utils", "common", "helpers", "manager", "base"])
def test_no_file_is_named_after_nothing(word):
    assert not [path for path in FILES if word in path.relative_to(ROOT).parts or path.stem == word]


def python(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
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
    "haversack.untrusted",
]
UNWANTED = {"torch", "onnx", "onnxruntime", "numpy", "safetensors"}


@pytest.mark.parametrize("module", LIGHT)
def test_what_is_needed_at_once_imports_nothing_heavy(module):
    loaded = set(python(f"import sys, {module}; print(*sys.modules)").split())
    assert not loaded & UNWANTED


@pytest.mark.parametrize("program", ["worker", "worker_litert"])
def test_the_measuring_process_holds_neither_torch_nor_onnx_nor_us(program):
    """The peak memory that it reports would hold them too."""
    if program == "worker_litert":
        pytest.importorskip("ai_edge_litert", reason="the extra `litert` is not installed")
    worker = ROOT / "haversack" / "measure" / f"{program}.py"
    code = f"import runpy, sys; runpy.run_path({str(worker)!r}, run_name='worker'); print(*sys.modules)"
    assert not set(python(code).split()) & {"torch", "onnx", "haversack", "safetensors", "rich"}


def test_every_public_name_is_found_when_it_is_asked_for():
    import haversack

    assert all(getattr(haversack, each) is not None for each in haversack.__all__)
    with pytest.raises(AttributeError, match="no attribute 'packs'"):
        haversack.packs  # noqa: B018


def test_help_comes_quickly():
    def seconds() -> float:
        """Of the processor, whatever else runs."""
        begin = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "pack" in python("from haversack.cli import main; main()", "--help")
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        return end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime

    assert statistics.median(seconds() for _ in range(5)) < 0.4
