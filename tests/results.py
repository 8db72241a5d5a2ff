"""A result folder as `apply` leaves it, written without torch and in no time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from haversack.coded import container
from haversack.disk import seal
from haversack.limits import Budget
from haversack.measurement import Conditions, Figure, Measurement
from haversack.result import MEASURED, NETWORK, RECIPE, REPORT, Measured

STEP = '[[step]]\ntechnique = "quantize_static"\nweight_bits = 8\n'
MEASUREMENT = Measurement(Figure(10, "host"), Figure(20, "host"), None, Conditions("host", "onnx", 1, "here"))
TENSORS = {"fc.weight": container.stored(np.arange(12, dtype=np.float32).reshape(3, 4))}


def written_result(folder: Path) -> Path:
    """`folder`, after a whole result was written into it."""
    (folder / NETWORK).mkdir(parents=True)
    measured = Measured(packed=MEASUREMENT, limits=Budget(flash_bytes=100))
    (folder / "model.onnx").write_bytes(b"a graph")
    (folder / "model.hsk").write_bytes(container.write(TENSORS))
    (folder / RECIPE).write_text(STEP)
    (folder / MEASURED).write_text(json.dumps(measured.to_json()))
    (folder / REPORT).write_text("all is well\n")
    (folder / NETWORK / "network.json").write_text("{}")
    seal(folder)
    return folder
