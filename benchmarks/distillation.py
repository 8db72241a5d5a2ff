"""Distillation: a small student taught by a larger network.

    python benchmarks/distillation.py --data ../shared/data --json FILE [--only NAME ...] [--quick]

Settings were chosen on 5,000 training images that are held back; the 10,000 test images only report.
"""

from __future__ import annotations

from rows import Asked, main, part

ASKED = Asked(
    at_least={
        "resnet8.score": 0.885,
    },
    at_most={
        "resnet8.parameters": 80_000,
        "resnet8.macs": 12_500_000,
        "resnet8.minutes": 60,
    },
)

ROWS = {
    "resnet8": part("distillation_cifar"),
}


if __name__ == "__main__":
    main(__doc__ or "", ROWS, ASKED)
