"""Storage: sparse, clustered and coded weights; every byte of the coded file counts.

    python benchmarks/storage.py --data ../shared/data --json FILE [--only NAME ...] [--quick]

Sparsity and bits were chosen on training images that are held back; the 10,000 test images only report.
"""

from __future__ import annotations

from rows import Asked, main, part

ASKED = Asked(
    at_least={
        "lenet5.ratio_at_75": 100,
        "lenet5.ratio_at_100": 160,
        "coder.python_mb_per_s": 1,
        "coder.c_mb_per_s": 20,
    },
    at_most={"lenet5.error_at_75": 0.0075, "lenet5.error_at_100": 0.01, "minutes": 30},
)


PARTS = ("coder", "sparsity", "lenet5")


if __name__ == "__main__":
    main(__doc__ or "", {name: part(f"storage_{name}") for name in PARTS}, ASKED)
