"""Inputs by name are the same inputs by position, whoever hands them over, and a mistake in them is told."""

from collections import UserDict

import pytest
import torch

from haversack.batches import by_position, has_target, in_order, names_of, unpack
from haversack.errors import TaskError
from haversack.task import Task

TOKENS, MASK, LABELS = torch.tensor([[1, 2]]), torch.tensor([[1, 0]]), torch.tensor([3])
NAMED = {"tokens": TOKENS, "mask": MASK}


def task(**changes) -> Task:
    return Task(**{"train": list, "calibrate": lambda: [NAMED], "score": lambda predict: 0.5, **changes})


@pytest.mark.parametrize("batch", [NAMED, dict(reversed(NAMED.items())), UserDict(NAMED), {**NAMED, "types": None}])
def test_a_dictionary_is_its_inputs_in_the_order_of_their_names(batch):
    assert names_of(batch) == ("mask", "tokens")
    first, second = in_order(batch)
    assert first is MASK
    assert second is TOKENS


def test_labels_in_a_dictionary_are_the_target_and_no_input():
    inputs, target = unpack({**NAMED, "labels": LABELS})
    assert inputs == (MASK, TOKENS)
    assert target is LABELS
    assert has_target({**NAMED, "label": LABELS})
    assert not has_target(NAMED)


@pytest.mark.parametrize("batch", [(NAMED, LABELS), {**NAMED, "labels": LABELS}])
def test_a_training_batch_goes_by_position_with_its_target(batch):
    inputs, target = by_position(batch, ("mask", "tokens"))
    assert inputs == (MASK, TOKENS)
    assert target is LABELS


def test_a_batch_by_position_stays_as_it_is():
    batch = ((TOKENS, MASK), LABELS)
    assert by_position(batch, ()) is batch
    assert by_position(TOKENS, ()) is TOKENS


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"tokens": TOKENS}, "'tokens', where calibrate() yields 'mask', 'tokens'"),
        ({**NAMED, "more": MASK}, "'mask', 'more', 'tokens', where"),
        ((TOKENS, MASK), "2 inputs without names"),
        (TOKENS, "1 inputs without names"),
    ],
)
def test_inputs_that_are_not_those_of_calibrate_are_refused(batch, said):
    with pytest.raises(TaskError, match=r"let all|by name") as caught:
        in_order(batch, ("mask", "tokens"), "score()")
    assert said in str(caught.value)
    assert "score()" in str(caught.value)


def test_calibration_inputs_by_name_are_read_in_order():
    mine = task()
    assert mine.names is None
    assert mine.calibration()[0] == (MASK, TOKENS)
    assert mine.names == ("mask", "tokens")


@pytest.mark.parametrize("call", [lambda predict: predict(NAMED), lambda predict: predict(**NAMED)])
def test_a_score_predicts_by_name(call):
    mine = task(score=lambda predict: float(call(predict).sum()))
    mine.calibration()
    assert mine.scored(lambda mask, tokens: 10 * mask + tokens) == 13


def test_a_score_that_predicts_without_names_is_refused_where_there_are_several():
    mine = task(score=lambda predict: float(predict(TOKENS, MASK).sum()))
    mine.calibration()
    with pytest.raises(TaskError, match="2 inputs without names"):
        mine.scored(lambda mask, tokens: mask)


def test_a_single_named_input_may_go_without_its_name():
    mine = task(calibrate=lambda: [{"x": TOKENS}], score=lambda predict: float(predict(TOKENS).sum()))
    mine.calibration()
    assert mine.scored(lambda x: x) == 3


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([{"tokens": [[1, 2], [3]]}], "return_tensors='pt'"),
        ([NAMED, {"tokens": TOKENS}], "batch 1: a batch has the inputs 'tokens'"),
        ([NAMED, (MASK, TOKENS)], "batch 1: a batch has 2 inputs without names"),
        ([TOKENS, {"tokens": TOKENS}], "batch 1: a batch has the inputs 'tokens', where"),
        ([{}], "batch 0: a batch is empty"),
        ([{"labels": LABELS}], "batch 0: a batch is empty"),
    ],
)
def test_calibration_inputs_by_name_that_cannot_be_used_are_refused(batches, said):
    with pytest.raises(TaskError) as caught:
        task(calibrate=lambda: batches).calibration()
    assert said in str(caught.value)
    assert caught.value.mend
