"""What a result folder says is read part by part, and whatever is wrong with it ends in one clear error."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from haversack.coded import container
from haversack.coded.container import CodedFile
from haversack.coded.tensors import Codebook, Integers, Raw, Stored
from haversack.disk import LISTING, digest_of, seal
from haversack.errors import CodedError, HaversackError, MeasureError, UntrustedError
from haversack.limits import Budget
from haversack.result import MEASURED, NETWORK, RECIPE, REPORT, Measured, Result
from tests.results import MEASUREMENT, STEP, TENSORS, written_result

PARTS: dict[str, Callable[[Result], object]] = {
    "files": lambda result: result.files,
    "recipe": lambda result: result.recipe,
    "techniques": lambda result: result.techniques,
    "measured": lambda result: result.measured,
    "report": lambda result: result.report,
    "weights": lambda result: result.weights,
    "network": lambda result: result.network,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written_result(tmp_path / "out")


def test_a_result_says_what_was_written(folder: Path) -> None:
    result = Result(folder)
    assert result.recipe == STEP
    assert result.techniques == ("quantize_static",)
    assert result.measured == Measured(packed=MEASUREMENT, limits=Budget(flash_bytes=100))
    assert result.report == "all is well\n"
    assert result.network == folder / NETWORK
    assert np.array_equal(result.weights.tensors["fc.weight"].real, TENSORS["fc.weight"].real)
    assert result.changed() == []


def test_files_have_their_sizes_and_digests_and_what_is_no_part_of_the_result_is_none(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    files = {each.name: each for each in Result(folder).files}
    assert files.keys() == {"model.onnx", "model.hsk", RECIPE, MEASURED, REPORT, "network/network.json"}
    assert files["model.onnx"].size_bytes == len(b"a graph")
    assert files["model.onnx"].sha256 == hashlib.sha256(b"a graph").hexdigest()
    assert files["model.hsk"].sha256 == Result(folder).weights.sha256


@pytest.mark.parametrize("part", PARTS)
def test_a_folder_without_a_result_says_so(tmp_path: Path, part: str) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "none", tmp_path / "file"):
        with pytest.raises(MeasureError, match=r"it holds no result|files\.json"):
            PARTS[part](Result(place))


def test_a_result_of_a_version_without_a_listing_is_read_and_has_no_digests(folder: Path) -> None:
    (folder / LISTING).unlink()
    (folder / RECIPE).write_text(STEP * 2)
    assert Result(folder).techniques == ("quantize_static",) * 2
    assert Result(folder).changed() == []
    with pytest.raises(MeasureError, match=LISTING):
        _ = Result(folder).files


def gone(path: Path) -> None:
    path.unlink()


def renamed(path: Path) -> None:
    path.rename(path.with_name(f"{path.name}.old"))


def altered(path: Path) -> None:
    path.write_bytes(path.read_bytes()[::-1])


def long(path: Path) -> None:
    os.truncate(path, 1 << 42)


def a_link(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("spoil", [gone, renamed, altered, long, a_link, a_folder, a_pipe])
@pytest.mark.parametrize(
    ("part", "name"),
    [("recipe", RECIPE), ("measured", MEASURED), ("report", REPORT), ("weights", "model.hsk")],
)
def test_a_file_that_is_not_what_was_written_is_not_read(
    folder: Path, part: str, name: str, spoil: Callable[[Path], None]
) -> None:
    spoil(folder / name)
    with pytest.raises(UntrustedError, match=name):
        PARTS[part](Result(folder))
    with pytest.raises(MeasureError, match=f"{name} is gone, or not what was written"):
        _ = Result(folder).files
    assert Result(folder).network


@pytest.mark.parametrize("spoil", [gone, altered, long, a_link, a_folder, a_pipe])
def test_a_listing_that_cannot_be_read_is_told(folder: Path, spoil: Callable[[Path], None]) -> None:
    spoil(folder / LISTING)
    with pytest.raises(MeasureError, match=LISTING):
        _ = Result(folder).files


def test_a_folder_within_that_is_a_link_is_not_entered(folder: Path, tmp_path: Path) -> None:
    (folder / NETWORK).rename(tmp_path / "elsewhere")
    (folder / NETWORK).symlink_to(tmp_path / "elsewhere")
    assert Result(folder).changed() == ["network/network.json"]
    with pytest.raises(MeasureError, match=r"network/network\.json"):
        _ = Result(folder).network


@pytest.mark.parametrize(
    "name", ["../out/recipe.toml", "/etc/passwd", "a/../recipe.toml", "", ".", "network//network.json", "a\0b", "ä"]
)
def test_a_name_that_may_lead_elsewhere_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(UntrustedError, match="no file in this folder"):
        Result(folder).path(name)
    (folder / LISTING).write_text(json.dumps({"files": {name: digest_of(folder / RECIPE)}}))
    for part in PARTS.values():
        with pytest.raises(MeasureError, match="no file in this folder"):
            part(Result(folder))


@pytest.mark.parametrize("name", ["/".join("a" * 5000), "a" * 100 + "/b"])
def test_a_name_of_nothing_that_can_be_there_is_a_missing_file(folder: Path, name: str) -> None:
    (folder / LISTING).write_text(json.dumps({"files": {name: "00"}}))
    with pytest.raises(MeasureError, match="is gone"):
        _ = Result(folder).files


def resealed(folder: Path, name: str, content: str) -> Result:
    """A result whose digests fit."""
    (folder / name).write_text(content)
    (folder / LISTING).unlink()
    seal(folder)
    return Result(folder)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "3",
        '{"packed": 3}',
        '{"baseline": null}',
        '{"packed": {"flash_bytes": "small"}}',
        "[" * 9999,
        "\\ud800",
    ],
)
def test_a_measurement_of_other_types_is_refused_though_its_digest_fits(folder: Path, content: str) -> None:
    with pytest.raises(UntrustedError, match=r"measurement\.json|Measured"):
        _ = resealed(folder, MEASURED, content).measured


def test_limits_that_make_no_sense_are_refused(folder: Path) -> None:
    content = json.dumps({"packed": MEASUREMENT.to_json(), "limits": {"flash_bytes": -1}})
    with pytest.raises(HaversackError, match="flash_bytes"):
        _ = resealed(folder, MEASURED, content).measured


@pytest.mark.parametrize("content", ["step = 3", "step = [3]", "[[step]]", "[[step]]\ntechnique = 3", "technique"])
def test_a_recipe_of_no_steps_is_refused_though_its_digest_fits(folder: Path, content: str) -> None:
    with pytest.raises(UntrustedError, match=r"recipe\.toml"):
        _ = resealed(folder, RECIPE, content).techniques


def test_weights_that_are_none_are_refused_though_their_digest_fits(folder: Path) -> None:
    with pytest.raises(CodedError, match=r"model\.hsk: this is no file of coded weights"):
        _ = resealed(folder, "model.hsk", "text").weights


def coded(**tensors: Stored) -> CodedFile:
    return CodedFile.of(container.write(tensors), "here")


def test_files_that_hold_the_same_tensors_differ_in_nothing_however_they_are_coded() -> None:
    numbers = np.array([[0.5, -1.5, 0.5], [0.5, 0.5, -1.5]], np.float32)
    one = coded(a=Raw(numbers), b=Integers([1, 2], [0.5]))
    other = coded(
        b=Integers([1, 2], [0.5], [0]), a=Codebook([[1, 0, 1], [1, 1, 0]], np.array([-1.5, 0.5, 7], np.float32))
    )
    assert one.differing(other) == []
    assert one.sha256 != other.sha256


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Raw(np.zeros(2, np.float32)), Raw(-np.zeros(2, np.float32))),
        (Raw(np.zeros(2, np.float32)), Raw(np.zeros((1, 2), np.float32))),
        (Raw(np.zeros(2, np.float32)), Raw(np.zeros(2, np.int32))),
        (Raw(np.zeros(2, np.float32)), Integers([0, 0], [1.0])),
        (Integers([2, 4], [0.5]), Integers([1, 2], [1.0])),
        (Integers([1, 2], [0.5]), Integers([1, 2], [0.5], bits=4)),
        (Integers([1, 2], [0.5]), Integers([1, 2], [0.5], narrow=False)),
        (Integers([1, 2], [0.5]), Integers([2, 3], [0.5], [1])),
        (Integers([[1, 2], [3, 4]], [0.5, 1], axis=0), Integers([[1, 2], [3, 4]], [0.5, 1], axis=1)),
    ],
)
def test_files_whose_tensors_a_device_computes_otherwise_with_differ(one: Stored, other: Stored) -> None:
    assert coded(a=one).differing(coded(a=other)) == ["a"]
    assert coded(a=one).differing(coded(b=one)) == ["a", "b"]


def test_numbers_that_are_none_are_the_same_only_to_the_bit() -> None:
    one, other = (Raw(np.array([bits], np.uint32).view(np.float32)) for bits in (0x7FC00000, 0x7FC00001))
    assert coded(a=one).differing(coded(a=one)) == []
    assert coded(a=one).differing(coded(a=other)) == ["a"]
