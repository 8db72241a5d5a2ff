import pytest
import torch
from torch import nn
from torch.nn import functional as F

from haversack.errors import RecipeError
from haversack.graph.inference import inference
from haversack.graph.run import named_tensors
from haversack.graph.write_back import written_back
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
    names = network.writable
    assert {name.split(".")[0] for name in names} == {"conv1", "conv2", "conv3", "conv4", "linear"}
    assert {"conv1.bias", "conv4.bias"} <= names, "biases that batch norm brings"
    wanted = {name: torch.randn_like(network.tensor(name)) for name in names}
    again = inference(written_back(model, inference(model), wanted))
    for name, tensor in wanted.items():
        torch.testing.assert_close(again.tensor(name), tensor, rtol=1e-6, atol=1e-6)
        assert name.endswith("bias") or torch.equal(again.tensor(name), tensor)


def test_writing_one_weight_leaves_everything_else(model):
    network = inference(model)
    again = inference(written_back(model, inference(model), {"conv2.weight": torch.zeros(8, 8, 3, 3)}))
    for node in network.graph.find_nodes(op="get_attr"):
        if node.target != "conv2.weight":
            torch.testing.assert_close(again.tensor(node.target), network.tensor(node.target))
    assert not again.tensor("conv2.weight").any()


def test_the_given_model_is_left_alone(model):
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    written_back(model, inference(model), {"conv1.weight": torch.zeros(8, 3, 3, 3)})
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.module.state_dict().items())


def test_a_shared_weight_is_refused_by_name(model):
    with pytest.raises(RecipeError, match=r"twice\.weight cannot be changed"):
        written_back(model, inference(model), {"twice.weight": torch.zeros(8, 8, 1, 1)})


@pytest.mark.parametrize("exact", [True, False])
def test_zeros_stay_zeros_and_a_channel_that_its_norm_drops_is_no_obstacle(model, exact):
    with torch.no_grad():
        model.module.bn1.weight[2] = 0
        model.module.bn2.running_var[3] = 0
    wanted = {name: torch.randn(8, size, 3, 3) for name, size in (("conv1.weight", 3), ("conv2.weight", 8))}
    wanted = {name: tensor * (tensor > 0) for name, tensor in wanted.items()}
    settled = written_back(model, inference(model), wanted, exact=exact)
    assert all(tensor.isfinite().all() for tensor in settled.module.state_dict().values())
    again = inference(settled)
    for name, tensor in wanted.items():
        torch.testing.assert_close(again.tensor(name), tensor, rtol=1e-6, atol=0)
        assert torch.equal(again.tensor(name) == 0, tensor == 0)


class Trained(nn.Module):
    """Normalized layers of each kind, whose batch norms know what they read."""

    def __init__(self):
        super().__init__()
        self.a, self.a_norm = nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.b, self.b_norm = nn.ConvTranspose2d(6, 6, 3, groups=2), nn.BatchNorm2d(6)
        self.c, self.c_norm = nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6, affine=False)
        self.d, self.d_norm = nn.Linear(6, 5), nn.BatchNorm1d(5)
        self.e = nn.Linear(5, 3, bias=False)
        for norm in (self.a_norm, self.b_norm, self.d_norm):
            nn.init.uniform_(norm.weight, -2, 2)
            nn.init.uniform_(norm.bias, -2, 2)

    def forward(self, x):
        x = F.relu(self.b_norm(self.b(F.relu(self.a_norm(self.a(x))))))
        x = F.relu(self.c_norm(self.c(x)))
        return self.e(F.relu(self.d_norm(self.d(x.mean((2, 3))))))


INPUTS = torch.randn(256, 2, 8, 8, generator=torch.Generator().manual_seed(1)) + 0.5


@pytest.fixture
def trained():
    torch.manual_seed(0)
    module = Trained().train()
    with torch.no_grad():
        for _ in range(200):
            module(INPUTS)
    return Model(module.eval(), (INPUTS[:1],))


@pytest.mark.parametrize("exact", [True, False])
def test_the_same_numbers_change_nothing_in_training_either(trained, exact):
    network = inference(trained)
    same = {name: network.tensor(name) for name in network.writable}
    settled = written_back(trained, inference(trained), same, exact=exact).module
    with torch.no_grad():
        for mode in (False, True):
            ours, theirs = settled.train(mode)(INPUTS), trained.module.train(mode)(INPUTS)
            torch.testing.assert_close(ours, theirs, rtol=0.01, atol=0.002)
    for path, layer in trained.module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            ratio = (settled.get_submodule(path).weight.norm() / layer.weight.norm()).item()
            assert 0.7 < ratio < 1.5 if exact else ratio == pytest.approx(1, rel=1e-5), path


def test_batch_norms_know_what_other_weights_make_of_their_inputs(trained):
    """Some rows twice as large, and all shifted, as equalization or few bits may make them."""
    network = inference(trained)
    wanted = {name: network.tensor(name) + 0.02 for name in ("a.weight", "b.weight", "d.weight")}
    wanted["a.weight"][:3] *= 2
    settled = written_back(trained, inference(trained), wanted, [(INPUTS[:100],), (INPUTS[100:],)]).module
    seen = {}

    def see(norm, values):
        seen.setdefault(norm, values[0].transpose(0, 1).flatten(1))

    for norm in (settled.a_norm, settled.b_norm, settled.d_norm):
        norm.register_forward_pre_hook(see)
    with torch.no_grad():
        wanted_outputs = settled(INPUTS)
        for norm, rows in seen.items():
            torch.testing.assert_close(norm.running_mean, rows.mean(1), rtol=0.01, atol=0.01)
            torch.testing.assert_close(norm.running_var, rows.var(1, correction=0), rtol=0.02, atol=1e-4)
        settled.c_norm.eval()  # it has no scale with which it could still give what it gave
        for norm in (settled.a_norm, settled.b_norm, settled.d_norm):
            norm.train()
        torch.testing.assert_close(settled(INPUTS), wanted_outputs, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("names", [{"conv1.bias"}, {"conv2.weight"}, {"linear.bias"}])
def test_a_changed_network_shares_no_memory_with_the_one_it_came_from(model, names):
    network = inference(model)
    given = {name: network.tensor(name) for name in names}
    changed = written_back(model, network, given)
    own, new = (
        {each.untyped_storage().data_ptr() for each in tensors}
        for tensors in (
            [*named_tensors(model.module).values(), *given.values()],
            named_tensors(changed.module).values(),
        )
    )
    assert own.isdisjoint(new)
    assert all(each.requires_grad for each in changed.module.parameters())
