"""Pieces: files of one layer, what they take, the tables that keep it, and estimates between what was timed."""

import json
import math
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from haversack import progress
from haversack.cli import main
from haversack.disk import locked
from haversack.errors import ExportError, MeasureError
from haversack.runtimes import host, named, timings, turns
from haversack.runtimes.host import processor
from haversack.runtimes.piece_estimates import Estimates, Line
from haversack.runtimes.piece_graphs import graph_of
from haversack.runtimes.pieces import Piece
from haversack.runtimes.timing_tables import FORMAT, cache_folder, tables
from haversack.runtimes.timings import Times, written

ONNX, LITERT = named("onnx"), named("litert")
CONV = Piece("conv2d", ((16, 8, 8),), (24, 8, 8), (24, 16, 3, 3), (1, 1), (1, 1), (1, 1), 1, "relu")
DEPTHWISE = Piece("conv2d", ((16, 8, 8),), (16, 4, 4), (16, 1, 3, 3), (2, 2), (1, 1), groups=16, activation="relu6")
LINEAR = Piece("linear", ((64,),), (10,), (10, 64))
LAYERS = [
    CONV,
    DEPTHWISE,
    LINEAR,
    Piece("conv1d", ((16, 32),), (8, 32), (8, 16, 3), (1,), (1,)),
]
OTHERS = [
    Piece("add", ((16, 8, 8), (16, 8, 8)), (16, 8, 8), activation="relu"),
    Piece("mul", ((16, 8, 8), (16, 1, 1)), (16, 8, 8)),
    Piece("avg_pool2d", ((16, 8, 8),), (16, 1, 1)),
    Piece("adaptive_avg_pool2d", ((16, 8, 8),), (16, 1, 1)),
    Piece("mean", ((16, 8, 8),), (16,)),
    Piece("max_pool2d", ((16, 8, 8),), (16, 4, 4), (2, 2)),
    Piece("relu", ((16, 8, 8),), (16, 8, 8)),
    Piece("cat", ((16, 8, 8), (8, 8, 8)), (24, 8, 8)),
    Piece("softmax", ((64,),), (64,)),
    Piece("pad", ((16, 8, 8),), (32, 8, 8)),
    Piece("slice", ((16, 8, 8),), (16, 4, 8), stride=(2,)),
    Piece("flatten", ((16, 8, 8),), (1024,)),
    Piece("hardswish", ((16, 8, 8),), (16, 8, 8)),
    Piece("upsample_nearest2d", ((16, 8, 8),), (16, 16, 16)),
    Piece("conv_transpose2d", ((16, 8, 8),), (8, 16, 16), (16, 8, 3, 3), (2, 2), (1, 1)),
]

WHOLE = ((1.0, 0.5), (1.1, 0.55))


def _name(piece):
    return piece.kind if isinstance(piece, Piece) else str(piece)


@pytest.mark.parametrize("piece", [*LAYERS, *OTHERS], ids=_name)
def test_a_piece_computes_shapes_as_it_says(piece):
    """torch itself computes the output's shape from the inputs'."""
    outputs = graph_of(piece)(*(torch.zeros(1, *shape) for shape in piece.inputs))
    assert tuple(outputs.shape) == (1, *piece.output)


@pytest.mark.parametrize("runtime", [ONNX, LITERT], ids=lambda row: row.name)
@pytest.mark.parametrize("piece", [*LAYERS, *OTHERS], ids=_name)
def test_a_piece_runs_in_float(piece, runtime):
    run = host.load(written(piece, runtime), 1, orders=_orders(runtime, piece))
    inputs = [torch.randn(1, *shape, generator=torch.Generator().manual_seed(1)) for shape in piece.inputs]
    torch.testing.assert_close(run(*inputs), graph_of(piece)(*inputs), atol=1e-3, rtol=1e-3)


def _orders(runtime, piece):
    return runtime.orders and runtime.orders(graph_of(piece))


@pytest.mark.parametrize("runtime", [ONNX, LITERT], ids=lambda row: row.name)
@pytest.mark.parametrize("piece", LAYERS, ids=_name)
def test_an_integer_piece_is_one_integer_layer_as_run(piece, runtime):
    inside = host.contents(written(replace(piece, numbers="int8"), runtime), 1)
    assert inside.integer_layers == 1
    assert not {name for name in inside.as_run if "Quantize" in name or "QUANTIZE" in name}
    if piece.kind == "conv2d":
        # TFLite pads a map before a stride that its own padding does not fit.
        assert sum(count for name, count in inside.as_run.items() if "PAD" not in name) == 1


@pytest.mark.parametrize("piece", LAYERS[:3], ids=_name)
def test_a_layer_of_4_bits_holds_half_the_bytes_and_takes_a_time_of_its_own(piece):
    narrow, wide = (replace(piece, numbers=numbers) for numbers in ("int4", "int8"))
    saved = len(written(wide, LITERT)) - len(written(narrow, LITERT))
    assert saved == pytest.approx(math.prod(piece.weight) / 2, abs=100)
    assert wide.moved_bytes - narrow.moved_bytes == math.prod(piece.weight) / 2
    assert narrow.family != wide.family
    assert host.contents(written(narrow, LITERT), 1).integer_layers == 1


def test_a_layer_that_rounds_as_it_comes_multiplies_integers_between_floats():
    sentence = Piece("linear", ((16, 64),), (16, 40), (40, 64))
    whole, dynamic = sentence, replace(sentence, numbers="dynamic")
    content = written(dynamic, ONNX)
    assert len(written(whole, ONNX)) - len(content) == pytest.approx(3 * 40 * 64, abs=1500)
    assert {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"} & host.contents(content, 1).as_run.keys()
    x = np.random.default_rng(0).standard_normal((1, 16, 64)).astype(np.float32)
    ours, wanted = (host.load(written(each, ONNX), 1)(torch.tensor(x)) for each in (dynamic, whole))
    assert float((ours - wanted).square().mean() / wanted.square().mean()) ** 0.5 < 0.02
    assert whole.moved_bytes - dynamic.moved_bytes == 3 * 40 * 64
    assert dynamic.family != whole.family


@pytest.mark.parametrize("piece", OTHERS, ids=_name)
def test_other_pieces_are_written_in_integers(piece):
    for runtime in (ONNX, LITERT):
        assert written(replace(piece, numbers="int8"), runtime)


def test_an_unknown_operation_is_refused():
    with pytest.raises(ExportError, match="fft"):
        graph_of(Piece("fft", ((4,),), (4,)))


@pytest.mark.parametrize(
    "piece",
    [
        replace(CONV, output=(25, 8, 8)),
        replace(CONV, inputs=((16, 8),)),
        replace(CONV, inputs=()),
        Piece("max_pool2d", ((16, 8),), (16, 4, 4), (2, 2)),
        Piece("permute", ((16, 8),), (4, 4)),
        Piece("add", ((3, 2), (2, 3)), (2, 3)),
    ],
    ids=_name,
)
def test_shapes_that_do_not_fit_are_refused(piece):
    with pytest.raises(ExportError, match=r"no .* has such shapes"):
        graph_of(piece)


def test_macs_and_bytes():
    assert CONV.macs == 24 * 16 * 9 * 64
    assert DEPTHWISE.macs == 16 * 9 * 16
    assert LINEAR.macs == 640
    assert LINEAR.moved_bytes == 4 * (64 + 10 + 640)
    assert replace(LINEAR, numbers="int8").moved_bytes == 64 + 10 + 640


def _conv(inputs, outputs):
    return replace(CONV, inputs=((inputs, 8, 8),), output=(outputs, 8, 8), weight=(outputs, inputs, 3, 3))


@settings(deadline=None)
@given(
    st.lists(st.floats(0.01, 10), min_size=4, max_size=4),
    st.integers(8, 64),
    st.integers(8, 64),
)
def test_between_timed_widths_time_grows_with_the_channels(steps, width, other):
    times = dict(zip((8, 16, 32, 64), (sum(steps[: count + 1]) for count in range(4)), strict=True))
    estimates = Estimates({_conv(16, width): taken for width, taken in times.items()})
    for known, taken in times.items():
        assert estimates.of(_conv(16, known)) == taken
    low, high = sorted((width, other))
    assert estimates.of(_conv(16, low)) <= estimates.of(_conv(16, high)) * (1 + 1e-9)
    assert times[8] * (1 - 1e-9) <= estimates.of(_conv(16, low)) <= times[64] * (1 + 1e-9)


def test_between_both_widths_a_power_of_each_is_found_exactly():
    estimates = Estimates({_conv(i, o): i**0.7 * o**0.9 for i in (8, 32) for o in (8, 64)})
    assert estimates.of(_conv(12, 20)) == pytest.approx(12**0.7 * 20**0.9)


def test_beyond_what_was_timed_multiplications_and_bytes_count():
    """The oracle is a machine whose time is a call, and so much a multiplication and a byte."""

    def law(piece):
        return 3 + 2e-4 * piece.macs + 1e-3 * piece.moved_bytes

    timed = [_conv(8, 8), _conv(8, 16), _conv(16, 16), DEPTHWISE]
    estimates = Estimates({piece: law(piece) for piece in timed})
    for piece in (_conv(64, 64), replace(CONV, stride=(2, 2), output=(24, 4, 4))):
        assert estimates.of(piece) == pytest.approx(law(piece), rel=1e-3)


def test_where_nothing_was_timed_nothing_is_estimated():
    with pytest.raises(MeasureError, match="no piece was timed"):
        Estimates({}).of(CONV)


def test_one_whole_file_gives_a_factor_and_many_give_what_is_fixed_too():
    assert Line.fitted([2.0], [3.0]).of(4.0) == pytest.approx(6.0)
    sums = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0] * 4
    line = Line.fitted(sums, [0.5 + 0.8 * each for each in sums])
    assert line.of(5.0) == pytest.approx(4.5, rel=0.01)
    assert line.fixed == pytest.approx(0.5, rel=0.1)


def test_two_files_of_nearly_equal_sums_settle_no_slope():
    """Their times differ by noise alone: the line between them would give a twentieth of the sum a negative time."""
    assert Line.fitted([1.0, 1.01], [1.0, 1.05]).of(0.05) > 0
    assert Line.fitted([1.0, 2.0], [2.0, 1.0]).factor > 0


def test_without_a_whole_file_there_is_no_line():
    with pytest.raises(MeasureError, match="no whole file"):
        Line.fitted([], [])


class Clock:
    """A worker whose pieces take a nanosecond a multiplication, an empty call a tenth of the reference."""

    def __init__(self, refused=()):
        self.asked, self.files, self.refused = [], {}, refused

    def written(self, piece, _):
        content = repr(piece).encode()
        self.files[content] = piece
        return content

    def ask(self, job, files, _threads, **_):
        assert job == "beside"
        assert self.files[files[0]] == timings.REFERENCE
        pieces = [self.files[file] for file in files[2:]]
        self.asked += pieces
        first_ms = timings.REFERENCE.macs * 1e-6
        taken = [None if each.kind in self.refused else each.macs * 1e-6 + 0.1 * first_ms for each in pieces]
        rounds = [[0.1 * first_ms, first_ms], *([each, first_ms] if each else None for each in taken)]
        # A neighbour makes one round of three slow.
        return {"rounds": [(each and [each, [5 * each[0], 3 * each[1]], each]) or [] for each in rounds]}


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timings, "ask", clock.ask)
    monkeypatch.setattr(timings, "written", clock.written)
    return clock


def test_the_call_is_not_in_a_piece_s_time(clock, tmp_path):
    times = Times(ONNX, folder=tmp_path)
    times.measure([CONV, LINEAR])
    assert times.of(CONV) == pytest.approx(CONV.macs * 1e-6)
    assert times.timed(CONV)
    assert not times.timed(DEPTHWISE)
    assert times.of(DEPTHWISE) > 0
    assert len(clock.asked) == 2


def test_the_next_run_times_nothing_anew_and_says_the_same(clock, tmp_path):
    first = Times(ONNX, folder=tmp_path)
    first.measure([CONV, LINEAR, CONV])
    first.keep("whole", WHOLE)
    second = Times(ONNX, folder=tmp_path)
    second.measure([LINEAR, CONV])
    assert len(clock.asked) == 2
    assert [second.of(each) for each in LAYERS] == [first.of(each) for each in LAYERS]
    assert second.kept("whole") == WHOLE
    assert second.date_of("whole") == first.date_of("whole") != ""
    assert second.kept("other") is None


def test_runtimes_and_threads_have_tables_of_their_own(clock, tmp_path):
    Times(ONNX, folder=tmp_path).measure([CONV])
    for other in (Times(ONNX, 2, folder=tmp_path), Times(LITERT, folder=tmp_path)):
        assert not other.timed(CONV)


def test_what_two_runs_keep_is_merged(clock, tmp_path):
    first, second = Times(ONNX, folder=tmp_path), Times(ONNX, folder=tmp_path)
    first.measure([CONV])
    first.keep("a", WHOLE)
    second.measure([LINEAR])
    second.keep("b", WHOLE[:1])
    third = Times(ONNX, folder=tmp_path)
    assert third.timed(CONV)
    assert third.timed(LINEAR)
    assert (third.kept("a"), third.kept("b")) == (WHOLE, WHOLE[:1])


def test_what_the_runtime_refuses_is_estimated_and_said(clock, tmp_path):
    clock.refused = ("linear",)
    times = Times(ONNX, folder=tmp_path)
    with progress.noted() as notes:
        times.measure([CONV, LINEAR])
        times.measure([LINEAR])
    assert len(notes) == 1
    assert "1 operations" in notes[0]
    assert "linear" in notes[0]
    assert not times.timed(LINEAR)
    assert times.of(LINEAR) > 0


def _kept(folder):
    (path,) = folder.glob("*.json")
    return path


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[: len(text) // 2], "not a JSON document"),
        (lambda text: text.replace('"ratio":', '"ratio":1', 1), "damaged"),
        (lambda text: text.replace(f'"format":{FORMAT}', f'"format":{FORMAT + 1}'), "newer version"),
        (lambda _: "[]", "it holds"),
    ],
)
def test_a_damaged_or_newer_table_is_ignored_and_said(clock, tmp_path, damage, said):
    Times(ONNX, folder=tmp_path).measure([CONV])
    path = _kept(tmp_path)
    text = damage(path.read_text())
    path.write_text(text)
    with progress.noted() as notes:
        times = Times(ONNX, folder=tmp_path)
    assert said in notes[0]
    assert not times.timed(CONV)
    times.measure([LINEAR])
    assert times.timed(LINEAR)
    assert (path.read_text() == text) == (said == "newer version")


def test_a_table_of_another_processor_is_ignored_and_said(clock, tmp_path, monkeypatch):
    Times(ONNX, folder=tmp_path).measure([CONV])
    monkeypatch.setattr(timings, "processor_in_full", lambda: "Another CPU")
    lines = []

    class Listener:
        def say(self, line):
            lines.append(line)

        def track(self, items, *_):
            return iter(items)

    with progress.shown_by(Listener()):
        times = Times(ONNX, folder=tmp_path)
    assert not times.timed(CONV)
    assert "another processor" in lines[0]
    # And where its file was put in ours' place.
    there = _kept(tmp_path)
    there.rename(tmp_path / timings._empty_table(ONNX, 1).name)
    with progress.noted() as notes:
        assert not Times(ONNX, folder=tmp_path).timed(CONV)
    assert "ignored" in notes[0]


def test_a_folder_that_cannot_be_written_is_done_without_and_said_once(clock, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    times = Times(ONNX, folder=blocked / "timings")
    with progress.noted() as notes:
        times.measure([CONV])
        times.measure([LINEAR])
    assert times.timed(CONV)
    assert times.timed(LINEAR)
    assert len(notes) == 1
    assert "not kept" in notes[0]


def test_what_a_killed_run_left_half_written_goes_at_the_next_start_unless_somebody_still_writes(clock, tmp_path):
    left = tmp_path / ".unfinished-abc"
    left.write_text("{")
    with locked(tmp_path):
        waiting = threading.Thread(target=Times, args=(ONNX,), kwargs={"folder": tmp_path}, daemon=True)
        waiting.start()
        waiting.join(0.2)
        assert left.exists()
    waiting.join(10)
    assert not list(tmp_path.iterdir())


def test_where_tables_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("HAVERSACK_CACHE", raising=False)
    assert cache_folder() == tmp_path / "haversack" / "timings"
    monkeypatch.setenv("HAVERSACK_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own" / "timings"


def _said(*words):
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert not ended.value.code


def test_tables_are_listed_with_what_is_wrong_and_removed(clock, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HAVERSACK_CACHE", str(tmp_path))
    _said("timings")
    assert "0 tables" in capsys.readouterr().out
    times = Times(ONNX, 2)
    times.measure([CONV, LINEAR])
    times.keep("whole", WHOLE)
    (cache_folder() / "zzz.json").write_text("{}")
    _said("timings")
    shown = capsys.readouterr().out
    assert "zzz.json: ignored" in shown
    assert processor().split()[0] in shown
    _said("timings", "--json", "--clear")
    told = json.loads(capsys.readouterr().out)
    assert told["tables"][0] == {"file": times._table.name, "date": times._table.date, "pieces": 2, "files": 1} | dict(
        zip(("processor", "runtime", "version", "threads"), times._table.of, strict=True)
    )
    assert list(tables(cache_folder())) == []


def test_portions_take_turns_and_only_what_is_refused_has_none(monkeypatch):
    """On a clock that only runs move: 2 us the first file, 6 us the other."""
    now, ran = [0], []
    monkeypatch.setattr(time, "perf_counter_ns", lambda: now[0])

    def bound(file):
        def run():
            now[0] += taken
            ran.append(file)

        taken = {"first": 2_000, "other": 6_000}.get(file)
        if taken is None:
            raise turns.RefusedError(file)
        return run

    found = turns.beside_first({"files": ["first", "other", "bad", "first"], "seconds": 0.02}, bound)
    assert found["rounds"][1] == []
    assert all(each == [0.006, 0.002] for each in found["rounds"][0])
    assert all(each == [0.002, 0.002] for each in found["rounds"][2])
    assert len(found["rounds"][0]) >= 3


@pytest.mark.parametrize("seed", range(4))
def test_a_neighbour_that_slows_layers_unevenly_is_told_by_the_reference_piece(monkeypatch, seed):
    """On a clock that only runs move: for two thirds of the time all are slower, the reference piece by less."""
    now, rng = [0], np.random.default_rng(seed)
    slow = rng.random(2000) < 2 / 3
    monkeypatch.setattr(time, "perf_counter_ns", lambda: now[0])

    def bound(file):
        taken, slower = {"first": (40_000, 1.4), "other": (80_000, 2.0)}[file]

        def run():
            now[0] += int(taken * (slower if slow[now[0] // 20_000_000 % len(slow)] else 1))

        return run

    rounds = turns.beside_first({"files": ["first", "other", "other"], "seconds": 0.15}, bound)["rounds"]
    least = min(first for pairs in rounds for _, first in pairs)
    assert [timings._ratio(pairs, least) for pairs in rounds] == pytest.approx([2.0, 2.0], rel=0.03)


def test_a_larger_layer_takes_longer(tmp_path):
    """Truly timed: sixteen times the multiplications."""
    small, large = (
        replace(CONV, inputs=((width, 16, 16),), output=(width, 16, 16), weight=(width, width, 3, 3))
        for width in (16, 64)
    )
    times = Times(ONNX, folder=tmp_path, seconds=0.02)
    times.measure([small, large])
    assert times.of(large) > 2 * times.of(small) > 0
