"""What techniques that act on single layers offer a planner, and that the steps do what was chosen."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from haversack.choices import Factors, Site, Swapped, Zeros
from haversack.device import find_device
from haversack.errors import RecipeError
from haversack.graph.inference import inference
from haversack.graph.run import joined
from haversack.model import Model
from haversack.recipe import Recipe, Step, recipe_from_toml
from haversack.techniques import catalogue
from haversack.techniques._choices import LayerChoices, paths_of
from haversack.techniques._exchange import choices as exchange_choices
from haversack.techniques._exchange.sites import problem_at
from haversack.techniques.cluster_weights import ClusterWeights
from haversack.techniques.factorize import Factorize
from haversack.techniques.factorize.ways import composed, fitting, ladder
from haversack.techniques.prune_weights import PruneWeights
from haversack.techniques.replace_blocks import ReplaceBlocks
from tests.tasks.digits_small import network, task

KINDS = ("factorize", "replace_blocks", "prune_weights", "cluster_weights")


@cache
def model() -> Model:
    return Model(network(), (torch.zeros(1, 1, 8, 8),))


@cache
def choices(name: str) -> LayerChoices:
    offered = catalogue()[name].choices(model(), find_device("host"))
    assert isinstance(offered, LayerChoices)
    return offered


@cache
def losses(name: str) -> list[tuple[float, ...]]:
    return choices(name).losses(task().calibration())


def strongest(name: str, sites: set[int] | None = None) -> list[int]:
    """The last option of each site, or of some."""
    every = choices(name).sites
    return [len(site.options) - 1 if sites is None or place in sites else 0 for place, site in enumerate(every)]


@pytest.mark.parametrize("name", KINDS)
def test_a_site_has_a_loss_an_option_and_doing_nothing_loses_nothing(name):
    sites = choices(name).sites
    assert sites
    assert [len(each) for each in losses(name)] == [len(site.options) for site in sites]
    assert all(each[0] == 0 and max(each) == max(each[1:]) > 0 for each in losses(name))
    assert {site.technique for site in sites} == {name}
    assert all(site.options[0].effect is None and all(one.effect for one in site.options[1:]) for site in sites)
    assert choices(name).step([0] * len(sites)) is None


@pytest.mark.parametrize("name", ["prune_weights", "cluster_weights"])
def test_losses_rise_with_strength(name):
    assert all(spearmanr(each, range(len(each))).statistic > 0.85 and each[-1] == max(each) for each in losses(name))


@pytest.mark.parametrize("name", KINDS)
def test_the_step_is_spelled_out_and_does_not_train(name):
    step = choices(name).step(strongest(name))
    assert step is not None
    assert not step.trains
    recipe = Recipe((step,))
    assert recipe_from_toml(recipe.to_toml(), catalogue()) == recipe


@pytest.mark.parametrize("name", KINDS)
def test_losses_rank_as_the_outputs_move(name):
    (inputs,) = joined(task().calibration())
    with torch.no_grad():
        wanted = model().module(inputs).log_softmax(1)
    said, true = [], []
    for place, site in enumerate(choices(name).sites):
        for option in range(1, len(site.options), 2):
            step = choices(name).step([option if each == place else 0 for each in range(len(choices(name).sites))])
            with torch.no_grad():
                outputs = quick(step).apply(model(), task()).module(inputs).log_softmax(1)
            true.append(float((wanted.exp() * (wanted - outputs)).sum(1).mean()))
            said.append(losses(name)[place][option])
    assert spearmanr(said, true).statistic >= 0.8


def quick(step: Step) -> Step:
    return step.skeleton()


def strengths(name: str, of: Callable[[Site, nn.Module], bool]) -> bool:
    step = choices(name).step(strongest(name))
    small = quick(step).apply(model(), task()).module
    return all(of(site, small.get_submodule(site.name)) for site in choices(name).sites)


def test_factors_have_the_ranks_that_were_chosen():
    def fits(site: Site, layers: nn.Module) -> bool:
        effect = site.options[-1].effect
        assert isinstance(effect, Factors)
        return [len(layer.weight) for layer in layers][: len(effect.ranks)] == list(effect.ranks)

    assert strengths("factorize", fits)


def test_blocks_have_the_groups_that_were_chosen():
    def fits(site: Site, layers: nn.Module) -> bool:
        effect = site.options[-1].effect
        assert isinstance(effect, Swapped)
        return layers[0].groups == effect.groups and layers[0].out_channels == layers[0].in_channels

    assert strengths("replace_blocks", fits)


def test_weights_have_the_zeros_that_were_chosen():
    def fits(site: Site, layer: nn.Module) -> bool:
        effect = site.options[-1].effect
        assert isinstance(effect, Zeros)
        return int((layer.weight == 0).sum()) == int(effect.share * layer.weight.numel() + 1e-6)

    assert strengths("prune_weights", fits)


def test_weights_have_the_values_that_were_chosen():
    def fits(site: Site, layer: nn.Module) -> bool:
        effect = site.options[-1].effect
        assert isinstance(effect, Zeros)
        factors = layer.weight.flatten(1)
        return max(len(row.unique()) for row in factors) <= effect.codebook

    assert strengths("cluster_weights", fits)


def test_what_is_not_named_stays():
    small = PruneWeights(epochs=0, shares=("3=0.5",)).apply(model(), task()).module
    assert torch.equal(small[0].weight, model().module[0].weight)
    assert torch.equal(small[6].weight, model().module[6].weight)
    assert (small[3].weight == 0).float().mean() == 0.5


def test_what_is_said_of_a_layer_holds_for_its_factors_and_the_original_teaches_both():
    small = Factorize(factors=("6=svd:12",), epochs=0).apply(model(), task())
    for step in (PruneWeights(epochs=0, shares=("6=0.5",)), ClusterWeights(epochs=0, codebooks=("6=4",))):
        done = step.apply(small, task())
        assert done.teacher is model().module
        assert all(not torch.equal(done.module[6][part].weight, small.module[6][part].weight) for part in (0, 1))


def test_a_pruned_network_is_taught_by_what_it_was():
    assert PruneWeights(epochs=0, shares=("3=0.5",)).apply(model(), task()).teacher is model().module


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Factorize(factors=("3=svd:4", "3=svd:8")),
        lambda: Factorize(factors=("3=svd",)),
        lambda: Factorize(factors=("3=qr:4",)),
        lambda: ReplaceBlocks(layers=("3=depthwise", "3=depthwise")),
        lambda: ReplaceBlocks(layers=("3=wide",)),
        lambda: PruneWeights(shares=("3=1.5",)),
        lambda: PruneWeights(shares=("3=0.5", "3=0.6")),
        lambda: ClusterWeights(codebooks=("3=1",)),
        lambda: ClusterWeights(codebooks=("3=8", "3=8")),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_once(wrong):
    with pytest.raises(RecipeError):
        wrong()


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Factorize(factors=("lost=svd:4",)), "lost"),
        (Factorize(factors=("3=svd:999",)), "full rank"),
        (Factorize(factors=("3=svd:4x4",)), "full rank"),
        (Factorize(factors=("3=tucker:4",)), "full rank"),
        (Factorize(factors=("10=tucker:4x4",)), "does not suit"),
        (ReplaceBlocks(layers=("lost=depthwise",)), "lost"),
        (ReplaceBlocks(layers=("10=depthwise",)), "10"),
        (ReplaceBlocks(layers=("3=grouped:5",)), "5 groups"),
        (PruneWeights(shares=("lost=0.5",)), "lost"),
        (ClusterWeights(codebooks=("lost=4",)), "lost"),
    ],
)
def test_layers_and_ranks_that_are_not_there_are_refused_with_what_is(step, words):
    with pytest.raises(RecipeError, match=words) as error:
        step.apply(model(), task())
    assert error.value.mend


def test_paths_are_short_where_no_other_weight_lies_inside():
    assert paths_of(["a.weight", "a.b.weight", "c.weight"]) == {
        "a.weight": "a.weight",
        "a.b.weight": "a.b",
        "c.weight": "c",
    }


def test_options_that_are_not_wanted_are_not_tried_and_the_others_keep_their_meaning():
    whole = choices("quantize_static")
    some = whole.keeping(lambda option: option.name in ("4 bits", "2 bits"))
    assert all([each.name for each in site.options][1:] == ["4 bits", "2 bits"] for site in some.sites)
    places = [[each.name for each in site.options].index for site in whole.sites]
    for index, at in enumerate(places):
        all_weights, few = whole.tried(index, task().calibration()), some.tried(index, task().calibration())
        wanted = [all_weights[at(name) - 1] for name in ("4 bits", "2 bits")]
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(few, wanted, strict=True))
    chosen = [number % 3 for number in range(len(some.sites))]
    told = [at(site.options[one].name) for at, site, one in zip(places, some.sites, chosen, strict=True)]
    assert some.step(chosen) == whole.step(told)


@pytest.mark.parametrize("room", [1, 1 << 26])
def test_what_factors_fit_is_what_each_layer_reads_however_many_are_noted_at_once(monkeypatch, room):
    monkeypatch.setattr(exchange_choices, "_NUMBERS", room)

    def tried(site):
        return ladder(fitting(site.geometry)[:1], site.geometry, 1)

    layers = exchange_choices.exchangeable(model(), tried, composed)
    assert len(layers) > 1
    weights = exchange_choices.FoldedWeights(model(), layers, composed)
    folded = inference(model())
    for index, layer in enumerate(layers):
        problem = problem_at(model().module, layer.site, [joined(task().calibration(), 128)])
        for choice, weight in zip(layer.choices, weights.of(index, task().calibration()), strict=True):
            dense, before = composed(problem, choice).flatten(1), folded.tensor(layer.weight).flatten(1).double()
            scale = (before * problem.flat).sum(1) / problem.flat.square().sum(1)
            assert torch.allclose(weight.flatten(1).double(), dense * scale[:, None], rtol=1e-5, atol=1e-7)
