"""ShuffleNets and the keyword spotter against what is published of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from haversack import zoo
from haversack.channels.groups import channel_groups
from haversack.errors import RecipeError
from haversack.graph.cost import cost
from haversack.graph.trace import trace
from haversack.zoo.ds_cnn import DsCnn
from haversack.zoo.shufflenet_v1 import GroupUnit, ShuffleNetV1
from haversack.zoo.shufflenet_v2 import ShuffleNetV2, ShuffleUnit

KEYWORDS = Path(__file__).parents[3] / "shared/data/mlperf-tiny"


def weighed(network: nn.Module, *shape: int):
    return cost(trace(network, (torch.zeros(2, *shape),)))


@pytest.mark.parametrize(
    ("width", "parameters"), [(0.5, 1_366_792), (1.0, 2_278_604), (1.5, 3_503_624), (2.0, 7_393_996)]
)
def test_shufflenet_v2_has_torchvisions_parameters(width, parameters):
    assert sum(each.numel() for each in ShuffleNetV2(width=width).parameters()) == parameters


def torchvisions_convolutions(stages: tuple[int, ...]):
    """Names and shapes of torchvision's shufflenet_v2, by its code's own loops; `stages` are its five channels."""
    first, *middle, last = stages
    yield "conv1.0", (first, 3, 3, 3)
    inputs = first
    for number, (out, repeats) in enumerate(zip(middle, (4, 8, 4), strict=True), start=2):
        half = out // 2
        for unit in range(repeats):
            path = f"stage{number}.{unit}"
            if unit == 0:
                yield f"{path}.branch1.0", (inputs, 1, 3, 3)
                yield f"{path}.branch1.2", (half, inputs, 1, 1)
            yield f"{path}.branch2.0", (half, inputs if unit == 0 else half, 1, 1)
            yield f"{path}.branch2.3", (half, 1, 3, 3)
            yield f"{path}.branch2.5", (half, half, 1, 1)
        inputs = out
    yield "conv5.0", (last, inputs, 1, 1)


@pytest.mark.parametrize(
    ("width", "stages"),
    [(0.5, (24, 48, 96, 192, 1024)), (1.0, (24, 116, 232, 464, 1024)), (2.0, (24, 244, 488, 976, 2048))],
)
def test_torchvisions_weights_of_shufflenet_v2_load(width, stages):
    wanted = {"fc.weight": (1000, stages[-1]), "fc.bias": (1000,)}
    for path, shape in torchvisions_convolutions(stages):
        stem, _, place = path.rpartition(".")
        norm = f"{stem}.{int(place) + 1}"
        wanted |= {f"{path}.weight": shape, f"{norm}.num_batches_tracked": ()}
        wanted |= {f"{norm}.{name}": shape[:1] for name in ("weight", "bias", "running_mean", "running_var")}
    assert {name: tuple(each.shape) for name, each in ShuffleNetV2(width=width).state_dict().items()} == wanted


def test_a_shuffle_unit_passes_half_of_its_input_and_lets_the_halves_take_turns():
    unit, x = ShuffleUnit(8, 8).eval(), torch.randn(2, 8, 5, 5)
    y = unit(x)
    assert torch.equal(y[:, ::2], x[:, :4])
    assert torch.equal(y[:, 1::2], unit.branch2(x[:, 4:]))


def test_widths_of_shufflenet_v2_between_the_papers_grow_steadily():
    counts = [
        sum(p.numel() for p in ShuffleNetV2(width=width, outputs=10).parameters())
        for width in (0.1, 0.25, 0.5, 0.75, 1.2)
    ]
    assert counts == sorted(set(counts))
    assert counts[0] < 50_000


@pytest.mark.parametrize(("groups", "macs"), [(1, 143e6), (2, 140e6), (3, 137e6), (4, 133e6), (8, 137e6)])
def test_shufflenet_v1_computes_as_much_as_table_1_says(groups, macs):
    assert weighed(ShuffleNetV1(groups=groups), 3, 224, 224).macs == pytest.approx(macs, rel=0.012)


@pytest.mark.parametrize(("width", "macs"), [(0.5, 38e6), (0.25, 13e6)])
def test_narrow_shufflenet_v1_computes_as_much_as_table_2_says(width, macs):
    assert weighed(ShuffleNetV1(width=width), 3, 224, 224).macs == pytest.approx(macs, rel=0.03)


def test_a_group_unit_mixes_groups_by_its_shuffle_alone():
    """After the narrow convolution, each later group reads one part of every earlier one."""
    torch.manual_seed(0)
    unit, x = GroupUnit(36, 36, groups=3).eval(), torch.randn(1, 36, 5, 5)
    x.requires_grad_()
    before = unit.widen(unit.narrow(x))[0, :12].sum()
    assert not torch.autograd.grad(before, x)[0][0, 12:].any(), "without the shuffle, group 0 sees itself alone"
    unit.widen(unit.depthwise(unit.shuffled(unit.narrow(x))))[0, :12].sum().backward()
    assert all(x.grad[0, start : start + 12].any() for start in (0, 12, 24))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: ShuffleUnit(8, 9), "have no half"),
        (lambda: GroupUnit(24, 30, groups=3), "3 groups do not share"),
        (lambda: GroupUnit(24, 24, groups=3, stride=2), "more out than in"),
        (lambda: ShuffleNetV1(groups=5), "groups is 5"),
        (lambda: DsCnn(downsampling=64, depth=0.5), "write a power of two up to 8"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(build, said):
    with pytest.raises(RecipeError, match=said):
        build()


def test_whole_rounds_of_channels_can_be_pruned_from_shuffled_stages():
    network = ShuffleNetV2(width=0.25, depth=0.5, channels=1, outputs=10, downsampling=8)
    groups = channel_groups(trace(network, (torch.zeros(2, 1, 32, 32),)), network)
    assert {each.layer for each in groups.pinned} == {"fc"}


def test_ds_cnn_has_the_references_layers():
    found = weighed(DsCnn(), 1, 49, 10)
    # Nine biases of 64 channels, which batch norms make needless.
    assert found.parameters == 23_756 - 9 * 64
    assert [each.output_shape[2:] for each in found.layers if "conv" in each.operation] == [(25, 5)] * 9


@pytest.mark.skipif(not KEYWORDS.is_dir(), reason="needs ../shared/data/mlperf-tiny")
def test_the_references_weights_make_ds_cnn_spot_keywords():
    network, theirs = DsCnn().eval(), load_file(KEYWORDS / "kws_dscnn_float.safetensors")
    state, kinds = dict(network.state_dict()), (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
    paths = [path for path, layer in network.named_modules() if isinstance(layer, kinds)]
    convolutions, norms = paths[:-1:2], paths[1:-1:2]
    ordered = [
        "conv2d",
        "depthwise_conv2d",
        *(f"{kind}conv2d_{place}" for place in (1, 2, 3) for kind in ("", "depthwise_")),
        "conv2d_4",
    ]
    for place, (convolution, norm, name) in enumerate(zip(convolutions, norms, ordered, strict=True)):
        state[f"{convolution}.weight"] = theirs[f"{name}.weight"]
        their_norm = f"batch_normalization_{place}".removesuffix("_0")
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{norm}.{part}"] = theirs[f"{their_norm}.{part}"]
        state[f"{norm}.running_mean"] = state[f"{norm}.running_mean"] - theirs[f"{name}.bias"]
    state |= {f"{paths[-1]}.{part}": theirs[f"dense.{part}"] for part in ("weight", "bias")}
    network.load_state_dict(state)
    data = np.load(KEYWORDS / "kws01_eval.npz")
    x = (torch.from_numpy(data["x"]).float() - 83) * 0.5847029089927673
    with torch.no_grad():
        right = network(x.unsqueeze(1)).argmax(1).numpy() == data["y"]
    # 91.5 % by the reference, which averages one row less.
    assert right.mean() == pytest.approx(0.915, abs=0.01)


@pytest.mark.parametrize("name", ["shufflenet_v1", "shufflenet_v2", "ds_cnn"])
def test_blocks_are_found_by_name(name):
    block = {"shufflenet_v1": "GroupUnit", "shufflenet_v2": "ShuffleUnit", "ds_cnn": "DepthwiseSeparable"}[name]
    assert zoo.kind(f"{name}.{block}") is not None
