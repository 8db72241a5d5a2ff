"""What a user's network and score must do before any work starts."""

import itertools
import math

import pytest
import torch
from torch import nn

from haversack.errors import TaskError, WorkspaceError
from haversack.measurement import chance
from haversack.packing.check import RunOnce, check_alone, checked_model, checked_score, scored
from haversack.progress import shown_by
from haversack.task import Task
from tests.heard import Heard

COUNTS = itertools.count(1)
INPUTS = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))


def task(score=lambda predict: 0.5) -> Task:
    return Task(train=list, calibrate=lambda: [INPUTS], score=score)


class Calls(nn.Module):
    """A network that does what it is told."""

    def __init__(self, forward):
        super().__init__()
        self._forward = forward

    def forward(self, inputs):
        return self._forward(inputs)


def raises(message=""):
    def forward(inputs):
        raise ValueError(message)

    return forward


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        (lambda x: torch.ones(len(x), 3), "the same output for 8 different inputs"),
        (lambda x: x * math.nan, "NaN or infinity"),
        (lambda x: x / 0, "NaN or infinity"),
        (lambda x: (x, x), "returns tuple with '0', '1'"),
        (lambda x: {"a": x, "b": x}, "returns dict with 'a', 'b'"),
        (lambda x: None, "returns NoneType with no tensor"),
        (lambda x: x.mean(), "a single number for a whole batch"),
        (lambda x: x @ torch.ones(5, 2), "does not take calibrate()'s inputs of shape (8, 4)"),
        (raises(), "does not take calibrate()'s inputs of shape (8, 4): ValueError (line"),
        (raises("\n  \nsecond line"), "ValueError: second line"),
    ],
)
def test_a_network_that_gives_no_sensible_outputs_is_refused(forward, said):
    with pytest.raises(TaskError) as caught:
        checked_model(Calls(forward), task())
    assert said in str(caught.value)
    assert caught.value.where == "network()"
    assert caught.value.mend


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: nn.functional.dropout(x, 0.5),
        lambda x: x + torch.rand_like(x),
        lambda x: x[:, : 1 + next(COUNTS) % 2],
        lambda x: x if next(COUNTS) % 2 else x * math.nan,
    ],
)
def test_a_network_that_gives_other_outputs_at_each_run_is_refused_at_the_door(forward):
    with pytest.raises(TaskError, match=r"other outputs for the same inputs.*two runs differ by"):
        checked_model(Calls(forward), task())


def test_sums_that_are_taken_in_another_order_are_no_randomness():
    tiny = itertools.cycle([0.0, 1e-6])
    assert checked_model(Calls(lambda x: x + next(tiny)), task()).module


def test_a_good_network_becomes_a_model_with_one_sample_and_itself_as_teacher():
    module = nn.Linear(4, 2).train()
    model = checked_model(module, task())
    assert model.module is module is model.teacher
    assert not module.training
    assert [value.shape for value in model.example] == [(1, 4)]
    assert not model.grids
    assert not model.edits


def test_the_check_needs_only_a_few_samples():
    seen = []
    checked_model(Calls(lambda x: seen.append(len(x)) or x), task())
    assert set(seen) == {8}


def test_one_sample_alone_is_never_called_constant():
    checked_model(Calls(lambda x: x * 0 + 1), Task(train=list, calibrate=lambda: [INPUTS[:1]], score=lambda _: 0.5))


def test_a_score_that_changes_from_run_to_run_is_refused():
    counter = itertools.count()
    with pytest.raises(TaskError, match=r"scored 0\.1 and then 1\.1") as caught:
        checked_score(task(lambda predict: next(counter) + 0.1), nn.Identity())
    assert "seed" in caught.value.mend


@pytest.mark.parametrize("value", [0.0, 0.123456, -3.5])
def test_a_repeatable_score_passes_as_it_is(value):
    assert checked_score(task(lambda predict: value), nn.Identity()).value == value


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (lambda predict: 0.5, True),
        (lambda predict: predict(INPUTS).mean().item(), False),
        (lambda predict: predict(INPUTS)[0, 0].item(), False),
    ],
)
def test_a_score_that_no_output_changes_is_said_to_judge_nothing(score, said):
    heard = Heard()
    with shown_by(heard):
        checked_score(task(score), lambda inputs: inputs.abs())
    assert [line[:32] for line in heard.lines] == (["score() gives 0.5 whatever the n"] if said else [])


def test_one_of_several_processes_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(WorkspaceError, match="one of 2") as caught:
        check_alone()
    assert "torchrun" in caught.value.mend


@pytest.mark.parametrize("processes", [None, "", "1", "many"])
def test_a_single_process_passes_however_it_was_started(monkeypatch, processes):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if processes is not None:
        monkeypatch.setenv("WORLD_SIZE", processes)
    check_alone()


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_the_task_says_of_how_many_samples_its_score_is_a_share(kind):
    def spread(samples: int | None) -> float:
        told = Task(train=list, calibrate=None, score=lambda predict: 0.9, kind=kind, samples=samples)
        return chance(scored(told, nn.Identity()))

    assert spread(10_000) == pytest.approx(0.003, rel=0.01)
    assert spread(100) == pytest.approx(0.03, rel=0.05)
    assert spread(None) == pytest.approx(0.0018)


def test_a_count_of_samples_is_above_zero():
    with pytest.raises(TaskError, match="samples is 0"):
        Task(train=list, calibrate=None, score=lambda predict: 0.9, samples=0)


LABELS = torch.arange(40) % 4
RIGHT = torch.nn.functional.one_hot(LABELS, 4).float()


@pytest.mark.parametrize(
    ("score", "less_is_better"),
    [
        (lambda outputs: (outputs.argmax(1) != LABELS).float().mean().item(), True),
        (lambda outputs: (outputs - RIGHT).square().mean().item(), True),
        (lambda outputs: (outputs.argmax(1) == LABELS).float().mean().item(), False),
        (lambda outputs: -(outputs - RIGHT).square().mean().item(), False),
        (lambda outputs: outputs.mean().item(), False),
        (lambda outputs: -3.0, False),
    ],
)
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_a_score_that_rises_when_the_network_is_destroyed_is_refused(score, kind, *, less_is_better):
    told = Task(train=list, calibrate=lambda: [INPUTS], score=lambda predict: score(predict(INPUTS)), kind=kind)
    if less_is_better:
        with pytest.raises(TaskError, match=r"rises when the network is destroyed") as caught:
            checked_score(told, lambda inputs: RIGHT + 0.01)
        assert "more is better" in caught.value.mend
    else:
        checked_score(told, lambda inputs: RIGHT + 0.01)


@pytest.mark.parametrize("seed", range(20))
def test_a_network_that_knows_nothing_is_not_said_to_be_scored_the_wrong_way_round(seed):
    outputs = torch.randn(40, 4, generator=torch.Generator().manual_seed(seed))
    for score in (
        lambda predict: (predict(INPUTS).argmax(1) == LABELS).float().mean().item(),
        lambda predict: -(predict(INPUTS) - RIGHT).square().mean().item(),
    ):
        checked_score(task(score), lambda inputs: outputs)


def test_the_network_runs_once_on_each_batch_however_often_it_is_scored():
    seen = []

    def predict(inputs):
        seen.append(inputs)
        return torch.nn.functional.one_hot(inputs[:, 0].long(), 4).float()

    batches = [LABELS[:16, None].float(), LABELS[16:, None].float(), LABELS[:16, None].double()]
    wanted = torch.cat([LABELS[:16], LABELS[16:], LABELS[:16]])

    def score(predict):
        return (torch.cat([predict(batch) for batch in batches]).argmax(1) == wanted).float().mean().item()

    assert checked_score(task(score), predict).value == 1.0
    assert [(len(each), each.dtype) for each in seen] == [(len(each), each.dtype) for each in batches]


def test_outputs_that_a_score_writes_into_are_remembered_as_they_were():
    predict = RunOnce(lambda inputs: inputs * 2)
    for _ in range(3):
        outputs = predict(INPUTS)
        assert (outputs == INPUTS * 2).all()
        outputs.zero_()


def test_what_does_not_fit_is_computed_again():
    seen = []
    predict = RunOnce(lambda inputs: seen.append(1) or inputs * 2, room=INPUTS.numel() - 1)
    assert all((predict(INPUTS) == INPUTS * 2).all() for _ in range(3))
    assert len(seen) == 3
