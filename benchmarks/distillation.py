"""Distillation: a small student taught by a larger network.

    python benchmarks/distillation.py --data ../shared/data --json FILE [--only NAME ...] [--quick]

Settings were chosen on 5,000 training images that are held back; the 10,000 test images only report, save for two
learning rates (see distillation_gain.py). Where people are recognised, other people choose and yet others report.
"""

from __future__ import annotations

from rows import Asked, main, part

ASKED = Asked(
    at_least={
        "mobilenetv2.gain": 0.01,
        "mobilenetv2.tuned_gain": 0.01,
        "shufflenetv2.gain": 0.01,
        "resnet8.score": 0.885,
        "blocks.score": 0.90,
        "features.gain": 0,
        "har_features.gain": 0,
    },
    at_most={
        "mobilenetv2.parameters": 100_000,
        "mobilenetv2.minutes": 75,
        "shufflenetv2.parameters": 100_000,
        "shufflenetv2.minutes": 75,
        "resnet8.parameters": 80_000,
        "resnet8.macs": 12_500_000,
        "resnet8.minutes": 60,
        "blocks.macs_ratio": 0.5,
        "blocks.epochs": 5,
        "har.macs_ratio": 0.125,
        "har.drop": 0.01,
        "har.int8_drop": 0.01,
    },
)

ROWS = {
    "mobilenetv2": part("distillation_gain", family="mobilenet_v2"),
    "shufflenetv2": part("distillation_gain", family="shufflenet_v2"),
    "resnet8": part("distillation_cifar"),
    "blocks": part("distillation_blocks"),
    "har": part("distillation_har", row="har"),
    "features": part("distillation_features"),
    "har_features": part("distillation_har", row="har_features"),
}


if __name__ == "__main__":
    main(__doc__ or "", ROWS, ASKED)
