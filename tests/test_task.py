"""What a user's file, data and score may do wrong, and what the message says."""

import math
import re
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from haversack.batches import has_target, unpack
from haversack.errors import HaversackError, MeasureError, TaskError
from haversack.task import Task, brief, read_task_file

GOOD = """
    import torch
    from haversack.task import Task

    def network():
        return torch.nn.Linear(4, 2)

    def task():
        return Task(lambda: [], lambda: [torch.ones(2, 4)], lambda predict: 0.5)
"""


def task(**changes) -> Task:
    parts = {"train": list, "calibrate": lambda: [torch.ones(2, 4)], "score": lambda predict: 0.5, **changes}
    return Task(**parts)


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(text: str, name: str = "mine.py") -> Path:
        path = tmp_path / name
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write


def refusal(action) -> str:
    """The message of a complete error: what, and how to mend it."""
    with pytest.raises(TaskError) as caught:
        action()
    assert caught.value.mend
    assert "\n" not in caught.value.what
    return str(caught.value)


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([], "yielded nothing"),
        ([torch.ones(0, 4)], "batch 0: a batch is empty"),
        ([torch.tensor(1.0)], "batch 0: a batch is empty"),
        ([torch.ones(2, 4), torch.full((2, 4), math.nan)], "batch 1: the inputs hold NaN"),
        ([torch.full((2, 4), math.inf)], "NaN or infinity"),
        ([torch.ones(2, 4), torch.ones(2, 4).double()], "float64 follows one with"),
        ([()], "batch 0: a batch is empty"),
        ([torch.ones(2, 4, device="meta")], "without numbers"),
        (torch.ones(2, 4), "one tensor, not batches"),
        (
            [torch.ones(2, 4), torch.ones(2, 4, 1)],
            r"batch 1: an input with 3 dimensions of float32 follows one with 2 dimensions of float32",
        ),
        ([[1.0, 2.0]], "not a tensor"),
        (["text"], "not a tensor"),
        (None, "raised TypeError"),
    ],
)
def test_calibration_inputs_that_cannot_be_used_are_refused(batches, said):
    message = refusal(task(calibrate=lambda: batches).calibration)
    assert re.search(said, message), message
    assert "calibrate()" in message


def test_calibration_that_raises_is_told_with_its_line():
    def calibrate():
        yield torch.ones(1, 4)
        raise OSError("the card was pulled out")

    message = refusal(task(calibrate=calibrate).calibration)
    assert "OSError: the card was pulled out" in message
    assert "test_task.py" in message


def test_calibration_accepts_tensors_tuples_lists_and_whole_numbers():
    inputs = [torch.ones(2, 4), (torch.ones(3, 4),), [torch.ones(1, 4)]]
    assert [len(batch[0]) for batch in task(calibrate=lambda: inputs).calibration()] == [2, 3, 1]
    assert len(task(calibrate=lambda: [torch.ones(1, 4, dtype=torch.int64)]).calibration()) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_refused(value):
    assert "score(): it returned" in refusal(lambda: task(score=lambda _: value).scored(torch.nn.Identity()))


@pytest.mark.parametrize("value", [None, "good", torch.ones(3), [0.5]])
def test_a_score_that_is_not_one_number_is_refused(value):
    assert "score() raised" in refusal(lambda: task(score=lambda _: value).scored(torch.nn.Identity()))


@pytest.mark.parametrize("value", [torch.tensor(0.25), 0.25, torch.tensor([0.25])])
def test_a_score_may_be_a_tensor_of_one_number(value):
    assert task(score=lambda _: value).scored(torch.nn.Identity()) == 0.25


def test_validate_is_held_to_what_score_is_and_may_be_left_out():
    assert task(validate=lambda _: 0.5).validated(torch.nn.Identity()) == 0.5
    assert "validate(): it returned nan" in refusal(lambda: task(validate=lambda _: math.nan).validated(None))
    assert "Task.validate is not a function" in refusal(lambda: task(validate=0.5))
    assert "no validate()" in refusal(lambda: task().validated(None))


def test_a_score_that_raises_names_the_user_s_line_and_not_torch_s():
    def score(predict):
        return torch.ones(2, 3) @ torch.ones(2, 3)

    message = refusal(lambda: task(score=score).scored(torch.nn.Identity()))
    assert "RuntimeError" in message
    assert "of test_task.py" in message


def test_an_error_of_ours_inside_the_score_stays_what_it_is():
    def score(predict):
        raise MeasureError("the file does not run.")

    with pytest.raises(MeasureError):
        task(score=score).scored(torch.nn.Identity())


def test_an_error_inside_a_library_is_placed_in_the_user_s_file():
    with pytest.raises(RuntimeError) as caught:
        torch.nn.Linear(4, 2)(torch.ones(1, 3))
    assert "of test_task.py)" in brief(caught.value)
    assert brief(ValueError()) == "ValueError"


@pytest.mark.parametrize("name", ["train", "calibrate", "score"])
def test_a_part_of_a_task_that_is_not_a_function_is_refused(name):
    assert name in refusal(lambda: task(**{name: 3}))


def test_an_unknown_kind_of_task_is_refused():
    assert "'ranking'" in refusal(lambda: task(kind="ranking"))


def test_a_target_that_does_not_fit_the_loss_is_told_with_its_shape():
    message = refusal(lambda: task().error(torch.ones(4, 10), torch.ones(3)))
    assert "(4, 10)" in message
    assert "(3,)" in message


def test_a_train_function_that_raises_is_told_by_name():
    def train():
        yield (torch.ones(1, 4), torch.ones(1))
        raise KeyError("label")

    message = refusal(lambda: list(task(train=train).epoch()))
    assert "train(): it raised KeyError" in message


def test_batches_are_unpacked_in_every_form_that_a_task_may_yield():
    inputs, target = torch.ones(2, 3), torch.zeros(2)
    for batch in ((inputs, target), [inputs, target], ((inputs,), target), [[inputs], target]):
        found, wanted = unpack(batch)
        assert found[0] is inputs
        assert wanted is target
        assert has_target(batch)
    for batch in ((inputs,), [inputs], inputs):
        assert unpack(batch)[1] is inputs
        assert not has_target(batch)


def test_a_good_file_gives_its_network_in_evaluation_mode_anew_each_time(written):
    file = read_task_file(written(GOOD))
    first, second = file.fresh_network(), file.fresh_network()
    assert first is not second
    assert not first.training
    assert file.task.scored(first) == 0.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "no function network"),
        ("network = 3\ntask = 4", "no function network"),
        ("def network(): ...", "no function task"),
        ("def network(): ...\ndef task(): return 3", "task() returned int"),
        (
            "def network(): ...\ndef task():\n    return 1 / 0",
            "task() raised ZeroDivisionError: division by zero (line 3",
        ),
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package' (line 1 of mine.py)"),
        ("def network(:", "SyntaxError"),
        ("import sys\nsys.exit(3)", "SystemExit: 3 (line 2 of mine.py)"),
        ("raise ValueError", "the file raised ValueError (line 1 of mine.py)"),
    ],
)
def test_a_file_that_is_no_task_is_refused_with_its_path(written, text, said):
    path = written(text)
    message = refusal(lambda: read_task_file(path))
    assert said in message
    assert str(path) in message


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "mine.py"
    path.write_bytes(b"\xff\xfe\x00 = 1")
    assert "the file raised" in refusal(lambda: read_task_file(path))


@pytest.mark.parametrize("name", ["absent.py", ""])
def test_a_file_that_is_not_there_is_refused(tmp_path, name):
    assert "no such file" in refusal(lambda: read_task_file(tmp_path / name))


def test_a_file_that_is_not_python_is_refused(written):
    assert "not a Python file" in refusal(lambda: read_task_file(written("hello", "mine.txt")))


@pytest.mark.parametrize(
    ("body", "said"), [("raise OSError('no weights')", "OSError: no weights"), ("return 3", "int")]
)
def test_a_network_function_that_gives_no_network_is_refused(written, body, said):
    file = read_task_file(written(GOOD.replace("return torch.nn.Linear(4, 2)", body)))
    message = refusal(file.fresh_network)
    assert said in message
    assert "mine.py" in message


def test_a_file_may_import_its_neighbours_at_once_and_later(written):
    written("WIDTH = 7", "early_neighbour.py")
    written("WIDTH = 5", "late_neighbour.py")
    text = GOOD.replace("import torch\n", "import torch, early_neighbour\n", 1)
    text = text.replace(
        "return torch.nn.Linear(4, 2)",
        "from late_neighbour import WIDTH; return torch.nn.Linear(early_neighbour.WIDTH, WIDTH)",
    )
    network = read_task_file(written(text)).fresh_network()
    assert (network.in_features, network.out_features) == (7, 5)


def test_a_neighbour_does_not_hide_packages_after_the_file_was_read(written):
    read_task_file(written(GOOD))
    assert sys.path[0] != str(written(GOOD).parent)


def test_an_imported_neighbour_is_part_of_the_digest(written):
    text = GOOD.replace("import torch\n", "import torch, digested_neighbour\n", 1)
    written("SCALE = 1", "digested_neighbour.py")
    first, again = read_task_file(written(text)).digest, read_task_file(written(text)).digest
    written("SCALE = 2", "digested_neighbour.py")
    assert first == again != read_task_file(written(text)).digest


def test_every_refusal_is_an_error_that_the_command_line_prints():
    assert issubclass(TaskError, HaversackError)


def test_no_image_that_the_example_validates_with_trains_calibrates_or_scores():
    task = read_task_file(Path(__file__).parents[1] / "examples" / "digits.py").task
    seen: list[bytes] = []

    def predict(images):
        seen.extend(image.numpy().tobytes() for image in images)
        return torch.zeros(len(images), 10)

    def shown_to(measure) -> set[bytes]:
        seen.clear()
        measure(predict)
        return set(seen)

    validated = shown_to(task.validated)
    assert len(validated) == 297
    learned_from = {image.numpy().tobytes() for images, _ in task.epoch() for image in images}
    calibrated = {image.numpy().tobytes() for (images,) in task.calibration() for image in images}
    assert validated.isdisjoint(shown_to(task.scored) | learned_from | calibrated)
    assert calibrated <= learned_from
