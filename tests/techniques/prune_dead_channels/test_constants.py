from collections.abc import Callable

import pytest
import torch
from deadened import deadened
from hypothesis import given, settings
from hypothesis import strategies as st
from prunable_networks import settled
from random_networks import Does, chooser, network
from torch import Tensor, fx, nn
from torch.nn import functional as F

from haversack.channels.book import operation_name
from haversack.graph.trace import Trace, trace
from haversack.techniques.prune_dead_channels.constants import Seen, seen
from haversack.techniques.prune_dead_channels.intervals import LARGEST
from tests.sweep import count

KNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "silu": F.silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "leaky relu": lambda x: F.leaky_relu(x, 0.1),
    "elu": F.elu,
    "softplus": F.softplus,
    "tanh": torch.tanh,
    "hardsigmoid": F.hardsigmoid,
    "clamp": lambda x: x.clamp(-0.3, 2.0),
    "clamp below": lambda x: x.clamp(min=0.2),
    "abs": torch.abs,
    "square": lambda x: x**2,
    "cube": lambda x: x**3,
    "negative": lambda x: 1.5 - x,
    "difference": lambda x: F.relu(x) - 2 * F.relu(-x),
    "product": lambda x: F.relu6(x) * torch.tanh(x),
    "constants": lambda x: x * torch.linspace(-1, 1, 4).view(1, 4, 1, 1) / -0.7,
    "quotient": lambda x: x / (1.0 + x.abs()),
    "gate": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "softmax": lambda x: F.softmax(x, 1),
    "sum of squares": lambda x: (x * x).sum(1, keepdim=True).expand(-1, 4, -1, -1),
    "max pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "average pool": lambda x: F.avg_pool2d(x, 2),
    "largest": lambda x: x.amax((2, 3), keepdim=True),
    "upsampled": lambda x: F.interpolate(x, scale_factor=2.0),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "padded": lambda x: F.pad(x, (1, 2, 0, 1)),
    "reflected": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "halves": lambda x: torch.cat([x.chunk(2, 1)[1], -x[:, :2]], 1),
    "turned": lambda x: x.transpose(2, 3).flip(1),
    "in place": lambda x: x.mul(2.0).add_(1.0).relu_().neg_(),
}
UNKNOWN = {
    "sine": torch.sin,
    "layer norm": lambda x: F.layer_norm(x, (5,)),
    "cumulative product": lambda x: x.cumprod(2),
}
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: nn.Conv2d(4, 4, 3, padding=1),
    "strided": lambda: nn.Conv2d(4, 4, 3, stride=2, bias=False),
    "same": lambda: nn.Conv2d(4, 4, 3, padding="same"),
    "circular": lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4),
    "grouped": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(4, 4, 3, 2, 1),
    "linear": lambda: Does("linear", lambda x, a: a(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), nn.Linear(4, 4)),
    "prelu": lambda: nn.PReLU(4, 0.2),
    "batch norm": lambda: nn.BatchNorm2d(4),
}


class Branches(nn.Module):
    """Several modules side by side, each before a layer."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()
        self.ways = nn.ModuleList(nn.Sequential(module, nn.Conv2d(4, 2, 1)) for module in modules)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [way(x) for way in self.ways]


def layers_of(read: Trace) -> list[fx.Node]:
    names = ("conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "linear")
    return [node for node in read.operations() if operation_name(node) in names]


def looked(module: nn.Module, x: Tensor, limit: float) -> tuple[list[Seen], list[Tensor]]:
    """What is proven of the inputs of each layer, and what they are on `x`."""
    read = trace(module, (x,))
    found, values = seen(read, layers_of(read), limit), values_of(read, x)
    return [found[node] for node in layers_of(read)], [values[node.args[0].name] for node in layers_of(read)]


def values_of(read: Trace, x: Tensor) -> dict[str, Tensor]:
    values: dict[str, Tensor] = {}

    class Keeping(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            result = super().run_node(n)
            if isinstance(result, Tensor):
                values[n.name] = result.clone()
            return result

    nodes = read.graph.find_nodes(op="placeholder")
    with torch.no_grad():
        given = [read.tensors[read.weights[node.name]].clone() if node.name in read.weights else x for node in nodes]
        Keeping(read.structure.network).run(*given, enable_io_processing=False)
    return values


def within(known: Seen, value: Tensor, axis: int = 1) -> bool:
    """Whether each sample of the value lies where it must."""
    maps = value.double().movedim(axis, 0)
    maps = maps.reshape(*maps.shape[:2], -1)
    low, high = known.maps - known.spread[:, None], known.maps + known.spread[:, None]
    slack = 1e-5 * (1 + maps.abs())
    inside = (maps >= low[:, None] - slack) & (maps <= high[:, None] + slack)
    return bool(inside.all()) and bool((maps.abs().amax((1, 2)) <= known.largest + 1e-5 * (1 + known.largest)).all())


def test_no_value_leaves_the_interval_of_an_operation_that_has_a_rule() -> None:
    torch.manual_seed(0)
    x = torch.rand(64, 4, 5, 5) * 2 - 1
    x[:8] = x[:8].sign()
    read = trace(Branches([Does(name, function) for name, function in KNOWN.items()]).eval(), (x,))
    layers = dict(zip(layers_of(read), KNOWN, strict=True))
    for limit in (0.01, 1.0, 40.0):
        values, found = values_of(read, x * limit), seen(read, layers, limit)
        inside = [name for node, name in layers.items() if within(found[node], values[node.args[0].name])]
        bounded = [name for node, name in layers.items() if bool((found[node].largest < 1e6).all())]
        assert inside == bounded == list(KNOWN)


def test_no_value_leaves_the_interval_of_a_layer() -> None:
    torch.manual_seed(0)
    ways = [make() for make in LAYERS.values()]
    module = settled(Branches([nn.Sequential(way, nn.ReLU(), nn.Conv2d(4, 4, 1)) for way in ways]))
    x = (torch.rand(64, 4, 5, 5) * 2 - 1) * 3
    x[:8] = x[:8].sign() * 3
    known, values = looked(module, x, 3.0)
    assert all(within(*each) for each in zip(known, values, strict=True) if each[1].shape[1] == 4)
    assert all(bool((each.largest < 1e4).all()) for each in known)


def test_an_operation_that_no_rule_knows_may_give_anything() -> None:
    module = Branches([Does(name, function) for name, function in UNKNOWN.items()]).eval()
    known, _ = looked(module, torch.randn(2, 4, 5, 5), 1.0)
    assert all(bool((each.spread >= LARGEST * 0.99).all()) for each in known)


def test_an_unknown_operation_on_known_numbers_gives_a_known_number() -> None:
    module = nn.Sequential(nn.Conv2d(4, 4, 1), Does("sine", torch.sin), nn.Conv2d(4, 2, 1)).eval()
    nn.init.zeros_(module[0].weight[2])
    known = looked(module, torch.randn(2, 4, 5, 5), 1.0)[0][1]
    assert (known.spread < 1e-9).tolist() == [False, False, True, False]
    assert known.maps[2].tolist() == pytest.approx([float(module[0].bias[2].detach().sin())] * 25)


def test_zeros_padded_around_a_constant_channel_show_at_the_border() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 3, padding=1, groups=2), nn.Conv2d(2, 1, 1)).eval()
    with torch.no_grad():
        module[0].weight[0], module[0].bias[0] = 0.0, 2.0
        module[1].weight[0], module[1].bias[0] = 1.0, 0.5
    known = looked(module, torch.randn(2, 1, 3, 3), 1.0)[0][-1]
    assert known.maps[0].tolist() == pytest.approx([8.5, 12.5, 8.5, 12.5, 18.5, 12.5, 8.5, 12.5, 8.5])


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@given(st.integers(0, 10_000))
@settings(max_examples=count(8, 300))
def test_no_layer_of_a_random_network_sees_anything_that_was_ruled_out(seed: int) -> None:
    module, shape = network(chooser(seed), most=6)
    module = deadened(module, chooser(seed))
    x = torch.rand(4, *shape) * 4 - 2
    read = trace(module, (x,))
    values = values_of(read, x)
    for node, known in seen(read, layers_of(read), 2.0).items():
        value = values[node.args[0].name]
        assert within(known, value, value.dim() - 1 if "linear" in node.name else 1)


class Writes(nn.Module):
    """Writes zeros into a view of what a layer gave."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        x[:, 1].fill_(3.0)
        x[:, 2:3].mul_(0.0)
        return self.two(x)


def test_what_is_written_into_a_view_is_seen() -> None:
    known = looked(Writes().eval(), torch.randn(2, 1, 5, 5), 1.0)[0][1]
    assert (known.spread == 0).tolist() == [False, True, True, False]
    assert known.maps[1:3, 0].tolist() == [3.0, 0.0]


class Fills(Writes):
    """Writes values into a tensor that was known."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        y = torch.zeros_like(x)
        y[:, 1:] = x[:, 1:]
        return self.two(y)


def test_nothing_is_claimed_of_a_network_that_writes_into_a_known_tensor() -> None:
    read = trace(Fills().eval(), (torch.randn(2, 1, 5, 5),))
    assert seen(read, layers_of(read), 1.0) == {}
