"""Packages of a network's C: as Arduino, Zephyr and ESP-IDF say they have to be, and their examples built and run.

What each system does with a package is done here by `systems/`, in that system's own words.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import integer_graphs
import numpy as np
import pytest
import yaml
from c_warnings import OF_C, OF_CPP

from haversack.errors import ExportError, MeasureError, WorkspaceError
from haversack.integer import IntegerGraph
from haversack.integer.reference import run
from haversack.proving.leave import Left
from haversack.runtimes.c_source.packages import PACKAGINGS, packaged, require_package
from haversack.runtimes.c_source.write import CModel, write

SYSTEMS = Path(__file__).parent / "systems"
NAME = "key-words_2"
SEMVER = r"\d+\.\d+\.\d+"


def words_and_image() -> IntegerGraph:
    """A network of two inputs, one of which is whole numbers, and two outputs."""
    draft = integer_graphs.Draft((1, 4))
    table = draft.constant(np.arange(-10, 10, dtype=np.int8).reshape(5, 4), integer_graphs.ACTIVATIONS["int8"])
    places = draft.value("places", (1, 3))
    draft.values[places] = replace(draft.values[places], dtype="int32", grid=None)
    rows = draft.then("GATHER", [table, places], (1, 3, 4), axis=0, batch_dims=0)
    twice = draft.then("ADD", [draft.input, draft.input], (1, 4), activation="NONE")
    graph = draft.graph(twice, rows)
    return replace(graph, inputs=("input", places), input_orders=((0, 1), (0, 1)))


GRAPHS: dict[str, Callable[[], IntegerGraph]] = {
    "one": lambda: integer_graphs.every_layer()[1],
    "of 16 bits": lambda: integer_graphs.every_layer("int16")[1],
    "several": words_and_image,
}


@pytest.fixture(scope="module", params=GRAPHS)
def graph(request: pytest.FixtureRequest) -> IntegerGraph:
    return GRAPHS[request.param]()


@pytest.fixture(scope="module")
def model(graph: IntegerGraph) -> CModel:
    return write(graph)


@pytest.fixture(scope="module")
def folder(model: CModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder that is a package of each kind."""
    place = tmp_path_factory.mktemp("packages") / NAME
    Left(place, tuple(PACKAGINGS)).write(model)
    return place


def test_the_network_in_every_package_is_the_one_that_was_proved(model: CModel, folder: Path) -> None:
    for kind in PACKAGINGS:
        files = packaged(model, NAME, [kind])
        assert {name: files[f"src/{NAME}/{name}"] for name in model.files} == model.files
        assert all((folder / name).read_bytes() == content for name, content in files.items() if name != "README.md")


def test_arduino_finds_a_library_as_its_specification_says(folder: Path) -> None:
    """https://docs.arduino.cc/arduino-cli/library-specification and .../sketch-specification."""
    lines = (folder / "library.properties").read_text().splitlines()
    stated = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    assert {*stated} >= {"name", "version", "author", "maintainer", "sentence", "paragraph", "category", "url"}
    assert all(stated.values())
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _.-]*", stated["name"])
    assert re.fullmatch(SEMVER, stated["version"])
    assert stated["category"] in {
        *("Display", "Communication", "Signal Input/Output", "Sensors", "Device Control", "Timing"),
        *("Data Storage", "Data Processing", "Other"),
    }
    assert stated["url"].startswith("https://")
    assert [path.name for path in (folder / "src").glob("*.h")] == stated["includes"].split(",")
    assert (folder / "examples" / NAME / f"{NAME}.ino").is_file()


def test_zephyr_finds_a_module_with_its_build_its_option_and_a_sample(folder: Path) -> None:
    """https://docs.zephyrproject.org/latest/develop/modules.html and .../develop/test/twister.html."""
    module = yaml.safe_load((folder / "zephyr" / "module.yml").read_text())
    assert module["name"] == NAME
    assert (folder / module["build"]["cmake"] / "CMakeLists.txt").is_file()
    kconfig = (folder / module["build"]["kconfig"]).read_text()
    (symbol,) = re.findall(r"^config (\w+)\n\tbool ", kconfig, re.MULTILINE)
    assert f"if(CONFIG_{symbol})" in (folder / "zephyr" / "CMakeLists.txt").read_text()
    (samples,) = module["samples"]
    sample = folder / samples / NAME
    assert (sample / "prj.conf").read_text() == f"CONFIG_{symbol}=y\n"
    described = yaml.safe_load((sample / "sample.yaml").read_text())
    assert described["sample"]["name"] == NAME
    assert all(re.fullmatch(r"[\w.-]+", test) for test in described["tests"])


def test_esp_idf_finds_a_component_with_a_manifest_and_an_example(folder: Path) -> None:
    """https://docs.espressif.com/projects/idf-component-manager/en/latest/reference/manifest_file.html."""
    manifest = yaml.safe_load((folder / "idf_component.yml").read_text())
    assert {*manifest} <= {"version", "description", "url", "repository", "license", "targets", "dependencies", "tags"}
    assert re.fullmatch(SEMVER, manifest["version"])
    assert manifest["dependencies"]["idf"].startswith(">=")
    assert (folder / "examples" / "esp_idf" / "main" / "CMakeLists.txt").is_file()


def told(graph: IntegerGraph, number: float = 0.0) -> str:
    """What an example has to tell, whose real inputs are all this number, and whose whole ones are 0."""
    inputs = [
        np.full(
            value.shape,
            round(number / value.grid.scale[0]) + value.grid.zero_point[0] if value.grid else 0,
            value.dtype,
        )
        for value in (graph.values[name] for name in graph.inputs)
    ]
    outputs = run(graph, inputs)
    names = ["output"] if len(outputs) == 1 else [f"output_{place}" for place in range(len(outputs))]
    flat = [output.reshape(-1) for output in outputs]
    return "".join(
        f"{name}: number {numbers.argmax()} is the largest, {numbers.max()}\n"
        for name, numbers in zip(names, flat, strict=True)
    )


@pytest.mark.parametrize("name", ["gcc", "clang"])
def test_the_sketch_runs_and_is_cpp_without_a_warning(
    name: str, graph: IntegerGraph, folder: Path, tmp_path: Path
) -> None:
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    system, sketch = SYSTEMS / "arduino", tmp_path / f"{NAME}.ino"
    text = (folder / "examples" / NAME / f"{NAME}.ino").read_text()
    sketch.write_text(text.replace("return 0.0F;", "return -0.37F;"))
    if subprocess.run([name, "-x", "c++", "-c", system / "main.cpp", "-o", os.devnull], check=False).returncode:
        pytest.skip(f"{name} has no C++")
    command = [name, f"-I{folder / 'src'}", f"-I{system}", "-c"]
    steps = [
        [*OF_C, folder / "src" / NAME / "model.c", "-o", "model.o"],
        [*OF_CPP, "-include", "Arduino.h", sketch, "-o", "sketch.o"],
        ["-x", "c++", system / "main.cpp", "-o", "main.o"],
    ]
    for step in steps:
        subprocess.run([*command, *step], check=True, cwd=tmp_path)
    subprocess.run([name, "model.o", "sketch.o", "main.o", "-o", "program"], check=True, cwd=tmp_path)
    said = subprocess.run([tmp_path / "program"], check=True, capture_output=True, text=True).stdout
    assert said == f"{told(graph, -0.37)}0 microseconds\n"


EXAMPLES = [
    ("zephyr", f"samples/{NAME}", "src/main.c", "app"),
    ("esp_idf", "examples/esp_idf", "main/main.c", f"{NAME}_example"),
]


@pytest.mark.parametrize("name", ["gcc", "clang"])
@pytest.mark.parametrize(("kind", "example", "source", "program"), EXAMPLES)
def test_an_example_is_c_without_a_warning(
    name: str, kind: str, example: str, source: str, program: str, folder: Path
) -> None:
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    for file in (folder / example / source, folder / "src" / NAME / "model.c"):
        places = f"-I{folder / 'src'}", f"-I{SYSTEMS / kind / 'include'}"
        subprocess.run([name, *OF_C, *places, "-fsyntax-only", file], check=True)


@pytest.mark.parametrize(("kind", "example", "source", "program"), EXAMPLES)
def test_an_example_is_built_in_its_system_s_words_and_runs(
    kind: str, example: str, source: str, program: str, graph: IntegerGraph, folder: Path, tmp_path: Path
) -> None:
    if not shutil.which("cmake"):
        pytest.skip("cmake is not installed")
    system = SYSTEMS / kind
    settings = ["-DCMAKE_C_COMPILER_WORKS=1", f"-DZephyr_DIR={system}", "--no-warn-unused-cli"]
    environment = {**os.environ, "IDF_PATH": str(system), "ZEPHYR_BASE": str(system)}
    for words in (["-S", folder / example, "-B", tmp_path, *settings], ["--build", tmp_path]):
        done = subprocess.run(["cmake", *words], check=False, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
    said = subprocess.run([tmp_path / program], check=True, capture_output=True, text=True).stdout
    assert said == f"{told(graph)}0 microseconds\n"


@pytest.mark.parametrize(
    "name", ["", "2words", "key words", "key.words", "wörter", "a" * 64, "string", "Stdint", "arduino_words", "current"]
)
def test_a_name_that_not_all_systems_take_is_refused(name: str) -> None:
    with pytest.raises(ExportError, match=r"(?s)the package would be called.*--out"):
        require_package(name, ["arduino"])


def test_an_unknown_package_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ExportError, match=r"(?s)no package 'mbed'.*arduino, zephyr, esp-idf"):
        require_package("words", ["zephyr", "mbed"])


def test_a_package_is_written_anew_over_an_older_one_and_over_nothing_else(tmp_path: Path) -> None:
    first, second = write(GRAPHS["one"]()), write(GRAPHS["one"]())
    assert first.files["model.c"] != second.files["model.c"]
    place = Left(tmp_path / "words", ("arduino",))
    place.check()
    place.write(first)
    place.check()
    Left(place.folder, ("arduino", "zephyr")).write(second)
    assert (tmp_path / "words" / "src" / "words" / "model.c").read_bytes() == second.files["model.c"]
    mine = tmp_path / "words" / "library.properties"
    mine.write_text(mine.read_text().replace("author=Haversack", "author=Me"))
    with pytest.raises(WorkspaceError, match=r"library.properties: it is there already"):
        place.write(first)
    assert (tmp_path / "words" / "src" / "words" / "model.c").read_bytes() == second.files["model.c"]


def test_a_folder_of_something_else_is_refused_before_anything_is_proved(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(WorkspaceError, match=r"it holds notes\.txt"):
        Left(tmp_path / ".." / tmp_path.name, ("arduino",)).check()
    with pytest.raises(MeasureError, match="--out NAME"):
        Left(None, ("arduino",)).check()


def test_plain_files_leave_what_somebody_else_wrote(tmp_path: Path) -> None:
    model = write(GRAPHS["one"]())
    (tmp_path / "CMakeLists.txt").write_text("project(mine)")
    with pytest.raises(WorkspaceError, match=r"CMakeLists.txt: it is there already"):
        Left(tmp_path).write(model)
    assert [path.name for path in tmp_path.iterdir()] == ["CMakeLists.txt"]
