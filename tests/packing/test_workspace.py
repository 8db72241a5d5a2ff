"""Finished work on disk: whole or absent, whoever writes, is killed or runs out of space."""

import errno
import hashlib
import itertools
import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from haversack import disk
from haversack.artifact import Artifact
from haversack.device import Device
from haversack.disk import LISTING, aside, disk_errors, recover, seal
from haversack.errors import WorkspaceError
from haversack.grid import symmetric
from haversack.measurement import Conditions, Figure, Measurement
from haversack.model import Edits, Model, Slices
from haversack.packing import workspace as workspace_module
from haversack.packing.result import write_result
from haversack.packing.workspace import Workspace, open_workspace
from haversack.progress import shown_by
from haversack.recipe import Recipe, Stage, Step
from haversack.task import Task
from tests import warm

ROOT = Path(__file__).parents[2]
BOARD = Device("board", "A board", "onnx")
CONDITIONS = Conditions("board", "onnx", 1, "here", {"torch": "2"})
MEASURED = Measurement(Figure(10, "host"), Figure(20, "host"), None, CONDITIONS, score=Figure(0.5, "host"))


@dataclass(frozen=True)
class Halve(Step):
    """A step that does nothing."""

    keep: float = 0.5

    stage: ClassVar[Stage] = Stage.STRUCTURE
    strength: ClassVar[str] = "keep"

    def apply(self, model, task):
        return model

    @classmethod
    def options(cls, model, device):
        return ()


RECIPE = Recipe((Halve(),))


def artifact(content: bytes = b"x" * 2000, recipe: Recipe = RECIPE) -> Artifact:
    return Artifact("onnx", {"model.onnx": content, "model.data": content[::-1]}, recipe, MEASURED)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()


def original() -> Model:
    return Model(network(), (torch.ones(1, 4),), teacher=network())


def pruned() -> Model:
    edits = Edits((Slices({"0.weight": {0: (0, 2)}, "0.bias": {0: (0, 2)}, "2.weight": {1: (0, 2)}}),))
    small = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2)).eval()
    return replace(original(), module=small, edits=edits, grids={"0.weight": symmetric(torch.ones(2), axis=0)})


def task(inputs: torch.Tensor | None = None) -> Task:
    return Task(list, lambda: [torch.ones(2, 4) if inputs is None else inputs], lambda predict: 0.5)


@pytest.fixture
def space(tmp_path) -> Workspace:
    return open_workspace(tmp_path / "cache", network(), task(), BOARD)


def leftovers(space: Workspace) -> list[str]:
    return [path.name for path in space.folder.rglob(".*")]


def test_what_was_never_kept_is_absent(space):
    assert space.artifact(RECIPE, scored=True) is None
    assert space.model(RECIPE, network(), original()) is None


def test_an_artifact_comes_back_as_it_was_kept_and_scored_and_dry_ones_stay_apart(space):
    space.keep_artifact(artifact(), scored=False)
    assert space.artifact(RECIPE, scored=True) is None
    assert space.artifact(RECIPE, scored=False) == artifact()
    assert list(space.artifact(RECIPE, scored=False).files) == list(artifact().files)
    assert space.artifact(Recipe((Halve(0.25),)), scored=False) is None
    assert leftovers(space) == []


def test_a_later_artifact_replaces_an_earlier_one_whole(space):
    space.keep_artifact(artifact(b"first"), scored=True)
    second = Artifact("onnx", {"other.onnx": b"second"}, RECIPE, MEASURED)
    space.keep_artifact(second, scored=True)
    assert space.artifact(RECIPE, scored=True) == second
    assert leftovers(space) == []


def test_a_model_comes_back_with_its_edits_grids_weights_and_teacher(space):
    kept, start = pruned(), original()
    space.keep_model(RECIPE, kept)
    found = space.model(RECIPE, network(), start)
    assert found.edits == kept.edits
    assert found.grids == kept.grids
    assert found.teacher is start.teacher
    assert torch.equal(found.module(torch.ones(3, 4)), kept.module(torch.ones(3, 4)))


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "null", "[]", "3", '"text"', "{}", '{"measurement": 3}', "\x00\x01", "[" * 50,
        '{"runtime": "onnx", "files": [], "measurement": {}}',
        '{"runtime": "onnx", "files": {}, "measurement": "text"}',
        '{"runtime": "onnx", "files": {}, "measurement": {"flash_bytes": null}}',
        '{"runtime": "onnx", "files": {"absent.onnx": "00"}, "measurement": {}}',
        "[" * 100_000, "9" * 5000, '{"runtime": "onnx", "measurement": "\\ud800"}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("sealed", [False, True])
def test_a_damaged_measurement_is_made_again(space, text, sealed):
    space.keep_artifact(artifact(), scored=True)
    (path,) = space.folder.rglob("measurement.json")
    path.write_text(text)
    if sealed:
        seal(path.parent)
    assert space.artifact(RECIPE, scored=True) is None
    space.keep_artifact(artifact(), scored=True)
    assert space.artifact(RECIPE, scored=True) == artifact()


def test_each_part_of_a_measurement_that_is_cut_off_is_noticed(space):
    space.keep_artifact(artifact(), scored=True)
    (path,) = space.folder.rglob("measurement.json")
    text = path.read_text()
    for end in range(0, len(text) - 1, 7):
        path.write_text(text[:end])
        assert space.artifact(RECIPE, scored=True) is None


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b"y" + b[1:]])
@pytest.mark.parametrize("name", ["model.onnx", "model.data"])
def test_a_file_that_is_not_what_was_measured_is_made_again(space, damage, name):
    space.keep_artifact(artifact(), scored=True)
    (path,) = space.folder.rglob(name)
    path.write_bytes(damage(path.read_bytes()))
    assert space.artifact(RECIPE, scored=True) is None


@pytest.mark.parametrize("name", ["weights.safetensors", "network.json"])
@pytest.mark.parametrize("text", ["", "{", "null", '{"format": 99}', '{"format": 2, "edits": 3, "grids": {}}'])
def test_a_damaged_model_is_made_again(space, name, text):
    space.keep_model(RECIPE, pruned())
    (path,) = space.folder.rglob(name)
    path.write_text(text)
    assert space.model(RECIPE, network(), original()) is None
    space.keep_model(RECIPE, pruned())
    assert space.model(RECIPE, network(), original()) is not None


def test_a_figure_that_somebody_wrote_in_is_not_believed(space):
    space.keep_artifact(artifact(), scored=True)
    (path,) = space.folder.rglob("measurement.json")
    path.write_text(path.read_text().replace("0.5", "0.9"))
    assert space.artifact(RECIPE, scored=True) is None


def test_a_weight_that_changed_on_the_disk_is_not_believed(space):
    space.keep_model(RECIPE, pruned())
    (path,) = space.folder.rglob("weights.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert space.model(RECIPE, network(), original()) is None


@pytest.mark.parametrize("name", ["../secret", "files/../../secret", "/etc/hostname", "files//x", "files/.x"])
def test_a_name_that_leaves_the_folder_is_not_followed(space, name):
    space.keep_artifact(artifact(), scored=True)
    (listing,) = space.folder.rglob(LISTING)
    (listing.parent.parent / "secret").write_bytes(b"secret")
    found = json.loads(listing.read_text())
    found["files"][name] = hashlib.sha256(b"secret").hexdigest()
    listing.write_text(json.dumps(found))
    assert space.artifact(RECIPE, scored=True) is None


def test_a_link_in_place_of_a_file_is_not_followed(space, tmp_path):
    space.keep_artifact(artifact(), scored=True)
    (path,) = space.folder.rglob("model.onnx")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert space.artifact(RECIPE, scored=True) is None


def test_what_killed_writers_left_is_swept_and_what_a_living_one_writes_stays(tmp_path):
    space = open_workspace(tmp_path, network(), task(), BOARD)
    place = space.folder / space.run
    space.keep_artifact(artifact(), scored=True)
    (place / ".unfinished-dead").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").touch()
    (place / ".unfinished-link").symlink_to(tmp_path / "elsewhere")
    with aside(place) as living:
        open_workspace(tmp_path, network(), task(), BOARD)
        assert {each.name for each in place.glob(".*")} == {living.name, ".unfinished-link"}
    assert (tmp_path / "elsewhere" / "file").exists()
    assert space.artifact(RECIPE, scored=True) == artifact()


def test_a_file_system_without_locks_keeps_entries_and_sweeps_nothing(tmp_path, monkeypatch):
    def flock(handle, how):
        raise OSError(errno.EBADF, "NFS locks no folder that is open for reading")

    monkeypatch.setattr(disk.fcntl, "flock", flock)
    space = open_workspace(tmp_path, network(), task(), BOARD)
    space.keep_artifact(artifact(b"old"), scored=True)
    space.keep_artifact(artifact(b"new"), scored=True)
    (space.folder / space.run / ".unfinished-alive-for-all-we-know").mkdir()
    assert open_workspace(tmp_path, network(), task(), BOARD).artifact(RECIPE, scored=True) == artifact(b"new")
    assert leftovers(space) == [".unfinished-alive-for-all-we-know"]


def test_the_same_things_share_a_run_and_others_do_not(tmp_path, monkeypatch):
    def run(net=None, of=None, device=BOARD, digest=""):
        return open_workspace(tmp_path, net or network(), of or task(), device, digest).run

    class Renamed(nn.Sequential):
        """The same weights in other code."""

    wider = nn.Sequential(*network(), nn.Identity())
    halves = network().to(torch.bfloat16)
    base = run()
    assert base == run()
    others = [
        run(network(1)),
        run(wider),
        run(halves),
        run(Renamed(*network())),
        run(device=replace(BOARD, ram_bytes=1)),
        run(device=replace(BOARD, name="other")),
        run(of=task(torch.zeros(2, 4))),
        run(of=replace(task(), kind="regression")),
        run(digest="another file"),
        run(of=task(torch.zeros(2, 4)), digest="another file"),
    ]
    monkeypatch.setattr(workspace_module, "_version", lambda name: f"{name} of tomorrow")
    others.append(run())
    assert len({base, *others}) == len(others) + 1


@dataclass(frozen=True)
class Remark:
    said: str
    times: tuple[float, ...] = ()


def test_a_small_thing_comes_back_under_its_words_in_another_run_too(tmp_path):
    open_workspace(tmp_path, network(), task(), BOARD).keep_note(Remark("no", (0.5, 2.0)), "a", (1, 2))
    space = open_workspace(tmp_path, network(), task(), BOARD)
    assert space.note(Remark, "a", (1, 2)) == Remark("no", (0.5, 2.0))
    assert space.note(Remark, "a", (2, 1)) is None
    (path,) = space.folder.rglob("*.remark.json")
    for text in (path.read_text().replace("0.5", "0.4"), path.read_text().replace('"no"', "3"), "{", ""):
        path.write_text(text)
        assert space.note(Remark, "a", (1, 2)) is None


def test_other_circumstances_take_other_figures_and_keep_the_models(tmp_path):
    def measured_by(word):
        return open_workspace(tmp_path, network(), task(), BOARD, measuring=word)

    measured_by("a machine").keep_artifact(artifact(), scored=True)
    measured_by("a machine").keep_model(RECIPE, pruned())
    assert measured_by("a machine").artifact(RECIPE, scored=True) == artifact()
    assert measured_by("another score").artifact(RECIPE, scored=True) is None
    assert measured_by("another score").model(RECIPE, network(), original()) is not None


class Ear:
    def __init__(self):
        self.heard = []

    def say(self, line):
        self.heard.append(line)


def test_a_calibrate_that_shuffles_is_read_once_and_told_in_the_next_run(tmp_path):
    draws = itertools.count()

    def shuffling():
        return Task(list, lambda: [torch.full((2, 4), float(next(draws)))], lambda predict: 0.5)

    fixed, ear = task(), Ear()
    with shown_by(ear):
        first, again = shuffling(), [open_workspace(tmp_path, network(), fixed, BOARD).run for _ in range(2)]
        assert again[0] == again[1]
        assert ear.heard == []
        assert torch.equal(first.calibration()[0][0], first.calibration()[0][0])
        runs = [open_workspace(tmp_path / "other", network(), each, BOARD).run for each in (first, first, shuffling())]
    assert runs[0] == runs[1] != runs[2]
    assert ["calibrate() gave other data" in line and "fix the seed" in line for line in ear.heard] == [True]


def test_training_data_of_another_run_make_another_run(tmp_path):
    def learning_from(values):
        return replace(task(), train=lambda: [(values, values)])

    ear = Ear()
    with shown_by(ear):
        one, other = (
            open_workspace(tmp_path, network(), learning_from(values), BOARD).run
            for values in (torch.zeros(2, 4), torch.ones(2, 4))
        )
    assert one != other
    assert ["train() gave other data" in line for line in ear.heard] == [True]


def test_inputs_that_a_network_wrote_into_are_read_again():
    twice = Task(list, lambda: [torch.ones(2, 4)], lambda predict: 0.5)
    twice.calibration()[0][0].mul_(3)
    assert twice.calibration()[0][0].eq(1).all()


def in_process(body: str, folder: Path) -> warm.Program:
    program = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
from pathlib import Path
from test_workspace import *
space = Workspace(Path(sys.argv[1]), "run")
print("ready", flush=True)
{body}
"""
    return warm.Program(program, folder)


FOREVER = """
import itertools
for turn in itertools.count():
    space.keep_artifact(artifact(bytes([turn % 256]) * 100_000), scored=True)
    space.keep_model(RECIPE, pruned())
"""


def end_at(step: int) -> None:
    """This process is killed before it touches files for the `step`-th time."""
    events = itertools.count()

    def end(event: str, _: object) -> None:
        if event.startswith(("open", "os.", "shutil.")) and next(events) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(end)


def killed_at_every_step(space: Workspace) -> int:
    """How many steps writing an entry over another takes; between any two, the disk holds a whole one or none."""
    space.keep_artifact(artifact(b"old"), scored=True)
    step, status = -1, -1
    while status != 0:
        step += 1
        child = os.fork()
        if not child:
            end_at(step)
            space.keep_artifact(artifact(b"new"), scored=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        found = space.artifact(RECIPE, scored=True)
        assert (found is not None) == space._place("scored", RECIPE).exists(), f"half an entry after step {step}"
        recover(space.folder / space.run)
        assert space.artifact(RECIPE, scored=True) in (artifact(b"old"), artifact(b"new")), f"lost after step {step}"
        assert leftovers(space) == []
    return step


def test_an_entry_is_whole_or_absent_whatever_step_its_writer_is_killed_at(tmp_path):
    out, err = in_process("print(killed_at_every_step(space))", tmp_path).communicate()
    assert int(out.split()[-1]) > 8, err


def test_an_entry_is_whole_or_absent_however_its_writer_is_killed(tmp_path):
    chance = random.Random(0)
    writers = [in_process(FOREVER, tmp_path / str(turn)) for turn in range(2)]
    found = 0
    for turn, writer in enumerate(writers):
        writer.wait_for("ready")
        time.sleep(chance.uniform(0.005, 0.25))
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        space = Workspace(tmp_path / str(turn), "run")
        places = [path for path in (tmp_path / str(turn)).glob("run/*") if not path.name.startswith(".")]
        for place in places:
            kept = space.artifact(RECIPE, scored=True) if place.suffix == ".scored" else True
            model = space.model(RECIPE, network(), original()) if place.suffix == ".model" else True
            assert kept is not None
            assert model is not None
            found += 1
        space.keep_artifact(artifact(), scored=True)
        assert space.artifact(RECIPE, scored=True) == artifact()
    assert found


def test_a_reader_beside_two_writers_of_the_same_entry_sees_whole_entries(tmp_path):
    body = """
for turn in range(60):
    space.keep_artifact(artifact(bytes([turn]) * 20_000), scored=True)
    if turn % 10 == 0:
        space.keep_model(RECIPE, pruned())
"""
    writers = [in_process(body, tmp_path) for _ in range(2)]
    for writer in writers:
        writer.wait_for("ready")
    space, seen = Workspace(tmp_path, "run"), set()
    while any(writer.poll() is None for writer in writers):
        found = space.artifact(RECIPE, scored=True)
        if found is not None:
            assert found.files["model.onnx"] == found.files["model.onnx"][:1] * 20_000
            seen.add(found.files["model.onnx"][:1])
    for writer in writers:
        _, err = writer.communicate()
        assert writer.returncode == 0, err
    assert space.artifact(RECIPE, scored=True).files["model.onnx"] == bytes([59]) * 20_000
    assert space.model(RECIPE, network(), original()) is not None
    assert len(seen) > 1
    assert leftovers(space) == []


def test_a_disk_that_takes_no_more_is_told_with_the_way_out_and_leaves_no_half_entry(tmp_path):
    body = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
space.keep_artifact(artifact(), scored=False)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for keep in (
    lambda: space.keep_artifact(artifact(b"x" * 100_000), scored=True),
    lambda: write_result(space.folder / "out", {"report.txt": "r" * 100_000}, artifact(), pruned()),
):
    try:
        keep()
    except WorkspaceError as error:
        print(error, "|", error.mend)
"""
    out, err = in_process(body, tmp_path).communicate()
    assert out.count("it cannot be written: File too large") == 2, err
    assert out.count("| free some space") == 2
    space = Workspace(tmp_path, "run")
    assert space.artifact(RECIPE, scored=True) is None
    assert space.artifact(RECIPE, scored=False) == artifact()
    assert not (tmp_path / "out" / "report.txt").exists()
    assert not [name for name in leftovers(space) if (space.folder / "run" / name).exists()]


def test_a_full_disk_is_called_full():
    place = Path("/dev/full")
    if not place.exists():
        pytest.skip("this system has no /dev/full")
    told = pytest.raises(WorkspaceError, match=r"/dev/full: the disk is full\.\n.*free some space")
    with told, disk_errors(place), place.open("wb", buffering=0) as full:
        full.write(b"x")


def test_a_file_where_the_folder_should_be_is_told(tmp_path):
    (tmp_path / "cache").write_text("in the way")
    space = Workspace(tmp_path / "cache", "run")
    with pytest.raises(WorkspaceError) as caught:
        space.keep_artifact(artifact(), scored=True)
    assert caught.value.mend
    with pytest.raises(WorkspaceError):
        write_result(tmp_path / "cache", {}, artifact(), pruned())


def test_a_measurement_on_disk_can_be_read_by_people(space):
    space.keep_artifact(artifact(), scored=True)
    (path,) = space.folder.rglob("measurement.json")
    assert json.loads(path.read_text())["measurement"]["score"]["value"] == 0.5
    assert "\n" in path.read_text()
