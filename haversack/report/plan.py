"""What a plan came to, as text: the answer in words, the frontier to choose from, predictions beside the truth."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from haversack.device import Device
from haversack.limits import LIMITS, Budget, Limit
from haversack.measurement import Figure, Measurement
from haversack.plan.found import Found
from haversack.plan.frontier import FrontierRow, LimitPrice, Prediction, beaten
from haversack.quantity import show_score
from haversack.recipe import Recipe, technique
from haversack.report.blocks import UNKNOWN, Block, Document, Lines, Paragraph, Rows, document

_ALWAYS = ("score", "flash_bytes", "instructions", "latency_ratio")
_BY_FIGURE = {limit.figure or limit.field: limit for limit in LIMITS}


def answer(found: Found, baseline: Measurement) -> Paragraph:
    """The answer in a sentence: what was done, and what came of size, time and score."""
    best = found.best.measurement
    if not found.best.recipe.steps:
        return Paragraph("")
    figures = [_change(limit, baseline, best) for name, limit in _BY_FIGURE.items() if name in _ALWAYS[1:]]
    score = f"score {show_score(best.score.value)}" if best.score else "score unknown"
    if best.score and baseline.score:
        score += f" ({best.score.value - baseline.score.value:+.4f})"
    row = f", row {found.place} of the frontier" if found.place else ""
    trained = "trained" if any(step.trains for step in found.best.recipe.steps) else "without training"
    parts = ", ".join([*(part for part in figures if part), score])
    head = "The answer" if found.met else "The nearest"
    if found.picked is not None:
        head = "Picked"
    return Paragraph(f"{techniques(found.best.recipe)}, {trained}: {parts}{row}.", f"{head}: ", "  ")


def _change(limit: Limit, before: Measurement, after: Measurement) -> str:
    was, now = before.figure(limit), after.figure(limit)
    if now is None:
        return ""
    share = f" ({now.value / was.value:.2f}x)" if was and was.value and limit.kind == "absolute" else ""
    return f"{limit.measure} {limit.show(now.value)}{share}"


def techniques(recipe: Recipe) -> str:
    """The names of a recipe's techniques, in their order."""
    return ", then ".join(technique(step) for step in recipe.steps) or "the network as it is"


def frontier(found: Found, budget: Budget) -> Block:
    """The rows to choose from, by number; nothing where there are none."""
    if not found.frontier:
        return ""
    names = dict.fromkeys((*_ALWAYS, *(limit.figure or limit.field for limit in budget.asked)))
    limits = [_BY_FIGURE[name] for name in names]
    limits = [limit for limit in limits if any(row.figure(limit) for row in found.frontier)]
    head = ("row", *(limit.title for limit in limits), "recipe", "")
    rows = [_row(number, row, limits, found) for number, row in enumerate(found.frontier, start=1)]
    worse = " and ".join(f"row {number}" for number in beaten(found.frontier))
    note = f"None of these{f' but {worse}' if worse else ''} is beaten by another in flash, latency and score at once."
    note += " `haversack pack --pick ROW` makes one the result, without new work where it was built."
    if not all(row.built for row in found.frontier):
        note += " ~: predicted, and not built yet."
    table = Rows(head, rows, right=head[:-2])
    return Lines(("The frontier:", table, Paragraph(note)))


def explored(found: Found, baseline: Measurement, device: Device) -> Document:
    """The frontier without limits, the original beside it."""
    limits = [_BY_FIGURE[name] for name in _ALWAYS[:2]]
    before = ", ".join(f"{limit.title} {_shown(limit, baseline.figure(limit), '')}" for limit in limits)
    return document(
        f"The original on {device.title}: {before}.",
        frontier(found, Budget()),
        predictions(found.predictions),
    )


def _row(number: int, row: FrontierRow, limits: Sequence[Limit], found: Found) -> tuple[str, ...]:
    mark = "" if row.built else "~"
    figures = [_shown(limit, row.figure(limit), mark) for limit in limits]
    word = "the answer" if number == found.place and found.met else "nearest" if number == found.place else ""
    if found.picked == number:
        word = "picked"
    return (str(number), *figures, " + ".join(technique(step) for step in row.recipe.steps), word)


def _shown(limit: Limit, figure: Figure | None, mark: str) -> str:
    return UNKNOWN if figure is None else f"{mark}{limit.show(figure.value)}"


def prices(found: Sequence[LimitPrice]) -> Block:
    """What a little more of each limit would buy."""
    known = {limit.name: limit for limit in LIMITS}
    lines = [
        Paragraph(
            f"{known[price.limit].show(price.more)} more {known[price.limit].measure} buys {price.gain:+.4f}", "  "
        )
        for price in found
    ]
    return Lines(("What the limits cost, in score, as predicted:", *lines)) if lines else ""


def predictions(found: Sequence[Prediction]) -> Block:
    """For each measure how far the plan was off, and its worst case."""
    by_measure: dict[str, list[Prediction]] = {}
    for prediction in found:
        by_measure.setdefault(prediction.measure, []).append(prediction)
    rows = [_errors(name, made) for name, made in by_measure.items()]
    head = ("measure", "candidates", "typically off by", "worst: predicted", "true")
    return Lines(("Predicted against measured:", Rows(head, rows, right=head[1:]))) if rows else ""


def _errors(name: str, made: Sequence[Prediction]) -> tuple[str, ...]:
    limit, worst = _BY_FIGURE.get(name), max(made, key=lambda prediction: abs(prediction.error))
    show = limit.show if limit else "{:.4g}".format
    typical = statistics.median(abs(prediction.error) for prediction in made)
    title = limit.title if limit else name
    return title, str(len(made)), f"{typical:.1%}", show(worst.predicted), show(worst.true)


def as_json(found: Found) -> Mapping[str, object]:
    """Frontier, prices and predictions as plain data."""
    return {
        "frontier": [
            {
                "row": number,
                "recipe": row.recipe.to_toml(),
                "predicted": dict(row.predicted),
                "measured": row.measurement.to_json() if row.measurement else None,
                "answer": number == found.place,
            }
            for number, row in enumerate(found.frontier, start=1)
        ],
        "prices": [{"limit": price.limit, "more": price.more, "gain": price.gain} for price in found.prices],
        "predictions": [
            {"recipe": str(each.recipe), "measure": each.measure, "predicted": each.predicted, "true": each.true}
            for each in found.predictions
        ],
    }
