"""Plain C for microcontrollers: an integer graph as model.h and model.c, and programs of it on emulated cores.

`write.py` writes, `build.py` compiles for a board, `emulator.py` runs. It is no runtime that `pack` measures in yet.
"""

from __future__ import annotations

from haversack.runtimes import Runtime

ROWS: tuple[Runtime, ...] = ()
