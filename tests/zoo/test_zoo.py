"""What holds of every family: it learns, is weighed, loses channels, and its integer files compute what it does."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from haversack import zoo
from haversack.device import find_device
from haversack.errors import RecipeError
from haversack.graph.cost import cost
from haversack.graph.inference import inference, lower
from haversack.graph.ops import left_float
from haversack.graph.pairs import output_step
from haversack.graph.trace import trace
from haversack.integer.read import read
from haversack.integer.reference import run
from haversack.model import Model
from haversack.runtimes import host
from haversack.runtimes.onnx import ONNX
from haversack.runtimes.tflite import LITERT, MICRO
from haversack.task import Task
from haversack.techniques.prune_channels import PruneChannels
from haversack.techniques.quantize_static import QuantizeStatic

IMAGES = [name for name in zoo.names() if zoo.family(name).dimensions == 2]
SIGNALS = [name for name in zoo.names() if zoo.family(name).dimensions == 1]


def example(name: str, channels: int = 3, samples: int = 32) -> Tensor:
    shape = (channels, 32, 32) if name in IMAGES else (channels, 128)
    return torch.randn(samples, *shape, generator=torch.Generator().manual_seed(1))


def small(name: str, channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return zoo.family(name)(channels=channels, outputs=10, width=0.25, depth=0.2, downsampling=4)


def met(name: str) -> tuple[Model, Tensor]:
    """A small network whose batch norms know its inputs."""
    network, x = small(name), example(name)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.momentum = None
    with torch.no_grad():
        network.train()(x)
    return Model(network.eval(), (x[:1],)), x


def pruned(model: Model, task: Task) -> Model:
    return PruneChannels(keep=0.7, of="macs", importance="l2", correct="nothing", imitate=0, epochs=0).apply(
        model, task
    )


def rounded(model: Model, task: Task, weight_bits: int) -> fx.GraphModule:
    return lower(QuantizeStatic(weight_bits, "int8", "min_max").apply(model, task))


def task_on(x: Tensor) -> Task:
    return Task(train=list, calibrate=lambda: [x], score=lambda _: 0.0)


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("name", zoo.names())
def test_a_familys_network_learns_with_every_parameter(name, channels):
    network, x = small(name, channels), example(name, channels, 4)
    outputs = network.train()(x)
    assert outputs.shape == (4, 10)
    outputs.square().sum().backward()
    for path, parameter in network.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all(), path


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.names())
def test_a_wider_or_deeper_network_weighs_more(name):
    def weighed(width: float, depth: float) -> tuple[int, int]:
        network = zoo.family(name)(channels=3, outputs=10, width=width, depth=depth, downsampling=4)
        found = cost(trace(network, (example(name, samples=1),)))
        return found.macs, found.parameters

    base = weighed(0.25, 0.2)
    for larger in (weighed(0.5, 0.2), weighed(0.25, 1.0)):
        assert larger[0] > base[0]
        assert larger[1] > base[1]


@pytest.mark.parametrize("name", ["efficientnet_lite", "mobilenet_v2", "mobilenet_v3", "squeezenet"])
def test_a_familys_dropout_is_its_users_choice(name):
    def shares(**settings: float) -> list[float]:
        network = zoo.family(name)(outputs=10, width=0.25, depth=0.2, **settings)
        return [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)]

    assert shares()[0] > 0
    assert shares(dropout=0.0) == [0.0]
    for wrong in (1, -0.1, math.nan, "half"):
        with pytest.raises(RecipeError, match="dropout is"):
            shares(dropout=wrong)


@pytest.mark.parametrize("name", IMAGES)
def test_images_of_any_size_go_in(name):
    with torch.device("meta"):
        for channels, downsampling, extents in ((1, 4, (28, 32, 49)), (3, 8, (64, 96, 160, 224))):
            network = zoo.family(name)(channels=channels, outputs=7, width=0.5, downsampling=downsampling)
            for extent in extents:
                assert network(torch.zeros(2, channels, extent, extent)).shape == (2, 7)


@pytest.mark.parametrize("extent", [64, 100, 128, 1024])
@pytest.mark.parametrize("name", SIGNALS)
def test_signals_of_any_length_go_in(name, extent):
    with torch.device("meta"):
        network = zoo.family(name)(channels=6, outputs=7, downsampling=4)
        assert network(torch.zeros(2, 6, extent)).shape == (2, 7)


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.names())
def test_a_familys_network_loses_three_tenths_and_its_integer_files_agree(name):
    model, x = met(name)
    task = task_on(x)
    fewer = pruned(model, task)
    before, after = (cost(trace(each.module, each.example)).macs for each in (model, fewer))
    assert 0.4 * before < after <= 0.7 * before
    assert not left_float(inference(fewer).graph)
    bits, lowered = find_device("host").weight_bits, rounded(fewer, task, 8)
    exact = lowered if bits == 8 else rounded(fewer, task, bits)
    graph = read(lowered)
    orders = graph.input_orders, graph.output_orders
    check_few_steps(predictor(ONNX.write(exact)), exact, x)
    check_few_steps(predictor(LITERT.write(lowered), orders=orders), lowered, x)
    micro = predictor(MICRO.write(lowered), runtime="tflite-micro", orders=orders)
    check_few_steps(micro, lowered, x)
    laid = x[:4].permute(orders[0][0]).contiguous().numpy()
    given = laid.reshape(-1, *graph.values[graph.inputs[0]].shape[1:])
    assert torch.equal(micro(x[:4]), torch.from_numpy(run(graph, [given])[0])), "the integer arithmetic is settled"


def predictor(content: bytes, **settings) -> Callable[..., Tensor]:
    return host.load(content, 1, **settings)


def check_few_steps(predict: Callable[..., Tensor], lowered: fx.GraphModule, x: Tensor) -> None:
    """Outputs of 256 steps are within 3 of torch's reading, as in every network: kernels round on the way."""
    with torch.no_grad():
        wanted = lowered(x)
    step = output_step(lowered)
    assert float(wanted.max() - wanted.min()) > 128 * step
    steps = (predict(x) - wanted).abs() / step
    assert float(steps.square().mean().sqrt()) <= 3
    assert float(steps.flatten().quantile(0.9)) <= 3.1
