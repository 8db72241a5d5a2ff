"""Plain C for microcontrollers: MLPerf Tiny's int8 files on an emulated Cortex-M4, and every byte of what they give.

    python benchmarks/microcontroller.py --data ../shared/data --json FILE [--only ROW ...] [--quick]

Flash, RAM (static, with the arena, and the highest stack) and instructions are read off the run, on plenty of memory.
Bytes are compared with the integer reference and with tflite-micro: 300 inputs on this host, three on each core.
"""

from __future__ import annotations

from rows import Asked, main, part

ASKED = Asked(
    at_least={"resnet8_w4.score": 0.865},
    at_most={
        "kws.flash_bytes": 34_000,
        "kws.ram_bytes": 16_500,
        "kws.instructions": 6_300_000,
        "kws.mismatching_bytes": 0,
        "resnet8.flash_bytes": 87_000,
        "resnet8.ram_bytes": 50_700,
        "resnet8.instructions": 22_000_000,
        "resnet8.mismatching_bytes": 0,
        "vww.flash_bytes": 242_000,
        "vww.ram_bytes": 56_000,
        "vww.instructions": 17_000_000,
        "vww.mismatching_bytes": 0,
        "resnet8_strips.ram_bytes": 33_000,
        "resnet8_strips.instructions_ratio": 1.25,
        "resnet8_strips.mismatching_bytes": 0,
        "vww_strips.ram_bytes": 34_000,
        "vww_strips.instructions_ratio": 1.25,
        "vww_strips.mismatching_bytes": 0,
        "ad.flash_bytes": 274_000,
        "ad.ram_bytes": 1_000,
        "ad.instructions": 520_000,
        "ad.mismatching_bytes": 0,
        "resnet8_w4.flash_bytes": 55_000,
        "resnet8_w4.instructions_ratio": 1.35,
        "kws_pack.seconds": 60,
        "vww_packed.flash_bytes": 85_000,
        "vww_packed.drop": 0.0,
        "kws_fast.instructions_ratio": 0.5,
        "kws_fast.drop": 0.01,
        "resnet8_fast.instructions_ratio": 0.5,
        "resnet8_fast.drop": 0.01,
        "har.flash_bytes": 40_000,
        "har.ram_bytes": 8_000,
    },
)
ROWS = {
    **{
        row: part("microcontroller_tiny", row=row)
        for row in ("kws", "resnet8", "vww", "ad", "resnet8_strips", "vww_strips")
    },
    **{row: part("microcontroller_packed", row=row) for row in ("resnet8_w4", "har")},
    **{row: part("microcontroller_fast", row=row) for row in ("kws_pack", "kws_fast", "resnet8_fast", "vww_packed")},
}


if __name__ == "__main__":
    main(__doc__ or "", ROWS, ASKED)
