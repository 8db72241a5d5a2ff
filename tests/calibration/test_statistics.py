import copy

import torch
from prunable_networks import build
from torch import nn

from haversack.calibration.statistics import with_corrected_statistics
from haversack.channels.group import edits_for
from haversack.channels.groups import channel_groups
from haversack.graph.trace import trace
from haversack.model import Edits
from haversack.surgery.edit import edit


def test_a_network_that_lost_nothing_keeps_its_statistics() -> None:
    module, _ = build("mobile")
    again = with_corrected_statistics(module, module, Edits(), [(torch.randn(128, 3, 8, 8),)])
    for name, buffer in module.named_buffers():
        torch.testing.assert_close(dict(again.named_buffers())[name], buffer)


def test_correction_brings_a_pruned_network_closer_to_the_original() -> None:
    module, x = build("padded residual")
    inputs = torch.randn(256, 3, 8, 8)
    for _ in range(40):
        module.train()(inputs)
    module.eval()
    groups = channel_groups(trace(module, (x,)), module).groups
    edits = edits_for(module, groups, [range(group.size // 2) for group in groups])
    small = edit(module, edits)
    corrected = with_corrected_statistics(small, module, edits, [(inputs,)])
    with torch.no_grad():
        wanted, plain, better = (each(inputs) for each in (module, small, corrected))
    assert (better - wanted).square().mean() < 0.8 * (plain - wanted).square().mean()


def test_few_inputs_change_nothing() -> None:
    module, x = build("mobile")
    small = nn.Sequential(*module)
    again = with_corrected_statistics(small, module, Edits(), [(x,)])
    assert torch.equal(again(x), small(x))


def test_a_channel_that_became_constant_is_not_blown_up() -> None:
    torch.manual_seed(0)
    layer, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    module = nn.Sequential(layer, norm).train()
    for _ in range(50):
        module(torch.randn(64, 3, 8, 8) + 1)
    small = copy.deepcopy(module.eval())
    with torch.no_grad():
        small[0].weight[1] = 0
    # Calibration inputs of other brightness than the training data: their means differ.
    inputs = torch.randn(128, 3, 8, 8) + 1.5
    corrected = with_corrected_statistics(small, module, Edits(), [(inputs,)])
    with torch.no_grad():
        constant = corrected(inputs)[:, 1]
    assert (constant - norm.bias[1]).abs().max() < 0.5
    assert torch.equal(corrected[1].running_mean[0], module[1].running_mean[0])
