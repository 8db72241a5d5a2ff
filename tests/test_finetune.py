"""The training loop: it learns, it is repeatable, it touches nothing, and it says what is wrong with the data."""

import copy
import functools
import itertools
import math
from dataclasses import replace

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.errors import TaskError, TrainingError
from haversack.finetune import Training, finetune
from haversack.model import Model
from haversack.task import Task


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 16
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order], torch.tensor(found.target)[order]


def epoch():
    """Batches in the order of torch's own random state."""
    images, labels = digits()
    return [(images[some], labels[some]) for some in torch.randperm(1300).split(64)]


def accuracy(predict) -> float:
    images, labels = digits()
    with torch.no_grad():
        return (predict(images[1300:]).argmax(1) == labels[1300:]).float().mean().item()


def digits_task(train=epoch, **changes) -> Task:
    return Task(train=train, calibrate=lambda: [digits()[0][:64]], score=accuracy, **changes)


def unlabelled():
    return [(images,) for images, _ in epoch()]


def blank() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(128, 10)),
    )


@functools.cache
def trained() -> nn.Module:
    torch.manual_seed(0)
    return finetune(Model(blank(), digits()[0][:1]), digits_task(), Training(epochs=8))


def broken() -> nn.Module:
    """The trained network with a fresh last layer."""
    module = copy.deepcopy(trained())
    torch.manual_seed(1)
    module[-1].reset_parameters()
    return module


def model(module: nn.Module, teacher: nn.Module | None = None) -> Model:
    return Model(module, (digits()[0][:1],), teacher=teacher)


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


SHORT = Training(epochs=1)


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


def small(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*layers)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


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


def refusal(kind, start, task, training=SHORT) -> str:
    with pytest.raises(kind) as caught:
        finetune(start, task, training)
    assert caught.value.mend
    return str(caught.value)


@pytest.mark.parametrize("train", [list, lambda: iter(())])
def test_no_batches_are_refused(train):
    assert "no batches" in refusal(TrainingError, model(broken()), digits_task(train))


def test_batches_that_can_be_read_only_once_are_refused_instead_of_training_on_nothing():
    batches = iter(epoch())
    assert "no batches in epoch 0" in refusal(TrainingError, model(broken()), digits_task(lambda: batches))


def test_a_loss_that_is_not_finite_ends_the_training():
    images, labels = digits()
    poisoned = [(images[:64], labels[:64]), (images[:64] * math.nan, labels[:64])]
    message = refusal(TrainingError, model(broken()), digits_task(lambda: poisoned))
    assert "the loss is nan at step 1" in message


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


def with_zeros() -> Model:
    """The trained network, half of its weights at zero, and named so."""
    module = copy.deepcopy(trained())
    names = ["0.weight", "3.weight", "7.weight"]
    with torch.no_grad():
        for name in names:
            weight = module.get_parameter(name)
            weight *= weight.abs() > weight.abs().median()
    return replace(model(module, trained()), sparse=frozenset(names))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_zeros_of_sparse_weights_stay_and_all_else_learns(optimizer):
    start = with_zeros()
    after = finetune(start, digits_task(), Training(epochs=2, optimizer=optimizer, learning_rate=0.01))
    for name in start.sparse:
        before, now = start.module.get_parameter(name), after.get_parameter(name)
        assert torch.equal(now == 0, before == 0)
        assert (now != before)[before != 0].float().mean() > 0.9


def test_zeros_that_nobody_named_learn_like_other_weights():
    start = replace(with_zeros(), sparse=frozenset())
    after = finetune(start, digits_task(), SHORT)
    assert (after.get_parameter("3.weight") == 0).float().mean() < 0.01


def test_masks_are_asked_after_each_step_and_momentum_does_not_leak_past_them():
    asked = []

    def masks(weights, share_done):
        asked.append(share_done)
        assert all(weight.grad is not None for weight in weights.values())
        return {"3.weight": weights["3.weight"].abs() > (0.05 if share_done > 0.5 else 0)}

    after = finetune(model(broken(), trained()), digits_task(), Training(epochs=2), masks)
    weight = after.get_parameter("3.weight")
    assert len(asked) == 42
    assert asked[-1] == 1
    assert (weight == 0).float().mean() > 0.2
    assert weight[weight != 0].abs().min() > 0.02


def test_names_of_sparse_weights_that_the_network_does_not_have_are_passed_over():
    start = replace(with_zeros(), sparse=frozenset({"nobody.weight"}))
    assert not finetune(start, digits_task(), SHORT).training
