import pytest
import torch
from torch import nn
from torch.nn import functional as F

from haversack.graph.fold import fold
from haversack.graph.trace import layer_path, trace
from tests import warm

aten = torch.ops.aten


def settled(network: nn.Module, seed: int = 0) -> nn.Module:
    """`network` with batch norm statistics that are neither 0 nor 1."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.normal_(generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
            if layer.affine:
                nn.init.normal_(layer.weight, generator=generator)
                nn.init.normal_(layer.bias, generator=generator)
    return network.eval()


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.dropout = nn.Dropout()

    def forward(self, x):
        x = F.relu_(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(self.dropout(x))) + x)


class SharedConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn1, self.bn2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.bn2(self.conv(self.bn1(self.conv(x))))


class ConvolutionReadTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.conv(x)
        return x + self.bn(x)


class WritesIntoASlice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        x = self.conv(x)
        x[:, :2] = 0
        return x * 2


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 2), nn.Linear(6, 3)

    def forward(self, x, y):
        return self.left(x + y), {"right": self.right(x)}


class WithoutGradient(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, x):
        with torch.no_grad():
            scale = x.abs().amax()
        return self.layer(x / scale)


IMAGE, ROW = (3, 9, 9), (6,)
FOLDABLE = {
    "residual": (Residual(), IMAGE),
    "no affine": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)), IMAGE),
    "grouped": (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6), nn.ReLU6(inplace=True)), IMAGE),
    "same padding": (nn.Sequential(nn.Conv2d(3, 6, 3, padding="same"), nn.BatchNorm2d(6)), IMAGE),
    "transposed": (
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 6, 3, 2, groups=2, bias=False), nn.BatchNorm2d(6)),
        IMAGE,
    ),
    "1-D": (nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)), (3, 9)),
    "transposed 1-D": (nn.Sequential(nn.ConvTranspose1d(3, 4, 3), nn.BatchNorm1d(4)), (3, 9)),
    "3-D": (nn.Sequential(nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4)), (2, 4, 4, 4)),
    "linear": (nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 2)), ROW),
    "shared convolution": (SharedConvolution(), IMAGE),
    "weight norm": (
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)),
        IMAGE,
    ),
}
LONE = {
    "before": (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3)), IMAGE),
    "read twice": (ConvolutionReadTwice(), IMAGE),
    "linear over a sequence": (nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(4)), (4, 6)),
    "on a row": (nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 2)), ROW),
}
OTHER = {
    "writes into a slice": (WritesIntoASlice(), IMAGE),
    "without gradient": (WithoutGradient(), ROW),
}


def graph_of(network: nn.Module, shape: tuple[int, ...]):
    return fold(trace(network, (torch.randn(1, *shape),)))


def targets(graph_module) -> list:
    return [node.target for node in graph_module.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("name", [*FOLDABLE, *LONE, *OTHER])
@torch.no_grad()
def test_the_folded_graph_computes_what_the_network_computes(name):
    network, shape = {**FOLDABLE, **LONE, **OTHER}[name]
    before = {key: value.clone() for key, value in settled(network).state_dict().items()}
    graph = graph_of(network, shape)
    x = torch.randn(5, *shape)
    torch.testing.assert_close(graph(x.clone()), network(x), rtol=1e-5, atol=1e-5)
    assert aten.batch_norm.default not in targets(graph)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", FOLDABLE)
def test_batch_norm_after_a_layer_costs_no_operation(name):
    network, shape = FOLDABLE[name]
    assert aten.mul.Tensor not in targets(graph_of(network, shape))


@pytest.mark.parametrize("name", LONE)
def test_batch_norm_that_no_layer_absorbs_becomes_a_multiplication_and_an_addition(name):
    network, shape = LONE[name]
    assert {aten.mul.Tensor, aten.add.Tensor} <= set(targets(graph_of(network, shape)))


def test_every_node_keeps_its_shape_and_layer_and_weights_keep_their_names():
    graph = graph_of(Residual(), IMAGE).graph
    assert all("val" in node.meta for node in graph.nodes if node.op != "output")
    names = [node.target for node in graph.find_nodes(op="get_attr")]
    assert sorted(names) == ["conv1.bias", "conv1.weight", "conv2.bias", "conv2.weight"]
    layers = [layer_path(node) for node in graph.find_nodes(op="call_function", target=aten.conv2d.default)]
    assert layers == ["conv1", "conv2"]


def test_only_operations_that_compute_are_left():
    assert [str(target) for target in targets(graph_of(Residual(), IMAGE))] == [
        "aten.conv2d.default",
        "aten.relu.default",
        "aten.conv2d.default",
        "aten.add.Tensor",
        "aten.relu.default",
    ]


def test_a_weight_behind_a_parametrization_is_a_constant():
    network, shape = FOLDABLE["weight norm"]
    assert len(targets(graph_of(network, shape))) == 1


def test_several_inputs_and_nested_outputs_come_flat():
    network = TwoOutputs().eval()
    x, y = torch.randn(3, 6), torch.randn(3, 6)
    left, right = fold(trace(network, (x, y)))(x, y)
    torch.testing.assert_close(left, network(x, y)[0])
    torch.testing.assert_close(right, network(x, y)[1]["right"])


def test_batch_norm_that_reads_the_batch_stays():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    assert aten.batch_norm.default in targets(graph_of(network, IMAGE))


def test_node_names_are_the_same_in_another_process():
    names = [node.name for node in graph_of(Residual(), IMAGE).graph.nodes]
    script = (
        "import sys; sys.path.insert(0, 'tests/graph'); from test_fold import *; "
        "graph_of(nn.Linear(6, 6), ROW); print(*[n.name for n in graph_of(Residual(), IMAGE).graph.nodes])"
    )
    assert warm.run(script).split() == names


class PoolsByMean(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.conv(x).mean((-1, 2)))


@torch.no_grad()
def test_a_mean_over_maps_keeps_its_dimensions_until_a_flatten():
    network, x = PoolsByMean().eval(), torch.randn(2, *IMAGE)
    graph = graph_of(network, IMAGE)
    torch.testing.assert_close(graph(x), network(x))
    (mean,) = graph.graph.find_nodes(op="call_function", target=aten.mean.dim)
    (flat,) = mean.users
    assert flat.target is aten.flatten.using_ints
    assert mean.meta["val"].shape[1:] == (4, 1, 1)
    assert flat.meta["val"].shape[1:] == (4,)


class NameTaken(nn.Module):
    """A constant that is computed by an operation with the name of a layer."""

    def __init__(self):
        super().__init__()
        self.mul, self.step = nn.Linear(6, 6), nn.Parameter(torch.ones(6))

    def forward(self, x):
        return self.mul(x) * torch.mul(self.step, 2)


@torch.no_grad()
def test_a_constant_and_a_layer_of_one_name_do_not_collide():
    network, x = NameTaken().eval(), torch.randn(2, *ROW)
    torch.testing.assert_close(graph_of(network, ROW)(x), network(x))


def test_a_batch_norm_behind_no_layer_becomes_a_scale_and_a_shift():
    torch.manual_seed(0)
    network = settled(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(4 * 36), nn.Linear(144, 2))
    )
    x = torch.randn(2, 3, 8, 8)
    folded = fold(trace(network, (x[:1],)))
    torch.testing.assert_close(folded(x), network(x), rtol=1e-4, atol=1e-5)


class Products(nn.Module):
    """Layers that the code spells as matrix products, beside products that are none."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(6, 5)), nn.Parameter(torch.randn(5, 4))
        self.bias = nn.Parameter(torch.randn(5))

    def forward(self, x):
        y = torch.addmm(self.bias, x, self.first).relu() @ self.second
        return y, torch.mm(y, self.second.t()), y.unsqueeze(1) @ y.unsqueeze(2), torch.addmm(y, x, x.t() @ y, beta=0.5)


@torch.no_grad()
def test_matrix_products_with_constants_are_layers_and_no_others_are():
    network, x = Products().eval(), torch.randn(3, *ROW)
    graph = graph_of(network, ROW)
    assert targets(graph).count(aten.linear.default) == 3
    assert targets(graph).count(aten.addmm.default) == 1
    for found, expected in zip(graph(x), network(x), strict=True):
        torch.testing.assert_close(found, expected)
