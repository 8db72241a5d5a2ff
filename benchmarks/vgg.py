"""A VGG for CIFAR-10 and its training: the first three stages of VGG-11 (Simonyan and Zisserman 2015), with batch norm.

Nobody ships pretrained weights of such a network, so it is trained here, once, and kept beside the decoded images.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from resnet20_task import task
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from haversack.model import Model
from haversack.training import Training, finetune

WIDTHS = (64, 128, 256, 256)
POOLED = (0, 1, 3)
TRAINING = Training(epochs=6, learning_rate=0.1, weight_decay=5e-4)


class VGG(nn.Module):
    """Four 3 x 3 convolutions of VGG-11's own widths with batch norm, three max pools, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for place, (inputs, outputs) in enumerate(zip((3, *WIDTHS), WIDTHS, strict=False)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] * (place in POOLED)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(WIDTHS[-1] * 16, 256), nn.ReLU(), nn.Linear(256, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        return self.classifier(self.features(x).flatten(1))


def trained(data: Path, *, quick: bool = False) -> VGG:
    """The network after six epochs on 45,000 training images; in a hurry, one epoch on 4,000."""
    name = "quick" if quick else f"{TRAINING.epochs}-epochs"
    kept = Path(tempfile.gettempdir()) / f"haversack-vgg-{name}.safetensors"
    torch.manual_seed(0)
    network = VGG()
    if not kept.exists():
        ours = task(data, learn=4_000) if quick else task(data)
        model = Model(network, (torch.zeros(1, 3, 32, 32),))
        found = finetune(model, ours, replace(TRAINING, epochs=1) if quick else TRAINING)
        save_file({key: value.contiguous() for key, value in found.state_dict().items()}, kept)
    network.load_state_dict(load_file(kept))
    return network.eval()
