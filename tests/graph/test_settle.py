import pytest
import torch
from torch import nn
from torch.nn import functional as F

from haversack.errors import RecipeError
from haversack.graph.inference import inference, tensor_of
from haversack.graph.settle import settle, settleable
from haversack.model import Model


class Network(nn.Module):
    """Every way in which batch norm meets a layer, and a weight that two layers share."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8, eps=0.1)
        self.conv3, self.bn3 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, affine=False)
        self.conv4, self.bn4 = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8, affine=False)
        self.twice, self.bn5, self.bn6 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 4)

    def forward(self, x):
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        x = self.bn4(self.conv4(F.relu(self.bn3(self.conv3(x)))))
        x = self.bn6(self.twice(self.bn5(self.twice(x))))
        return self.linear(x.mean((2, 3)))


@pytest.fixture
def model():
    torch.manual_seed(0)
    network = Network()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return Model(network.eval(), (torch.randn(1, 3, 9, 9),))


def test_what_is_written_is_what_folding_gives_again(model):
    network = inference(model)
    names = settleable(model, network)
    assert {name.split(".")[0] for name in names} == {"conv1", "conv2", "conv3", "conv4", "linear"}
    assert {"conv1.bias", "conv4.bias"} <= names, "biases that batch norm brings"
    wanted = {name: torch.randn_like(tensor_of(network, name)) for name in names}
    again = inference(settle(model, wanted))
    for name, tensor in wanted.items():
        torch.testing.assert_close(tensor_of(again, name), tensor, rtol=1e-6, atol=1e-6)


def test_writing_one_weight_leaves_everything_else(model):
    network = inference(model)
    again = inference(settle(model, {"conv2.weight": torch.zeros(8, 8, 3, 3)}))
    for node in network.graph.find_nodes(op="get_attr"):
        if node.target != "conv2.weight":
            torch.testing.assert_close(tensor_of(again, node.target), tensor_of(network, node.target))
    assert not tensor_of(again, "conv2.weight").any()


def test_the_given_model_is_left_alone(model):
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    settle(model, {"conv1.weight": torch.zeros(8, 3, 3, 3)})
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.module.state_dict().items())


def test_a_shared_weight_is_refused_by_name(model):
    with pytest.raises(RecipeError, match=r"twice\.weight cannot be changed"):
        settle(model, {"twice.weight": torch.zeros(8, 8, 1, 1)})
