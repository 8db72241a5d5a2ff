"""Bytes are normalized within the first layers, exactly: ONNX Runtime computes what torch's normalization gives."""

from collections import Counter

import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import settings as options
from hypothesis import strategies as st
from torch import Tensor, nn

from haversack.graph.inference import inference, lower
from haversack.graph.prepare import NAME, notes_of
from haversack.model import Model
from haversack.preparing import Prepare
from haversack.runtimes import host
from haversack.runtimes.onnx.write import write
from haversack.wiring import rewired

MEANS, DEVIATIONS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def some_bytes(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def prepared(network: nn.Module, prepare: Prepare, raw: Tensor) -> Model:
    return Model(rewired(network.eval(), (), prepare=prepare), (raw[:1],))


def normalized(raw: Tensor, prepare: Prepare) -> Tensor:
    """As torchvision does, in float64."""
    raw = raw.movedim(-1, 1) if prepare.layout == "NHWC" else raw
    numbers = (torch.tensor(each, dtype=torch.float64) for each in (prepare.mean, prepare.std))
    mean, std = (each.view(-1, *[1] * (raw.dim() - 2)) for each in numbers)
    return (raw.double() * prepare.scale - mean) / std


def operators(content: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(content).graph.node)


@torch.no_grad()
def disagreement(network: nn.Module, prepare: Prepare, raw: Tensor) -> float:
    """How far the file of bytes is from torch's own normalization in float64, over the largest output."""
    wanted = network.double()(normalized(raw, prepare)).float()
    network.float()
    found = host.load(write(lower(prepared(network, prepare, raw))))(raw)
    return float((found - wanted).abs().max() / wanted.abs().max())


numbers = st.floats(-2, 2) | st.sampled_from([0.0, 0.5, 1.0, 128 / 255])
positive = st.floats(0.05, 4) | st.sampled_from([0.5, 1.0])


@st.composite
def preparations(draw, channels: int) -> Prepare:
    mean = draw(numbers | st.tuples(*[numbers] * channels))
    std = draw(positive | st.tuples(*[positive] * channels))
    return Prepare(draw(st.sampled_from([1 / 255, 1.0, 0.0125])), mean, std, draw(st.sampled_from(["NCHW", "NHWC"])))


@st.composite
def cases(draw) -> tuple[nn.Module, Prepare, Tensor]:
    torch.manual_seed(draw(st.integers(0, 99)))
    groups, width = draw(st.sampled_from([(1, 1), (1, 3), (3, 3), (2, 4)]))
    kernel, stride, padding = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(0, 2))
    how = {"groups": groups, "bias": draw(st.booleans()), "dilation": draw(st.integers(1, 2))}
    first = nn.Conv2d(width, 12, kernel, stride, draw(st.sampled_from([padding, "valid"])), **how)
    normed = [nn.BatchNorm2d(12)] if draw(st.booleans()) else []
    network = nn.Sequential(first, *normed, nn.ReLU(), nn.Conv2d(12, 4, 1), nn.Flatten())
    for norm in normed:
        nn.init.uniform_(norm.running_mean, -1, 1)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    prepare = draw(preparations(width))
    raw = some_bytes(4, width, 7, 6)
    return network.eval(), prepare, raw.movedim(1, -1) if prepare.layout == "NHWC" else raw


@given(cases())
@options(max_examples=25)
def test_a_file_of_bytes_computes_what_torch_normalizes(case):
    network, prepare, raw = case
    assert disagreement(network, prepare, raw) < 3e-5


def net(padding: int, channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 4, 3, padding=padding), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Flatten()).eval()


@pytest.mark.parametrize(
    ("padding", "prepare", "beside"),
    [
        (0, Prepare(mean=MEANS, std=DEVIATIONS), {"Cast": 1}),
        (1, Prepare(), {"Cast": 1}),
        (1, Prepare(std=DEVIATIONS), {"Cast": 1}),
        (0, Prepare(mean=128 / 255, std=0.5), {"Cast": 1}),
        (1, Prepare(mean=128 / 255, std=0.5), {"Cast": 1, "Sub": 1}),
        (1, Prepare(mean=MEANS, std=DEVIATIONS), {"Cast": 1, "Conv": 1}),
        (1, Prepare(mean=0.5, std=0.5), {"Cast": 1, "Conv": 1}),
    ],
)
def test_the_float_file_has_no_operation_more_than_zeros_around_its_input_need(padding, prepare, beside):
    raw = some_bytes(4, 3, 6, 6)
    content = write(lower(prepared(net(padding), prepare, raw)))
    plain = write(lower(Model(net(padding), (torch.zeros(1, 3, 6, 6),))))
    assert operators(content) - operators(plain) == beside
    assert onnx.load_from_string(content).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert disagreement(net(padding), prepare, raw) < 1e-5


class TwoReaders(nn.Module):
    """Two layers read the image; with `beside`, something else does too."""

    def __init__(self, *, beside: bool) -> None:
        super().__init__()
        self.one, self.two, self.beside = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3, dilation=1, bias=False), beside

    def forward(self, x: Tensor) -> Tensor:
        rest = x.mean((1, 2, 3))[:, None, None, None] if self.beside else 0.0
        return (self.one(x).relu() * self.two(x).sigmoid() + rest).flatten(1)


@pytest.mark.parametrize("beside", [False, True])
def test_all_readers_take_the_normalization_in_or_none_does(beside):
    torch.manual_seed(0)
    network, prepare, raw = TwoReaders(beside=beside), Prepare(mean=MEANS, std=DEVIATIONS), some_bytes(4, 3, 8, 8)
    model = prepared(network, prepare, raw)
    assert any(node.name == NAME for node in lower(model).graph.nodes) is beside
    (note,) = notes_of(inference(model))
    assert ("no layer that could" in note) is beside
    assert disagreement(network, prepare, raw) < 1e-5


@pytest.mark.parametrize("shape", [(8, 5), (8, 3, 6, 4), (8, 3, 10)])
def test_linear_layers_take_it_in_behind_what_flattens_the_image(shape):
    torch.manual_seed(0)
    features = torch.Size(shape[1:]).numel()
    network = nn.Sequential(nn.Flatten(), nn.Linear(features, 6), nn.ReLU(), nn.Linear(6, 4))
    means = tuple(0.1 * (index + 1) for index in range(shape[1]))
    prepare, raw = Prepare(mean=means, std=tuple(2 * mean for mean in means)), some_bytes(*shape)
    content = write(lower(prepared(network, prepare, raw)))
    plain = write(lower(Model(network.eval(), (torch.zeros(1, *shape[1:]),))))
    assert operators(content) - operators(plain) == {"Cast": 1}
    assert disagreement(network, prepare, raw) < 1e-5


@pytest.mark.parametrize(("rest", "own"), [(1, True), (400, False)])
def test_a_layer_of_most_of_the_weights_keeps_them_for_other_steps_to_change(rest, own):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(100, 20), nn.ReLU(), nn.Linear(20, rest)).eval()
    folded = inference(prepared(network, Prepare(mean=0.1307, std=0.3081), some_bytes(4, 1, 10, 10)))
    assert ("1.weight" in folded.writable) is own
    assert any("holds many of the weights" in note for note in notes_of(folded)) is own


def test_a_first_operation_that_has_no_weights_leaves_the_normalization_before_it():
    network, prepare, raw = nn.Sequential(nn.MaxPool2d(2), *net(0)), Prepare(mean=MEANS), some_bytes(4, 3, 8, 8)
    (note,) = notes_of(inference(prepared(network, prepare, raw)))
    assert "no layer that could" in note
    assert disagreement(network, prepare, raw) < 1e-5


def test_weights_of_sixteen_bits_stay_what_they_are():
    network = net(0).half().float()
    folded = lower(prepared(network, Prepare(), some_bytes(4, 3, 6, 6)))
    assert torch.equal(folded.get_buffer("0.weight"), network[0].weight)
    assert disagreement(network, Prepare(), some_bytes(4, 3, 6, 6)) < 1e-5


def test_the_networks_own_weights_are_not_touched():
    network, raw = net(0), some_bytes(4, 3, 6, 6)
    before = network[0].weight.detach().clone()
    lower(prepared(network, Prepare(mean=MEANS, std=DEVIATIONS), raw))
    lower(prepared(network, Prepare(), raw))
    assert torch.equal(network[0].weight, before)
