"""Proofs: which runtimes agree with the integer reference, and what is said when one does not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from litert_files import file_of, images, network, quantized
from torch import Tensor, nn

from haversack.cli import main
from haversack.errors import MeasureError, ParityError, SurgeryError
from haversack.graph.surgery import save
from haversack.model import Model
from haversack.proof import Agreement, Proof, Witness
from haversack.prove import Effort, prove, require
from haversack.report.proof import proved
from haversack.task import Task

LITTLE = Effort(samples=40)
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
    assert "not taken" in proved(found)


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
    assert "BROKEN: tflite-micro promised to the bit" in proved(found)
    with pytest.raises(ParityError, match=r"(?s)tflite-micro promised to the bit, and \d+ bytes differ.*do not ship"):
        require(found)


def test_a_float_network_is_compared_relative_to_its_largest_output(tmp_path: Path) -> None:
    save(Model(network(), (images(1),)), tmp_path / "network")
    found = prove(tmp_path, network(), TASK, LITTLE)
    assert not found.on_integers
    assert not found.broken
    assert all(witness.calibration.max_steps < 1e-3 for witness in found.witnesses)
    assert "relative to the largest output" in " ".join(proved(found).split())


def test_what_the_integer_graph_does_not_know_is_named_and_torch_is_the_reference(tmp_path: Path) -> None:
    def odd() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.LayerNorm(8), nn.Linear(8, 5)).eval()

    save(Model(odd(), (images(1),)), tmp_path / "network")
    found = prove(tmp_path, odd(), TASK, LITTLE)
    assert found.reference == "torch"
    assert [witness.name for witness in found.witnesses][:2] == ["torch", "ONNX Runtime"]
    assert "layer_norm" in found.absent["integer reference"]


def test_a_runtime_that_is_not_installed_is_named_with_its_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    found = prove(folder, network(), TASK, LITTLE)
    assert "haversack[litert]" in found.absent["LiteRT"]
    assert "Not asked: LiteRT" in proved(found)


def test_a_folder_of_nothing_or_of_another_network_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match="holds no result"):
        prove(tmp_path, network(), TASK)
    with pytest.raises(SurgeryError):
        prove(folder, network(width=8), TASK)


def _witness(broken: str) -> Witness:
    same = Agreement(40, 1.0, 0.0, 0, 1.0)
    return Witness("LiteRT", "model.tflite", "within 12", same, same, 0.9, broken)


def test_a_proof_is_plain_data() -> None:
    found = Proof("out", "torch", True, (_witness("is off by 99"),), {"ONNX Runtime": "no"})
    assert json.loads(json.dumps(found.to_json()))["witnesses"][0]["broken"] == "is off by 99"
    with pytest.raises(ParityError, match="LiteRT is off by 99"):
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
