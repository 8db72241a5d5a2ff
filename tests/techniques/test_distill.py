"""What steps lost is won back: the original teaches, by its outputs and by its maps."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from haversack.device import find_device
from haversack.errors import NothingChangedError, RecipeError, TrainingError
from haversack.model import Model
from haversack.progress import shown_by
from haversack.recipe import Recipe, recipe_from_toml
from haversack.task import Task
from haversack.techniques import catalogue
from haversack.techniques.distill import Distill
from haversack.techniques.prune_channels import PruneChannels
from haversack.techniques.quantize_static import QuantizeStatic

IMAGES = torch.randn(256, 2, 8, 8, generator=torch.Generator().manual_seed(1))


def network() -> nn.Module:
    """A teacher that is sure of its answers."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 16, 3, 2, 1), nn.ReLU()]
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 4)).eval()
    with torch.no_grad():
        for layer, scale in ((0, 1.5), (2, 1.5), (5, 6)):
            module[layer].weight.mul_(scale)
    return module


def spoiled(module: nn.Module) -> nn.Module:
    """The network with a third of each kernel's weights gone."""
    module = copy.deepcopy(module)
    torch.manual_seed(2)
    with torch.no_grad():
        for each in module.parameters():
            if each.dim() > 1:
                each.mul_(torch.rand_like(each) > 0.33)
    return module


def labels(module: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return module(IMAGES)


def task(train=lambda: [(each,) for each in IMAGES.split(32)], **changes) -> Task:
    return Task(train=train, calibrate=lambda: list(IMAGES.split(64)), score=lambda _: 0.0, **changes)


def lost(model: Model, teacher: nn.Module) -> float:
    """How far the scores are from the teacher's, as a share of how far the teacher's are apart."""
    found, wanted = (each - each.mean(1, keepdim=True) for each in map(labels, (model.module, teacher)))
    return (F.mse_loss(found, wanted) / wanted.var()).item()


def before_and_after(step: Distill, of: Task) -> tuple[float, float]:
    teacher = network()
    start = Model(spoiled(teacher), (IMAGES[:1],), teacher=teacher)
    return lost(start, teacher), lost(step.apply(start, of), teacher)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_what_was_lost_is_won_back_without_labels(kind):
    before, after = before_and_after(Distill(epochs=4, outputs="kd"), task(kind=kind))
    assert after < 0.7 * before


@pytest.mark.parametrize("features", ["fitnet", "attention", "similarity"])
def test_maps_teach_beside_the_outputs(features):
    before, after = before_and_after(Distill(epochs=4, outputs="kd", features=features), task())
    assert after < 0.7 * before


class Read(nn.Module):
    """A small reader of words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(50, 16), nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.words(x)
        return self.norm(x + self.down(F.gelu(self.up(x)))).mean(1)


def test_what_normalizes_each_sample_by_itself_learns_by_adam():
    torch.manual_seed(0)
    teacher = Read().eval()
    x = torch.randint(0, 50, (64, 6), generator=torch.Generator().manual_seed(1))
    step = Distill.suiting(teacher, 8, seed=3)
    assert (step.optimizer, step.learning_rate, step.seed) == ("adam", 3e-4, 3)
    assert Distill.suiting(network(), 8) == Distill(8)
    assert recipe_from_toml(Recipe((step,)).to_toml(), catalogue()) == Recipe((step,))
    reads = Task(train=lambda: [(each,) for each in x.split(8)], calibrate=None, score=lambda _: 0.0, kind="regression")
    start = Model(spoiled(teacher), (x[:1],), teacher=teacher)

    def apart(step: Distill) -> float:
        taught = step.apply(start, reads).module
        with torch.no_grad():
            return F.mse_loss(taught(x), teacher(x)).item()

    assert apart(step) < 0.9 * apart(replace(step, optimizer="sgd"))


def test_labels_are_learned_from_too():
    right = labels(network()).argmax(1)
    data = list(zip(IMAGES.split(32), right.split(32), strict=True))
    before, after = (Model(spoiled(network()), (IMAGES[:1],), teacher=network()) for _ in range(2))
    after = Distill(epochs=4, distillation=0.0).apply(before, task(lambda: data))
    found = [(labels(each.module).argmax(1) == right).float().mean() for each in (before, after)]
    assert found[1] > found[0] + 0.05


def test_a_reconstruction_network_learns_its_input_and_its_teacher_s_opinion_of_it():
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1)).eval()
    start = Model(spoiled(teacher), (IMAGES[:1],), teacher=teacher)
    after = Distill(epochs=4).apply(start, task(kind="reconstruction"))
    errors = [F.mse_loss(labels(each.module), IMAGES).item() for each in (start, after)]
    assert errors[1] < errors[0]


def test_zeros_and_structure_stay():
    teacher = network()
    start = Model(spoiled(teacher), (IMAGES[:1],), teacher=teacher, sparse=frozenset({"0.weight", "2.weight"}))
    after = Distill(epochs=1, features="fitnet").apply(start, task())
    for name in start.sparse:
        zeros = start.module.get_parameter(name) == 0
        assert zeros.any()
        assert not after.module.get_parameter(name)[zeros].any()
    assert after.sparse == start.sparse
    assert repr(after.module) == repr(start.module)
    assert not any(each._forward_hooks for each in after.module.modules())


class Told:
    def __init__(self):
        self.lines = []

    def track(self, items, label, total):
        yield from items

    def say(self, line):
        self.lines.append(line)


def test_a_pruned_network_is_distilled_and_then_quantized_in_one_recipe():
    start = Model(network(), (IMAGES[:1],), teacher=network())
    steps = (
        PruneChannels(keep=0.6, importance="l1", correct="nothing", epochs=0, imitate=0),
        Distill(epochs=4, outputs="kd", features="attention"),
        QuantizeStatic(),
    )
    told = Told()
    with shown_by(told):
        after = Recipe(steps).apply(start, task())
    pruned = steps[0].apply(start, task())
    assert after.number_format == "int8"
    assert after.edits == pruned.edits
    assert lost(after, network()) < 0.7 * lost(pruned, network())
    assert "1 (12x8x8)" in "".join(told.lines).split(" = ")[1]


def test_a_network_without_a_teacher_is_its_own():
    right = labels(network()).argmax(1)
    start = Model(spoiled(network()), (IMAGES[:1],))
    kept = copy.deepcopy(start.module.state_dict())
    after = Distill(epochs=1, features="fitnet").apply(start, task(lambda: [(IMAGES, right)]))
    assert after.teacher is start.module
    assert all(torch.equal(value, kept[name]) for name, value in start.module.state_dict().items())
    assert not torch.equal(after.module[0].weight, start.module[0].weight)


def test_the_pairs_of_a_recipe_survive_toml_and_are_those_that_are_compared():
    step = Distill(epochs=1, features="similarity", pairs=("1=3",))
    recipe = Recipe((step,))
    assert recipe_from_toml(recipe.to_toml(), catalogue()) == recipe
    told = Told()
    with shown_by(told):
        step.apply(Model(network(), (IMAGES[:1],), teacher=spoiled(network())), task())
    assert told.lines == ["similarity features of student and teacher are compared at 1 (12x8x8) = 3 (16x4x4)."]


def test_a_pair_that_cannot_be_made_is_refused_with_the_layers_there_are():
    with pytest.raises(RecipeError) as caught:
        Distill(features="fitnet", pairs=("1=9",)).apply(Model(network(), (IMAGES[:1],), teacher=network()), task())
    assert "the teacher has no layer '9'" in str(caught.value)
    assert "3 (16x4x4)" in caught.value.mend


def test_a_loss_that_is_not_finite_is_said_with_its_step():
    bad = [(IMAGES[:32],), (IMAGES[32:64] * torch.nan,)]
    with pytest.raises(TrainingError, match="at step 1"):
        Distill().apply(Model(spoiled(network()), (IMAGES[:1],), teacher=network()), task(lambda: bad))


def test_without_epochs_or_with_chosen_numbers_nothing_changes():
    model = Model(network(), (IMAGES[:1],), teacher=network())
    quantized = QuantizeStatic().apply(model, task())
    for step, start in ((Distill(epochs=0), model), (Distill(), quantized)):
        with pytest.raises(NothingChangedError) as caught:
            step.apply(start, task())
        assert caught.value.mend
    assert not list(Distill.options(quantized, find_device("host")))


@pytest.mark.parametrize(
    "changes",
    [
        *({"epochs": -1}, {"learning_rate": -0.1}, {"distillation": 1.5}, {"temperature": 0.0}, {"outputs": "l2"}),
        *({"features": "maps"}, {"features": "fitnet", "feature_weight": float("nan")}, {"pairs": ("a=b",)}),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises(RecipeError) as caught:
        replace(Distill(), **changes)
    assert next(reversed(changes)).split("_")[0] in str(caught.value)
