from dataclasses import replace

import pytest
import torch
from prunable_networks import NETWORKS, build
from torch import nn
from torch.nn import functional as F

from haversack.errors import NothingChangedError, RecipeError
from haversack.graph.inference import inference, lower
from haversack.model import Model
from haversack.runtimes.onnx.write import write
from haversack.task import Task
from haversack.techniques.cluster_weights import ClusterWeights


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        self.second, self.head = nn.Conv2d(24, 24, 3, padding=1), nn.Linear(24, 4)

    def forward(self, x):
        return self.head(F.relu(self.second(F.relu(self.norm(self.first(x))))).mean((2, 3)))


@pytest.fixture
def model():
    torch.manual_seed(0)
    network = Network()
    with torch.no_grad():
        network.norm.running_var.uniform_(0.5, 2)
        network.second.weight[torch.rand_like(network.second.weight) < 0.5] = 0
    return Model(network.eval(), (torch.randn(1, 2, 8, 8),), sparse=frozenset({"second.weight"}))


@pytest.fixture
def task():
    x = torch.randn(64, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    return Task(train=lambda: [(x, x.mean((1, 2, 3)).gt(0).long())], calibrate=lambda: [x], score=lambda _: 0.0)


def weights(model):
    network = inference(model)
    return {name: network.tensor(name) for name in (layer.weight for layer in network.layers())}


@pytest.mark.parametrize("epochs", [0, 3])
@pytest.mark.parametrize("entropy_weight", [0.0, 0.05])
def test_each_tensor_has_few_values_and_pruned_weights_stay_zero(model, task, epochs, entropy_weight):
    step = ClusterWeights(bits=4, epochs=epochs, entropy_weight=entropy_weight)
    result, before = weights(step.apply(model, task)), weights(model)
    for name in ("first.weight", "second.weight"):
        assert len(result[name].unique()) <= 16
    assert not result["second.weight"][before["second.weight"] == 0].any()
    assert torch.equal(result["head.weight"], before["head.weight"]), "96 weights are too few for a codebook"


def test_the_names_of_pruned_weights_survive(model, task):
    assert ClusterWeights(bits=4, epochs=1).apply(model, task).sparse == {"second.weight"}


def test_zeros_that_nobody_pruned_are_values_like_others(model, task):
    result = weights(ClusterWeights(bits=1, epochs=0).apply(replace(model, sparse=frozenset()), task))
    assert result["second.weight"].all()


def test_an_entropy_weight_makes_indices_cheaper_to_code(model, task):
    def entropy(step):
        counts = weights(step.apply(model, task))["second.weight"].unique(return_counts=True)[1]
        shares = counts / counts.sum()
        return float(-(shares * shares.log2()).sum())

    entropies = [entropy(ClusterWeights(bits=3, epochs=0, entropy_weight=each)) for each in (0.0, 0.05, 0.3)]
    assert entropies == sorted(entropies, reverse=True)
    assert entropies[-1] < 0.7 * entropies[0]


def test_each_layer_may_have_bits_of_its_own(model, task):
    result = weights(ClusterWeights(layer_bits=(2, 3, 1), epochs=0).apply(model, task))
    assert [len(result[f"{name}.weight"].unique()) for name in ("first", "second", "head")] == [4, 8, 2]


def test_bits_for_other_layers_than_there_are_are_refused_by_name(model, task):
    with pytest.raises(RecipeError, match="2 numbers for 3 layers") as caught:
        ClusterWeights(layer_bits=(2, 3), epochs=0).apply(model, task)
    assert "second.weight" in caught.value.mend


def test_training_moves_the_biases_too(model, task):
    still, trained = (ClusterWeights(bits=4, epochs=epochs).apply(model, task).module for epochs in (0, 3))
    for name in ("second", "head"):
        assert not torch.equal(getattr(still, name).bias, getattr(trained, name).bias)


@pytest.mark.parametrize("epochs", [0, 1])
def test_float16_holds_all_values_and_biases(model, task, epochs):
    network = inference(ClusterWeights(bits=3, epochs=epochs).apply(model, task))
    clustered = [network.tensor(f"{name}.weight") for name in ("first", "second")]
    for tensor in (*clustered, network.tensor("second.bias"), network.tensor("head.bias")):
        assert torch.equal(tensor.half().float(), tensor)


def test_training_moves_the_values_towards_the_data(model, task):
    def loss(found):
        x, y = task.train()[0]
        with torch.no_grad():
            return float(F.cross_entropy(found.module(x), y))

    still, trained = (
        ClusterWeights(bits=2, epochs=epochs, learning_rate=0.01).apply(model, task) for epochs in (0, 30)
    )
    assert loss(trained) < loss(still)


def test_the_onnx_file_holds_four_bits_a_weight(model, task):
    small = len(write(lower(ClusterWeights(bits=4, epochs=0).apply(model, task))))
    large = len(write(lower(model)))
    count, pairs_of_a_byte, nodes_and_codebooks = 24 * 24 * 9 + 2 * 24 * 9, 2 * 256, 700
    assert large - small > count * 3.5 - pairs_of_a_byte - nodes_and_codebooks


def test_clustering_twice_is_refused(model, task):
    once = ClusterWeights(bits=4, epochs=0).apply(model, task)
    with pytest.raises(NothingChangedError, match="no layer has weights"):
        ClusterWeights(bits=4, epochs=0).apply(once, task)


@pytest.mark.parametrize(
    "settings",
    [
        {"bits": 0},
        {"bits": 9},
        {"epochs": -1},
        {"learning_rate": float("nan")},
        {"layer_bits": (4, 0)},
        {"entropy_weight": -0.1},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(RecipeError):
        ClusterWeights(**settings)


def test_nan_weights_are_refused(model, task):
    with torch.no_grad():
        model.module.second.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(RecipeError, match="NaN"):
        ClusterWeights(epochs=0).apply(model, task)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_every_build_survive(name):
    network, x = build(name)
    some = Task(train=list, calibrate=lambda: [x], score=lambda _: 0.0)
    result = ClusterWeights(bits=1, epochs=0).apply(Model(network, (x[:1],)), some)
    with torch.no_grad():
        torch.testing.assert_close(lower(result)(x), result.module(x), rtol=1e-3, atol=1e-4)
