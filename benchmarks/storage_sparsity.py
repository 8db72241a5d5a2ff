"""ResNet-20 with most of its weights at zero, at once and without training: by magnitude and by second order.

500 training images calibrate, the 10,000 test images only report; nothing was chosen on them.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from cifar10 import images
from resnet20_task import network, task
from torch import nn

from haversack.model import Model
from haversack.techniques.prune_weights import PruneWeights

CASES = {
    f"{method}_{share * 100:.0f}": (method, share)
    for method in ("magnitude", "second_order")
    for share in (0.5, 0.7, 0.8)
}
QUICK = ("magnitude_70", "second_order_70")


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """The share of test images that is right, by method and share of zeros, and the seconds that pruning took."""
    test = images(data)[1].first(1_000 if quick else 10_000)
    model = Model(network(data), (torch.zeros(1, 3, 32, 32),))
    found: dict[str, object] = {"sparsity.resnet20_dense": test.accuracy(_predict(model.module))}
    for case in QUICK if quick else CASES:
        method, share = CASES[case]
        started = time.monotonic()
        sparse = PruneWeights(share, method, epochs=0).apply(model, task(data))
        found[f"sparsity.resnet20_{case}.seconds"] = round(time.monotonic() - started, 1)
        found[f"sparsity.resnet20_{case}"] = test.accuracy(_predict(sparse.module))
        found[f"sparsity.resnet20_{case}.zeros"] = zeros(sparse)
    return found


def zeros(model: Model) -> float:
    """The share of zeros among the weights that were pruned."""
    weights = dict(model.module.named_parameters())
    pruned = [weights[name] for name in model.sparse]
    return sum(int((weight == 0).sum()) for weight in pruned) / sum(weight.numel() for weight in pruned)


def _predict(module: nn.Module) -> object:
    innermost = module.to(memory_format=torch.channels_last)
    return torch.no_grad()(lambda inputs: innermost(inputs.contiguous(memory_format=torch.channels_last)))
