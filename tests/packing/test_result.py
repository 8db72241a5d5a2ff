"""The result folder: exchanged whole, whoever is killed meanwhile, and never in the place of something else."""

import os
from pathlib import Path

import pytest
import torch
from test_workspace import Ear, artifact, end_at, in_process, network, pruned, task

from haversack.artifact import Artifact
from haversack.disk import LISTING
from haversack.errors import MeasureError, WorkspaceError
from haversack.packing.result import leave_report, read_result, write_result
from haversack.placing import check_place, replace_file
from haversack.progress import shown_by
from haversack.result import Result
from haversack.surgery.save import save

NETWORK = {"network/weights.safetensors", "network/network.json", "network/network.pt2"}


def inside(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def result(content: bytes, **files: bytes) -> Artifact:
    made = artifact(content)
    return Artifact(made.runtime, {"model.onnx": content, **files}, made.recipe, made.measurement)


def test_a_result_is_the_files_the_texts_and_the_network_and_nothing_of_an_older_one(tmp_path):
    out, ear = tmp_path / "out", Ear()
    with shown_by(ear):
        write_result(
            out, {"report.txt": "small\n", "old.txt": ""}, result(b"abc", **{"model.tflite": b"old"}), pruned()
        )
        assert ear.heard == []
        (out / "workspace").mkdir()
        (out / "workspace" / "entry").touch()
        (out / "notes.txt").write_text("mine")
        write_result(out, {"report.txt": "smaller µ\n"}, result(b"abcd"), pruned())
    assert inside(out) == NETWORK | {"model.onnx", "report.txt", LISTING, "workspace/entry", "notes.txt"}
    assert (out / "model.onnx").read_bytes() == b"abcd"
    assert (out / "report.txt").read_text(encoding="utf-8") == "smaller µ\n"
    assert ["gave way" in line for line in ear.heard] == [True]
    assert Result(out).changed() == []


def test_a_result_of_a_version_without_a_listing_gives_way_too(tmp_path):
    save(pruned(), tmp_path / "network")
    for name in ("model.tflite", "recipe.toml", "measurement.json", "report.txt"):
        (tmp_path / name).write_text("old")
    check_place(tmp_path)
    write_result(tmp_path, {"report.txt": "new"}, result(b"new"), pruned())
    assert inside(tmp_path) == NETWORK | {"model.onnx", "report.txt", LISTING}


def killed_at_every_step(out: Path) -> list[str]:
    """What is there after a kill at each step of an exchange, and after the next command has begun."""
    old, new, seen = result(b"old", **{"old.tflite": b"old"}), result(b"new"), []
    step, status = -1, -1
    while status != 0:
        step += 1
        write_result(out, {"recipe.toml": "old"}, old)
        child = os.fork()
        if not child:
            end_at(step)
            write_result(out, {"recipe.toml": "new"}, new)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        there = {path.read_text() for path in out.iterdir() if path.is_file() and path.name != LISTING}
        check_place(out)
        after = {path.read_text() for path in out.iterdir() if path.is_file() and path.name != LISTING}
        hidden = [path.name for path in out.glob(".*")]
        assert len(there) <= 1, f"step {step} left {there}"
        assert len(after) == 1, f"after step {step} there was {after}"
        assert not hidden, f"step {step} left {hidden}"
        assert not Result(out).changed()
        assert (out / "old.tflite").exists() == (after == {"old"})
        seen += after
    return seen


def test_a_kill_at_any_step_leaves_no_file_of_one_result_beside_another_s_and_the_next_command_a_whole_one(tmp_path):
    out, err = in_process(
        "import test_result\nprint(*test_result.killed_at_every_step(space.folder))", tmp_path
    ).communicate()
    seen = out.split()[1:]
    assert {"old", "new"} == set(seen), err
    assert seen == sorted(seen, reverse=True)


@pytest.mark.parametrize("name", ["thesis.tex", "model.onnx", "src"])
def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path, name):
    (tmp_path / name).write_text("mine")
    for refused in (lambda: check_place(tmp_path), lambda: write_result(tmp_path, {}, result(b"new"), pruned())):
        with pytest.raises(WorkspaceError, match=rf"holds {name}, which is of no result.*\n.*--out"):
            refused()
    assert inside(tmp_path) == {name}


def test_a_file_beside_a_result_that_is_not_its_own_is_never_replaced(tmp_path):
    write_result(tmp_path, {"report.txt": "old"}, result(b"old"))
    (tmp_path / "model.tflite").write_text("mine")
    with pytest.raises(WorkspaceError, match=r"holds model.tflite, which is of no result"):
        write_result(tmp_path, {"report.txt": "new"}, result(b"new", **{"model.tflite": b"new"}))
    assert (tmp_path / "model.tflite").read_text() == "mine"
    assert (tmp_path / "report.txt").read_text() == "old"
    assert Result(tmp_path).changed() == []


@pytest.mark.parametrize("planted", ["file", "folder", "link"])
def test_what_is_none_of_ours_is_not_put_in_place(tmp_path, planted):
    out, complete = tmp_path / "out", tmp_path / "out" / ".complete"
    out.mkdir()
    if planted == "link":
        complete.symlink_to(tmp_path)
    elif planted == "file":
        complete.touch()
    else:
        complete.mkdir()
        (complete / "model.onnx").touch()
    with pytest.raises(WorkspaceError, match=r"\.complete: it is none of haversack's folders"):
        check_place(out)
    assert not (out / "model.onnx").exists()


def test_a_report_beside_a_result_does_not_follow_a_planted_link(tmp_path):
    write_result(tmp_path, {"report.txt": "old"}, result(b"old"), pruned())
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace" / "report.txt").symlink_to(tmp_path / "mine")
    assert leave_report(tmp_path, "new").read_text() == "new"
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("name", ["../x", "a/b", ".x", ""])
def test_no_file_is_written_outside_the_folder(tmp_path, name):
    with pytest.raises(WorkspaceError, match="cannot be called"):
        write_result(tmp_path / "out", {}, result(b"", **{name: b"x"}))
    assert inside(tmp_path) == set()


def test_a_planted_link_is_not_followed(tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (elsewhere / "file").write_text("mine")
    for name in (".unfinished-model.onnx", ".unfinished-x", ".replaced-x"):
        (out / name).symlink_to(elsewhere)
    check_place(out)
    assert inside(elsewhere) == {"file"}


def test_a_network_that_is_not_what_was_written_is_not_read(tmp_path):
    write_result(tmp_path, {}, result(b"x"), pruned())
    assert torch.equal(read_result(tmp_path, network(), task()).module[0].bias, pruned().module[0].bias)
    path = tmp_path / "network" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(MeasureError, match=r"network/weights.safetensors is gone, or not what was written"):
        read_result(tmp_path, network(), task())


def test_a_file_that_is_written_anew_belongs_to_the_result_and_another_s_damage_stays_known(tmp_path):
    write_result(tmp_path, {"report.txt": "old"}, result(b"x"))
    (tmp_path / "report.txt").write_text("changed")
    replace_file(tmp_path, "model.hsk", b"coded")
    assert (tmp_path / "model.hsk").read_bytes() == b"coded"
    assert Result(tmp_path).changed() == ["report.txt"]


def test_a_damaged_listing_is_told(tmp_path):
    write_result(tmp_path, {"report.txt": "old"}, result(b"x"))
    for text in ("{", '{"files": 3}', '{"files": {"../x": "00"}}', "[" * 9999):
        (tmp_path / LISTING).write_text(text)
        with pytest.raises(MeasureError, match=LISTING):
            Result(tmp_path).changed()
        with pytest.raises(WorkspaceError, match=LISTING):
            check_place(tmp_path)
