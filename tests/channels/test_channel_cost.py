import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prunable_networks import NETWORKS, build
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from haversack.channels.cost import channel_cost
from haversack.channels.group import edits_for
from haversack.channels.groups import channel_groups
from haversack.graph.cost import cost
from haversack.graph.trace import trace
from haversack.surgery.edit import edit


def counted_macs(module: nn.Module, x: torch.Tensor) -> int:
    # In training mode nn.TransformerEncoderLayer runs operation by operation; the counter still misses attention's own
    # products on a CPU, which no channel changes: hence differences.
    # The fused kernel of the CPU is not counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module.train()(x)
    module.eval()
    return counter.get_total_flops() // 2 // len(x)


@pytest.mark.parametrize("name", NETWORKS)
@given(st.randoms(use_true_random=False))
@settings(max_examples=2)
def test_modelled_macs_and_parameters_equal_those_of_the_pruned_network(name: str, random: object) -> None:
    module, x = build(name)
    read = trace(module, (x,))
    groups = channel_groups(read, module).groups
    counts = np.array([random.randint(group.least, group.size) for group in groups])
    small = edit(module, edits_for(module, groups, [range(count) for count in counts]))
    macs = channel_cost(read, module, groups, "macs", 1)
    parameters = channel_cost(read, module, groups, "parameters", 1)
    full = np.array([group.size for group in groups])
    assert macs.of(counts) == cost(trace(small, (x,))).macs
    if name != "recurrent":  # torch does not count what its recurrent kernels multiply
        assert macs.of(full) - macs.of(counts) == counted_macs(module, x) - counted_macs(small, x)
    assert macs.of(full) == cost(read).macs
    assert parameters.of(counts) == sum(parameter.numel() for parameter in small.parameters())


@pytest.mark.parametrize("measure", ["macs", "parameters", "latency"])
def test_a_saving_is_the_difference_that_one_group_makes(measure: str) -> None:
    module, x = build("padded residual")
    read = trace(module, (x,))
    groups = channel_groups(read, module).groups
    model = channel_cost(read, module, groups, measure, 4)
    kept = np.array([group.size for group in groups])
    fewer = np.array([4, 1, 8, 0])
    for place, saved in enumerate(model.savings(kept, fewer)):
        alone = np.where(np.arange(4) == place, fewer, 0)
        assert saved == pytest.approx(model.of(kept) - model.of(kept - alone))


def test_a_channel_inside_a_block_saves_no_blocked_time() -> None:
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3)).eval()
    read = trace(module, (torch.randn(2, 3, 8, 8),))
    groups = channel_groups(read, module).groups
    model = channel_cost(read, module, groups, "latency", 8)
    whole = model.of(np.array([16, 16]))
    within, block = whole - model.of(np.array([15, 16])), whole - model.of(np.array([8, 16]))
    assert within < block / 8
