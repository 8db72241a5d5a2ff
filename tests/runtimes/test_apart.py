"""A file in a process of its own gives what it gives in ours, and a runtime that crashes over it is an error."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

import onnx
import psutil
import pytest
import torch
from litert_files import damaged, images, network, quantized
from torch import nn

from haversack.errors import CrashError, MeasureError
from haversack.graph.inference import lower
from haversack.graph.pairs import output_step
from haversack.model import Model
from haversack.runtimes import host
from haversack.runtimes.onnx import worker
from haversack.runtimes.onnx.write import write


def _onnx(module: nn.Module, *example: torch.Tensor) -> bytes:
    return write(lower(Model(module.eval(), example)))


def test_a_file_computes_the_same_in_a_process_of_its_own_on_any_batch(tmp_path: Path) -> None:
    content = _onnx(network(), images(1))
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    here, there, from_disk = host.load(content), host.load(content, apart=True), host.load(path, apart=True)
    for count in (1, 70):
        assert torch.equal(here(images(count)), there(images(count)))
        assert torch.equal(here(images(count)), from_disk(images(count)))


def test_without_optimizations_a_quantized_file_runs_as_it_stands(tmp_path: Path) -> None:
    lowered = lower(quantized(network(), images(64)))
    content, ran = write(lowered), {}
    for plain in (False, True):
        path = tmp_path / f"{plain}.onnx"
        worker.open_session(content, 1, plain=plain, optimized=str(path))
        ran[plain] = {node.op_type for node in onnx.load(path).graph.node}
    assert "QLinearConv" in ran[False]
    assert "Conv" in ran[True]
    assert not any(name.startswith("QLinear") for name in ran[True])
    step = output_step(lowered)
    assert step is not None
    exact = host.load(content, optimized=False)(images(20)) - lowered(images(20)).detach()
    assert float(exact.abs().max()) < 0.01 * step


def test_a_file_that_a_runtime_refuses_is_named_with_its_reason() -> None:
    with pytest.raises(MeasureError, match=r"(?s)an ONNX file of 9 bytes: this is not.*give an ONNX model"):
        host.load(b"not onnx!", apart=True)
    with pytest.raises(MeasureError, match="takes 1 inputs, but 2"):
        host.load(_onnx(network(), images(1)), apart=True)(images(1), images(1))


def test_a_damaged_file_that_kills_tflite_micro_is_an_error_and_we_live_on() -> None:
    for package in ("ai_edge_litert", "tflite_micro"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    with pytest.raises(CrashError, match=r"(?s)the process that ran it was ended by SIG\w+.*write the file again"):
        host.load(damaged(), runtime="tflite-micro")(images(1))


def test_a_process_lives_as_long_as_its_function_and_its_end_in_between_is_an_error() -> None:
    def ours() -> set[int]:
        return {process.pid for process in psutil.Process().children()}

    before = ours()
    predict = host.load(_onnx(network(), images(1)), apart=True)
    (process,) = ours() - before
    os.kill(process, signal.SIGKILL)
    with pytest.raises(CrashError, match="was ended by SIGKILL"):
        predict(images(1))
    predict = host.load(_onnx(network(), images(1)), apart=True)
    assert ours() > before
    del predict
    gc.collect()
    assert ours() <= before
