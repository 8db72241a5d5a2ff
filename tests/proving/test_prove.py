"""Proofs: which runtimes agree with the integer reference, and what is said when one does not."""

from __future__ import annotations

import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from litert_files import damaged, file_of, images, network, quantized
from torch import Tensor, nn

from haversack.artifact import Artifact
from haversack.cli import main
from haversack.disk import LISTING
from haversack.errors import MeasureError, ParityError, SurgeryError
from haversack.graph.inference import lower
from haversack.measurement import Conditions, Figure, Measurement, Parity
from haversack.model import Model
from haversack.packing.result import read_result, write_result
from haversack.proof import Agreement, Examined, Proof, Witness
from haversack.proving.examine import examined
from haversack.proving.prove import Effort, prove, require
from haversack.recipe import Recipe
from haversack.report.proved import proved
from haversack.runtimes import coded
from haversack.runtimes.onnx import ONNX
from haversack.surgery.save import export_pt2, save
from haversack.task import Task

LITTLE = Effort(samples=40)
BRIEF = Effort(samples=2, patience_s=0)
TEST = images(50)

TASK_FILE = """
import torch
from litert_files import images, network
from haversack import Task

def task():
    return Task(
        train=lambda: [],
        calibrate=lambda: [images(64)],
        score=lambda predict: float(predict(images(50))[:, 0].mean()),
    )
"""


def _score(predict: Callable[[Tensor], Tensor]) -> float:
    return float(predict(TEST)[:, 0].mean())


TASK = Task(train=list, calibrate=lambda: [images(64)], score=_score)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result folder as `pack` writes it: an int8 network and its .tflite file."""
    place = tmp_path_factory.mktemp("result")
    model = quantized(network(), images(64))
    save(model, place / "network")
    (place / "model.tflite").write_bytes(file_of(model))
    return place


@pytest.fixture(scope="module")
def proof(folder: Path) -> Proof:
    for package in ("ai_edge_litert", "tflite_micro"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    return prove(folder, network(), TASK, LITTLE)


def _of(proof: Proof, name: str) -> Witness:
    return next(witness for witness in proof.witnesses if witness.name == name)


def test_tflite_micro_equals_the_integer_reference_to_the_bit(proof: Proof) -> None:
    micro = _of(proof, "tflite-micro")
    assert proof.reference == "integer reference"
    assert micro.promise == "to the bit"
    for found in (micro.calibration, micro.random):
        assert (found.samples, found.equal, found.max_steps, found.mismatching_bytes) == (40, 1.0, 0.0, 0)


def test_every_runtime_is_asked_and_stays_within_two_steps(proof: Proof) -> None:
    names = [witness.name for witness in proof.witnesses]
    assert names[:5] == ["integer reference", "torch", "ONNX Runtime", "LiteRT", "tflite-micro"]
    assert not proof.absent
    assert all(witness.calibration.max_steps <= 2.001 for witness in proof.witnesses)
    require(proof)


def test_the_file_in_the_folder_is_run_and_one_that_is_not_there_is_written(proof: Proof) -> None:
    assert _of(proof, "LiteRT").file == "model.tflite"
    assert _of(proof, "ONNX Runtime").file == "written now"


def test_each_runtime_has_its_own_score(proof: Proof) -> None:
    exact = _of(proof, "integer reference").score
    assert exact is not None
    assert _of(proof, "tflite-micro").score == exact
    assert all(witness.score == pytest.approx(exact, abs=0.01) for witness in proof.witnesses)


def test_a_score_that_would_take_too_long_is_left_out(folder: Path) -> None:
    found = prove(folder, network(), TASK, replace(LITTLE, samples=2, patience_s=0.0))
    assert sum(witness.score is not None for witness in found.witnesses) == 1
    assert "not taken" in str(proved(found))


def test_the_same_seed_draws_the_same_inputs(folder: Path, proof: Proof) -> None:
    again = prove(folder, network(), TASK, LITTLE)
    assert [each.random for each in again.witnesses] == [each.random for each in proof.witnesses]


def test_a_file_of_another_network_breaks_its_promise(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed")
    other = network()
    torch.nn.init.uniform_(other[5].weight, -0.1, 0.1)
    save(quantized(network(), images(64)), tmp_path / "network")
    (tmp_path / "model.tflite").write_bytes(file_of(quantized(other, images(64))))
    found = prove(tmp_path, network(), TASK, LITTLE)
    assert {witness.name for witness in found.broken} >= {"tflite-micro", "LiteRT"}
    assert "BROKEN: tflite-micro promised to the bit" in str(proved(found))
    with pytest.raises(ParityError, match=r"(?s)tflite-micro promised to the bit, and \d+ bytes differ.*do not ship"):
        require(found)


@pytest.mark.parametrize("order", [9.0, 7.0, 0.0])
def test_a_file_may_be_off_about_as_far_as_the_order_of_sums_moves_the_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch, order: float
) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    far = Agreement(samples=40, equal=0.0, max_steps=15.0, mismatching_bytes=9, same_class=1.0)
    monkeypatch.setattr("haversack.proving.prove.Scale.agreement", lambda *_: far)
    monkeypatch.setattr("haversack.proving.prove._moved", lambda *_: Parity(order, 1.0, 40))
    found = _of(prove(folder, network(), TASK, BRIEF), "LiteRT")
    assert (found.broken == "") == (order == 9.0)
    assert ("as near as the order of sums leaves it (9)" in found.promise) == (order == 9.0)


def test_a_float_network_is_compared_relative_to_its_largest_output(tmp_path: Path) -> None:
    save(Model(network(), (images(1),)), tmp_path / "network")
    found = prove(tmp_path, network(), TASK, LITTLE)
    assert not found.on_integers
    assert not found.broken
    assert all(witness.calibration.max_steps < 1e-3 for witness in found.witnesses)
    assert "relative to the largest output" in " ".join(str(proved(found)).split())


def test_what_the_integer_graph_does_not_know_is_named_and_torch_is_the_reference(tmp_path: Path) -> None:
    def odd() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Softplus(), nn.Linear(8, 5)).eval()

    save(Model(odd(), (images(1),)), tmp_path / "network")
    found = prove(tmp_path, odd(), TASK, LITTLE)
    assert found.reference == "torch"
    assert [witness.name for witness in found.witnesses][:2] == ["torch", "ONNX Runtime"]
    assert "softplus" in found.absent["integer reference"]


def test_a_runtime_that_is_not_installed_is_named_with_its_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    found = prove(folder, network(), TASK, LITTLE)
    assert "haversack[litert]" in found.absent["LiteRT"]
    assert "Not asked: LiteRT" in str(proved(found))


def test_a_folder_of_nothing_or_of_another_network_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match="holds no result"):
        prove(tmp_path, network(), TASK)
    with pytest.raises(SurgeryError):
        prove(folder, network(width=8), TASK)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result folder with everything that `pack` writes, for ONNX Runtime."""
    place = tmp_path_factory.mktemp("sealed")
    model = quantized(network(), images(64))
    conditions = Conditions("host", "onnx", 1, "a Zen 4")
    measured = Measurement(Figure(10, "host"), Figure(20, "host"), None, conditions)
    files = {"model.onnx": ONNX.write(lower(model)), "model.hsk": coded.write(model)}
    texts = {
        "measurement.json": json.dumps({"packed": measured.to_json()}),
        "recipe.toml": '[[step]]\ntechnique = "quantize_static"\n',
        "report.txt": "all is well",
    }
    write_result(place, texts, Artifact("onnx", files, Recipe(), measured), model)
    return place


def _spoilt(sealed: Path, place: Path, name: str, content: bytes | None, *, listed: bool = False) -> Path:
    """A copy in which one file has another content, or is gone; `listed` says whether a listing tells."""
    shutil.copytree(sealed, place, dirs_exist_ok=True)
    (place / name).unlink(missing_ok=True)
    if content is not None:
        (place / name).write_bytes(content)
    if not listed:
        (place / LISTING).unlink()
    return place


def _wrong(place: Path) -> dict[str, str]:
    """The files that are not what they should be, as far as that shows without running them."""
    files = examined(place, read_result(place, network(), TASK), {})
    return {each.file: each.broken for each in files if each.broken}


def _of_another_network() -> dict[str, bytes]:
    """The files of a network with other weights."""
    other = network()
    torch.nn.init.uniform_(other[5].weight, -0.1, 0.1)
    model = quantized(other, images(64))
    with tempfile.TemporaryDirectory() as folder:
        export_pt2(model, Path(folder) / "network.pt2")
        program = (Path(folder) / "network.pt2").read_bytes()
    return {
        "model.onnx": ONNX.write(lower(model)),
        "model.hsk": coded.write(model),
        "network/network.pt2": program,
        "model.tflite": file_of(model),
    }


def test_every_file_of_a_result_is_looked_at(sealed: Path, tmp_path: Path) -> None:
    shutil.copytree(sealed, tmp_path, dirs_exist_ok=True)
    (tmp_path / "notes.txt").write_text("mine")
    found = prove(tmp_path, network(), TASK, BRIEF)
    require(found)
    told = {each.file: each.looked_at for each in found.files}
    assert told["model.onnx"].startswith("as it was written; run by ONNX Runtime")
    assert told["model.hsk"] == "as it was written; decoded: the network's 6 tensors"
    assert told["network/network.pt2"] == "as it was written; the network's weights and graph"
    assert told["recipe.toml"] == "as it was written; quantize_static"
    assert told["notes.txt"] == "no part of the result"
    inside = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert set(told) == inside
    assert "decoded: the network's 6 tensors" in str(proved(found))


@pytest.mark.parametrize("name", ["model.hsk", "network/network.pt2", "measurement.json", "recipe.toml", "report.txt"])
def test_a_file_full_of_noise_is_a_broken_promise(sealed: Path, tmp_path: Path, name: str) -> None:
    place = _spoilt(sealed, tmp_path, name, b"this is [ no file\xff of ours")
    assert list(_wrong(place)) == [name]
    assert "cannot be read" in _wrong(place)[name]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.onnx", b"text", "is not what was written: its digest differs"),
        ("report.txt", b"met", "is not what was written: its digest differs"),
        ("model.hsk", None, "is gone"),
        ("model.tflite", b"text", "is not of this result, whose listing does not name it"),
    ],
)
def test_a_file_that_the_listing_knows_otherwise_is_a_broken_promise(
    sealed: Path, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    found = _wrong(_spoilt(sealed, tmp_path, name, content, listed=True))
    assert list(found) == [name]
    assert said in found[name]


def test_the_file_that_a_result_was_made_for_is_missed_without_a_listing_too(sealed: Path, tmp_path: Path) -> None:
    assert _wrong(_spoilt(sealed, tmp_path, "model.onnx", None)) == {"model.onnx": "is gone"}


@pytest.mark.parametrize("name", ["model.hsk", "network/network.pt2"])
def test_weights_of_another_network_are_a_broken_promise(sealed: Path, tmp_path: Path, name: str) -> None:
    place = _spoilt(sealed, tmp_path, name, _of_another_network()[name])
    assert list(_wrong(place)) == [name]
    assert "holds other weights than the network" in _wrong(place)[name]


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (nn.BatchNorm1d(5), "gives NaN or infinity for calibration inputs"),
        (nn.Unflatten(1, (5, 1, 1)), "gives outputs of the shape"),
    ],
    ids=["no numbers", "of another shape"],
)
def test_outputs_that_no_score_could_be_taken_of_are_a_broken_promise_of_the_file_and_no_error_of_the_task(
    sealed: Path, tmp_path: Path, last: nn.Module, said: str
) -> None:
    spoilt = nn.Sequential(*network(), last).eval()
    if isinstance(last, nn.BatchNorm1d):
        last.bias.data[0] = math.nan
    content = ONNX.write(lower(Model(spoilt, (images(1),))))
    found = prove(_spoilt(sealed, tmp_path, "model.onnx", content), network(), TASK, Effort(samples=2))
    assert _of(found, "ONNX Runtime").broken.startswith(said)
    assert _of(found, "ONNX Runtime").score is None
    assert _of(found, "torch").score is not None


@pytest.mark.parametrize("what", ["noise", "another network"])
def test_the_file_that_a_result_was_made_for_must_run_and_agree(sealed: Path, tmp_path: Path, what: str) -> None:
    content = b"this is no file of ours" if what == "noise" else _of_another_network()["model.onnx"]
    found = prove(_spoilt(sealed, tmp_path, "model.onnx", content), network(), TASK, BRIEF)
    assert [witness.name for witness in found.broken][:1] == ["ONNX Runtime"]
    assert "Every promise was kept" not in str(proved(found))
    with pytest.raises(ParityError, match=r"(?s)ONNX Runtime.*do not ship it"):
        require(found)


def test_a_damaged_file_kills_its_runtime_and_not_the_proof(sealed: Path, tmp_path: Path) -> None:
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed")
    found = prove(_spoilt(sealed, tmp_path, "model.tflite", damaged()), network(), TASK, BRIEF)
    micro = _of(found, "tflite-micro")
    assert "was ended by SIG" in micro.broken
    assert micro.calibration is None
    assert not _of(found, "ONNX Runtime").broken
    assert "not compared" in str(proved(found))
    assert "cannot be run" in {each.file: each.broken for each in found.files}["model.tflite"]


def test_what_is_held_on_random_inputs_only_to_be_finite_says_so(proof: Proof) -> None:
    assert _of(proof, "LiteRT").promise == "within 12; random ones finite"
    assert "only has to be finite on the random ones" in " ".join(str(proved(proof)).split())


def _witness(broken: str) -> Witness:
    same = Agreement(40, 1.0, 0.0, 0, 1.0)
    return Witness("LiteRT", "model.tflite", "within 12", same, same, 0.9, broken)


def test_a_proof_is_plain_data() -> None:
    files = (Examined("model.hsk", "its digest", "is gone"),)
    found = Proof("out", "torch", True, (_witness("is off by 99"),), {"ONNX Runtime": "no"}, files)
    assert json.loads(json.dumps(found.to_json()))["witnesses"][0]["broken"] == "is off by 99"
    assert json.loads(json.dumps(found.to_json()))["files"][0]["broken"] == "is gone"
    with pytest.raises(ParityError, match=r"LiteRT is off by 99; model\.hsk is gone"):
        require(found)


def _run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def test_the_command_ends_with_code_2_and_one_message_where_a_promise_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed")
    model = quantized(network(), images(64))
    save(model, tmp_path / "network")
    task = tmp_path / "task.py"
    task.write_text(TASK_FILE)
    code, out, err = _run(capsys, "prove", tmp_path, task, "--samples", "5", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["reference"] == "integer reference"
    (tmp_path / "model.tflite").write_bytes(file_of(quantized(network(), images(64) / 2)))
    code, out, err = _run(capsys, "prove", tmp_path, task, "--samples", "5")
    assert code == 2
    assert "BROKEN" in out
    assert "bytes differ" in err
    assert "Traceback" not in err
    code, _, err = _run(capsys, "prove", tmp_path / "none", task)
    assert code == 2
    assert "holds no result" in err
