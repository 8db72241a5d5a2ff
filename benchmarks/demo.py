"""The demo: what `make demo` prints, to the end of its recipe.

python benchmarks/demo.py --data examples --json FILE
"""

from __future__ import annotations

import time
from pathlib import Path

from rows import Asked, Found, main

from haversack.limits import Budget
from haversack.packing import Settings, pack
from haversack.task import read_task_file

ASKED = Asked(at_most={"demo.flash_bytes": 20_000, "demo.minutes": 1})
BUDGET = Budget(flash_bytes=20_000, latency_ms=1.0, max_drop=0.01)
SETTINGS = Settings(seconds=0.5)


def demo(data: Path, _: bool) -> Found:  # noqa: FBT001 - a row's two arguments
    """The report's beginning, and what is said of it in words."""
    started, file = time.monotonic(), read_task_file(data / "digits.py")
    packed = pack(file.fresh_network, file.task, "raspberry-pi-zero-2w", BUDGET, SETTINGS)
    before, recipe, after = packed.report.partition("Recipe:")
    return {
        "demo.report": before + recipe + after.partition("\n\n")[0],
        "demo.flash_bytes": packed.artifact.flash_bytes,
        "demo.minutes": (time.monotonic() - started) / 60,
    }


if __name__ == "__main__":
    main(__doc__ or "", {"demo": demo}, ASKED)
