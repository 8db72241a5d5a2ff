"""The optional second runtime for ONNX files."""

import importlib.util

import pytest
import torch
from quantizable_networks import build, quantized

from haversack.errors import MeasureError
from haversack.graph.inference import lower
from haversack.graph.pairs import output_step
from haversack.runtimes import host
from haversack.runtimes.files import checked_runtime
from haversack.runtimes.onnx.write import write
from haversack.techniques.quantize_weights import QuantizeWeights

missing = importlib.util.find_spec("openvino") is None
needs_openvino = pytest.mark.skipif(missing, reason="the extra `openvino` is not installed")


def both(lowered, x):
    """What OpenVINO and torch make of one network."""
    with torch.no_grad():
        return host.load(write(lowered), 1, runtime="openvino")(x), lowered(x)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    model, _ = build("vgg")
    with pytest.raises(MeasureError, match=r"needs openvino, which is not installed(.|\n)*haversack\[openvino\]"):
        checked_runtime(write(lower(model)), "openvino")


def test_it_runs_no_tflite_file():
    with pytest.raises(MeasureError, match="no file for openvino, but for litert"):
        checked_runtime(b"\0\0\0\0TFL3", "openvino")


@needs_openvino
def test_a_float_file_gives_what_torch_gives_on_any_batch():
    model, x = build("mobile")
    torch.testing.assert_close(*both(lower(model), x), atol=1e-5, rtol=1e-5)


@needs_openvino
@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantized_file_is_off_its_graph_by_three_steps_at_most(bits):
    model, x = build("padded residual")
    lowered = lower(quantized(model, x, weight_bits=bits))
    found, wanted = both(lowered, x)
    assert float((found - wanted).abs().max()) <= 3.001 * output_step(lowered)


@needs_openvino
def test_activations_of_a_file_with_4_bit_weights_stay_real():
    model, x = build("vgg")
    torch.testing.assert_close(*both(lower(QuantizeWeights(4, 32).apply(model, None)), x), atol=1e-5, rtol=1e-4)


@needs_openvino
def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x08nothing")
    with pytest.raises(MeasureError, match=r"OpenVINO .* cannot load it"):
        host.load(path, runtime="openvino")
