"""Remembered outputs: a teacher computes its outputs for an input once, and a student learns the same as without."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_digits import Told, broken, digits, digits_task, epoch, model, noise, same, small, trained
from test_checkpoint import killed_at, resumed
from torch import nn

from haversack.progress import shown_by
from haversack.training import Training, finetune, outputs_kept
from haversack.training.teacher import Memory, Remembered, memory_of


class Counting(nn.Module):
    """A teacher that notes how many samples it computes; of a batch of one it makes none."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.seen = []

    def __deepcopy__(self, _):
        return self

    def forward(self, *inputs):
        self.seen.append(len(inputs[0]))
        return self.layers(sum(inputs)).squeeze()


def counting() -> Counting:
    return Counting(trained()).eval()


ROWS = noise(9, 4)


@given(st.lists(st.lists(st.integers(0, 8), min_size=2, max_size=9), min_size=1, max_size=6))
def test_the_outputs_are_the_teacher_s_own_whatever_came_before_and_each_is_computed_once(batches):
    teacher = Counting(small(nn.Linear(4, 3)))
    remembered = Remembered(teacher, Memory())
    for batch in batches:
        found = remembered(ROWS[batch])
        torch.testing.assert_close(found, teacher.layers(ROWS[batch]).detach(), rtol=1e-5, atol=1e-6)
    twice = sum(len(batch) - len(set(batch)) for batch in batches)
    beside_a_single_one = len(batches)
    assert sum(teacher.seen) <= len({each for batch in batches for each in batch}) + twice + beside_a_single_one


def test_a_single_new_sample_is_not_computed_alone():
    teacher = Counting(small(nn.Linear(4, 3)))
    remembered = Remembered(teacher, Memory())
    remembered(ROWS[:3])
    assert remembered(ROWS[:4]).shape == (4, 3)
    assert teacher.seen == [3, 2]


def test_samples_are_told_apart_by_each_of_their_inputs_and_by_their_form():
    teacher = Counting(small(nn.Linear(4, 3)))
    remembered = Remembered(teacher, Memory())
    one, other = ROWS[:2], ROWS[2:4]
    remembered(one, one)
    torch.testing.assert_close(remembered(one, other), teacher.layers(one + other).detach())
    torch.testing.assert_close(remembered(other, one), teacher.layers(one + other).detach())
    assert teacher.seen == [2, 2, 2]
    zeros = Remembered(nn.Flatten(), Memory())
    assert zeros(torch.zeros(2, 2, 3)).shape == zeros(torch.zeros(2, 6)).shape == (2, 6)
    assert zeros(torch.zeros(2, 6, dtype=torch.float64)).dtype == torch.float64


def test_outputs_that_are_not_one_for_each_sample_are_computed_every_time():
    teacher = Counting(nn.Flatten(0))
    remembered = Remembered(teacher, Memory())
    assert remembered(ROWS).shape == remembered(ROWS).shape == (36,)
    assert teacher.seen == [9, 9]


def test_a_memory_that_is_full_takes_in_no_more_and_keeps_what_it_has(monkeypatch):
    monkeypatch.setattr("haversack.training.teacher._MOST_BYTES", 4_000)
    teacher = Counting(small(nn.Linear(4, 3)))
    remembered = Remembered(teacher, Memory())
    for _ in range(2):
        remembered(ROWS[:4])
        torch.testing.assert_close(remembered(ROWS), teacher.layers(ROWS).detach())
    assert teacher.seen == [4, 5, 5]


def test_what_becomes_of_a_batch_afterwards_does_not_change_what_is_remembered():
    remembered, batch = Remembered(nn.Flatten(), Memory()), noise(3, 4)
    kept = batch.clone()
    remembered(batch).zero_()
    assert torch.equal(remembered(kept), kept)


def learned(teacher: nn.Module, epochs: int, train=epoch, **settings) -> nn.Module:
    return finetune(model(broken(), teacher), digits_task(train), Training(epochs=epochs, **settings))


def test_a_training_asks_its_teacher_for_one_epoch_of_outputs():
    teacher = counting()
    learned(teacher, 4)
    assert sum(teacher.seen) - 2 == 1300


def test_what_is_learned_is_the_same_within_rounding(monkeypatch):
    with_memory = learned(trained(), 3)
    monkeypatch.setattr("haversack.training.learner.memory_of", lambda *_: Memory(has_given_up=True))
    without = learned(trained(), 3)
    inputs = digits()[0]
    torch.testing.assert_close(with_memory(inputs), without(inputs), rtol=1e-2, atol=1e-2)


def augmented():
    images, labels = digits()
    for some in torch.randperm(1300).split(64):
        yield images[some] + 0.1 * torch.randn(len(some), 1, 8, 8), labels[some]


def test_a_teacher_whose_inputs_never_come_back_gives_up_after_two_epochs_and_hashes_no_more():
    memory = Memory()
    remembered = Remembered(nn.Flatten(), memory)
    for turn in range(2):
        assert not memory.has_given_up
        for _ in range(10):
            remembered(torch.randn(8, 2, 2, generator=torch.Generator().manual_seed(turn)) + torch.rand(1))
        memory.end_epoch()
    assert memory.has_given_up
    assert list(memory.state) == ["counts"]
    data = torch.ones(2, 3)
    assert remembered(data).data_ptr() == data.data_ptr()


def test_a_few_fixed_versions_of_each_input_are_worth_remembering():
    versions = noise(6, 50, 4)
    teacher = Counting(small(nn.Linear(4, 3)))
    remembered = Remembered(teacher, Memory())
    for turn in range(30):
        picked = torch.randint(6, (50,), generator=torch.Generator().manual_seed(turn))
        remembered(versions[picked, torch.arange(50)])
        remembered.memory.end_epoch()
    assert not remembered.memory.has_given_up
    assert sum(teacher.seen) <= 6 * 50 + 30


def test_trainings_in_one_block_share_and_those_outside_do_not():
    teacher = counting()
    with outputs_kept():
        for seed in range(3):
            learned(teacher, 1, seed=seed)
    assert sum(teacher.seen) - 6 == 1300
    learned(teacher, 1)
    assert sum(teacher.seen) - 8 == 2600


def test_each_teacher_has_a_memory_of_its_own():
    small_one, other = small(nn.Linear(4, 3)), nn.Linear(4, 3)
    with outputs_kept():
        assert memory_of(small_one, 1, 0) is memory_of(small_one, 5, 0)
        assert memory_of(small_one, 1, 0) is not memory_of(other, 1, 0)
        assert memory_of(small_one, 1, 0) is not memory_of(small_one, 1, 1)


def test_a_second_run_starts_from_what_the_first_wrote_and_a_damaged_file_is_passed_over(tmp_path):
    teacher = counting()
    with outputs_kept(tmp_path):
        first = learned(teacher, 1)
    (file,) = tmp_path.iterdir()
    assert sum(teacher.seen) - 2 == 1300
    with outputs_kept(tmp_path):
        again = learned(teacher, 1)
    assert sum(teacher.seen) - 4 == 1300
    inputs = digits()[0]
    torch.testing.assert_close(first(inputs), again(inputs), rtol=1e-3, atol=1e-3)
    file.write_bytes(file.read_bytes()[:-1])
    with outputs_kept(tmp_path):
        learned(teacher, 1)
    assert sum(teacher.seen) - 6 == 2600


def test_a_block_says_once_that_remembering_was_no_help_and_writes_nothing(tmp_path):
    told = Told()
    with shown_by(told), outputs_kept(tmp_path):
        learned(trained(), 3, augmented)
        learned(trained(), 3, augmented)
    assert len(told.lines) == 1
    assert "hardly any input came back" in told.lines[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", [10, 50])
def test_a_training_that_is_killed_remembers_and_ends_with_the_same_weights_to_the_bit(tmp_path, step):
    start, training = model(broken(), trained()), Training(epochs=3)
    whole = finetune(start, digits_task(), training)
    killed_at(step, start, digits_task(), training, tmp_path)
    teacher = counting()
    after, _ = resumed(start, digits_task(), training, tmp_path)
    assert same(whole, after)
    assert not teacher.seen


def test_where_features_are_compared_the_teacher_computes():
    teacher = counting()
    learned(teacher, 2, features="similarity")
    assert sum(teacher.seen) >= 2600
