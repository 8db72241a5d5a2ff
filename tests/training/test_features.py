"""What is learned from the maps within a teacher: the papers' distances, and regressors that come and go."""

import copy
import functools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_digits import (
    SHORT,
    Told,
    accuracy,
    blank,
    broken,
    digits,
    digits_task,
    epoch,
    model,
    refusal,
    same,
    small,
    trained,
    unlabelled,
)
from test_checkpoint import dropping, killed_at, noisy, resumed
from torch import nn

from haversack.errors import RecipeError, TrainingError
from haversack.progress import shown_by
from haversack.training import Training, finetune, outputs_kept
from haversack.training.features import FeatureLesson, attention, feature_lesson, hint, of_one_size, similarity
from haversack.training.learner import Learner
from haversack.training.machine import these_processes
from haversack.training.pairs import paired, results_of

WAYS = ("fitnet", "attention", "similarity")
shapes = st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(2, 5), st.integers(1, 4))


def maps(shape, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(shapes, st.integers(0, 99))
def test_a_hint_s_distance_is_romero_s_as_a_share_of_that_of_a_student_who_knows_nothing(shape, seed):
    ours, theirs = maps(shape, seed), maps(shape, seed + 1)
    scale = float(np.sqrt(np.mean(theirs.numpy() ** 2)))
    a, b = scale * ours.numpy(), theirs.numpy()
    romero = sum(0.5 * np.linalg.norm(x - y) ** 2 for x, y in zip(a, b, strict=True))
    nothing_known = sum(0.5 * np.linalg.norm(y) ** 2 for y in b)
    assert hint(ours, theirs).item() == pytest.approx(romero / nothing_known, rel=1e-4)


@given(shapes, st.integers(1, 5), st.integers(0, 99))
def test_attention_s_distance_is_zagoruyko_s(shape, channels, seed):
    ours, theirs = maps(shape, seed), maps((shape[0], channels, *shape[2:]), seed + 1)
    total = 0.0
    for x, y in zip(ours.numpy(), theirs.numpy(), strict=True):
        q, p = (np.sum(np.abs(each) ** 2, axis=0).ravel() for each in (x, y))
        total += np.linalg.norm(q / np.linalg.norm(q) - p / np.linalg.norm(p)) ** 2
    assert attention(ours, theirs).item() == pytest.approx(total / len(ours), rel=1e-4, abs=1e-6)


@given(shapes, st.integers(1, 5), st.integers(0, 99))
def test_similarity_s_distance_is_tung_s_times_the_samples(shape, channels, seed):
    ours, theirs = maps(shape, seed), maps((shape[0], channels, 3, 3), seed + 1)
    grams = []
    for each in (ours.numpy(), theirs.numpy()):
        q = each.reshape(len(each), -1)
        gram = q @ q.T
        grams.append(gram / np.linalg.norm(gram, axis=1, keepdims=True))
    tung = np.linalg.norm(grams[0] - grams[1]) ** 2 / len(ours) ** 2
    assert similarity(ours, theirs).item() == pytest.approx(tung * len(ours), rel=1e-3, abs=1e-6)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3))
def test_maps_are_averaged_to_the_smaller_size_and_keep_their_mean_where_it_divides(sizes):
    ours, theirs = (maps((2, 3, *(pair[side] for pair in sizes)), side) for side in (0, 1))
    found = of_one_size(ours, theirs)
    assert found[0].shape[2:] == found[1].shape[2:] == tuple(map(min, sizes))
    for before, after in zip((ours, theirs), found, strict=True):
        if all(whole % part == 0 for whole, part in zip(before.shape[2:], after.shape[2:], strict=True)):
            torch.testing.assert_close(after.flatten(2).mean(2), before.flatten(2).mean(2))


@pytest.mark.parametrize("far", [hint, attention, similarity])
def test_maps_that_are_zero_everywhere_give_finite_gradients(far):
    ours = torch.zeros(3, 2, 4, requires_grad=True)
    far(ours, torch.zeros(3, 2, 4)).backward()
    assert ours.grad.isfinite().all()


@pytest.mark.parametrize("far", [attention, similarity])
@given(scale=st.floats(0.1, 10), seed=st.integers(0, 9))
def test_how_strong_a_whole_map_is_does_not_matter_to_relations(far, scale, seed):
    ours, theirs = maps((4, 3, 5), seed), maps((4, 3, 5), seed + 1)
    assert far(scale * ours, theirs).item() == pytest.approx(far(ours, theirs).item(), rel=1e-3)
    assert far(scale * ours, ours).item() == pytest.approx(0, abs=1e-6)


def lesson(way: str, student: nn.Module, teacher: nn.Module, *pairs: str) -> FeatureLesson:
    return FeatureLesson(paired(student.eval(), teacher.eval(), (digits()[0][:1],), pairs), way)


def seen(each: FeatureLesson, student: nn.Module, teacher: nn.Module, images: torch.Tensor):
    with results_of(student, each.paths[0]) as ours, results_of(teacher, each.paths[1]) as theirs:
        student(images)
        with torch.no_grad():
            teacher(images)
    return ours, theirs


def convolved() -> tuple[nn.Module, nn.Module]:
    """A student, and a teacher whose second layer is linear in the student's first."""
    student = small(nn.Conv2d(1, 6, 3, 2, 1), nn.Flatten(), nn.Linear(96, 10))
    return student, nn.Sequential(student[0], nn.Conv2d(6, 4, 1), nn.Flatten(), nn.Linear(64, 10))


def flattened() -> tuple[nn.Module, nn.Module]:
    student = small(nn.Sequential(nn.Flatten(), nn.Linear(64, 12)), nn.Linear(12, 10))
    return student, nn.Sequential(student[0], nn.Linear(12, 5), nn.Linear(5, 10))


@pytest.mark.parametrize("networks", [convolved, flattened])
def test_regressors_learn_to_read_a_teacher_that_is_linear_in_the_student(networks):
    hints = lesson("fitnet", *networks(), "0=1")
    ours, theirs = seen(hints, *networks(), digits()[0][:100])
    losses, steps = [], torch.optim.SGD(hints.parameters(), 0.2, 0.9)
    for _ in range(150):
        steps.zero_grad()
        loss = hints(ours, theirs)
        loss.backward(retain_graph=True)
        steps.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(1.0)
    assert losses[-1] < 0.02


def test_only_hints_have_regressors_and_each_has_the_shape_of_its_pair():
    student = small(
        nn.Conv2d(1, 5, 3, 2, 1), nn.ReLU(), nn.Conv2d(5, 7, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(28, 10)
    )
    for way in WAYS:
        weights = [tuple(each.shape) for each in lesson(way, student, blank()).parameters() if each.dim() > 1]
        assert weights == ([(16, 5, 1), (32, 7, 1)] if way == "fitnet" else [])


@pytest.mark.parametrize("way", WAYS)
def test_rounded_maps_are_compared_in_full_precision(way):
    student, teacher = blank(), blank()
    each = lesson(way, student, teacher)
    nn.init.normal_(each.regressors[0].weight) if way == "fitnet" else None
    found = seen(each, student, teacher, digits()[0][:32])
    exact = each(*found)
    rounded = each(*({path: result.bfloat16() for path, result in one.items()} for one in found))
    assert rounded.dtype is torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.05)


def narrow(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32, 10)),
    )


def taught(way: str, seed: int = 0, **changes) -> nn.Module:
    training = Training(seed=seed, features=way, outputs="dist", **{"epochs": 6, **changes})
    return finetune(model(narrow(seed), trained()), digits_task(), training)


@functools.cache
def mean_accuracy(way: str) -> float:
    return float(np.mean([accuracy(taught(way, seed)) for seed in range(3)]))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_student_that_sees_the_teacher_s_maps_is_no_worse_than_one_that_sees_its_outputs(way):
    assert mean_accuracy(way) > mean_accuracy("") - 0.005


def distance(way: str, student: nn.Module, teacher: nn.Module) -> float:
    """How far the maps of unseen digits are apart; for hints, what the best linear map leaves of the teacher's."""
    each = lesson(way, student, teacher)
    found = seen(each, student, teacher, digits()[0][1300:])
    if way != "fitnet":
        return each(*found).item()
    pair = each.pairs[-1]
    x, y = (
        maps[path].detach().movedim(1, -1).flatten(0, -2)
        for maps, path in zip(found, (pair.student.path, pair.teacher.path), strict=True)
    )
    x = torch.cat([x, torch.ones(len(x), 1)], 1)
    left = y - x @ torch.linalg.lstsq(x, y, driver="gelsd").solution
    return (left.square().mean() / y.square().mean()).item()


@pytest.mark.parametrize("way", WAYS)
def test_a_trained_student_is_nearer_to_the_teacher_s_maps_than_one_that_did_not_see_them(way):
    unseen, well_seen = (taught(way, feature_weight=weight, epochs=3) for weight in (0.0, 5.0))
    teacher = copy.deepcopy(trained())
    assert distance(way, well_seen, teacher) < 0.95 * distance(way, unseen, teacher)


@pytest.mark.parametrize("way", WAYS)
def test_the_result_has_the_student_s_layers_and_nothing_of_the_lesson(way):
    before, teacher = narrow(0), copy.deepcopy(trained())
    after = finetune(model(before, teacher), digits_task(), Training(epochs=1, features=way))
    assert after.state_dict().keys() == before.state_dict().keys()
    assert repr(after) == repr(before.eval())
    assert not any(each._forward_hooks for net in (after, before, teacher) for each in net.modules())
    assert not same(after, finetune(model(before, teacher), digits_task(), SHORT))


def test_features_alone_teach_where_outputs_and_labels_have_nothing_to_say():
    start = model(broken(), trained())
    start.module[0].reset_parameters()
    task = digits_task(unlabelled, loss=lambda outputs, target: 0 * outputs.sum())
    after = finetune(start, task, Training(epochs=1, features="attention", distillation=0.0))
    assert not torch.equal(after[0].weight, start.module[0].weight)


def test_a_training_with_regressors_goes_on_from_its_checkpoint_to_the_same_weights(tmp_path):
    training = Training(features="fitnet", learning_rate=0.02, pairs=("0=3",))
    start, task = model(dropping(), trained()), digits_task(noisy)
    whole = finetune(start, task, training)
    killed_at(30, start, task, training, tmp_path / "states")
    after, steps = resumed(start, task, training, tmp_path / "states")
    assert steps == 42 - 30
    assert same(whole, after)


def test_the_regressors_are_clipped_with_the_rest():
    moved = []
    for clip in (0.0, 0.01):
        training = Training(features="fitnet", clip=clip, weight_decay=0, momentum=0, learning_rate=1.0)
        learner = Learner(model(narrow(0), trained()), digits_task(), training, None, these_processes())
        learner.step(epoch()[0], 30, 100)
        moved.append(torch.cat([each.flatten() for each in learner.lessons.features.parameters()]).norm().item())
    assert moved[0] > 0.02
    assert 0 < moved[1] < 0.01


def test_the_data_come_in_the_same_order_with_and_without_features():
    orders = []
    for way in ("", *WAYS):
        order = []

        def train(order=order):
            order.append(torch.randperm(1300))
            return [(digits()[0][order[-1][:64]], digits()[1][order[-1][:64]])]

        finetune(model(narrow(0), trained()), digits_task(train), Training(epochs=2, features=way))
        orders.append(torch.cat(order))
    assert all(torch.equal(orders[0], each) for each in orders)


def test_the_pairs_are_said_once():
    told = Told()
    with shown_by(told):
        finetune(model(narrow(0), trained()), digits_task(), Training(epochs=1, features="fitnet"))
    pairs = "2 (4x4x4) = 2 (16x4x4), 5 (8x2x2) = 5 (32x2x2)"
    assert told.lines == [f"fitnet features of student and teacher are compared at {pairs}."]


def test_features_without_a_teacher_are_refused():
    message = refusal(RecipeError, model(narrow(0)), digits_task(), Training(features="fitnet"))
    assert "there is no teacher" in message


@pytest.mark.parametrize(
    ("layers", "pair"),
    [
        ((nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)), "2 (8) = 2 (8)"),
        ((nn.Conv2d(1, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 10)), "1 (8x1x1) = 1 (8x1x1)"),
    ],
)
def test_the_attention_of_vectors_is_refused(layers, pair):
    net = small(*layers)
    pairs = (pair.split(" ")[0] + "=" + pair.split(" ")[3],)
    message = refusal(RecipeError, model(net, net), digits_task(), Training(features="attention", pairs=pairs))
    assert pair in message


def test_networks_of_vectors_learn_from_each_other():
    wide = small(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    net = small(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    after = finetune(model(net, wide), digits_task(unlabelled), Training(epochs=2, features="similarity"))
    assert distance("similarity", after, wide) < 0.8 * distance("similarity", net, wide)


def test_a_teacher_whose_outputs_are_remembered_computes_its_maps_anyway():
    def learned(way: str) -> nn.Module:
        return finetune(model(narrow(0), trained()), digits_task(), Training(epochs=2, features=way))

    alone = learned("attention")
    with outputs_kept():
        learned("")
        assert same(learned("attention"), alone)


class Skipping(nn.Module):
    """A teacher that knows the outputs of all digits and computes none of them again."""

    def __init__(self, teacher: nn.Module):
        super().__init__()
        self.teacher, self.runs = teacher, 0

    def forward(self, x):
        self.runs += 1
        return self.teacher(x) if self.runs < 3 else torch.zeros(len(x), 10)


def test_a_teacher_that_stops_computing_its_maps_is_told():
    message = refusal(
        TrainingError,
        model(narrow(0), Skipping(trained()).eval()),
        digits_task(),
        Training(features="fitnet", pairs=("2=teacher.2",)),
    )
    assert "2 (4x4x4) = teacher.2 (16x4x4)" in message
    assert "did not run on the whole batch" in message


def test_a_loss_that_is_not_finite_through_features_stops_at_the_step():
    def train():
        images, labels = digits()
        return [(images[:64], labels[:64]), (images[:64] * torch.inf, labels[:64])]

    message = refusal(TrainingError, model(narrow(0), trained()), digits_task(train), Training(features="similarity"))
    assert "at step 1" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"features": "hints"}, "choose from: an empty text, fitnet, attention, similarity"),
        ({"features": "fitnet", "feature_weight": -1.0}, "feature_weight is -1.0"),
        ({"pairs": ("a=b",)}, "no features are compared"),
        ({"features": "fitnet", "pairs": ("layer1",)}, "student.path=teacher.path"),
        ({"features": "fitnet", "pairs": ("a=b=c",)}, "student.path=teacher.path"),
        ({"features": "fitnet", "pairs": ("=layer1",)}, "student.path=teacher.path"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, words):
    with pytest.raises(RecipeError) as caught:
        Training(**changes)
    assert words in str(caught.value)


def test_nothing_is_looked_at_where_no_features_are_asked_for():
    assert feature_lesson(nn.Identity(), None, (), Training()) is None
