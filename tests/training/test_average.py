"""What comes out of a training: averaged weights, the best of all epochs, and when it stops by itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_digits import Told, broken, digits, digits_task, model, same, trained
from test_zeros import with_zeros

from haversack.errors import RecipeError
from haversack.progress import shown_by
from haversack.training import Training, finetune
from haversack.training.best import Average


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30), st.floats(0.5, 0.999))
def test_the_average_is_the_written_out_sum(values, decay):
    found, expected = Average(decay, {"x": torch.tensor([7.0])}), 7.0
    for count, value in enumerate(values, 1):
        found.step({"x": torch.tensor([value])})
        kept = min(decay, count / (count + 9))
        expected = kept * expected + (1 - kept) * value
    np.testing.assert_allclose(found.values["x"].numpy(), [expected], rtol=1e-4, atol=1e-4)


def test_counts_are_not_averaged():
    found = Average(0.99, {"count": torch.tensor(0)})
    found.step({"count": torch.tensor(5)})
    assert found.values["count"] == 5


def test_averaged_weights_and_statistics_come_out_smoother_than_the_last_ones():
    last, averaged = (
        finetune(model(broken(), trained()), digits_task(), Training(epochs=1, average=each)) for each in (0.0, 0.9)
    )
    assert not torch.equal(last[-1].weight, averaged[-1].weight)
    assert not torch.equal(last[1].running_mean, averaged[1].running_mean)
    start = broken()[-1].weight
    assert (averaged[-1].weight - start).norm() < (last[-1].weight - start).norm()


def test_an_average_keeps_zeros_and_obeys_masks():
    after = finetune(with_zeros(), digits_task(), Training(average=0.9))
    assert torch.equal(after[3].weight == 0, with_zeros().module[3].weight == 0)

    def masks(weights, share_done):
        return {"3.weight": weights["3.weight"].abs() > 0.05} if share_done == 1 else {}

    after = finetune(model(broken()), digits_task(), Training(average=0.9), masks)
    assert (after[3].weight == 0).float().mean() > 0.2


def scored(*scores: float):
    """A task whose scores are given, and a list of what was scored."""
    left, seen = list(scores), []

    def score(predict):
        seen.append(predict(digits()[0][:8]))
        return left.pop(0)

    return replace(digits_task(), score=score), seen


def test_training_stops_when_the_score_has_not_risen_and_the_best_weights_come_out():
    task, seen = scored(0.1, 0.5, 0.4, 0.5, 0.9)
    told = Told()
    with shown_by(told):
        after = finetune(model(broken()), task, Training(epochs=9, patience=2))
    assert len(seen) == 4
    torch.testing.assert_close(after(digits()[0][:8]), seen[1], rtol=1e-5, atol=1e-5)
    assert "not risen for 2 epochs: epoch 2 (0.5) is kept" in told.lines[0]


def test_the_best_weights_come_out_even_when_the_last_epoch_is_reached():
    task, seen = scored(0.1, 0.5, 0.4)
    after = finetune(model(broken()), task, Training(epochs=3, patience=5))
    torch.testing.assert_close(after(digits()[0][:8]), seen[1], rtol=1e-5, atol=1e-5)


def test_scoring_changes_neither_the_data_that_follow_nor_the_weights():
    rising = iter(range(9))
    drawing = replace(digits_task(), score=lambda predict: next(rising) + 0 * predict(torch.rand(4, 1, 8, 8)).sum())
    watched = finetune(model(broken()), drawing, Training(epochs=3, patience=3))
    assert same(watched, finetune(model(broken()), digits_task(), Training(epochs=3)))


def test_nobody_is_asked_for_a_score_without_patience():
    task, seen = scored()
    finetune(model(broken()), task, Training(epochs=2))
    assert not seen


def test_averaged_weights_are_the_ones_that_are_scored():
    task, seen = scored(0.5)
    after = finetune(model(broken()), task, Training(epochs=1, patience=1, average=0.95))
    torch.testing.assert_close(after(digits()[0][:8]), seen[0], rtol=1e-5, atol=1e-5)


def test_patience_with_masks_is_refused():
    with pytest.raises(RecipeError, match="masks"):
        finetune(model(broken()), digits_task(), Training(patience=1), lambda weights, share: {})
