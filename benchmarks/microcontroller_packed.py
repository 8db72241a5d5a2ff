"""Networks that were packed here, in plain C on an emulated core, with their scores.

`resnet8_w4`: MLPerf Tiny's ResNet-8 with weights of 4 bits (GPTQ, 1,000 training images calibrate), beside the same in
8 bits; both C programs classify all test images on this host. `har`: har-phone's network packed as C for nRF52840,
proved on that board's memory; its score is that on people whom nothing saw before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import planner_har
from microcontroller_tiny import MEASURED, SAMPLES
from mlperf_tiny import resnet8
from planner_job import Outcome
from quantization import W4A8, W8A8, Data, quantized
from torch import Tensor

from haversack.device import find_device
from haversack.integer import Array, IntegerGraph
from haversack.integer.passes import with_integer_ports
from haversack.integer.read import read
from haversack.proof import CoreProof
from haversack.proving.on_core import board_named, prove_on_core
from haversack.proving.parties import port_of
from haversack.runtimes.c_source.build import run_on_host
from haversack.runtimes.c_source.write import write
from haversack.runtimes.tflite.read import read as read_tflite

BOARD = "nrf52840"
HAR_LIMITS = {"flash_bytes": 40_000, "ram_bytes": 8_000}
IMAGES = 1000


def run(data: Path, *, quick: bool, row: str) -> dict[str, object]:
    """The row's figures."""
    rows: dict[str, Callable[..., dict[str, object]]] = {"resnet8_w4": _resnet8_w4, "har": _har}
    return {f"{row}.{name}": value for name, value in rows[row](data, quick=quick).items()}


def _resnet8_w4(data: Path, *, quick: bool) -> dict[str, object]:
    known = Data(data)
    task = known.cifar_task(100 if quick else IMAGES, raw=True)
    test = known.test.first(500 if quick else 10_000)
    proofs, scores = list[CoreProof](), list[float]()
    for step in (W8A8, W4A8):
        lowered, _ = quantized("", resnet8(data / "mlperf-tiny"), replace(step, activations="int8"), task)
        graph = with_integer_ports(read(lowered))
        inputs = _taken(graph, test.pixels.float())
        _, proof = prove_on_core("resnet8", graph, board_named(MEASURED), [inputs[:SAMPLES]])
        with tempfile.TemporaryDirectory() as folder:
            (outputs,) = run_on_host(write(graph), [inputs], Path(folder), ("-O3",))
        proofs.append(proof)
        scores.append(float((outputs.reshape(len(outputs), -1).argmax(1) == test.labels.numpy()).mean()))
    eight, four = proofs
    return {
        "score": scores[1],
        "int8_score": scores[0],
        "instructions_ratio": four.instructions / eight.instructions,
        "int8_flash_bytes": eight.flash_bytes,
        **_figures(four),
    }


def _har(data: Path, *, quick: bool) -> dict[str, object]:
    job, device = planner_har.job(data, quick=quick), replace(find_device(BOARD), runtime="c")
    outcome = Outcome.of(replace(job, device=device, limits=replace(job.limits, **HAR_LIMITS)))
    artifact, before = outcome.packed.artifact, outcome.packed.baseline
    graph = read_tflite(artifact.files["model.tflite"])
    _, proof = prove_on_core("har", graph, board_named(BOARD))
    validated, original = artifact.measurement.validated, before.validated
    if validated is None or original is None:
        raise AssertionError("the task validates")
    return {
        "score": validated.value,
        "below_float": original.value - validated.value,
        "minutes": outcome.seconds / 60,
        "tflite_bytes": len(artifact.files["model.tflite"]),
        **_figures(proof),
    }


def _figures(proof: CoreProof) -> dict[str, object]:
    return {
        "flash_bytes": proof.flash_bytes,
        "ram_bytes": proof.ram_bytes,
        "instructions": proof.instructions,
        "mismatching_bytes": proof.mismatching_bytes + proof.host_mismatching_bytes,
        "compiler": proof.compiler,
    }


def _taken(graph: IntegerGraph, *values: Tensor) -> Array:
    """One input as the graph takes it."""
    ports: Sequence[Array] = [
        port_of(graph.values[name], order).taken(value.numpy())
        for name, order, value in zip(graph.inputs, graph.input_orders, values, strict=True)
    ]
    return np.ascontiguousarray(ports[0])
