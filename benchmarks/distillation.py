"""Distillation: small students taught by a larger network, against the same students from labels alone.

    python benchmarks/distillation.py --data ../shared/data --json FILE [--only NAME ...] [--quick]

Settings were chosen on 5,000 training images that are held back; the 10,000 test images only report. Each trained
student's score is remembered in the temporary folder, so that a run that was cut off goes on.
"""

from __future__ import annotations

from rows import Asked, main, part

ASKED = Asked(
    at_least={
        "mobilenetv2.gain": 0.01,
        "shufflenetv2.gain": 0.01,
        "resnet8.score": 0.885,
        "features.gain": 0,
    },
    at_most={
        "mobilenetv2.parameters": 100_000,
        "mobilenetv2.minutes": 75,
        "shufflenetv2.parameters": 100_000,
        "shufflenetv2.minutes": 75,
        "resnet8.parameters": 80_000,
        "resnet8.macs": 12_500_000,
        "resnet8.minutes": 60,
    },
)

ROWS = {
    "mobilenetv2": part("distillation_cifar", row="mobilenetv2"),
    "shufflenetv2": part("distillation_cifar", row="shufflenetv2"),
    "resnet8": part("distillation_cifar", row="resnet8"),
    "features": part("distillation_cifar", row="features"),
    "har": part("distillation_har"),
    "blocks": part("distillation_blocks"),
}


if __name__ == "__main__":
    main(__doc__ or "", ROWS, ASKED)
