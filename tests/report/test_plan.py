"""A plan as text: the answer in a sentence, rows to choose from by number, and how far predictions were off."""

from __future__ import annotations

from dataclasses import replace

import pytest

from haversack.device import find_device
from haversack.limits import Budget
from haversack.measurement import Candidate, Conditions, Figure, Measurement
from haversack.plan.found import Found
from haversack.plan.frontier import FrontierRow, LimitPrice, Prediction
from haversack.recipe import Recipe
from haversack.report import plan
from haversack.report.text import packed
from haversack.techniques.quantize_static import QuantizeStatic

HERE = Conditions("host", "onnx", 1, "a Zen 4")
PI = find_device("raspberry-pi-zero-2w")


def measured(flash: float, ratio: float, score: float) -> Measurement:
    figures = {"latency_ratio": Figure(ratio, "host"), "score": Figure(score, "host")}
    return Measurement(Figure(flash, "host"), Figure(9e3, "host"), None, HERE, **figures)  # type: ignore[arg-type]


BEFORE = measured(100_000, 1.0, 0.95)
FOUR, EIGHT, MANY = (
    Recipe((QuantizeStatic(weight_bits=4),)),
    Recipe((QuantizeStatic(),)),
    Recipe((QuantizeStatic(layer_bits=tuple(f"layer{number}=8" for number in range(40))),)),
)
ROWS = (
    FrontierRow(EIGHT, {}, measured(30_000, 0.5, 0.949)),
    FrontierRow(MANY, {"flash_bytes": 22_000.0, "latency_ratio": 0.45, "score": 0.945}),
    FrontierRow(FOUR, {}, measured(16_000, 0.5, 0.94)),
)
FOUND = Found(
    Candidate(FOUR, ROWS[2].measurement or BEFORE),
    (),
    (),
    frontier=ROWS,
    predictions=(
        Prediction(EIGHT, "flash_bytes", 30_300, 30_000),
        Prediction(FOUR, "flash_bytes", 16_000, 16_000),
        Prediction(FOUR, "latency_ratio", 0.4, 0.5),
    ),
    prices=(LimitPrice("flash", 2_000, 0.0042),),
)


def test_the_answer_is_told_in_a_sentence_with_its_row() -> None:
    said = " ".join(str(plan.answer(FOUND, BEFORE)).split())
    assert said == (
        "The answer: quantize_static, without training: flash 16.0 kB (0.16x), latency 0.5x, score 0.9400 (-0.0100), "
        "row 3 of the frontier."
    )


def test_the_frontier_numbers_its_rows_marks_what_was_only_predicted_and_names_the_answer() -> None:
    lines = str(plan.frontier(FOUND, Budget(ram_bytes=10_000))).splitlines()
    rows = [line.split() for line in lines if line.strip()[:1] in {"1", "2", "3"}]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert rows[1][1:6] == ["~0.9450", "~22.0", "kB", "~0.45x", "unknown"]
    assert rows[2][1:5] == ["0.9400", "16.0", "kB", "0.5x"]
    assert [line.split()[0] for line in lines if line.endswith("the answer")] == ["3"]
    assert "~: predicted" in " ".join(lines)
    built = replace(FOUND, frontier=(ROWS[0], ROWS[2]))
    assert "~" not in str(plan.frontier(built, Budget()))


def test_a_row_that_another_beats_is_named_though_it_is_the_answer() -> None:
    better = FrontierRow(MANY, {}, measured(15_900, 0.5, 0.9401))
    told = (str(plan.frontier(replace(FOUND, frontier=rows), Budget())) for rows in (ROWS, (better, *ROWS[::2])))
    said = [" ".join(text.split()) for text in told]
    assert "None of these is beaten by another" in said[0]
    assert "None of these but row 3 is beaten by another" in said[1]


@pytest.mark.parametrize(("change", "word"), [({"picked": 3}, "picked"), ({"unjudged": ("energy (mJ)",)}, "nearest")])
def test_a_row_that_somebody_chose_or_that_only_comes_near_is_not_called_the_answer(
    change: dict[str, object], word: str
) -> None:
    changed = replace(FOUND, **change)  # type: ignore[arg-type]
    assert str(plan.frontier(changed, Budget())).count(word) >= 1
    text = str(packed(changed, BEFORE, PI, Budget(energy_mj=1.0)))
    assert f"{'The nearest' if word == 'nearest' else 'Picked'}: quantize_static" in text
    assert "the answer" not in text.lower()


def test_predictions_are_told_by_their_typical_and_their_worst_error() -> None:
    lines = str(plan.predictions(FOUND.predictions)).splitlines()
    assert next(line for line in lines if line.startswith("flash")).split()[1:] == [
        *("2", "0.5%", "30.3", "kB", "30.0", "kB")
    ]
    assert next(line for line in lines if line.startswith("latency")).split()[2:] == ["1", "20.0%", "0.4x", "0.5x"]


def test_a_price_says_what_a_little_more_would_buy() -> None:
    assert "2.0 kB more flash buys +0.0042" in str(plan.prices(FOUND.prices))


def test_nothing_is_said_of_what_no_plan_told() -> None:
    bare = Found(Candidate(Recipe(), BEFORE), (), ())
    assert not any([plan.answer(bare, BEFORE), plan.frontier(bare, Budget())])
    assert not any([plan.prices(()), plan.predictions(())])


def test_the_report_leads_with_before_and_after_then_the_answer_the_frontier_and_what_was_tried() -> None:
    text = str(packed(FOUND, BEFORE, PI, Budget(flash_bytes=20_000)))
    heads = ["measure ", "The answer:", "The frontier:", "What the limits cost", "Predicted against measured"]
    places = [text.index(head) for head in heads]
    assert places == sorted(places)
    assert "layer39" not in text


def test_plain_data_holds_every_row_with_its_recipe_and_says_which_is_the_answer() -> None:
    told = plan.as_json(FOUND)
    rows = told["frontier"]
    assert isinstance(rows, list)
    assert [row["answer"] for row in rows] == [False, False, True]
    assert rows[1]["measured"] is None
    assert rows[1]["predicted"]["flash_bytes"] == 22_000
    assert rows[0]["recipe"] == EIGHT.to_toml()
