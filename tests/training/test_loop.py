"""The training loop: it learns, it is repeatable, it touches nothing, and it says what is wrong with the data."""

import copy
import itertools
import math
import random

import numpy as np
import pytest
import torch
from small_digits import (
    SHORT,
    Told,
    accuracy,
    broken,
    digits,
    digits_task,
    epoch,
    model,
    noise,
    refusal,
    same,
    small,
    trained,
    unlabelled,
)
from torch import nn
from torch.nn import functional as F

from haversack.errors import RecipeError, TaskError, TrainingError
from haversack.model import Model
from haversack.progress import shown_by
from haversack.task import Task
from haversack.training import Training, finetune
from haversack.training.learner import Learner


def test_a_blank_network_learns_from_labels_alone():
    assert accuracy(trained()) > 0.93


@pytest.mark.parametrize(
    ("teacher", "train", "distillation"),
    [(True, epoch, 0.7), (False, epoch, 0.7), (True, epoch, 1.0), (True, epoch, 0.0), (True, unlabelled, 0.7)],
    ids=["both", "labels alone", "teacher alone", "teacher unheard", "no labels"],
)
def test_a_last_layer_that_was_lost_is_learned_again(teacher, train, distillation):
    before = broken()
    assert accuracy(before) < 0.4
    start = model(before, trained() if teacher else None)
    after = finetune(start, digits_task(train), Training(epochs=4, distillation=distillation))
    assert accuracy(after) > accuracy(trained()) - 0.03
    assert not after.training


def test_adam_learns_it_too_and_by_other_steps():
    start = model(broken(), trained())
    after = finetune(start, digits_task(), Training(epochs=4, learning_rate=0.01, optimizer="adam"))
    assert accuracy(after) > accuracy(trained()) - 0.03
    assert not same(after, finetune(start, digits_task(), Training(epochs=4, learning_rate=0.01)))


def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_another_seed_others():
    start = model(broken(), trained())
    first, again = (finetune(start, digits_task(), Training(epochs=1, seed=3)) for _ in range(2))
    assert same(first, again)
    assert not same(first, finetune(start, digits_task(), Training(epochs=1, seed=4)))


def test_training_leaves_torch_s_own_random_state_as_it_was():
    before = torch.random.get_rng_state()
    finetune(model(broken()), digits_task(), SHORT)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_network_and_its_teacher_are_left_as_they_were():
    module, teacher = broken(), copy.deepcopy(trained())
    kept = [copy.deepcopy(each) for each in (module, teacher)]
    strides = [each.stride() for each in module.parameters()]
    finetune(model(module, teacher), digits_task(), SHORT)
    assert same(module, kept[0])
    assert same(teacher, kept[1])
    assert strides == [each.stride() for each in module.parameters()]
    assert not module.training
    assert not teacher.training
    assert all(each.grad is None for each in (*module.parameters(), *teacher.parameters()))


def test_the_teacher_is_heard_in_evaluation_mode_even_when_it_comes_in_training_mode():
    evaluated, training = copy.deepcopy(trained()).eval(), copy.deepcopy(trained()).train()
    found = [finetune(model(broken(), teacher), digits_task(), SHORT) for teacher in (evaluated, training)]
    assert same(*found)
    assert training.training


def test_weights_come_back_in_the_usual_layout():
    after = finetune(model(broken()), digits_task(), SHORT)
    assert all(each.is_contiguous() for each in after.parameters())


def test_shared_weights_stay_shared():
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    data = [(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(8, 4))]
    task = Task(lambda: data, list, lambda _: 0.0, kind="regression")
    after = finetune(Model(module, (torch.ones(1, 4),)), task, SHORT)
    assert after[2].weight is after[0].weight
    assert not torch.equal(after[0].weight, module[0].weight)


def test_a_regression_network_learns():
    inputs = noise(256, 4)
    target = inputs @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])
    data = list(zip(inputs.split(32), target.split(32), strict=True))
    task = Task(lambda: data, list, lambda _: 0.0, kind="regression")
    module = small(nn.Linear(4, 1))
    after = finetune(Model(module, (inputs[:1],)), task, Training(epochs=10))
    assert F.mse_loss(after(inputs), target) < 0.02 * F.mse_loss(module(inputs), target)


@pytest.mark.parametrize("form", [lambda x: (x,), lambda x: x, lambda x: (x, x)], ids=["inputs", "tensor", "pair"])
@pytest.mark.parametrize("taught", [False, True])
def test_a_reconstruction_network_learns_from_inputs_alone(form, taught):
    inputs = noise(256, 2) @ noise(2, 6)
    task = Task(lambda: [form(x) for x in inputs.split(32)], list, lambda _: 0.0, kind="reconstruction")
    module = small(nn.Linear(6, 3), nn.Linear(3, 6))
    teacher = nn.Identity() if taught else None
    after = finetune(Model(module, (inputs[:1],), teacher=teacher), task, Training(epochs=20))
    assert F.mse_loss(after(inputs), inputs) < 0.1 * F.mse_loss(module(inputs), inputs)


def test_the_user_s_own_loss_is_the_one_that_falls():
    task = digits_task(loss=lambda outputs, _: (outputs - 1).square().mean())
    after = finetune(model(broken()), task, Training(epochs=2))
    assert (after(digits()[0]).mean() - 1).abs() < 0.2


@pytest.mark.parametrize(
    ("module", "shape"),
    [(nn.Conv3d(1, 2, 3), (4, 1, 5, 5, 5)), (nn.Conv1d(1, 2, 3), (4, 1, 5)), (nn.Conv2d(1, 2, 3), (4, 1, 5, 5))],
)
def test_convolutions_of_every_dimension_train(module, shape):
    net = small(copy.deepcopy(module), nn.Flatten(), nn.LazyLinear(3))
    net(noise(*shape))
    data = [(noise(*shape), torch.tensor([0, 1, 2, 0]))]
    task = Task(lambda: data, list, lambda _: 0.0)
    after = finetune(Model(net, (noise(*shape)[:1],)), task, SHORT)
    assert not torch.equal(after[0].weight, net[0].weight)


def test_a_network_of_two_inputs_trains():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, one, other):
            return self.layer(one + other)

    data = [((noise(8, 4), noise(8, 4)), torch.zeros(8, dtype=torch.int64))]
    net = Sum()
    after = finetune(Model(net, (noise(1, 4),) * 2), Task(lambda: data, list, lambda _: 0.0), SHORT)
    assert not torch.equal(after.layer.weight, net.layer.weight)


def test_a_frozen_layer_stays_as_it_is():
    module = broken()
    module[0].requires_grad_(requires_grad=False)
    after = finetune(model(module, trained()), digits_task(), SHORT)
    assert torch.equal(after[0].weight, module[0].weight)
    assert not torch.equal(after[-1].weight, module[-1].weight)


def test_a_generator_of_batches_is_counted_and_used_like_a_list():
    start = model(broken(), trained())
    fixed = torch.arange(1300).split(64)
    images, labels = digits()
    listed = [(images[some], labels[some]) for some in fixed]
    found = [finetune(start, digits_task(train), SHORT) for train in (lambda: listed, lambda: iter(listed))]
    assert same(*found)


@pytest.mark.parametrize("train", [list, lambda: iter(())])
def test_no_batches_are_refused(train):
    assert "no batches" in refusal(TrainingError, model(broken()), digits_task(train))


def test_batches_that_can_be_read_only_once_are_refused_instead_of_training_on_nothing():
    batches = iter(epoch())
    assert "no batches in epoch 0" in refusal(TrainingError, model(broken()), digits_task(lambda: batches))


def poisoned_from(first: int):
    """Epochs of which those from `first` on hold NaN in their second batch."""
    epochs = itertools.count()

    def train():
        batches = epoch()
        images, labels = batches[1]
        return [batches[0], (images * (math.nan if next(epochs) > first else 1), labels)]

    return train


def test_a_loss_that_is_not_finite_in_the_first_epoch_is_an_error():
    message = refusal(TrainingError, model(broken()), digits_task(poisoned_from(0)))
    assert "the loss is nan at step 1" in message


def test_a_loss_that_is_not_finite_later_ends_the_training_with_the_last_good_weights(monkeypatch):
    told, seen, end = Told(), [], Learner.end_epoch

    def watched(learner: Learner) -> None:
        end(learner)
        seen.append(copy.deepcopy(learner.student).eval())

    monkeypatch.setattr(Learner, "end_epoch", watched)
    with shown_by(told):
        after = finetune(model(broken()), digits_task(poisoned_from(2)), Training(epochs=4))
    assert "the loss is nan at step 5: the training ends with the weights of epoch 2" in told.lines[0]
    assert len(seen) == 2
    assert same(after, seen[1])


def test_a_gradient_that_is_not_finite_is_not_stepped_along():
    def root(outputs, target):
        return (outputs - outputs.detach()).square().sum().sqrt()

    message = refusal(TrainingError, model(broken()), digits_task(loss=root))
    assert "the length of the gradient is nan at step 0" in message


def test_with_masks_a_loss_that_is_not_finite_is_an_error_because_they_are_half_done():
    with pytest.raises(TrainingError, match="the loss is nan at step 3"):
        finetune(model(broken()), digits_task(poisoned_from(1)), Training(epochs=4), lambda weights, share: {})


def test_a_batch_of_one_that_batch_norm_cannot_learn_from_is_refused_in_words():
    images, labels = digits()
    net = small(nn.Conv2d(1, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 10))
    message = refusal(TrainingError, model(net), digits_task(lambda: [(images[:1], labels[:1])]))
    assert "single sample" in message
    assert "yield larger batches" in message


def test_a_single_image_trains_a_network_that_can_learn_from_it():
    images, labels = digits()
    net = small(nn.Flatten(), nn.Linear(64, 10))
    after = finetune(model(net), digits_task(lambda: [(images[:1], labels[:1])]), Training(epochs=30))
    assert after(images[:1]).argmax() == labels[0]


def test_an_empty_batch_is_refused():
    images, labels = digits()
    message = refusal(TrainingError, model(broken()), digits_task(lambda: [(images[:0], labels[:0])]))
    assert "a batch is empty" in message


def test_data_that_draw_from_numpy_and_python_are_drawn_alike_and_leave_them_as_they_were():
    images, labels = digits()

    def train():
        some = np.random.permutation(1300)[: random.randrange(64, 128)]  # noqa: NPY002 - as users do
        return [(images[some], labels[some])]

    before = np.random.get_state(legacy=False), random.getstate()  # noqa: NPY002
    assert same(*(finetune(model(broken()), digits_task(train), Training(epochs=2)) for _ in range(2)))
    after = np.random.get_state(legacy=False), random.getstate()  # noqa: NPY002
    assert before[1] == after[1]
    assert (before[0]["state"]["key"] == after[0]["state"]["key"]).all()
    assert before[0]["state"]["pos"] == after[0]["state"]["pos"]


def test_smoothed_labels_keep_a_network_from_being_sure():
    sure, modest = (
        finetune(model(broken()), digits_task(), Training(epochs=4, label_smoothing=each))(digits()[0]).softmax(1)
        for each in (0.0, 0.3)
    )
    assert modest.amax(1).mean() < sure.amax(1).mean() - 0.1
    assert (modest.argmax(1) == digits()[1]).float().mean() > 0.9


@pytest.mark.parametrize("changes", [{"kind": "regression"}, {"loss": F.cross_entropy}])
def test_labels_that_cannot_be_smoothed_are_refused(changes):
    message = refusal(RecipeError, model(broken()), digits_task(**changes), Training(label_smoothing=0.1))
    assert "cannot be smoothed" in message


def test_batches_without_labels_and_without_a_teacher_are_refused():
    assert "neither a target nor a teacher" in refusal(TrainingError, model(broken()), digits_task(unlabelled))


def test_a_network_that_is_frozen_as_a_whole_is_refused():
    frozen = broken().requires_grad_(requires_grad=False)
    assert "requires a gradient" in refusal(TrainingError, model(frozen), digits_task())


def test_a_train_function_that_raises_is_told_as_the_user_s_error():
    def train():
        yield from itertools.islice(epoch(), 2)
        raise OSError("the disk is gone")

    assert "the disk is gone" in refusal(TaskError, model(broken()), digits_task(train))


def test_a_target_that_does_not_fit_is_told_as_the_user_s_error():
    images, labels = digits()
    assert "train()" in refusal(TaskError, model(broken()), digits_task(lambda: [(images[:4], labels[:3])]))
