"""Distillation: a small student taught by a larger network.

    python benchmarks/distillation.py --data ../shared/data --json FILE [--only NAME ...] [--quick]

Settings were chosen on 5,000 training images that are held back; the 10,000 test images only report. Where people are
recognised, other people choose and yet others report.
"""

from __future__ import annotations

from rows import Asked, main, part

ASKED = Asked(
    at_least={
        "resnet8.score": 0.885,
        "features.gain": 0,
    },
    at_most={
        "resnet8.parameters": 80_000,
        "resnet8.macs": 12_500_000,
        "resnet8.minutes": 60,
        "har.macs_ratio": 0.125,
        "har.drop": 0.01,
        "har.int8_drop": 0.01,
    },
)

ROWS = {
    "resnet8": part("distillation_cifar"),
    "har": part("distillation_har", row="har"),
    "features": part("distillation_har", row="features"),
}


if __name__ == "__main__":
    main(__doc__ or "", ROWS, ASKED)
