"""What a task says of lengths that differ, and what is read off its inputs where it says nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from haversack.errors import TaskError
from haversack.lengths import axes_of, longest, of_each_length
from haversack.task import Task

NAMES = ("mask", "tokens")


def pairs(*lengths: int) -> list[tuple[Tensor, ...]]:
    """Batches of two inputs of equal lengths."""
    return [(torch.ones(2, length), torch.ones(2, length)) for length in lengths]


@pytest.mark.parametrize(
    ("free", "said"),
    [
        ([("tokens", 1)], "is list, not a mapping"),
        ({3: {1: "length"}}, "has the key 3"),
        ({"tokens": 1}, "has 1 for the input 'tokens'"),
        ({"tokens": {"1": "length"}}, "has the dimension '1'"),
        ({"tokens": {True: "length"}}, "has the dimension True"),
        ({"tokens": {-1: "length"}}, "has the dimension -1"),
        ({"tokens": {0: "samples"}}, "names dimension 0 of the input 'tokens': that is the batch"),
        ({"tokens": {1: "a length"}}, "'a length', which is no name"),
        ({"tokens": {1: 7}}, "7, which is no name"),
        ({"tokens": {1: "batch"}}, "'batch', which is no name"),
        ({"image": {1: "side", 2: "side"}}, "two dimensions of the input 'image' one name"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_refused(free: Any, said: str) -> None:
    with pytest.raises(TaskError, match=r"Task\.free") as refused:
        Task(list, list, lambda _: 0.0, free=free)
    assert said in refused.value.what
    assert "Task(free={" in refused.value.mend


@pytest.mark.parametrize(
    ("free", "said"),
    [
        ({"words": {1: "length"}}, "names the input 'words'; there is 'mask', 'tokens'"),
        ({"tokens": {2: "length"}}, "names dimension 2 of the input 'tokens', which has 2 dimensions"),
        ({"tokens": {1: "length"}}, "the input 'mask' has 4 and 7 along dimension 1, which Task.free does not name"),
        ({}, "the input 'mask' has 4 and 7 along dimension 1"),
    ],
)
def test_a_mapping_that_does_not_fit_the_inputs_is_refused(free: Any, said: str) -> None:
    with pytest.raises(TaskError) as refused:
        axes_of(free, NAMES, pairs(4, 7))
    assert said in refused.value.what
    assert refused.value.mend


def test_inputs_without_names_cannot_be_named() -> None:
    with pytest.raises(TaskError, match="there is none with a name"):
        axes_of({"x": {1: "length"}}, (), pairs(4))


def test_a_dimension_that_is_named_is_free_though_all_inputs_are_alike() -> None:
    assert axes_of({"tokens": {1: "length"}}, NAMES, pairs(4, 4)) == ((), ((1, "length"),))


def test_inputs_of_one_length_are_fixed_where_none_is_named() -> None:
    assert axes_of(None, NAMES, pairs(4, 4)) == ()


def test_what_differs_is_read_off_and_equal_lengths_share_a_name() -> None:
    assert axes_of(None, NAMES, pairs(4, 7)) == (((1, "length"),), ((1, "length"),))


def test_lengths_that_differ_apart_have_names_of_their_own() -> None:
    batches = [(torch.ones(2, 4), torch.ones(2, 3)), (torch.ones(2, 7), torch.ones(2, 5))]
    assert axes_of(None, NAMES, batches) == (((1, "length"),), ((1, "length2"),))


def test_the_two_sides_of_squares_have_names_of_their_own() -> None:
    batches = [(torch.ones(1, 3, side, side), torch.ones(1, side, side)) for side in (8, 12)]
    assert axes_of(None, NAMES, batches) == (((2, "length"), (3, "length2")), ((1, "length"), (2, "length2")))


def test_the_batch_is_no_length() -> None:
    assert axes_of(None, ("x",), [(torch.ones(2, 4),), (torch.ones(5, 4),)]) == ()


def test_the_longest_batch_is_the_one_of_the_longest_samples_not_of_the_most() -> None:
    batches = [(torch.ones(50, 4),), (torch.ones(2, 7),), (torch.ones(3, 7),)]
    assert longest(batches) is batches[1]


def test_batches_are_apart_by_length_in_their_order() -> None:
    batches = [(torch.ones(2, 4),), (torch.ones(2, 7),), (torch.ones(3, 4),)]
    assert of_each_length(batches) == [[batches[0], batches[2]], [batches[1]]]
