"""Measuring ONNX files: figures from fresh processes, and clear errors for files that cannot be measured."""

import json
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import binom

from haversack.errors import MeasureError
from haversack.runtimes import host, process, turns

FLOAT = TensorProto.FLOAT


def _file(nodes, inputs, output, stored=None, opset=17):
    """An ONNX model as bytes; inputs and output are (name, type, shape)."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*output)],
        [numpy_helper.from_array(array, name) for name, array in (stored or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8).SerializeToString()


def _products(count, size=128, batch="n"):
    """A chain of `count` matrix products."""
    rng = np.random.default_rng(0)
    weights = {f"w{i}": (rng.standard_normal((size, size)) / size**0.5).astype(np.float32) for i in range(count)}
    names = ["x", *(f"h{i}" for i in range(1, count)), "y"]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(count)]
    return _file(nodes, [("x", FLOAT, [batch, size])], ("y", FLOAT, [batch, size]), weights)


def _identity(kind=FLOAT, shape=("n", 4)):
    return _file([helper.make_node("Identity", ["x"], ["y"])], [("x", kind, shape)], ("y", kind, shape))


def _quantized(*, with_softsign=False):
    """x -> quantize -> dequantize -> x int8 weight -> quantize -> dequantize; a float Softsign stops the fusion."""
    stored = {"s": np.float32(0.05), "z": np.uint8(128), "w": np.ones((8, 8), np.int8), "zw": np.int8(0)}
    middle = (
        helper.make_node("Softsign", ["xd"], ["xf"]) if with_softsign else helper.make_node("Identity", ["xd"], ["xf"])
    )
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        middle,
        helper.make_node("DequantizeLinear", ["w", "s", "zw"], ["wd"]),
        helper.make_node("MatMul", ["xf", "wd"], ["h"]),
        helper.make_node("QuantizeLinear", ["h", "s", "z"], ["hq"]),
        helper.make_node("DequantizeLinear", ["hq", "s", "z"], ["y"]),
    ]
    return _file(nodes, [("x", FLOAT, ["n", 8])], ("y", FLOAT, ["n", 8]), stored)


@pytest.fixture(scope="module")
def timings():
    return host.time_files([_products(1), _products(50), _products(1)], seconds=1.0)


def test_a_file_with_fifty_times_the_work_takes_more_than_twice_as_long(timings):
    assert timings[1].ratio.value > 2
    assert timings[1].latency_ms.value > 2 * timings[0].latency_ms.value


def test_a_file_timed_against_itself_takes_about_as_long(timings):
    assert timings[0].ratio == host.Figure(1.0, "host", 1.0, 1.0, runtime="onnx")
    assert 0.7 < timings[2].ratio.value < 1.4


def test_a_time_lies_within_its_spread_and_says_that_it_is_this_hosts(timings):
    for figure in (timing.latency_ms for timing in timings):
        assert 0 < figure.low <= figure.value <= figure.high
        assert figure.origin == "host"


@settings(max_examples=30)
@given(
    st.lists(st.floats(0.5, 20), min_size=3, max_size=20),
    st.floats(0.1, 10),
)
def test_a_neighbours_load_moves_times_but_not_the_ratio(loads, ratio):
    found = host._timings([[load, load * ratio] for load in loads], "onnx")
    assert found[1].ratio.value == pytest.approx(ratio)
    assert found[1].ratio.high == pytest.approx(found[1].ratio.low)
    assert found[0].latency_ms.value == pytest.approx(float(np.median(loads)))
    again = found[1].joined(found[1])
    assert len(again.rounds) == 2 * len(loads)
    assert again.latency_ms.value == pytest.approx(found[1].latency_ms.value)


@pytest.mark.parametrize("count", [3, 5, 6, 17, 50, 101])
def test_a_median_s_interval_is_the_narrowest_of_order_statistics_that_covers_95_percent(count):
    """SciPy's binomial distribution is the oracle: how likely between two order statistics the true median lies."""
    values = list(range(count))
    low, high = host.median_interval(values)
    assert low + high == count - 1

    def covered(outside: int) -> float:
        return float(binom.cdf(count - 1 - outside, count, 0.5) - binom.cdf(outside, count, 0.5))

    assert covered(low) >= 0.95 or (low == 0 and count < 6)
    assert covered(low + 1) < 0.95


def test_an_interval_of_the_median_holds_it_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [host.median_interval(rng.lognormal(0.0, 1.0, 40)) for _ in range(1000)]
    assert 0.94 < sum(low <= 1.0 <= high for low, high in intervals) / 1000 < 0.985


@settings(max_examples=100)
@given(st.integers(1, 10**6), st.integers(3, 50))
def test_rounds_that_took_equally_long_have_a_spread_around_their_median(nanoseconds, rounds):
    figure = host._spread([nanoseconds / 1e6] * rounds, "onnx")
    assert figure.low <= figure.value <= figure.high


@pytest.mark.parametrize("seed", range(5))
def test_rounds_say_what_files_take_while_a_neighbour_comes_and_goes(monkeypatch, seed):
    """On a clock that only runs move: a file of 200 us and one of 100 us.

    Half of the time a neighbour beside it makes everything 1.4 times as slow; one run of sixteen waits for 4 ms.
    """
    now, rng = [0], np.random.default_rng(seed)
    slow = rng.integers(0, 2, 1000)
    monkeypatch.setattr(time, "perf_counter_ns", lambda: now[0])

    def bound(taken):
        def run():
            beside = slow[now[0] // 25_000_000 % len(slow)]
            now[0] += int(taken * (1.4 if beside else 1)) + (4_000_000 if rng.random() < 1 / 16 else 0)

        return run

    found = turns.in_turns({"files": [200_000, 100_000], "seconds": 3.0}, bound)
    timing = host._timings(found["rounds"], "onnx")[1]
    assert timing.latency_ms.value == pytest.approx(0.1, rel=0.01)
    assert timing.ratio.value == pytest.approx(0.5, rel=0.01)
    assert len(found["rounds"]) >= 6


def test_a_run_that_waits_at_first_does_not_make_turns_short(monkeypatch):
    now, ran = [0], [0]
    monkeypatch.setattr(time, "perf_counter_ns", lambda: now[0])

    def run():
        ran[0] += 1
        now[0] += 12_000_000 if ran[0] == 1 else 100_000

    assert turns.in_turns({"files": ["one"], "seconds": 0.6}, lambda _: run)["runs_per_turn"] == [100]


def test_given_arrays_are_what_the_file_runs_on():
    file = _file(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [("x", TensorProto.INT64, ["n"])],
        ("y", FLOAT, ["n", 3]),
        {"table": np.zeros((5, 3), np.float32)},
    )
    assert host.time_files([file], seconds=0.05, inputs=[np.array([4])])[0].latency_ms.value > 0
    with pytest.raises(MeasureError, match="cannot run it"):
        host.time_files([file], seconds=0.05, inputs=[np.array([5])])
    with pytest.raises(MeasureError, match="takes 1 inputs, but 2"):
        host.time_files([file], seconds=0.05, inputs=[np.array([1]), np.array([1])])


def test_peak_memory_grows_by_at_least_the_weights_of_a_large_file():
    small, large = host.peak_ram(_products(1)), host.peak_ram(_products(8, size=512))
    weights = 8 * 512 * 512 * 4
    assert weights < large.value < 5 * weights
    assert 0 <= small.low <= small.value <= small.high < 2e6


def test_peak_memory_does_not_count_the_parents():
    ballast = np.ones(30_000_000)
    assert process.ask("memory", [_products(1)], 1)["grown_bytes"] < 50e6 < ballast.nbytes


def test_the_worker_runs_as_a_module_too(tmp_path):
    path = tmp_path / "one.onnx"
    path.write_bytes(_identity())
    request = {"job": "memory", "files": [str(path)], "threads": 1, "seed": 0, "inputs": None}
    done = subprocess.run(
        [sys.executable, "-m", "haversack.runtimes.onnx.worker"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["grown_bytes"] > 0


def test_measuring_a_file_does_not_import_torch(tmp_path):
    path = tmp_path / "one.onnx"
    path.write_bytes(_identity())
    code = (
        "import sys, pathlib; from haversack.runtimes import host;"
        f"host.bench(pathlib.Path({str(path)!r}), seconds=0.05); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (
            "import os, signal, sys; print('oh no', file=sys.stderr, flush=True); os.kill(os.getpid(), 11)",
            "SIGSEGV.*oh no",
        ),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL.*memory"),
        ("raise ValueError('the cause')", "code 1: .*the cause"),
        ("print('not json')", "no answer.*not json"),
        ("", "no answer"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_crash_of_the_worker_is_an_error_that_says_how_it_ended(tmp_path, program, message):
    path = tmp_path / "crash.py"
    path.write_text(program)
    with pytest.raises(MeasureError, match=message):
        process.ask("time", [_identity()], 1, program=path)


def test_a_file_that_takes_too_long_is_an_error():
    with pytest.raises(MeasureError, match=r"longer than 0\.01 s"):
        host.time_files([_identity()], timeout_s=0.01)


def test_a_file_of_free_sizes_is_measured_at_those_that_are_said(tmp_path):
    path = tmp_path / "free.onnx"
    path.write_bytes(_identity(FLOAT, ("n", "h", 3)))
    report = host.bench(path, seconds=0.05, sizes={"h": 1 << 18})
    assert report.latency_ms.value > host.time_files([path], seconds=0.05, sizes={"h": 1})[0].latency_ms.value
    assert report.ram_bytes.value > 3 << 18
    with pytest.raises(MeasureError, match="no free size 'w'"):
        host.time_files([path], seconds=0.05, sizes={"h": 1, "w": 2})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no ONNX at all" * 10, "not an ONNX file"),
        (b"", "not an ONNX file"),
        (_products(1)[:5000], "not an ONNX file"),
        (_identity(FLOAT, ("n", "h", 3)), "'x' has the shape .*more than its batch size is free"),
        (_identity(TensorProto.STRING), r"'x' is a tensor\(string\)"),
        (
            _file([helper.make_node("Foo", ["x"], ["y"])], [("x", FLOAT, [1])], ("y", FLOAT, [1])),
            "cannot load it: .*Foo",
        ),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(MeasureError, match=message) as caught:
        host.time_files([_identity(), path])
    assert caught.value.where == str(path)
    assert caught.value.mend


def test_a_missing_file_and_senseless_settings_are_errors(tmp_path):
    with pytest.raises(MeasureError, match="no such file"):
        host.time_files([tmp_path / "none.onnx"])
    with pytest.raises(MeasureError, match="no such file"):
        host.bench(tmp_path)
    with pytest.raises(MeasureError, match="0 threads"):
        host.time_files([_identity()], threads=0)
    with pytest.raises(MeasureError, match="-1 threads"):
        host.peak_ram(_identity(), threads=-1)
    with pytest.raises(MeasureError, match="0 seconds"):
        host.time_files([_identity()], seconds=0)
    with pytest.raises(MeasureError, match="no files"):
        host.time_files([])


def _external(path):
    model = onnx.load_from_string(_products(1))
    onnx.save(model, path, save_as_external_data=True, location="weights.data", size_threshold=0)


def test_bench_counts_external_data_and_names_it_when_it_is_missing(tmp_path):
    path = tmp_path / "split.onnx"
    _external(path)
    assert host.bench(path, seconds=0.05).disk_bytes > 128 * 128 * 4
    (tmp_path / "weights.data").unlink()
    with pytest.raises(MeasureError, match=r"external data weights\.data is missing"):
        host.bench(path)
    with pytest.raises(MeasureError, match="external data"):
        host.time_files([path])


def test_bench_reports_sizes_times_and_operators_as_json(tmp_path):
    one, other = tmp_path / "one.onnx", tmp_path / "other.onnx"
    one.write_bytes(_quantized())
    other.write_bytes(_products(40))
    report = host.bench(one, seconds=0.1, against=other)
    assert report.disk_bytes == len(_quantized())
    assert report.operators["QuantizeLinear"] == 2
    assert report.operators_as_run["QLinearMatMul"] == report.integer_operators == 1
    assert report.warnings == ()
    assert report.ratio.value < 1
    assert json.loads(json.dumps(report.to_json()))["ram_bytes"]["origin"] == "host"
    assert host.bench(other, seconds=0.1).ratio is None


def test_bench_warns_of_a_quantized_file_that_runs_in_float(tmp_path):
    path = tmp_path / "slow.onnx"
    path.write_bytes(_quantized(with_softsign=True))
    report = host.bench(path, seconds=0.05)
    assert report.integer_operators == 0
    assert "nothing in integers" in report.warnings[0]


def test_a_loaded_file_computes_what_torch_computes_on_any_batch():
    file = _products(2, size=16)
    first, second = (
        torch.from_numpy(numpy_helper.to_array(w).copy()) for w in onnx.load_from_string(file).graph.initializer
    )
    batch = torch.randn(7, 16)
    torch.testing.assert_close(host.load(file)(batch), batch @ first @ second)


@pytest.mark.parametrize("fixed", [1, 3])
def test_a_file_with_a_fixed_batch_gives_the_same_outputs_piece_by_piece(fixed):
    batch = torch.randn(7, 16)
    free, pieces = host.load(_products(2, size=16)), host.load(_products(2, size=16, batch=fixed), threads=1)
    torch.testing.assert_close(pieces(batch), free(batch))


def test_inputs_are_cast_to_what_the_file_wants():
    batch = torch.randn(3, 4)
    half = host.load(_identity(TensorProto.FLOAT16))(batch)
    assert half.dtype == torch.float32
    assert torch.equal(half, batch.half().float())
    assert host.load(_identity(TensorProto.INT32))(torch.ones(2, 4, dtype=torch.int64)).dtype == torch.int32
    with pytest.raises(MeasureError, match="wants uint8 inputs"):
        host.load(_identity(TensorProto.UINT8))(batch)


def test_wrong_inputs_to_a_loaded_file_are_errors():
    predict = host.load(_identity())
    with pytest.raises(MeasureError, match=r"invalid dimensions.*Expected: 4"):
        predict(torch.zeros(1, 5))
    with pytest.raises(MeasureError, match="takes 1 inputs"):
        predict(torch.zeros(1, 4), torch.zeros(1, 4))
    with pytest.raises(MeasureError, match="empty"):
        host.load(_identity(shape=(1, 4)))(torch.zeros(0, 4))
    with pytest.raises(MeasureError, match="not an ONNX file"):
        host.load(b"nothing")


def test_the_machine_and_the_versions_are_stated():
    assert "cores" in host.machine()
    assert {"haversack", "python", "onnx", "onnxruntime", "numpy"} <= host.versions().keys()
    assert host.versions()["torch"] == torch.__version__
