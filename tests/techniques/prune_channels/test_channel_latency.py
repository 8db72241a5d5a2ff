from collections.abc import Sequence

import numpy as np
import pytest
import torch
from prunable_networks import build
from torch import nn

from haversack.channels.groups import channel_groups
from haversack.errors import HaversackError
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.techniques.prune_channels.ladder import measured_cost


class Runtime:
    """A device on which a parameter takes a microsecond, and a network of more than `slow` of them twice as long."""

    def __init__(self, slow: int = 1 << 30) -> None:
        self.slow, self.asked = slow, 0

    def latencies_ms(self, models: Sequence[Model]) -> list[float]:
        self.asked += len(models)
        counts = [sum(each.numel() for each in model.module.parameters()) for model in models]
        return [count / 1000 * (2 if count > self.slow else 1) for count in counts]

    def flash_bytes(self, model: Model) -> int:
        raise NotImplementedError


def plain() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).eval(), torch.randn(2, 3)


def test_one_groups_latency_is_a_line_between_the_counts_that_were_timed() -> None:
    module, x = plain()
    groups, runtime = channel_groups(trace(module, (x,)), module).groups, Runtime()
    model, rungs = Model(module, (x,), target=runtime), [list(range(8, 0, -1))]
    cost = measured_cost(model, groups, rungs)
    assert runtime.asked == 3
    assert measured_cost(model, groups, rungs) is cost
    assert runtime.asked == 3
    for kept in range(1, 9):
        assert cost.of(np.array([kept])) == pytest.approx((6 * kept + 2) / 1000)
    assert cost.savings(np.array([8]), np.array([3])) == pytest.approx([18 / 1000])


def test_groups_are_timed_one_at_a_time_and_their_savings_add_up() -> None:
    module, x = build("padded residual")
    groups, runtime = channel_groups(trace(module, (x,)), module).groups, Runtime()
    cost = measured_cost(Model(module, (x,), target=runtime), groups, [[each.size, each.size // 2] for each in groups])
    assert runtime.asked == 1 + len(groups)
    full = np.array([each.size for each in groups])
    savings = cost.savings(full, full - full // 2)
    assert (savings > 0).all()
    assert cost.of(full // 2) == pytest.approx(cost.of(full) - savings.sum())


def test_fewer_channels_are_never_taken_to_be_slower() -> None:
    module, x = plain()

    class Noisy(Runtime):
        def latencies_ms(self, models: Sequence[Model]) -> list[float]:
            return [1.0, 0.9, 0.95][: len(models)]

    groups = channel_groups(trace(module, (x,)), module).groups
    cost = measured_cost(Model(module, (x,), target=Noisy()), groups, [list(range(8, 0, -1))])
    found = [cost.of(np.array([kept])) for kept in range(8, 0, -1)]
    assert found == sorted(found, reverse=True)


def test_without_a_runtime_nothing_is_measured() -> None:
    module, x = plain()
    with pytest.raises(HaversackError, match="no runtime"):
        measured_cost(Model(module, (x,)), channel_groups(trace(module, (x,)), module).groups, [[8]])
