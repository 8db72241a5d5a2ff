"""Times of considered models are kept: the same structure is timed once on a machine."""

from pathlib import Path

import torch
from torch import nn

from haversack.device import find_device
from haversack.model import Model
from haversack.packing.candidates import Files
from haversack.packing.workspace import Workspace


def model(width: int, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return Model(nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 2)).eval(), (torch.ones(1, 8),))


def files(folder: Path, threads: int = 1) -> Files:
    return Files(find_device("host"), threads, seconds=0.05, memory=Workspace(folder, "run"))


def test_what_was_timed_is_not_timed_again_in_another_run_whatever_its_weights(tmp_path: Path) -> None:
    first = files(tmp_path).latencies_ms([model(4), model(64)])
    assert files(tmp_path).latencies_ms([model(4, seed=1), model(64, seed=1)]) == first
    assert len(list(tmp_path.rglob("*.json"))) == 1


def test_another_structure_order_or_number_of_threads_is_timed(tmp_path: Path) -> None:
    files(tmp_path).latencies_ms([model(4), model(64)])
    files(tmp_path).latencies_ms([model(64), model(4)])
    files(tmp_path).latencies_ms([model(4), model(65)])
    files(tmp_path, threads=2).latencies_ms([model(4), model(64)])
    assert len(list(tmp_path.rglob("*.json"))) == 4
