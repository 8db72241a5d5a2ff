"""Weights go to exactly zero, where they matter least, and the zeros survive what comes after."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from haversack.device import find_device
from haversack.errors import NothingChangedError, RecipeError
from haversack.graph.inference import inference
from haversack.grid import affine
from haversack.model import Model
from haversack.recipe import Recipe, recipe_from_toml
from haversack.surgery.save import save
from haversack.task import Task
from haversack.techniques import catalogue
from haversack.techniques.prune_weights import PruneWeights
from haversack.training import Training, finetune
from tests import warm


class Net(nn.Module):
    """A residual network of 1 x 8 x 8 images with a depthwise convolution and batch norms."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depth, self.depth_norm = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.point, self.point_norm = nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.inner, self.outer = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = F.relu(self.stem_norm(self.stem(x)))
        x = F.relu(self.depth_norm(self.depth(x)))
        x = F.relu(self.point_norm(self.point(x)))
        x = F.relu(x + self.outer(F.relu(self.inner(x))))
        return self.head(x.mean((2, 3)))


WEIGHTS = {"stem.weight", "depth.weight", "point.weight", "inner.weight", "outer.weight", "head.weight"}
ALL_LEFT_ALONE = tuple(f"{name.removesuffix('.weight')}=0" for name in sorted(WEIGHTS))


def images(count: int = 256) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0)).cumsum(2).cumsum(3) / 4


def task() -> Task:
    x = images()
    y = (x.mean((2, 3)).squeeze(1) > 0).long() + 2 * (x[:, 0, 0, 0] > 0).long()

    def epoch():
        return [(x[some], y[some]) for some in torch.randperm(len(x)).split(32)]

    def score(predict):
        with torch.no_grad():
            return float((predict(x).argmax(1) == y).float().mean())

    return Task(train=epoch, calibrate=lambda: list(x.split(64)), score=score)


def model() -> Model:
    """A network whose batch norms have seen data."""
    torch.manual_seed(0)
    module = Net().train()
    for _ in range(10):
        module(images())
    return Model(module.eval(), (images(1),))


def zeros(model: Model) -> dict[str, torch.Tensor]:
    return {name: dict(model.module.named_parameters())[name] == 0 for name in sorted(model.sparse)}


def sparsity(model: Model) -> float:
    gone = list(zeros(model).values())
    return sum(int(each.sum()) for each in gone) / sum(each.numel() for each in gone)


@pytest.mark.parametrize("epochs", [0, 1, 3])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_asked_share_of_weights_is_exactly_zero_and_named(epochs, scope):
    sparse = PruneWeights(0.8, scope=scope, epochs=epochs).apply(model(), task())
    assert sparse.sparse == WEIGHTS
    assert sparsity(sparse) == pytest.approx(0.8, abs=2e-3)
    assert all((~each).any() for each in zeros(sparse).values())
    if scope == "layer":
        assert all(each.float().mean() == pytest.approx(0.8, abs=0.02) for each in zeros(sparse).values())


def test_training_keeps_the_zeros_of_an_earlier_step():
    sparse = PruneWeights(0.8, epochs=0).apply(model(), task())
    for optimizer in ("sgd", "adam"):
        after = sparse.with_module(finetune(sparse, task(), Training(epochs=2, optimizer=optimizer)))
        assert all(torch.equal(gone, zeros(after)[name]) for name, gone in zeros(sparse).items())
        assert not torch.equal(after.module.inner.weight, sparse.module.inner.weight)


def error(sparse: Model, original: Model) -> float:
    """The mean squared output error on the calibration inputs."""
    with torch.no_grad():
        return float((sparse.module(images()) - original.module(images())).square().mean())


def test_second_order_stays_far_closer_to_the_network_than_magnitude():
    original = model()
    ours, theirs = (
        PruneWeights(0.7, method, epochs=0).apply(original, task()) for method in ("second_order", "magnitude")
    )
    assert ours.sparse == theirs.sparse
    assert error(ours, original) < 0.1 * error(theirs, original)


class Lines:
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def track(self, items, label, total):
        return iter(items)

    def say(self, line):
        self.lines.append(line)


def test_exceptions_of_layers_are_kept():
    step = PruneWeights(0.8, epochs=0, layer_sparsity=("head=0.25", "stem=0", "inner.weight=0.5"))
    sparse = step.apply(model(), task())
    assert sparse.sparse == WEIGHTS - {"stem.weight"}
    found = {name: float(gone.float().mean()) for name, gone in zeros(sparse).items()}
    assert found["head.weight"] == 0.25
    assert found["inner.weight"] == 0.5
    assert Recipe((step,)) == recipe_from_toml(Recipe((step,)).to_toml(), catalogue())


def test_sparser_in_two_steps_keeps_the_first_zeros():
    first = PruneWeights(0.5, epochs=0).apply(model(), task())
    for method, epochs in (("magnitude", 1), ("movement", 1), ("second_order", 0), ("second_order", 1)):
        second = PruneWeights(0.75, method, epochs=epochs).apply(first, task())
        assert all(zeros(second)[name][gone].all() for name, gone in zeros(first).items())
        assert sparsity(second) == pytest.approx(0.75, abs=2e-3)


def test_movement_without_training_is_magnitude():
    ours, theirs = (PruneWeights(0.6, method, epochs=0).apply(model(), task()) for method in ("movement", "magnitude"))
    assert all(torch.equal(gone, zeros(theirs)[name]) for name, gone in zeros(ours).items())


def test_movement_trains_and_reaches_the_share():
    sparse = PruneWeights(0.6, "movement", epochs=2).apply(model(), task())
    assert sparsity(sparse) == pytest.approx(0.6, abs=2e-3)
    assert all((~each).any() for each in zeros(sparse).values())


def test_a_sparse_network_is_saved_and_loaded_in_another_process(tmp_path):
    sparse = PruneWeights(0.7, "second_order", epochs=0).apply(model(), task())
    save(sparse, tmp_path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import torch;"
        "from test_prune_weights import Net, images, zeros; from haversack.surgery.save import load;"
        "found = load(Net(), Path(sys.argv[2]), (images(1),));"
        "print(sorted(found.sparse), sum(int(gone.sum()) for gone in zeros(found).values()));"
        "print(float(found.module(images(1)).detach().double().sum()))"
    )
    names, total = warm.run(code, Path(__file__).parent, tmp_path).splitlines()
    assert names == f"{sorted(sparse.sparse)} {sum(int(gone.sum()) for gone in zeros(sparse).values())}"
    assert float(total) == pytest.approx(float(sparse.module(images(1)).detach().double().sum()), abs=1e-5)


def test_options_offer_only_what_goes_further():
    sparse = PruneWeights(0.75, epochs=0).apply(model(), task())
    offered = [list(PruneWeights.options(each, find_device("host"))) for each in (model(), sparse)]
    assert [step.sparsity for step in offered[0]] == [0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
    assert [step.sparsity for step in offered[1]] == [0.8, 0.9, 0.95]
    rounded = replace(model(), grids={"input_1": affine(0, 1)})
    assert not list(PruneWeights.options(rounded, find_device("host")))


@pytest.mark.parametrize(
    "wrong",
    [
        {"sparsity": 0.0},
        {"sparsity": 1.0},
        {"sparsity": math.nan},
        {"method": "luck"},
        {"scope": "row"},
        {"epochs": -1},
        {"ramp": 1.5},
        {"learning_rate": 0.0},
        {"layer_sparsity": ("head",)},
        {"layer_sparsity": ("head=1",)},
        {"layer_sparsity": "head=0.5"},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(RecipeError) as caught:
        PruneWeights(**wrong)
    assert caught.value.mend


@pytest.mark.parametrize(
    ("step", "kind", "said"),
    [
        (PruneWeights(0.999, epochs=0), RecipeError, r"0\.9988.* out of reach|out of reach.*0\.9988"),
        (PruneWeights(0.5, layer_sparsity=("tail=0.5",)), RecipeError, "no weights lie at 'tail'"),
        (PruneWeights(0.5, layer_sparsity=ALL_LEFT_ALONE), NothingChangedError, "no layer's weights"),
    ],
    ids=["too much", "no such layer", "no layer left"],
)
def test_what_a_network_cannot_do_is_refused_in_its_own_terms(step, kind, said):
    with pytest.raises(kind, match=said) as caught:
        step.apply(model(), task())
    assert caught.value.mend


def test_what_is_sparse_already_is_no_success():
    sparse = PruneWeights(0.7, epochs=0).apply(model(), task())
    for method in ("magnitude", "second_order"):
        with pytest.raises(NothingChangedError, match="that sparse already"):
            PruneWeights(0.6, method, epochs=0).apply(sparse, task())
    with pytest.raises(NothingChangedError, match="grids"):
        PruneWeights(0.6).apply(replace(sparse, grids={"input_1": affine(0, 1)}), task())


LATER = {
    "prune_channels": {"keep": 0.7, "epochs": 1},
    "quantize_training": {"epochs": 1, "weight_bits": 4},
    "nearest": {"equalize": True},
    "gptq": {"weight_bits": 3},
    "learned": {"weight_bits": 3},
    "quantize_weights": {"bits": 4},
    "half": {"bits": 16},
}
TECHNIQUES = {
    **dict.fromkeys(("nearest", "gptq", "learned"), "quantize_static"),
    "half": "quantize_weights",
}


@pytest.mark.parametrize("later", sorted(LATER))
def test_zeros_survive_a_later_step(later):
    name, settings = TECHNIQUES.get(later, later), dict(LATER[later])
    if name == "quantize_static":
        settings["rounding"] = later
    sparse = PruneWeights(0.6, epochs=0).apply(model(), task())
    after = catalogue()[name](**settings).apply(sparse, task())
    assert after.sparse == sparse.sparse
    lost = sliced(zeros(sparse), after) if later == "prune_channels" else zeros(sparse)
    weights = dict(after.module.named_parameters())
    assert all(not weights[name][gone].any() for name, gone in lost.items())
    lowered = inference(after)
    assert all(not lowered.tensor(name)[gone].any() for name, gone in lost.items())


def sliced(found, after):
    """The masks of what is left of each weight."""
    kept = after.edits.kept
    assert kept
    return {name: _cut(mask, kept.get(name, {})) for name, mask in found.items()}


def _cut(mask, dims):
    for dim, indices in dims.items():
        mask = mask.index_select(dim, torch.tensor(indices))
    return mask
