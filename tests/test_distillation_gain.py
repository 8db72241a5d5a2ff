"""What a teacher adds is measured in parts, and both ways of a contest see the same number of images."""

import distillation_gain as gain
import pytest
import torch
from cifar10 import Epoch, Images

LABELS = torch.arange(60) % 10
FEW = Images(torch.zeros(60, 3, 32, 32, dtype=torch.uint8), LABELS.where(torch.arange(60) % 10 == 0, gain.UNKNOWN))


def test_labels_alone_see_only_images_with_a_label_in_as_many_steps_as_the_taught():
    alone, taught = (Epoch(FEW, gain.mirrored, order, batch=7) for order in (gain.only_labelled, gain.labels_spread))
    batches = {"alone": list(alone), "taught": list(taught)}
    assert [len(labels) for _, labels in batches["alone"]] == [len(labels) for _, labels in batches["taught"]]
    assert all((labels != gain.UNKNOWN).all() for _, labels in batches["alone"])


def test_a_taught_epoch_shows_every_image_once_and_a_label_in_each_ten():
    numbers = gain.labels_spread(FEW)
    assert sorted(numbers.tolist()) == list(range(60))
    assert (FEW.labels[numbers].view(6, 10) != gain.UNKNOWN).sum(1).tolist() == [1] * 6
    assert numbers.tolist() != gain.labels_spread(FEW).tolist()


def test_a_gain_is_the_mean_over_the_seeds_that_both_ways_have():
    contest, row = "mobilenetv2.tuned", gain.row
    scores = {row(contest, "taught", 0): 0.75, row(contest, "labels", 0): 0.74, row(contest, "taught", 2): 0.9}
    found = gain.gains(scores)
    assert found.keys() == {contest}
    assert found[contest]["mobilenetv2.tuned_gain"] == pytest.approx(0.01)
    assert found[contest]["mobilenetv2.tuned_seeds"] == 1
    assert gain.gains(scores | {row(contest, "labels", 2): 0.87})[contest]["mobilenetv2.tuned_gain"] == 0.02


def test_no_contest_has_a_gain_while_one_way_is_unmeasured():
    assert gain.gains({gain.row("mobilenetv2.tuned", "taught", 0): 0.75}) == {}


@pytest.mark.parametrize("contest", gain.CONTESTS)
def test_the_ways_of_a_contest_differ_in_nothing_but_the_teacher_the_rate_and_how_images_are_drawn(contest):
    taught, alone = (gain.CONTESTS[contest].ways[way].training for way in ("taught", "labels"))
    other = {name: (value, getattr(alone, name)) for name, value in vars(taught).items()}
    assert {name for name, (one, two) in other.items() if one != two} <= {"learning_rate", "distillation"}
    assert (taught.distillation > 0, alone.distillation) == (True, 0)


def test_each_way_learns_at_one_of_the_rates_that_are_tried_on_held_back_images():
    for contest, each in gain.CONTESTS.items():
        for way, how in each.ways.items():
            assert how.training.learning_rate in how.rates, (contest, way)


def test_each_training_has_a_row_of_its_own_and_those_that_choose_use_no_seed_that_reports():
    names = [gain.row(**each) for each in gain.trainings()]
    assert len(set(names)) == len(names)
    assert {"mobilenetv2.tuned.seed0.taught", "mobilenetv2.tuned.held_back.labels.0.2"} <= set(names)
    assert gain.CHOOSING_SEED not in gain.SEEDS
