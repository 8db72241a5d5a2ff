"""The optional route to ExecuTorch: .pte files beside the graphs that they were written from."""

import importlib.util

import pytest
import torch
from litert_files import images, network, quantized
from quantizable_networks import build
from quantizable_networks import quantized as quantized_on

from haversack.device import find_device
from haversack.errors import ExportError, MeasureError
from haversack.graph.inference import lower
from haversack.graph.pairs import output_step
from haversack.model import Model
from haversack.runtimes import find_runtime, host
from haversack.runtimes.executorch import EXECUTORCH, write
from haversack.runtimes.files import runtime_of

missing = importlib.util.find_spec("executorch") is None
needs_executorch = pytest.mark.skipif(missing, reason="the extra `executorch` is not installed")
PTE = b"\x3c\0\0\0ET12" + bytes(60)


@pytest.fixture
def without(monkeypatch):
    """Nothing is installed."""
    monkeypatch.setattr("haversack.runtimes.executorch.write.find_spec", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def test_without_the_package_the_extra_is_named(without):
    with pytest.raises(ExportError, match=r"haversack\[executorch\]"):
        write.write(lower(Model(network(), (images(1),))))
    with pytest.raises(MeasureError, match=r"needs executorch, which is not installed(.|\n)*haversack\[executorch\]"):
        host.load(PTE)


def test_a_pte_file_is_known_by_its_bytes(tmp_path):
    assert runtime_of(PTE) == EXECUTORCH
    cut = tmp_path / "model.pte"
    cut.write_bytes(b"ET")
    with pytest.raises(MeasureError, match=r"not a \.pte file"):
        runtime_of(cut)


def test_devices_may_name_it():
    from dataclasses import replace

    assert find_runtime(replace(find_device("host"), runtime="executorch")) is EXECUTORCH


@pytest.mark.parametrize("name", ["padded residual", "shuffled", "u-net", "vgg", "mobile"])
def test_the_patterns_for_xnnpack_compute_what_the_graph_computes(name):
    """Signed activations, moves among real numbers and grids of concatenations change no integer."""
    model, x = build(name)
    lowered = lower(quantized_on(model, x))
    with torch.no_grad():
        assert torch.equal(write._for_xnnpack(lowered)(x), lowered(x))


def test_number_formats_that_xnnpack_does_not_compute_in_are_refused_by_layer():
    model, x = build("vgg")
    with pytest.raises(ExportError, match=r"^0: (.|\n)*a byte"):
        write._for_xnnpack(lower(quantized_on(model, x, weight_bits=4)))
    from haversack.techniques.quantize_weights import QuantizeWeights

    with pytest.raises(ExportError, match=r"^0: (.|\n)*real activations"):
        write._for_xnnpack(lower(QuantizeWeights(8).apply(model, None)))


@needs_executorch
@pytest.mark.slow
def test_a_float_file_gives_what_torch_gives():
    net = network()
    content = write.write(lower(Model(net, (images(1),))))
    with torch.no_grad():
        torch.testing.assert_close(host.load(content, 1)(images(7)), net(images(7)), atol=1e-5, rtol=1e-5)
    with pytest.raises(MeasureError, match="was given"):
        host.load(content)(images(1)[..., 1:])


@needs_executorch
@pytest.mark.slow
def test_an_int8_file_is_off_its_graph_by_a_step_at_most_and_is_timed_but_its_memory_is_not_measured():
    model = quantized(network(), images(64))
    lowered = lower(model)
    content = write.write(lowered)
    x = images(20).to(memory_format=torch.channels_last)
    with torch.no_grad():
        predict = host.load(bytes(bytearray(content)), 1)  # a copy that nobody else keeps
        off = (predict(x) - lowered(x)).abs().max()
    assert float(off) <= output_step(lowered) * 1.001
    assert host.time_files([content], seconds=0.1)[0].latency_ms.value > 0
    with pytest.raises(MeasureError, match="not a device's"):
        host.peak_ram(content)


@needs_executorch
def test_a_damaged_file_is_refused():
    with pytest.raises(MeasureError, match="cannot load it"):
        host.load(PTE)
