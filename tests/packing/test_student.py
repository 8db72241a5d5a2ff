"""A student is found for digits: its file fits, the best of the families is chosen, and the packing goes on from it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from haversack.device import find_device
from haversack.errors import InfeasibleError, NothingChangedError, RecipeError
from haversack.limits import Budget, Miss
from haversack.model import Model
from haversack.packing.candidates import read_recipe
from haversack.packing.check import checked_model
from haversack.packing.student import AUTO, Audition, Vacancy, outputs_apart
from haversack.packing.workspace import Workspace
from haversack.plan.students import Counts, FamilyMember, Student
from haversack.report.text import ranked
from haversack.task import TaskFile, read_task_file
from haversack.techniques.adopt_student import AdoptStudent
from tests import warm

TASK = Path(__file__).parents[1] / "tasks" / "digits_small.py"
FLASH = 9_000


@pytest.fixture(scope="module")
def file() -> TaskFile:
    return read_task_file(TASK)


@pytest.fixture(scope="module")
def original(file: TaskFile) -> Model:
    return checked_model(file.network(), file.task)


def place(original: Model, flash_bytes: int | None = FLASH, **more: object) -> Vacancy:
    settings = {"device": find_device("host"), "number_format": "int8", "measured": lambda _: ()} | more
    return Vacancy(original, budget=Budget(flash_bytes=flash_bytes), **settings)  # type: ignore[arg-type]


def test_a_student_is_smaller_and_computes_less_than_the_network(original: Model) -> None:
    (student,) = place(original).students("ds_cnn")
    built = AdoptStudent(student.member.family, student.member.width, student.member.depth, student.member.downsampling)
    network = built.network(place(original)._taken)
    assert sum(each.numel() for each in network.parameters()) == student.counts.parameters < 15_418
    assert student.counts.macs <= 121_088


@pytest.mark.slow
def test_a_student_that_was_scaled_is_not_scaled_again_in_another_run(original: Model, tmp_path: Path) -> None:
    asked: list[FamilyMember] = []

    def measured(member: FamilyMember) -> tuple[Miss, ...]:
        asked.append(member)
        return ()

    def run() -> tuple[Student, ...]:
        memory = Workspace(tmp_path, "run", "this machine")
        return place(original, measured=measured, memory=memory).students("ds_cnn")

    first, times = run(), len(asked)
    assert run() == first
    assert len(asked) == times > 0


@pytest.mark.slow
def test_a_file_that_is_larger_than_was_estimated_makes_the_student_narrower(original: Model) -> None:
    (estimated,) = place(original).students("ds_cnn")
    most = estimated.counts.parameters - 1

    def measured(member: FamilyMember) -> tuple[Miss, ...]:
        counts = place(original)._counts(member)
        return (Miss("flash", most, counts.parameters),) if counts and counts.parameters > most else ()

    (student,) = place(original, measured=measured).students("ds_cnn")
    assert student.counts.parameters <= most


@pytest.mark.slow
def test_int8_leaves_room_for_a_larger_student_than_float_does(original: Model) -> None:
    (small,) = place(original, 12_000, number_format="float32").students("ds_cnn")
    (large,) = place(original, 12_000).students("ds_cnn")
    assert large.counts.parameters > small.counts.parameters


def test_where_the_network_fits_as_it_is_no_student_is_looked_for(original: Model) -> None:
    with pytest.raises(NothingChangedError, match="meets all limits in int8"):
        place(original, 40_000).students("ds_cnn")


def test_a_time_that_only_a_measurement_tells_is_no_reason_to_look_for_no_student(original: Model) -> None:
    budget = Budget(flash_bytes=40_000, latency_ms=1.0)
    assert replace(place(original), budget=budget).students("ds_cnn")


def test_where_no_student_fits_the_smallest_is_named_with_what_it_misses(original: Model) -> None:
    with pytest.raises(InfeasibleError, match=r"no student fits\. The smallest \(ds_cnn, .* misses flash: "):
        place(original, 1_000).students("ds_cnn")


@pytest.mark.parametrize(("name", "says"), [("resnet99", "no family 'resnet99'"), ("ds_cnn_1d", "1 dimensions")])
def test_a_family_that_cannot_be_is_refused_before_any_work(original: Model, name: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        place(original).students(name)
    assert "ds_cnn" in caught.value.mend


def test_students_are_ranked_by_how_far_their_outputs_are_and_one_that_fails_comes_last(
    original: Model, file: TaskFile
) -> None:
    noise = {"mobilenet_v1": 2.0, "mobilenet_v2": 0.5, "squeezenet": 1.0}

    def learned(step: AdoptStudent) -> Model:
        if step.family == "ds_cnn":
            raise RecipeError("it cannot learn.")
        return replace(original, module=Noisy(original.module, noise[step.family]).eval())

    students = [Student(FamilyMember(name), Counts(1, 1)) for name in ("ds_cnn", *noise)]
    found = Audition(original, file.task, learned, AdoptStudent()).ranked(students)
    assert [each.member.family for each in found] == ["mobilenet_v2", "squeezenet", "mobilenet_v1", "ds_cnn"]
    table = str(ranked(found)).splitlines()
    assert [row.split()[0] for row in table[3:7]] == [each.member.family for each in found]


class Noisy(torch.nn.Module):
    """The network with something added to its outputs."""

    def __init__(self, network: torch.nn.Module, size: float) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.network(x)
        return outputs + self.size * torch.arange(10)


def test_a_network_is_no_distance_from_itself(original: Model, file: TaskFile) -> None:
    assert outputs_apart(original.module, original.module, file.task) == pytest.approx(0, abs=1e-6)


FEW = """
from haversack.packing import student
student.families = lambda _: ("ds_cnn", "mobilenet_v1", "squeezenet")
from haversack.cli import main
main()
"""
"""Three families; all are tried by README's command (tests/test_documented_commands.py)."""


def _start(out: Path, *more: str) -> warm.Program:
    words = ["pack", TASK, "--student", AUTO, "--student-epochs", "12", "--flash", f"{FLASH}B", "--max-drop", "5%"]
    words += ["--try", "quantize_static", "--seconds", "0.1", "--out", out, *more]
    return warm.Program(FEW, *words)


@pytest.mark.slow
def test_a_packed_student_fits_its_file_is_data_and_a_killed_run_goes_on(tmp_path: Path) -> None:
    run = _start(tmp_path)
    deadline = time.monotonic() + 300
    while len(list(tmp_path.glob("workspace/*/*.model"))) < 3 and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    run.kill()
    run.communicate()
    before = {each: each.stat().st_mtime_ns for each in tmp_path.glob("workspace/*/*.model/network.json")}
    assert len(before) >= 3

    again = _start(tmp_path, "--json")
    printed, errors = again.communicate(timeout=600)
    assert again.returncode == 0, errors
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    shown = json.loads(printed)
    assert [each["member"]["family"] for each in shown["students"]]
    assert shown["packed"]["score"]["value"] >= shown["baseline"]["score"]["value"] - 0.05
    assert (tmp_path / "model.onnx").stat().st_size <= FLASH
    first, *_ = read_recipe(tmp_path / "recipe.toml").steps
    assert isinstance(first, AdoptStudent)
    assert (first.epochs, first.family) == (12, shown["students"][0]["member"]["family"])
    assert "Students, best first" in (tmp_path / "report.txt").read_text()
