"""What a task says that shorter inputs are filled up with, and how they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from haversack.errors import TaskError
from haversack.filling import Filling
from haversack.lengths import axes_of
from haversack.task import Task

NAMES = ("mask", "tokens")
WORDS = (((1, "words"),), ((1, "words"),))
PAD = {"mask": 0, "tokens": 7}


def pairs(*lengths: int) -> list[tuple[Tensor, ...]]:
    """Batches of a real and a whole input of equal lengths."""
    return [(torch.ones(2, length), torch.ones(2, length).long()) for length in lengths]


@pytest.mark.parametrize(
    ("pad", "said"),
    [
        ([("tokens", 0)], "is list, not a mapping"),
        ({3: 0}, "has the key 3"),
        ({"tokens": "0"}, "fills up the input 'tokens' with '0'"),
        ({"tokens": float("nan")}, "fills up the input 'tokens' with nan"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_refused(pad: Any, said: str) -> None:
    with pytest.raises(TaskError, match=r"Task\.pad") as refused:
        Task(list, list, lambda _: 0.0, pad=pad)
    assert said in refused.value.what
    assert "Task(pad={" in refused.value.mend


@pytest.mark.parametrize(
    ("pad", "said"),
    [
        ({**PAD, "words": 0}, "names the input 'words'; there is 'mask', 'tokens'"),
        ({"tokens": 0}, "does not say what the input 'mask' is filled up with"),
        ({"mask": 0.5, "tokens": 0.5}, "fills up the input 'tokens' with 0.5, and it holds whole numbers"),
    ],
)
def test_a_mapping_that_does_not_fit_the_inputs_is_refused(pad: Any, said: str) -> None:
    with pytest.raises(TaskError, match=r"Task\.pad") as refused:
        Filling.of(pad, NAMES, WORDS, pairs(4, 6))
    assert said in refused.value.what


def test_inputs_end_as_they_are_told_to() -> None:
    mask, tokens = Filling.of(PAD, NAMES, WORDS, pairs(4, 6, 5)).filled(pairs(4)[0])
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0]] * 2
    assert tokens.tolist() == [[1, 1, 1, 1, 7, 7]] * 2
    assert tokens.dtype == torch.int64


def test_one_that_is_longer_than_all_calibration_inputs_is_refused() -> None:
    with pytest.raises(
        TaskError, match=r"an input has 7 along dimension 1 \('words'\), and the file takes 6"
    ) as refused:
        Filling.of(PAD, NAMES, WORDS, pairs(4, 6)).filled(pairs(7)[0])
    assert "let calibrate() yield" in refused.value.mend


def test_each_dimension_is_as_long_as_the_longest_along_it() -> None:
    batches = [(torch.ones(1, 3, 8, 4),), (torch.ones(1, 3, 5, 6),)]
    filling = Filling.of({"image": -1}, ("image",), axes_of(None, ("image",), batches), batches)
    image = filling.filled(batches[1])[0]
    assert image.shape == (1, 3, 8, 6)
    assert image[:, :, :5].eq(1).all()
    assert image[:, :, 5:].eq(-1).all()


def test_an_input_of_one_length_needs_no_number() -> None:
    batches = [(torch.ones(2, 3), *values) for values in pairs(4, 6)]
    filling = Filling.of(PAD, ("image", *NAMES), ((), *WORDS), batches)
    assert [value.shape for value in filling.filled(batches[0])] == [(2, 3), (2, 6), (2, 6)]
