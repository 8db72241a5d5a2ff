"""Measuring .tflite files: the same figures as for ONNX files, and torch's layout in and out."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from litert_files import file_of, images, network, quantized
from torch import nn

from haversack.errors import MeasureError
from haversack.graph.inference import lower
from haversack.graph.pairs import output_step
from haversack.model import Model
from haversack.runtimes import host
from haversack.runtimes.files import checked_runtime, runtime_of
from haversack.runtimes.onnx import ONNX
from haversack.runtimes.ports import Port
from haversack.runtimes.tflite import LITERT

pytest.importorskip("ai_edge_litert", reason="the extra `litert` is not installed")

TINY = Path(__file__).parent.parent.parent.parent / "shared" / "data" / "mlperf-tiny"
needs_tiny = pytest.mark.skipif(not TINY.is_dir(), reason="no ../shared/data/mlperf-tiny")


@pytest.fixture(scope="module")
def net():
    return network()


@pytest.fixture(scope="module")
def floats(net):
    return file_of(Model(net, (images(1),)))


@pytest.fixture(scope="module")
def integers(net):
    return file_of(quantized(net, images(64)))


def test_the_runtime_of_a_file_is_read_off_its_bytes_not_its_name(tmp_path, floats):
    misnamed = tmp_path / "model.onnx"
    misnamed.write_bytes(floats)
    assert runtime_of(misnamed) == runtime_of(floats) == LITERT
    assert runtime_of(b"\x08\x08anything") == ONNX
    assert checked_runtime(floats, "tflite-micro").name == "tflite-micro"
    with pytest.raises(MeasureError, match="no file for onnx, but for litert"):
        checked_runtime(floats, "onnx")


def test_a_float_file_gives_what_torch_gives_on_any_batch_in_torchs_layout(net, floats):
    with torch.no_grad():
        torch.testing.assert_close(host.load(floats)(images(7)), net(images(7)), atol=1e-5, rtol=1e-5)


def test_an_int8_file_is_off_the_graph_it_was_written_from_by_a_step_at_most(net):
    model = quantized(net, images(64))
    lowered, found = lower(model), host.load(file_of(model), threads=1)(images(20))
    with torch.no_grad():
        wanted = lowered(images(20))
    assert found.dtype == torch.float32
    assert float((found - wanted).abs().max()) <= output_step(lowered) * 1.001


def test_images_come_back_with_channels_first():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, (3, 1))

        def forward(self, x):
            return self.conv(x)

    torch.manual_seed(1)
    wide = Wide().eval()
    with torch.no_grad():
        torch.testing.assert_close(host.load(file_of(Model(wide, (images(1),))))(images(3)), wide(images(3)))


def test_the_order_of_dimensions_decides_where_sizes_cannot():
    cube = np.arange(27.0, dtype=np.float32).reshape(1, 3, 3, 3)
    guessed, told = Port((1, 3, 3, 3), np.float32), Port((1, 3, 3, 3), np.float32, order=(0, 1, 2, 3))
    assert (guessed.taken(cube) == cube.transpose(0, 2, 3, 1)).all()
    assert (told.taken(cube) == cube).all()
    assert (guessed.given(guessed.taken(cube)) == cube).all()
    assert (Port((1, 5, 4), np.float32, order=(0, 2, 1)).given(np.zeros((1, 5, 4)))).shape == (1, 4, 5)


def test_numbers_on_the_files_grid_go_through_unchanged_and_others_are_clipped_to_it():
    port = Port((1, 256), np.int8, 0.25, -3)
    real = (np.arange(-128, 128, dtype=np.float32)[None] + 3) * np.float32(0.25)
    assert (port.given(port.taken(real)) == real).all()
    assert port.taken(np.array([[1e9] * 256], np.float32)).max() == 127
    assert port.taken(np.array([[5] * 256])).max() == 5


@needs_tiny
def test_a_real_int8_file_with_integer_inputs_takes_real_numbers():
    predict = host.load(TINY / "ic_resnet8_int8.tflite", threads=1)
    reference = host.load(TINY / "ic_resnet8_float.tflite", threads=1)
    pictures = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255
    assert float((predict(pictures) - reference(pictures)).abs().max()) < 0.5
    assert predict(pictures).shape == (8, 10)


def test_two_tflite_files_take_turns(floats):
    big = file_of(Model(network(width=64), (images(1),)))
    small, large, again = host.time_files([floats, big, floats], seconds=0.6)
    assert small.ratio == host.Figure(1.0, "host", 1.0, 1.0, runtime="litert")
    assert large.ratio.value > 2
    assert 0.6 < again.ratio.value < 1.6


def test_files_of_two_runtimes_do_not_take_turns(net, floats):
    onnx = ONNX.write(lower(Model(net, (images(1),))))
    with pytest.raises(MeasureError, match="different runtimes"):
        host.time_files([floats, onnx])


def test_peak_memory_grows_with_the_weights(floats):
    small, large = host.peak_ram(floats), host.peak_ram(file_of(Model(network(width=256), (images(1),))))
    assert 0 <= small.low <= small.value < 1e6
    assert large.value > 256 * 256 * 9 * 4


def test_given_arrays_are_what_the_file_runs_on(floats):
    assert host.time_files([floats], seconds=0.05, inputs=[np.zeros((1, 8, 8, 3))])[0].latency_ms.value > 0
    with pytest.raises(MeasureError, match=r"cannot run it: .*Dimension mismatch"):
        host.time_files([floats], seconds=0.05, inputs=[np.zeros((1, 3, 8, 8))])
    with pytest.raises(MeasureError, match="takes 1 inputs, but 2"):
        host.time_files([floats], seconds=0.05, inputs=[np.zeros(1), np.zeros(1)])


def test_bench_counts_operators_those_that_xnnpack_takes_and_those_on_integers(tmp_path, integers, floats):
    one, other = tmp_path / "one.tflite", tmp_path / "other.tflite"
    one.write_bytes(integers)
    other.write_bytes(floats)
    report = host.bench(one, seconds=0.1, against=other)
    assert report.runtime == "litert"
    assert report.disk_bytes == len(integers)
    assert report.operators["CONV_2D"] == report.operators_as_run["XNNPACK:CONV_2D"] == 2
    assert report.integer_operators >= 3
    assert report.ratio is not None
    assert json.loads(json.dumps(report.to_json()))["versions"]["ai-edge-litert"]
    assert host.bench(other, seconds=0.05).integer_operators == 0


@needs_tiny
def test_bench_names_what_xnnpack_leaves_to_plain_kernels():
    report = host.bench(TINY / "ic_resnet8_int8.tflite", seconds=0.05)
    assert report.operators_as_run["XNNPACK:CONV_2D"] == 9
    assert "1 SOFTMAX" in report.warnings[0]


@pytest.mark.parametrize("content", [b"", b"TFL3" * 8, b"\x1c\0\0\0TFL3", b"\x1c\0\0\0TFL3" + bytes(100)])
def test_what_is_no_tflite_file_is_named(tmp_path, content):
    path = tmp_path / "bad.tflite"
    path.write_bytes(content)
    for use in (host.load, host.bench, lambda file: host.time_files([file])):
        with pytest.raises(MeasureError, match=r"not a \.tflite file") as caught:
            use(path)
        assert caught.value.where == str(path)
        assert caught.value.mend


def test_a_file_that_is_cut_short_is_named(integers):
    with pytest.raises(MeasureError, match="cut short"):
        host.load(integers[:-600])


def test_wrong_inputs_are_errors(floats):
    predict = host.load(floats)
    with pytest.raises(MeasureError, match=r"takes \[1, 8, 8, 3\], but was given \[1, 3, 8, 9\]"):
        predict(torch.zeros(1, 3, 8, 9))
    with pytest.raises(MeasureError, match="takes 1 inputs"):
        predict(images(1), images(1))
    with pytest.raises(MeasureError, match="empty"):
        predict(images(1)[:0])


@pytest.mark.parametrize(("package", "runtime"), [("ai_edge_litert", "litert"), ("tflite_micro", "tflite-micro")])
def test_a_runtime_that_is_missing_is_named_with_the_way_to_get_it(monkeypatch, floats, package, runtime):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MeasureError, match=f"needs {runtime}, which is not installed(?s:.*)pip install"):
        host.load(floats, runtime=runtime)


def test_tflite_micro_computes_the_same_file(net, floats):
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed")
    with torch.no_grad():
        found = host.load(floats, runtime="tflite-micro")(images(3))
        torch.testing.assert_close(found, net(images(3)), atol=1e-5, rtol=1e-5)


def test_loading_a_file_writes_nothing_to_stderr(capfd, floats):
    host.load(floats)(images(1))
    assert capfd.readouterr().err == ""
