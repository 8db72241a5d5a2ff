"""Several processes train what one would, within rounding."""

import json
import socket
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from haversack.training.machine import Processes
from tests import warm

PROGRAM = Path(__file__).parent / "trained_together.py"
WHAT = ("plain", "taught", "few", "norms", "hints")


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("localhost", 0))
        return place.getsockname()[1]


def together(processes: int, folder: Path, *words: str) -> dict[str, list[dict]]:
    """What each process of `trained_together.py` found, by training; one that was stopped found nothing.

    They have what torchrun tells them; test_example.py starts it itself.
    """
    folder.mkdir(exist_ok=True)
    code = f"import runpy; runpy.run_path({str(PROGRAM)!r}, run_name='__main__')"
    meeting = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    told = [
        meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {} for rank in range(processes)
    ]
    started = [warm.Program(code, folder, *words, **each) for each in told]
    for each in started:
        _, wrong = each.communicate(timeout=240)
        assert each.returncode == 0 or "--stop-at" in words, wrong[-3000:]
    trainings = {word: sorted((folder / word).glob("*.json")) for word in words if word in WHAT}
    return {what: [json.loads(file.read_text()) for file in files] for what, files in trainings.items()}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """What one process found, training by training: starting one takes longer than all that it trains."""
    return {what: alone for what, (alone,) in together(1, tmp_path_factory.mktemp("one"), *WHAT).items()}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two processes found."""
    return together(2, tmp_path_factory.mktemp("two"), *WHAT)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["plain", "taught", "few"])
def test_two_processes_end_with_the_weights_and_losses_of_one(one, two, what):
    alone, (first, second) = one[what], two[what]
    assert first == second
    assert len(alone["losses"]) == len(first["losses"])
    for name in ("losses", "weights"):
        torch.testing.assert_close(torch.tensor(first[name]), torch.tensor(alone[name]), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_batch_norm_sees_its_own_process_s_part_and_yet_all_end_with_the_same_statistics(one, two):
    alone, (first, second) = one["norms"], two["norms"]
    assert first == second
    assert sum(first["losses"]) == pytest.approx(sum(alone["losses"]), rel=0.1)


@pytest.mark.slow
def test_regressors_learn_from_the_maps_of_all_processes(one, two):
    alone, (first, second) = one["hints"], two["hints"]
    assert first == second
    torch.testing.assert_close(torch.tensor(first["weights"]), torch.tensor(alone["weights"]), rtol=0, atol=0.02)


@pytest.mark.slow
def test_two_processes_that_are_killed_go_on_together(two, tmp_path):
    whole, _ = two["plain"]
    assert not together(2, tmp_path / "killed", "plain", "--stop-at", "13")["plain"]
    first, second = together(2, tmp_path / "killed", "plain")["plain"]
    assert first["weights"] == second["weights"] == whole["weights"]
    assert first["losses"] == whole["losses"][13:]


@given(st.integers(1, 5), st.integers(0, 9))
def test_the_parts_of_a_batch_are_disjoint_and_make_it_up(count, rows):
    inputs, target = torch.arange(rows * 2).view(rows, 2), torch.arange(rows)
    cpu = torch.device("cpu")
    parts = [Processes(index, count, cpu).part(((inputs, inputs), target)) for index in range(count)]
    assert sorted(int(each) for _, part in parts for each in part) == list(range(rows))
    assert all(torch.equal(each[:, 0], 2 * part) for both, part in parts for each in both)
    assert max(len(part) for _, part in parts) - min(len(part) for _, part in parts) <= 1


def test_one_process_leaves_everything_as_it_is():
    alone, layer = Processes(0, 1, torch.device("cpu")), nn.Linear(2, 2)
    batch = (torch.ones(3, 2), torch.zeros(3))
    assert all(ours is theirs for ours, theirs in zip(alone.part(batch), batch, strict=True))
    assert alone.sum_gradients(list(layer.parameters()), 0.25) == 0.25
    assert alone.mean(3.0) == 3.0
