"""How far outputs are from a teacher's: the papers' formulas written out, and what must hold for any outputs."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import log_softmax, softmax
from small_digits import accuracy, digits_task, model, refusal, small
from torch import nn
from torch.nn import functional as F

from haversack.errors import TaskError, TrainingError
from haversack.training import Training, finetune
from haversack.training.teacher import distance

WAYS = ("kd", "dkd", "dist")


def far(outputs, taught, target=None, way="kd", heat=1.0):
    return distance(outputs, taught, target, "classification", way, heat)


def scores(*shape: int, seed: int = 0, scale: float = 3.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hinton(ours, theirs, heat):
    """Hinton et al. 2015: the cross-entropy of softened probabilities, less the teacher's own entropy, times T^2."""
    p, q = softmax(theirs / heat, axis=1), softmax(ours / heat, axis=1)
    return heat**2 * np.mean((p * (np.log(p) - np.log(q))).sum(1))


def zhao(ours, theirs, right, heat, beta=2.0):
    """Zhao et al. 2022, equations 3 to 7: target class KL plus beta times non-target class KL."""
    total = 0.0
    for z, t, k in zip(ours / heat, theirs / heat, right, strict=True):
        q, p, others = softmax(z), softmax(t), np.arange(len(z)) != k
        target_class = p[k] * np.log(p[k] / q[k]) + (1 - p[k]) * np.log((1 - p[k]) / (1 - q[k]))
        q, p = q[others] / q[others].sum(), p[others] / p[others].sum()
        total += target_class + beta * (p * np.log(p / q)).sum()
    return heat**2 * total / len(right)


def huang(ours, theirs, heat):
    """Huang et al. 2022, equations 7 to 10: one less the mean of Pearson's correlations, of rows and of columns."""

    def pearson(one, other):
        return 1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(one, other, strict=True)])

    q, p = softmax(ours / heat, axis=1), softmax(theirs / heat, axis=1)
    return heat**2 * (pearson(q, p) + pearson(q.T, p.T))


@given(st.integers(2, 9), st.integers(3, 6), st.floats(0.5, 6), st.integers(0, 99))
def test_each_distance_is_its_paper_s_formula(samples, classes, heat, seed):
    ours, theirs = scores(samples, classes, seed=seed), scores(samples, classes, seed=seed + 100)
    right = torch.arange(samples) % classes
    found = {way: far(ours, theirs, right, way, heat).item() for way in WAYS}
    ours, theirs = ours.numpy(), theirs.numpy()
    np.testing.assert_allclose(found["kd"], hinton(ours, theirs, heat), rtol=1e-7)
    np.testing.assert_allclose(found["dkd"], zhao(ours, theirs, right.numpy(), heat), rtol=1e-7)
    np.testing.assert_allclose(found["dist"], huang(ours, theirs, heat), rtol=1e-7)


def test_without_labels_the_teacher_s_own_choice_is_the_right_class():
    ours, theirs = scores(5, 4), scores(5, 4, seed=1)
    assert far(ours, theirs, None, "dkd") == far(ours, theirs, theirs.argmax(1), "dkd")
    mixed = torch.full((5, 4), 0.25, dtype=torch.float64)
    assert far(ours, theirs, mixed, "dkd") == far(ours, theirs, None, "dkd")


ANY = st.floats(-1e4, 1e4, width=32)


@st.composite
def pairs(draw):
    """Two arrays of scores of one shape, from a single sample of a single class up, and labels, some of them -100."""
    samples, classes = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    both = draw(arrays.arrays(np.float32, (2, samples, classes), elements=ANY))
    labels = draw(arrays.arrays(np.int64, samples, elements=st.sampled_from([-100, *range(classes)])))
    return torch.from_numpy(both[0]), torch.from_numpy(both[1]), torch.from_numpy(labels)


@pytest.mark.parametrize("way", WAYS)
@given(pairs(), st.booleans(), st.sampled_from([1.0, 4.0]))
def test_every_distance_and_its_gradient_are_finite_and_it_is_never_negative(way, pair, labelled, heat):
    ours, theirs, labels = pair
    ours.requires_grad_()
    found = far(ours, theirs, labels if labelled else None, way, heat)
    found.backward()
    assert torch.isfinite(found)
    assert found >= -1e-4
    assert ours.grad.isfinite().all()


@pytest.mark.parametrize("way", WAYS)
@given(pairs())
def test_equal_outputs_are_no_distance_apart(way, pair):
    ours, _, labels = pair
    assert abs(far(ours, ours, labels, way).item()) < 1e-5


@pytest.mark.parametrize("way", WAYS)
def test_a_step_along_the_gradient_comes_nearer(way):
    ours, theirs = scores(6, 4).requires_grad_(), scores(6, 4, seed=1)
    before = far(ours, theirs, None, way, 2.0)
    before.backward()
    assert far(ours.detach() - 0.05 * ours.grad / ours.grad.norm(), theirs, None, way, 2.0) < before


@pytest.mark.parametrize("way", WAYS)
def test_gradients_are_those_of_finite_differences(way):
    ours, theirs, right = scores(4, 3).requires_grad_(), scores(4, 3, seed=1), torch.tensor([0, 2, -100, 1])
    assert torch.autograd.gradcheck(lambda x: far(x, theirs, right, way, 2.0), ours)


def test_samples_that_are_labelled_as_no_class_do_not_count_in_dkd():
    ours, theirs = scores(4, 3), scores(4, 3, seed=1)
    some = far(ours, theirs, torch.tensor([0, -100, 2, -100]), "dkd")
    assert some == far(ours[[0, 2]], theirs[[0, 2]], torch.tensor([0, 2]), "dkd")
    assert far(ours, theirs, torch.full((4,), -100), "dkd") == 0


def test_a_batch_of_one_is_compared_within_its_sample_alone():
    ours, theirs = scores(1, 5), scores(1, 5, seed=1)
    within = np.corrcoef(*(softmax(each.numpy()[0]) for each in (ours, theirs)))[0, 1]
    assert far(ours, theirs, None, "dist").item() == pytest.approx(1 - within)


def test_a_class_that_the_teacher_gives_all_samples_alike_is_left_out():
    logs = torch.tensor(log_softmax(scores(6, 4).numpy(), axis=1))
    always = torch.log(torch.tensor(0.2, dtype=torch.float64)).expand(6, 1)
    theirs = torch.cat([logs + torch.log(torch.tensor(0.8)), always], 1)
    ours = scores(6, 5, seed=1)
    q, p = softmax(ours.numpy(), axis=1), softmax(theirs.numpy(), axis=1)
    rows = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(q, p, strict=True)])
    columns = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(q.T[:4], p.T[:4], strict=True)])
    assert far(ours, theirs, None, "dist").item() == pytest.approx(2 - rows - columns)


def test_a_student_that_answers_everything_alike_is_uncorrelated_and_is_told_the_way_out():
    ours = torch.zeros(6, 4, dtype=torch.float64, requires_grad=True)
    found = far(ours, scores(6, 4), None, "dist")
    found.backward()
    assert found.item() == pytest.approx(2)
    assert ours.grad.isfinite().all()
    assert ours.grad.abs().max() > 0


def test_how_small_a_confident_teacher_s_probabilities_are_plays_no_part():
    ours, theirs = scores(8, 3), scores(8, 3, seed=1)
    shift = torch.tensor([0.0, 0.0, -60.0], dtype=torch.float64)
    exact = far(ours + shift, theirs + shift, None, "dist")
    rounded = far((ours + shift).float(), (theirs + shift).float(), None, "dist")
    assert rounded.item() == pytest.approx(exact.item(), rel=1e-4)
    assert exact.item() == pytest.approx(huang((ours + shift).numpy(), (theirs + shift).numpy(), 1.0), rel=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_every_position_of_a_sequence_or_a_map_is_a_sample(way):
    ours, theirs, labels = scores(12, 5), scores(12, 5, seed=1), torch.arange(12) % 5
    flat = far(ours, theirs, labels, way)
    last = far(ours.view(3, 4, 5), theirs.view(3, 4, 5), labels.view(3, 4), way)
    second = [each.view(3, 4, 5).movedim(-1, 1) for each in (ours, theirs)]
    maps = [each.view(3, 2, 2, 5).movedim(-1, 1) for each in (ours, theirs)]
    torch.testing.assert_close(torch.stack([last, far(*second, labels.view(3, 4), way)]), flat.expand(2))
    torch.testing.assert_close(far(*maps, labels.view(3, 2, 2), way), flat)
    torch.testing.assert_close(far(*maps, None, way), far(ours, theirs, None, way))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(7,), (7, 1)])
def test_a_single_score_is_one_of_two_classes(way, shape):
    ours, theirs = scores(7), scores(7, seed=1)
    two = [torch.stack([torch.zeros_like(each), each], 1) for each in (ours, theirs)]
    assert far(ours.view(shape), theirs.view(shape), None, way) == far(*two, None, way)


@pytest.mark.parametrize("kind", ["regression", "reconstruction"])
def test_values_are_compared_by_their_squared_difference_whatever_is_written(kind):
    ours, theirs = scores(5, 2), scores(5, 2, seed=1)
    for way in WAYS:
        assert distance(ours, theirs, None, kind, way, 4.0) == F.mse_loss(ours, theirs)


class Both(nn.Module):
    """A network of two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(x.flatten(1)), x


@pytest.mark.parametrize(
    ("student", "teacher", "said"),
    [
        ((nn.Flatten(), nn.Linear(64, 10)), (nn.Flatten(), nn.Linear(64, 100)), "gives (2, 10), its teacher (2, 100)"),
        ((nn.Flatten(), nn.Linear(64, 10)), (nn.Conv2d(1, 10, 8),), "gives (2, 10), its teacher (2, 10, 1, 1)"),
        ((nn.Flatten(), nn.Linear(64, 10)), (Both(),), "gives (2, 10), its teacher 2 outputs"),
    ],
)
def test_outputs_that_cannot_be_compared_are_both_named_before_anything_is_learned(student, teacher, said):
    start = model(small(*student), small(*teacher))
    assert said in refusal(TrainingError, start, digits_task())


def test_two_outputs_of_which_one_target_says_nothing_are_refused():
    with pytest.raises(TaskError, match=r"the loss of outputs \(\d+, 10\) of float32, .* and a target \(\d+,\)"):
        finetune(model(small(Both()), small(Both())), digits_task(), Training(epochs=1))


def test_a_teacher_that_is_not_heard_may_give_other_outputs():
    start = model(small(nn.Flatten(), nn.Linear(64, 10)), small(nn.Flatten(), nn.Linear(64, 100)))
    after = finetune(start, digits_task(), Training(epochs=1, distillation=0))
    assert accuracy(after) > 0.6


def test_a_teacher_that_drops_the_batch_of_a_single_sample_can_teach():
    class Squeezing(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :10].squeeze()

    start = model(small(nn.Flatten(), nn.Linear(64, 10)), Squeezing())
    assert not finetune(start, digits_task(), Training(epochs=1, distillation=0.1)).training
