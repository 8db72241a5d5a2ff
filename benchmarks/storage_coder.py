"""The coder: how fast it is in Python and in C, and what it makes of real weights beside general compressors."""

from __future__ import annotations

import lzma
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from mlperf_tiny import vww
from resnet20_task import network, task

from haversack.coded import container
from haversack.coded.tensors import Codebook, Integers, Stored
from haversack.model import Model
from haversack.runtimes import coded
from haversack.techniques.quantize_static import QuantizeStatic
from haversack.techniques.quantize_weights import QuantizeWeights

DECODER = Path(container.__file__).parent / "decoder"
# Reads a file again and again, and prints the seconds of each time.
PROGRAM = """
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "haversack_coded.h"
static haversack_coded_reader reader;
static haversack_coded_tensor tensor;
static uint8_t file[1 << 24], out[1 << 24];
static float scale[1 << 16];
static int32_t zeros[1 << 16];
int main(int count, char **arguments) {
    size_t size = fread(file, 1, sizeof file, stdin);
    for (int turn = atoi(arguments[count - 1]); turn > 0; turn--) {
        clock_t begin = clock();
        if (haversack_coded_open(&reader, file, size)) return 1;
        while (!haversack_coded_next(&reader, &tensor)) {
            int steps = tensor.form == HAVERSACK_CODED_INTEGERS;
            if (steps && haversack_coded_scale(&reader, scale, tensor.steps)) return 1;
            if (tensor.has_zero_points && haversack_coded_zero_points(&reader, zeros, tensor.steps)) return 1;
            if (haversack_coded_values(&reader, out, sizeof out)) return 1;
        }
        if (haversack_coded_close(&reader)) return 1;
        printf("%.9f\\n", (double)(clock() - begin) / CLOCKS_PER_SEC);
    }
    return 0;
}
"""


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """Megabytes of symbols (one byte each) a second, and bytes of real networks."""
    begin = time.perf_counter()
    found: dict[str, object] = {}
    for name, model in networks(data, quick=quick).items():
        found |= {f"coder.{name}_{key}": value for key, value in sizes(model).items()}
    turns = 3 if quick else 9
    found |= speeds(dense(1 << 18 if quick else 1 << 20), turns)
    return {**found, "coder.seconds": time.perf_counter() - begin}


def networks(data: Path, *, quick: bool) -> dict[str, Model]:
    """ResNet-20 in 8 and in 4 bits, MLPerf Tiny's visual wake words in 8."""
    resnet, example = network(data), (torch.zeros(1, 3, 32, 32),)
    model = Model(resnet, example)
    eyes = Model(vww(data / "mlperf-tiny").eval(), (torch.zeros(1, 3, 96, 96),))
    found = {"vww_w8": QuantizeWeights(8).apply(eyes, task(data))}
    if quick:
        return {**found, "resnet20_w8": QuantizeWeights(8).apply(model, task(data))}
    return {
        **found,
        "resnet20_w8": QuantizeStatic().apply(model, task(data)),
        "resnet20_w4": QuantizeStatic(weight_bits=4, rounding="gptq").apply(model, task(data)),
    }


def sizes(model: Model) -> dict[str, int]:
    """The coded file; what it holds uncoded, two 4-bit integers a byte; and that by zlib and lzma."""
    file = coded.write(model)
    raw = b"".join(uncoded(tensor) for tensor in container.read(file).values())
    return {
        "bytes": len(file),
        "raw_bytes": len(raw),
        "zlib_bytes": len(zlib.compress(raw, 9)),
        "lzma_bytes": len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)),
    }


def uncoded(tensor: Stored) -> bytes:
    """The tensor's values and steps, one after the other."""
    if isinstance(tensor, Codebook):
        return tensor.indices.tobytes() + tensor.centroids.tobytes()
    if not isinstance(tensor, Integers):
        return tensor.values.tobytes()
    values = tensor.values.ravel()
    if tensor.bits <= 4:
        halves = np.append(values, np.zeros(values.size % 2, values.dtype)).astype(np.uint8) & 0xF
        values = halves[::2] | halves[1::2] << 4
    return values.tobytes() + tensor.scale.tobytes()


def dense(count: int) -> dict[str, Stored]:
    """`count` int8 weights whose rows spread unlike."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0, rng.gamma(4, 8, (256, 1)), (256, count // 256))
    return {"weight": Integers(np.clip(np.rint(rows), -127, 127).astype(np.int8), rng.random(256), axis=0)}


def speeds(tensors: Mapping[str, Stored], turns: int) -> dict[str, object]:
    """Medians and ranges over `turns` of processor time; the slower way in Python is what counts."""
    symbols = sum(int(np.prod(tensor.shape)) for tensor in tensors.values())
    file = container.write(tensors)
    seconds = {
        "python_encode": timed(lambda: container.write(tensors), turns),
        "python_decode": timed(lambda: container.read(file), turns),
        "c": in_c(file, 10 * turns),
    }
    found: dict[str, object] = {}
    for name, each in seconds.items():
        rates = [symbols / 1e6 / one for one in each]
        found[f"coder.{name}_mb_per_s"] = statistics.median(rates)
        found[f"coder.{name}_mb_per_s_range"] = [min(rates), max(rates)]
    slower = min("encode", "decode", key=lambda way: found[f"coder.python_{way}_mb_per_s"])  # type: ignore[arg-type, return-value]
    return {**found, "coder.python_mb_per_s": found[f"coder.python_{slower}_mb_per_s"]}


def timed(work: Callable[[], object], turns: int) -> list[float]:
    """The processor seconds of each turn, after one that does not count."""
    work()
    found = []
    for _ in range(turns):
        begin = time.process_time()
        work()
        found.append(time.process_time() - begin)
    return found


def in_c(file: bytes, turns: int) -> list[float]:
    """The processor seconds of each time that the C decoder reads `file`."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "main.c"), Path(folder, "main")
        source.write_text(PROGRAM)
        compiler = shutil.which("cc") or os.environ.get("CC", "cc")
        sources = [str(source), str(DECODER / "haversack_coded.c")]
        subprocess.run([compiler, "-std=c99", "-O2", f"-I{DECODER}", *sources, "-o", str(program)], check=True)
        done = subprocess.run([str(program), str(turns)], input=file, capture_output=True, check=True)
    return [float(line) for line in done.stdout.split()]


if __name__ == "__main__":
    for key, value in run(Path(sys.argv[1]), quick=False).items():
        print(key, value)
