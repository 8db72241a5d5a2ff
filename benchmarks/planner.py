"""The planner: limits in, a network out; and whether what it predicts, refuses and repeats is so.

    python benchmarks/planner.py --data ../shared/data --json FILE [--only NAME ...] [--quick]

Every answer is chosen on samples that are not in the figures: the test images, and the people of har-phone who report,
are seen once, by the answer's file. Each row starts with no finished candidate and no timed layer. `against` needs
Optuna (`pip install optuna`), and goes on where it was when it was stopped.
"""

from __future__ import annotations

from rows import Asked, main, part

ASKED = Asked(
    at_least={
        "demo.advised": 1,
        "resnet20.score": 0.91,
        "resnet20_amx.score": 0.91,
        "resnet20_without_vnni.score": 0.91,
        "resnet20_small.score": 0.90,
        "resnet56.score": 0.925,
        "resnet56_whole.score": 0.925,
        "impossible.named": 1,
        "impossible.succeeded": 1,
        "predicted.within": 0.95,
        "predicted.spearman": 0.9,
        "against.hypervolume_ratio": 1,
        "repeat.same": 1,
    },
    at_most={
        "demo.seconds": 45,
        "demo.built": 20,
        "demo.latency_ratio": 1,
        "demo.dominating": 0,
        "resnet20.latency_ratio": 0.45,
        "resnet20.minutes": 8,
        "resnet20_amx.latency_ratio": 0.45,
        "resnet20_amx.minutes": 8,
        "resnet20_without_vnni.latency_ratio": 0.45,
        "resnet20_without_vnni.minutes": 8,
        "resnet20_small.latency_ratio": 0.3,
        "resnet20_small.minutes": 25,
        "resnet56.latency_ratio": 0.25,
        "resnet56.minutes": 40,
        "resnet56_whole.latency_ratio": 0.25,
        "resnet56_whole.minutes": 40,
        "har.below_float": 0.01,
        "har.minutes": 8,
        "lenet5_short.error": 0.0075,
        "lenet5.error": 0.0075,
        "lenet5.minutes": 20,
        "impossible.seconds": 60,
        "predicted.flash_error": 0.01,
        "against.share_of_evaluations": 0.25,
    },
)
NETWORKS = ("resnet20", "resnet20_amx", "resnet20_without_vnni", "resnet20_small", "resnet56", "resnet56_whole")
ROWS = {
    "demo": part("planner_demo"),
    **{row: part("planner_resnet", row=row) for row in NETWORKS},
    **{row: part("planner_lenet5", row=row) for row in ("lenet5_short", "lenet5")},
    **{row: part(f"planner_{row}") for row in ("har", "impossible", "predicted", "against", "repeat")},
}


if __name__ == "__main__":
    main(__doc__ or "", ROWS, ASKED)
