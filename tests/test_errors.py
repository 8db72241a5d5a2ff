"""Every error says what, where and how to mend it."""

import ast
import inspect
from pathlib import Path

import pytest

from haversack import errors
from haversack.errors import HaversackError

FILES = sorted((Path(errors.__file__).parent).rglob("*.py"))
KINDS = {name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, HaversackError)}


def raised(path: Path) -> list[tuple[str, int]]:
    """The classes of the errors that a file raises by calling them, with their lines."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    calls = [node.exc for node in nodes if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    return [(call.func.id, call.lineno) for call in calls if isinstance(call.func, ast.Name)]


def test_the_message_holds_the_place_the_fault_and_the_way_out():
    error = errors.TaskError("the disk is gone.", where="task.py", mend="plug it in.")
    assert str(error) == "task.py: the disk is gone.\n  How to mend it: plug it in."
    assert str(errors.TaskError("the disk is gone.")) == "the disk is gone."


def test_every_kind_of_error_is_made_somewhere():
    made = {
        node.func.id
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert KINDS - made <= {"HaversackError"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_a_user_can_cause_is_never_raised_as_a_bare_python_error(path):
    bare = {"ValueError", "RuntimeError", "Exception", "AssertionError", "KeyError", "NotImplementedError"}
    assert not [f"{path.name}:{line}" for kind, line in raised(path) if kind in bare]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_product_code_holds_no_assert(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
