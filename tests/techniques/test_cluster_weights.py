import pytest
import torch
from prunable_networks import NETWORKS, build
from torch import nn
from torch.nn import functional as F

from haversack.errors import NothingChangedError, RecipeError
from haversack.export.onnx import write
from haversack.graph.quantized import inference, layers, lower, tensor_of
from haversack.model import Model
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
    return Model(network.eval(), (torch.randn(1, 2, 8, 8),))


@pytest.fixture
def task():
    x = torch.randn(64, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    return Task(train=lambda: [(x, x.mean((1, 2, 3)).gt(0).long())], calibrate=lambda: [x], score=lambda _: 0.0)


def weights(model):
    network = inference(model)
    return {name: tensor_of(network, name) for _, name in layers(network)}


@pytest.mark.parametrize("epochs", [0, 3])
def test_each_tensor_has_few_values_and_pruned_weights_stay_zero(model, task, epochs):
    result = weights(ClusterWeights(bits=4, epochs=epochs).apply(model, task))
    before = weights(model)
    for name in ("first.weight", "second.weight"):
        assert len(result[name].unique()) <= 16
    assert torch.equal(result["second.weight"] == 0, before["second.weight"] == 0) or not (
        result["second.weight"][before["second.weight"] == 0].any()
    )
    assert torch.equal(result["head.weight"], before["head.weight"]), "96 weights are too few for a codebook"


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
    count = 24 * 24 * 9 + 2 * 24 * 9
    assert large - small > count * 3.5 - 600


def test_clustering_twice_is_refused(model, task):
    once = ClusterWeights(bits=4, epochs=0).apply(model, task)
    with pytest.raises(NothingChangedError, match="no layer has weights"):
        ClusterWeights(bits=4, epochs=0).apply(once, task)


@pytest.mark.parametrize("settings", [{"bits": 0}, {"bits": 9}, {"epochs": -1}, {"learning_rate": float("nan")}])
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
