"""A network is exported once a structure: nothing that changes in it goes unnoticed, and nothing is kept for it."""

from __future__ import annotations

import copy
import gc
import random
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
import torch
from prunable_networks import PaddedResidual, settled
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from haversack.graph import structure as structures
from haversack.graph.cost import cost
from haversack.graph.fold import fold
from haversack.graph.inference import lower
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.runtimes import coded
from haversack.runtimes.onnx import ONNX
from haversack.task import Task
from haversack.techniques.prune_channels import PruneChannels
from haversack.techniques.quantize_static import QuantizeStatic


@pytest.fixture(autouse=True)
def _structures_end_with_their_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the package, where no test keeps them (see tests/conftest.py)."""
    monkeypatch.setattr(structures, "_KNOWN", weakref.WeakValueDictionary())


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The classes of the networks that torch exported."""
    done, export = list[str](), torch.export.export

    def counted(module: nn.Module, *arguments: object, **options: object) -> torch.export.ExportedProgram:
        done.append(type(module).__name__)
        return export(module, *arguments, **options)

    monkeypatch.setattr(torch.export, "export", counted)
    return done


class Mutable(nn.Module):
    """Every place where a network may keep something."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second = weight_norm(nn.Conv2d(4, 4, 3, padding=1))
        self.register_buffer("scale", torch.rand(4, 1, 1))
        self.register_buffer("passing", torch.rand(4, 1, 1), persistent=False)
        self.constant = torch.rand(4, 1, 1)
        self.settings, self.activation = {"slopes": [0.5, 2.0], "power": 1}, torch.tanh

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.norm(self.first(x)) * self.scale + self.constant)
        for slope in self.settings["slopes"]:
            x = F.leaky_relu(self.second(x), slope) + self.passing
        return x ** self.settings["power"]


def renewed(tensor: Tensor) -> Tensor:
    return torch.rand_like(tensor)


def with_hook(network: Mutable) -> None:
    network.first.register_forward_hook(lambda _, __, value: value * 3)


def with_activation(network: Mutable, activation: Callable[[Tensor], Tensor]) -> None:
    network.activation = activation


MUTATIONS: dict[str, Callable[[Mutable], object]] = {
    "a weight": lambda network: nn.init.normal_(network.first.weight),
    "a weight behind autograd's back": lambda network: network.first.weight.data.numpy().fill(0.3),
    "another tensor for a weight": lambda network: setattr(
        network.first, "weight", nn.Parameter(renewed(network.first.weight))
    ),
    "other memory of a weight": lambda network: setattr(network.first.weight, "data", renewed(network.first.weight)),
    "no bias": lambda network: setattr(network.first, "bias", None),
    "statistics": lambda network: network.norm.running_mean.uniform_(),
    "epsilon": lambda network: setattr(network.norm, "eps", network.norm.eps + 0.1),
    "a buffer": lambda network: network.scale.uniform_(),
    "another tensor for a buffer": lambda network: setattr(network, "scale", renewed(network.scale)),
    "a buffer that is not saved": lambda network: network.passing.uniform_(),
    "a tensor that is no buffer": lambda network: network.constant.uniform_(),
    "another tensor that is no buffer": lambda network: setattr(network, "constant", renewed(network.constant)),
    "a weight of a parametrization": lambda network: nn.init.normal_(network.second.parametrizations.weight.original1),
    "a parametrization gone": lambda network: nn.utils.parametrize.remove_parametrizations(network.second, "weight"),
    "a setting deep inside": lambda network: network.settings["slopes"].append(random.random()),
    "a setting": lambda network: network.settings.update(power=network.settings["power"] + 1),
    "a layer's setting": lambda network: setattr(network.first, "dilation", (2, 2)),
    "a function": lambda network: with_activation(network, torch.sigmoid),
    "a function of the user's": lambda network: with_activation(network, lambda x: x * 1.5),
    "another function of the same name": lambda network: with_activation(network, lambda x: x * 2.5),
    "a hook": with_hook,
    "another layer": lambda network: setattr(network, "first", nn.Conv2d(3, 4, 1)),
    "another type": lambda network: network.double(),
    "a forward() of its own": lambda network: setattr(network.norm, "forward", lambda x: x + 1),
    "memory that two share": lambda network: setattr(network.first.bias, "data", network.norm.bias.data),
}


def check(network: nn.Module) -> None:
    x = torch.rand(2, 3, 6, 6, dtype=next(network.parameters()).dtype)
    with torch.no_grad():
        torch.testing.assert_close(fold(trace(network, (x,)))(x), network(x))


@pytest.mark.parametrize("what", MUTATIONS)
def test_what_is_changed_in_a_network_that_was_traced_is_in_its_graph(what: str) -> None:
    network = Mutable().eval()
    check(network)
    MUTATIONS[what](network)
    check(network)
    if what != "a parametrization gone":
        MUTATIONS[what](network)
        check(network)


@pytest.mark.parametrize("seed", range(2))
def test_no_series_of_changes_leaves_a_graph_behind(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    networks = [Mutable().eval()]
    networks.append(copy.deepcopy(networks[0]))
    once = {"a parametrization gone", "another type", "a weight of a parametrization"}
    for what in random.sample(sorted(MUTATIONS.keys() - once), 5):
        MUTATIONS[what](random.choice(networks))
        for network in networks:
            check(network)


def test_a_class_whose_forward_is_replaced_is_exported_again(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Mutable().eval()
    check(network)
    monkeypatch.setattr(Mutable, "forward", lambda self, x: self.first(x) * 2)
    check(network)


def test_networks_of_one_structure_are_exported_once_whatever_their_weights(exports: list[str]) -> None:
    network = settled(PaddedResidual())
    other = copy.deepcopy(network)
    nn.init.normal_(other.head.weight)
    for each, x in product((network, other), (torch.rand(1, 3, 8, 8), torch.rand(2, 3, 8, 8))):
        torch.testing.assert_close(fold(trace(each, (x,)))(x), each(x), rtol=1e-4, atol=1e-5)
    assert len(exports) == 1


def test_other_shapes_types_and_gradients_are_exported_anew(exports: list[str]) -> None:
    network = settled(PaddedResidual())
    for x in (torch.rand(2, 3, 8, 8), torch.rand(2, 3, 16, 16), torch.rand(3, 3, 16, 16)):
        trace(network, (x,))
    network.head.weight.requires_grad_(False)
    trace(network, (torch.rand(2, 3, 8, 8),))
    trace(network.double(), (torch.rand(2, 3, 8, 8).double(),))
    assert len(exports) == 5


class Unpicklable(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 4)
        self.running = (each for each in range(3))

    def __deepcopy__(self, memo: dict[int, object]) -> Unpicklable:
        return self


def test_a_network_that_cannot_be_described_is_exported_each_time(exports: list[str]) -> None:
    network = Unpicklable().eval()
    for _ in range(2):
        trace(network, (torch.rand(2, 4),))
    assert len(exports) == 2


def test_nothing_is_kept_for_a_network_that_is_gone(exports: list[str]) -> None:
    network = settled(PaddedResidual())
    network.head.register_forward_hook(lambda *_, whole=network: None)
    x = torch.rand(2, 3, 8, 8)
    weight, function = weakref.ref(network.head.weight), weakref.ref(network)
    structure = weakref.ref(trace(network, (x,)).structure)
    gc.collect()
    assert structure() is not None
    del network
    gc.collect()
    assert weight() is function() is structure() is None
    assert len(exports) == 1


def test_a_network_whose_weights_were_replaced_keeps_the_old_ones_no_longer() -> None:
    network = settled(PaddedResidual())
    trace(network, (torch.rand(2, 3, 8, 8),))
    old = weakref.ref(network.head.weight)
    network.head.weight = nn.Parameter(torch.rand(5, 32))
    gc.collect()
    assert old() is None


def the_task(x: Tensor) -> Task:
    return Task(train=list, calibrate=lambda: [x], score=lambda _: 0.0)


def test_a_quantized_candidate_and_all_its_figures_take_one_export(exports: list[str]) -> None:
    x = torch.rand(64, 3, 8, 8)
    model = Model(settled(PaddedResidual()), (x[:1],))
    quantized = QuantizeStatic(8, "uint8", equalize=True).apply(model, the_task(x))
    lowered = lower(quantized)
    ONNX.write(lowered)
    coded.write(quantized)
    cost(trace(quantized.module, quantized.example))
    lower(quantized)
    assert len(exports) == 1


@pytest.mark.parametrize("correct", ["least_squares", "statistics", "nothing"])
def test_pruned_channels_take_an_export_of_each_network_and_one_to_try(correct: str, exports: list[str]) -> None:
    x = torch.rand(64, 3, 8, 8)
    model = Model(settled(PaddedResidual()), (x[:1],))
    step = replace(PruneChannels(0.8, imitate=1, epochs=0), correct=correct)
    step.apply(model, the_task(x))
    assert len(exports) <= 4
