"""What tells two tasks apart: the code and the data of their functions, the same in every process."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from haversack.packing.fingerprint import fingerprint

TABLE = torch.arange(6.0)
FACTOR = 2


def helper(x):
    return x * FACTOR


def reads_globals():
    return helper(TABLE)


def closure(value, extra=0):
    def function(x=extra):
        return x, value

    return function


def lower(x):
    return x < 3


def higher(x):
    return x > 3


def loader(values: torch.Tensor) -> DataLoader:
    return DataLoader(TensorDataset(values), batch_size=2, shuffle=True)


PAIRS = {
    "code": (lower, higher),
    "constant": (lambda: 1, lambda: 2),
    "default": (closure(0, 1), closure(0, 2)),
    "number in a closure": (closure(1), closure(2)),
    "tensor in a closure": (closure(torch.zeros(3)), closure(torch.ones(3))),
    "array in a closure": (closure(np.zeros(3)), closure(np.ones(3))),
    "tensor in a list": (closure([torch.zeros(3)]), closure([torch.ones(3)])),
    "array in a dictionary": (closure({"x": np.zeros(3)}), closure({"x": np.ones(3)})),
    "type": (closure(torch.zeros(3)), closure(torch.zeros(3, dtype=torch.int32))),
    "shape": (closure(torch.zeros(3, 2)), closure(torch.zeros(2, 3))),
    "partial": (partial(lower, 1), partial(lower, 2)),
    "data set": (closure(loader(torch.zeros(4))), closure(loader(torch.ones(4)))),
    "half": (closure(torch.zeros(3).bfloat16()), closure(torch.ones(3).bfloat16())),
}


@pytest.mark.parametrize("name", PAIRS)
def test_what_differs_in_code_or_data_has_another_fingerprint(name):
    one, other = PAIRS[name]
    assert fingerprint(one) == fingerprint(one)
    assert fingerprint(one) != fingerprint(other)


def test_a_function_s_surroundings_count_and_what_they_call_too(monkeypatch):
    before = fingerprint(reads_globals)
    monkeypatch.setitem(globals(), "FACTOR", 3)
    changed = fingerprint(reads_globals)
    monkeypatch.setitem(globals(), "TABLE", torch.zeros(6))
    assert len({before, changed, fingerprint(reads_globals)}) == 3


def test_what_is_only_in_use_does_not_count():
    calls, cache = [], {}
    before = fingerprint(closure((calls, cache, nn.Linear(2, 2))))
    calls.append(1)
    cache["a"] = 2
    assert fingerprint(closure((calls, cache, nn.Linear(2, 2)))) == before


def test_what_contains_itself_ends():
    loop = [torch.zeros(2)]
    loop.append(loop)
    assert fingerprint(closure(loop)) != fingerprint(closure([torch.ones(2)]))


@pytest.mark.parametrize(
    "odd",
    [
        torch.zeros(3, device="meta"), torch.zeros(3).to_sparse(), torch.zeros(0), torch.tensor(1.0),
        np.zeros((0, 3)), torch.zeros(3, dtype=torch.complex64), torch.eye(3).T[1:], torch.zeros(2, dtype=torch.bool),
        np.array(["a"], object), nn.Parameter(torch.zeros(2)),
    ],
)  # fmt: skip
def test_data_of_any_kind_have_a_fingerprint(odd):
    assert fingerprint(closure(odd)) == fingerprint(closure(odd)) != fingerprint(closure(None))


def test_large_data_are_told_apart_in_a_moment():
    large = torch.zeros(1 << 25)
    assert fingerprint(closure(large)) != fingerprint(closure(large + 1))


@pytest.mark.parametrize("seed", ["1", "2"])
def test_a_fingerprint_is_the_same_in_every_process(seed):
    program = (
        "import test_fingerprint as t; print(t.fingerprint(t.reads_globals, t.closure(t.TABLE), *t.PAIRS['data set']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    from test_fingerprint import PAIRS as THERE  # the module, not the copy that runs as a test
    from test_fingerprint import closure as made
    from test_fingerprint import reads_globals as read

    assert done.stdout.strip() == fingerprint(read, made(TABLE), *THERE["data set"])
