"""Which positions of values count where a mask among the inputs says so."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from haversack.errors import TaskError
from haversack.lengths import Axes
from haversack.positions import Along, Mask, place_of_mask, that_count

MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])
NAMES, FREE = ("mask", "tokens"), (((1, "words"),), ((1, "words"),))


def test_rows_of_positions_that_count_come_one_after_the_other() -> None:
    value = torch.arange(12).view(2, 3, 2)
    assert Along(0, (1,)).counting(value, MASK).tolist() == [[0, 1], [2, 3], [6, 7]]


def test_channels_may_stand_between_samples_and_positions() -> None:
    value, along = torch.arange(12).view(2, 2, 3), Along(0, (2,))
    assert along.counting(value, MASK).tolist() == [[0, 3], [1, 4], [6, 9]]
    assert along.behind(1) == 1


def test_samples_may_come_second() -> None:
    value = torch.arange(6).view(3, 2)
    assert Along(1, (0,)).counting(value, MASK).tolist() == [0, 2, 1]
    assert Along(1, (0,)).behind(2) == 1


def test_what_stands_for_two_positions_counts_where_both_do() -> None:
    value = torch.arange(18).view(2, 3, 3)
    assert Along(0, (1, 2)).counting(value, MASK).tolist() == [0, 1, 3, 4, 9]


def test_outputs_without_positions_stay_as_they_are() -> None:
    mask = Mask(1, (None, Along(0, (1,))))
    tensors = torch.ones(2, 4), torch.ones(2, 3, 4)
    outputs = that_count(mask, tensors, (torch.zeros(2, 3), MASK))
    assert [tuple(each.shape) for each in outputs] == [(2, 4), (3, 4)]
    assert that_count(None, tensors, (MASK,)) is tensors


def test_targets_are_those_of_the_positions_that_count() -> None:
    mask = Mask(0, (Along(0, (2,)),))
    assert mask.kept_targets(torch.arange(6).view(2, 3), (MASK,)).tolist() == [0, 1, 3]
    whole = torch.arange(2)
    assert mask.kept_targets(whole, (MASK,)) is whole


def test_a_batch_of_which_nothing_counts_is_taken_whole() -> None:
    outputs = torch.ones(2, 3)
    assert Mask(0, (Along(0, (1,)),)).kept(outputs, (torch.zeros(2, 3),)) is outputs


@pytest.mark.parametrize(
    ("name", "free", "mask", "said"),
    [
        ("words", FREE, MASK, "names the input 'words'; there is 'mask', 'tokens'"),
        ("mask", FREE, MASK[:, None], "has 3 dimensions and not two"),
        ("mask", ((), ()), MASK, "whose length is fixed"),
        ("mask", (), MASK, "whose length is fixed"),
        ("mask", FREE, MASK * 2, "holds other numbers than 1"),
        ("mask", FREE, MASK * 0, "holds other numbers than 1"),
    ],
)
def test_what_is_no_mask_is_refused(name: str, free: tuple[Axes, ...], mask: Tensor, said: str) -> None:
    with pytest.raises(TaskError, match=r"Task\.mask") as refused:
        place_of_mask(name, NAMES, free, [(mask, MASK)])
    assert said in refused.value.what
    assert "whose length is free" in refused.value.mend
