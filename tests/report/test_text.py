"""Reports say where each figure comes from, by how much a limit is missed, and what is not known."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from haversack.device import Device, device_names, find_device
from haversack.graph.cost import cost
from haversack.graph.trace import trace
from haversack.limits import Budget, Miss
from haversack.measurement import BenchReport, Candidate, Conditions, Fidelity, Figure, Measurement, Parity
from haversack.model import Model
from haversack.plan.advise import advise
from haversack.plan.forecast import Forecast
from haversack.plan.found import Found, Refusal, Verdict
from haversack.recipe import Recipe, Stage, Step
from haversack.report import devices
from haversack.report import text as reports
from haversack.report.blocks import Lines, Paragraph, Rows, document, figure
from haversack.runtimes.estimate import weigh
from haversack.task import Task


def as_text(report: Callable[..., object]) -> Callable[..., str]:
    return lambda *facts: str(report(*facts))


advised, benched, measured_earlier = map(as_text, (reports.advised, reports.benched, reports.measured_earlier))
packed, weighed = as_text(reports.packed), as_text(reports.weighed)
device_card, device_table = as_text(devices.device_card), as_text(devices.device_table)
PI = find_device("raspberry-pi-zero-2w")
HERE = Conditions("raspberry-pi-zero-2w", "onnx", 1, "a Zen 4, 2 cores", {"torch": "2.13.0", "onnxruntime": "1.27"})
BEFORE = Measurement(
    Figure(1_100_000, "host"),
    Figure(196_608, "estimated"),
    Figure(40.0, "estimated", 20.0, 80.0),
    HERE,
    latency_ratio=Figure(1.0, "host", 0.98, 1.02),
    score=Figure(0.9173, "host"),
    parity=Parity(1e-6, 1.0, 256),
)
AFTER = Measurement(
    Figure(190_000, "host"),
    Figure(49_152, "estimated"),
    Figure(10.0, "estimated", 5.0, 20.0),
    HERE,
    latency_ratio=Figure(0.43, "host", 0.41, 0.46),
    score=Figure(0.9021, "host"),
    parity=Parity(1.0, 0.996, 256),
)


@dataclass(frozen=True)
class Halve(Step):
    """A step that does nothing, to be printed."""

    keep: float = 0.7

    stage: ClassVar[Stage] = Stage.STRUCTURE
    strength: ClassVar[str] = "keep"

    def apply(self, model: Model, task: Task) -> Model:
        return model

    @classmethod
    def options(cls, model: Model, device: Device) -> tuple["Halve", ...]:
        return (cls(),)


def found(*verdicts: Verdict) -> Found:
    return Found(Candidate(Recipe((Halve(0.6),)), AFTER), (), verdicts)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)).eval()


COST = cost(trace(network(), (torch.zeros(1, 3, 8, 8),)))
WEIGHINGS = {name: weigh(COST, PI, name) for name in ("float32", "int8", "int4")}
PACK = ("haversack", "pack", "my_task.py")


def weighing(device: Device, budget: Budget) -> str:
    return weighed(COST, [(name, weigh(COST, device, name)) for name in ("float32", "int8")], device, budget)


def lines_with(text: str, word: str) -> list[str]:
    return [line for line in text.splitlines() if word in line]


def flat(text: str) -> str:
    """The text as one line, however it was wrapped."""
    return " ".join(text.split())


def test_weighing_shows_every_layer_and_sums_that_agree_with_the_network() -> None:
    text = weighing(PI, Budget())
    assert lines_with(text, "linear")[0].split() == ["3", "linear", "1x10", "2,890", "2,880", "27.0", "%"]
    parameters = sum(each.numel() for each in network().parameters())
    assert lines_with(text, "total")[0].split()[1:] == [f"{parameters:,}", f"{COST.macs:,}", "100.0", "%"]
    assert f"{parameters:,} parameters" in text


def test_every_weighed_figure_is_called_estimated() -> None:
    rows = [line for name in ("float32", "int8") for line in lines_with(weighing(PI, Budget()), f"{name}   ")]
    assert [row.count("(estimated") for row in rows] == [4, 4]


def test_weighing_names_the_limit_that_fails_and_by_how_much() -> None:
    board = replace(PI, runtime="c_source")
    text = weighing(board, Budget(flash_bytes=5000))
    assert "float32: flash: 12.5 kB of 5.0 kB, misses by 7.5 kB" in text
    assert "int8: fits: flash 3.2 kB of 5.0 kB" in text


def test_a_limit_that_nothing_is_known_about_is_neither_met_nor_missed() -> None:
    text = weighing(replace(PI, clock_hz=None), Budget(latency_ms=5.0))
    assert "float32: latency: unknown of 5 ms, unjudged" in text
    assert "fits" not in text
    assert lines_with(text, "float32   ")[0].split()[-2:] == ["unknown", "unknown"]


def test_without_limits_weighing_says_so() -> None:
    assert "No limit is set." in weighing(replace(PI, ram_bytes=None), Budget())


def test_packing_shows_each_figure_before_and_after_with_its_origin_and_spread() -> None:
    text = packed(found(), BEFORE, PI, Budget())
    assert lines_with(text, "flash  ")[0].split("  ")[0] == "flash"
    assert "1.1 MB (host)" in text
    assert "190.0 kB (host)" in text
    assert "10 ms (estimated, 5 to 20 ms)" in text
    assert "in alternation: 0.43x (host, 0.41x to 0.46x)" in flat(text)
    assert "-0.0152" in text
    assert "same class 99.60% of 256" in text


def test_packing_tells_what_it_changed_apart_from_whether_the_file_is_exact() -> None:
    changed = replace(AFTER, parity=Parity(0.0, 1.0, 256), fidelity=Fidelity(0.91, 0.084, 256))
    text = packed(Found(Candidate(Recipe(), changed), (), ()), BEFORE, PI, Budget())
    assert "off by 8.40% on average, same" in lines_with(text, "fidelity")[0]
    assert "class 91.00% of 256" in text
    assert "off by 0, same class 100.00% of 256" in flat(text)


def test_latencies_of_two_moments_are_not_divided_by_each_other() -> None:
    before = replace(BEFORE, latency_ms=Figure(1.0, "host"))
    after = replace(AFTER, latency_ms=Figure(0.353, "host"), latency_ratio=Figure(0.975, "host"))
    row = lines_with(packed(Found(Candidate(Recipe(), after), (), ()), before, PI, Budget()), "latency  ")[0]
    assert row.split()[-1] == "0.975x"
    unknown = Found(Candidate(Recipe(), replace(after, latency_ratio=None)), (), ())
    assert lines_with(packed(unknown, before, PI, Budget()), "latency  ")[0].split()[-1] == "unknown"


def test_what_was_said_while_a_candidate_was_made_stands_in_its_report() -> None:
    said = replace(AFTER, notes=("these stay float32: 2 softmax.", "4 bits take a byte."))
    text = packed(Found(Candidate(Recipe(), said), (), ()), BEFORE, PI, Budget())
    assert lines_with(text, "Note: ") == ["Note: these stay float32: 2 softmax.", "Note: 4 bits take a byte."]


def test_figures_of_earlier_runs_are_called_so_with_their_date() -> None:
    def of(date: str, value: float) -> Measurement:
        return replace(AFTER, flash_bytes=Figure(value, "host"), conditions=replace(HERE, date=date))

    tried = tuple(Verdict(Candidate(Recipe(), of(f"2026-01-0{day} 10:00:00", day)), True, "") for day in (1, 2, 3))
    best = Found(tried[2].candidate, (), tried)
    text = flat(measured_earlier(best, of("2026-01-02 09:00:00", 9), "2026-01-03 00:00:00"))
    assert text.startswith("Kept: 3 of 4 candidates were measured in earlier runs")
    assert "the first on 2026-01-01 10:00:00 UTC" in text
    assert measured_earlier(best, of("2026-01-02 09:00:00", 9), "2026-01-01 00:00:00") == ""
    assert measured_earlier(found(), BEFORE, "2026-01-03 00:00:00") == ""


def test_packing_names_each_limit_and_whether_it_is_met() -> None:
    budget = Budget(flash_bytes=200_000, latency_ms=15.0, latency_ratio=0.45, max_drop=0.01)
    text = packed(found(), BEFORE, PI, budget)
    assert lines_with(text, "flash ")[2].split() == ["flash", "200.0", "kB", "190.0", "kB", "met"]
    assert "15 ms      20 ms      misses by 5 ms" in text
    assert lines_with(text, "latency ratio")[0].split() == ["latency", "ratio", "0.45x", "0.43x", "too", "close"]
    assert "Too close: the limit lies in that interval" in flat(text)
    assert lines_with(text, "score")[2].split() == ["score", "0.9073", "0.9021", "misses", "by", "0.0052"]


def test_what_is_unknown_is_called_unknown_and_never_shown_as_zero() -> None:
    dry = replace(AFTER, score=None, latency_ms=None, latency_ratio=None, parity=None)
    text = packed(Found(Candidate(Recipe(), dry), (), ()), replace(BEFORE, latency_ms=None), PI, Budget(latency_ms=1))
    assert lines_with(text, "latency  ")[0].split()[-3:] == ["unknown"] * 3
    assert lines_with(text, "energy")[0].split()[-3:] == ["unknown"] * 3
    assert lines_with(text, "score")[0].split()[-2:] == ["unknown", "unknown"]
    assert lines_with(text, "latency  ")[1].split() == ["latency", "1", "ms", "unknown", "unjudged"]
    assert "the network as it is" in text


def test_packing_tells_of_every_recipe_that_was_tried_and_why_it_was_kept_or_dropped() -> None:
    other = Candidate(Recipe((Halve(0.9),)), replace(AFTER, score=None))
    text = packed(
        found(
            Verdict(other, False, "misses flash: 210.0 kB"),
            Verdict(found().best, True, "flash x0.17, latency x0.43"),
        ),
        BEFORE,
        PI,
        Budget(),
    )
    dropped, kept = text.index("dropped test_text(keep=0.9)"), text.index("kept    test_text(keep=0.6)")
    assert dropped < text.index("because: misses flash: 210.0 kB") < kept
    assert kept < text.index("because: flash x0.17, latency x0.43")
    assert "score unknown" in text[dropped:kept]
    assert " 1. test_text(keep=0.6)" in text


def test_packing_tells_of_recipes_that_were_refused_for_one_reason_together() -> None:
    refused = [Refusal(Recipe((Halve(keep),)), why) for keep, why in ((0.9, "one"), (0.8, "two"), (0.7, "one"))]
    text = packed(replace(found(), refusals=tuple(refused)), BEFORE, PI, Budget())
    assert flat(text.partition("Refused:")[2]).startswith(
        "test_text(keep=0.9) test_text(keep=0.7) because: one test_text(keep=0.8) because: two"
    )


def test_a_search_that_found_nothing_is_not_called_packed() -> None:
    miss = Miss("flash", 100, 190_000)
    assert packed(replace(found(), misses=(miss,)), BEFORE, PI, Budget()).startswith("No candidate meets every limit")
    stopped = packed(replace(found(), stopped=True), BEFORE, PI, Budget())
    assert flat(stopped).startswith(f"Packed for {PI.title}. Stopped early: this is the best so far that meets every")
    tried = Verdict(found().best, False, "no gain")
    nothing = packed(Found(Candidate(Recipe(), BEFORE), (), (tried,)), BEFORE, PI, Budget())
    assert nothing.startswith("Nothing that was tried pays")


def test_the_last_line_of_packing_says_under_which_conditions() -> None:
    last = flat(packed(found(), BEFORE, PI, Budget()).split("\n\n")[-1])
    assert last == (
        "Conditions: device raspberry-pi-zero-2w; a file for ONNX Runtime, measured with 1 thread on a Zen 4, 2 cores; "
        "torch 2.13.0, onnxruntime 1.27."
    )


def test_advice_names_steps_in_order_and_says_why_the_device_wants_it() -> None:
    text = advised(advise(COST, WEIGHINGS, PI, Budget().within(PI)), PI, PACK)
    assert text.index("nothing needed") < text.index("quantization: quantize_static\n")
    assert "    try: haversack pack my_task.py --try quantize_static\n" in text
    assert "prune_channels -> distill -> quantize_static" in text
    assert flat(PI.why) in flat(text)


def test_advice_that_is_predicted_says_so_instead_of_how_well_it_suits() -> None:
    forecast = Forecast(Recipe((Halve(0.6),)), {"flash_bytes": 18_000.0}, 0.05, 0.015)
    ranked = advise(COST, WEIGHINGS, PI, Budget(flash_bytes=20_000).within(PI), {"quantization": forecast})
    text = advised(ranked, PI, PACK)
    of_it = text.partition("quantization: ")[2].partition("\n\n")[0]
    assert "predicted: flash 18.0 kB, score about 1.5 points lower; meets every limit" in of_it
    assert "suits" not in of_it
    assert flat(text).endswith("Nothing was built: `haversack pack` measures what pays.")


def test_activations_alone_are_not_said_to_fit_into_the_ram_of_a_linux_board() -> None:
    text = weighing(PI, Budget().within(PI))
    assert "fits" not in text
    assert len(lines_with(text, "a part: RAM ")) == 2
    assert "fits: RAM" in weighing(find_device("stm32f405"), Budget(ram_bytes=10_000))
    part = replace(AFTER, ram_bytes=replace(AFTER.ram_bytes, part=True))
    text = packed(replace(found(), best=Candidate(Recipe(), part)), BEFORE, PI, Budget(ram_bytes=10**6))
    assert lines_with(text, "RAM ")[1].endswith("in part")
    assert "the weights and the runtime, which are in RAM too" in flat(text)


BENCH = BenchReport(
    file="out/model.onnx",
    runtime="onnx",
    against=None,
    threads=2,
    disk_bytes=331_000,
    ram_bytes=Figure(2_000_000, "host", 1_900_000, 2_100_000),
    latency_ms=Figure(1.234, "host", 1.2, 1.4),
    ratio=None,
    operators={"QuantizeLinear": 30, "Conv": 20},
    operators_as_run={"QLinearConv": 20},
    integer_operators=20,
    warnings=("the runtime still computes in float: 1 Gemm.",),
    machine="a Zen 4, 2 cores",
    versions={"onnxruntime": "1.27"},
)


def test_a_bench_shows_bytes_memory_and_time_of_this_host_and_the_operators_that_ran() -> None:
    text = benched(BENCH)
    assert "331.0 kB (host)" in text
    assert "2.0 MB (host, 1.9 to 2.1 MB)" in text
    assert "1.23 ms (host, 1.2 to 1.4 ms)" in text
    assert "Operators as run: 20 QLinearConv" in text
    assert "Note: the runtime still computes in float: 1 Gemm." in text
    assert "with 2 threads on a Zen 4" in text
    assert "latency over" not in text


def test_a_bench_against_another_file_shows_the_ratio_to_it() -> None:
    text = benched(replace(BENCH, against="float.onnx", ratio=Figure(0.47, "host", 0.45, 0.5)))
    assert "0.47x (host, 0.45x to 0.5x)" in lines_with(text, "latency over float.onnx")[0]


@pytest.mark.parametrize("name", device_names())
def test_a_device_card_holds_every_fact_with_its_source_and_names_what_nobody_states(name: str) -> None:
    device = find_device(name)
    text = flat(device_card(device))
    assert flat(device.why) in text
    # A source longer than a line is broken, so blanks are left out of both.
    packed_text = text.replace(" ", "")
    for source in device.sources.values():
        assert source.replace(" ", "") in packed_text
    for fact, word in (("flash_bytes", "flash"), ("memory_bandwidth", "memory bandwidth"), ("active_power_w", "power")):
        missing = text.partition("not stated: ")[2]
        assert (word in missing) == (getattr(device, fact) is None)


def test_a_fact_that_nobody_states_is_not_shown_as_a_number_in_the_table() -> None:
    row = lines_with(device_table([replace(PI, flash_bytes=None)]), PI.name)[0]
    assert row.split()[1:5] == ["not", "stated", "536.9", "MB"]


def test_every_known_device_has_a_line_in_the_table() -> None:
    text = device_table([find_device(name) for name in device_names()])
    assert all(lines_with(text, name) for name in device_names())
    micro = [name for name in device_names() if find_device(name).runtime == "tflite-micro"]
    assert len(lines_with(text, "tflite-micro")) == len(micro) >= 7


def long_texts() -> dict[str, Callable[[], str]]:
    name = "backbone.blocks.17.a_very_long_layer_name_that_somebody_wrote.and_another_one.conv_depthwise"
    layers = tuple(replace(each, path=name) for each in COST.layers)
    budget = Budget(1000, 1000, 0.001, 0.1, max_drop=0.001)
    stacked = Recipe(tuple(Halve(0.1 * step) for step in range(1, 9)))
    verdict = Verdict(Candidate(stacked, AFTER), False, "misses flash: 210.0 kB, allowed 200.0 kB " * 4)
    bench = replace(BENCH, file="x" * 90, against="y" * 150, ratio=BENCH.latency_ms, warnings=("many words " * 30,))
    return {
        "weighed": lambda: weighed(replace(COST, layers=layers), list(WEIGHINGS.items()), PI, budget),
        "advised": lambda: advised(advise(COST, WEIGHINGS, PI, budget), PI, PACK),
        "packed": lambda: packed(found(verdict), BEFORE, PI, budget),
        "benched": lambda: benched(bench),
        "table": lambda: device_table([find_device(each) for each in device_names()]),
        **{each: lambda each=each: device_card(find_device(each)) for each in device_names()},
    }


@pytest.mark.parametrize("which", long_texts())
def test_no_report_is_wider_than_100_columns_or_holds_colour_codes(which: str) -> None:
    text = long_texts()[which]()
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "\x1b" not in text
    assert text == text.rstrip()


def test_square_brackets_in_a_name_are_shown_as_they_are() -> None:
    assert "layers[0] [bold]" in str(Rows(("layer",), [("layers[0] [bold]",)]))


def test_a_figure_without_a_spread_shows_its_origin_alone() -> None:
    assert figure(Figure(12, "board"), str) == "12 (board)"
    assert figure(None, str) == "unknown"


def test_a_figure_names_the_runtime_that_gave_it() -> None:
    assert figure(Figure(12, "host", runtime="litert"), str) == "12 (host, LiteRT)"
    assert figure(Figure(12, "host", 11, 13, runtime="onnx"), str) == "12 (host, ONNX Runtime, 11 to 13)"


def test_a_range_that_crosses_units_names_both() -> None:
    from haversack.quantity import show_bytes

    assert figure(Figure(1e6, "host", 9e5, 2e6), show_bytes) == "1.0 MB (host, 900.0 kB to 2.0 MB)"


def test_later_lines_of_a_paragraph_stand_under_the_first() -> None:
    assert all(line.startswith(("why: ", "     ")) for line in str(Paragraph("word " * 40, "why: ")).splitlines())


def test_blocks_stand_apart_in_a_document_and_under_each_other_in_lines_and_empty_ones_are_left_out() -> None:
    inner = document(Lines(("one", Paragraph("two", "  "))), "")
    assert str(document(inner, Lines(()), Paragraph(""), "three")) == "one\n  two\n\nthree"


def test_a_report_is_data_before_it_is_text() -> None:
    report = reports.packed(found(), BEFORE, PI, Budget())
    tables = [each for block in report.blocks if isinstance(block, Lines) for each in block.blocks]
    measures = next(each for each in tables if isinstance(each, Rows))
    assert measures.head == ("measure", "before", "after", "after / before")
    assert ("flash", "1.1 MB (host)", "190.0 kB (host)", "0.173x") in measures.rows


def test_a_score_that_fell_without_a_limit_is_pointed_out() -> None:
    fallen = replace(AFTER, score=Figure(0.5, "host"))
    found = Found(Candidate(Recipe(), fallen), (), ())
    assert "The score fell by" in packed(found, BEFORE, PI, Budget())
    assert "The score fell by" not in packed(found, BEFORE, PI, Budget(max_drop=0.9))
