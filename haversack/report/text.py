"""Reports as plain text: what was weighed, advised, packed and timed. Every figure says where it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from haversack import runtimes
from haversack.device import Device
from haversack.graph.cost import Cost, LayerCost
from haversack.limits import LIMITS, Budget, Limit
from haversack.measurement import BenchReport, Conditions, Figure, Measurement
from haversack.plan.advise import Advice
from haversack.plan.found import Found, Refusal, Verdict
from haversack.plan.students import Student
from haversack.quantity import show_bytes, show_count, show_ms, show_ratio, show_score
from haversack.recipe import Recipe, describe
from haversack.report import plan
from haversack.report.blocks import UNKNOWN, Block, Document, Lines, Paragraph, Rows, document, figure


def weighed(cost: Cost, weighings: Sequence[tuple[str, Measurement]], device: Device, budget: Budget) -> Document:
    """What a network needs: layer by layer, then in each number format, and which limits it is over."""
    memory = cost.memory
    totals = (
        f"{cost.parameters:,} parameters, {show_count(cost.macs)} MACs for one sample. Activations at "
        f"{8 * cost.bytes_per_element} bits: {show_bytes(memory.peak_bytes)} at the peak as planned, and no plan needs "
        f"less than {show_bytes(memory.bound_bytes)}."
    )
    held = [Paragraph(line, f"{name}: ") for name, each in weighings for line in _verdicts(each, budget)]
    note = Paragraph(
        "Nothing was run: every figure is an estimate. Flash is the file, without the runtime's code; RAM the planned "
        "activations; limits are held against the slow end of a range."
    )
    fits = Lines(held) or "No limit is set."
    return document(Paragraph(totals), _layers(cost), f"On {device.title}:", _formats(weighings), fits, note)


def _layers(cost: Cost) -> Rows:
    head = ("layer", "operation", "output", "parameters", "MACs", "share")
    rows = [_layer(each, cost.macs) for each in cost.layers]
    held = sum(each.parameters for each in cost.layers)
    total = ("total", "", "", f"{held:,}", f"{cost.macs:,}", _share(cost.macs, cost.macs))
    return Rows(head, [*rows, total], right=("parameters", "MACs", "share"), foot=True)


def _layer(layer: LayerCost, macs: int) -> tuple[str, ...]:
    shape = "x".join(str(size) for size in layer.output_shape)
    counts = (f"{layer.parameters:,}", f"{layer.macs:,}", _share(layer.macs, macs))
    return (layer.path or "(network)", layer.operation, shape, *counts)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "0 %"


def _formats(weighings: Sequence[tuple[str, Measurement]]) -> Rows:
    limits = [limit for limit in LIMITS if limit.judged_by == "counts"]
    rows = [(name, *(figure(each.figure(limit), limit.show) for limit in limits)) for name, each in weighings]
    return Rows(("format", *(limit.measure for limit in limits)), rows)


def _verdicts(found: Measurement, budget: Budget) -> Iterator[str]:
    """`fits`, or each limit that is missed or unjudged; what fits in part comes last."""
    limits = _limits(found, budget, None)
    fits, part = (
        [f"{name} {value} of {allowed}" for name, allowed, value, state in limits if state == wanted]
        for wanted in ("met", "in part")
    )
    bad = [each for each in limits if each[-1] not in ("met", "in part")]
    yield from (f"{name}: {value} of {allowed}, {state}" for name, allowed, value, state in bad)
    if fits and not bad:
        yield f"fits: {', '.join(fits)}"
    if part:
        yield f"a part: {', '.join(part)}, without weights and runtime"


def _limits(found: Measurement, budget: Budget, baseline_score: float | None) -> list[tuple[str, str, str, str]]:
    """Each limit: (name, allowed, found, `met`, by how much it is missed, or `unjudged` where no figure is known)."""
    rows = []
    for each in found.judged(budget, baseline_score):
        show = each.limit.show
        allowed, value = (UNKNOWN if value is None else show(value) for value in (each.allowed, each.found))
        state = f"misses by {show(each.miss.by)}" if each.state == "missed" and each.miss else each.state
        rows.append((each.limit.name.replace("ram", "RAM"), allowed, value, state))
    return rows


_ESTIMATED = (
    "Estimates and rules of thumb, from counts alone: nothing was trained or run, and flash is without the runtime's "
    "code. `haversack pack` measures what pays."
)
_PREDICTED = (
    "Predicted: solved for these limits from what every choice costs, and loses on the calibration inputs before any "
    "training; `combination` is what `haversack pack` builds first, where it meets the limits. Reasons are rules of "
    "thumb, from counts alone. Nothing was built: `haversack pack` measures what pays."
)


def advised(advice: Sequence[Advice], device: Device, pack: Sequence[str]) -> Document:
    """The ranked advice, each with its reasons, what it may give, and the command that tries it."""
    items = [_advice_item(place, each, each.command(pack)) for place, each in enumerate(advice, start=1)]
    note = Paragraph(_PREDICTED if any(each.predicted for each in advice) else _ESTIMATED)
    return document(f"Advice for {device.title}, best first.", Paragraph(device.why), *items, note)


def _advice_item(place: int, advice: Advice, command: str) -> Lines:
    names = " -> ".join(advice.techniques)
    title = f"{advice.family}: {names}" if names else advice.family
    lines: list[Block] = [Paragraph(title, f"{place:2}. ")]
    if names and not advice.predicted:
        lines.append(Paragraph(f"{advice.suits:.2f} of 1", "    suits: "))
    lines.append(Paragraph(advice.reason, "    why: "))
    lines.append(Paragraph(advice.expect, "    predicted: " if advice.predicted else "    expect: "))
    if command:
        lines.append(f"    try: {command}")  # in one line, to be copied
    return Lines(lines)


def packed(found: Found, baseline: Measurement, device: Device, budget: Budget) -> Document:
    """Before and after, the answer, the limits, the frontier, and every recipe that was tried."""
    best = found.best.measurement
    score = baseline.score.value if baseline.score else None
    limits = _limits(best, budget, score)
    tried = [_tried(each) for each in found.verdicts]
    return document(
        Paragraph(_ending(found, device)),
        _before_and_after(baseline, best),
        plan.answer(found, baseline),
        _limit_table(limits),
        _unlimited_drop(baseline.score, best.score, budget),
        _recipe(found.best.recipe),
        plan.frontier(found, budget),
        plan.prices(found.prices),
        plan.predictions(found.predictions),
        Lines([Paragraph(line, "Note: ", "  ") for line in best.notes]),
        Lines(["Tried, in this order:", *tried] if tried else []),
        _refused(found.refusals),
        _conditions(best.conditions),
    )


def _ending(found: Found, device: Device) -> str:
    """How the search ended."""
    if found.picked is not None:
        return f"Row {found.picked} of the frontier on {device.title}, as it was asked for."
    early = "Stopped early: " if found.stopped else ""
    if not found.met:
        return f"{early}No candidate meets every limit on {device.title}. These are the figures of the nearest one."
    if found.best.recipe.steps or not (found.verdicts or found.refusals):
        best = "this is the best so far that meets every limit, and what was not tried may do better."
        return f"Packed for {device.title}.{f' {early}{best}' if early else ''}"
    return f"{early}Nothing that was tried pays on {device.title}."


def measured_earlier(found: Found, baseline: Measurement, started: str) -> Block:
    """A paragraph on what of this was measured before the run `started`, or nothing."""
    every = [baseline, found.best.measurement, *(each.candidate.measurement for each in found.verdicts)]
    dates = {repr(each): each.conditions.date for each in every if each.conditions.date}
    earlier = sorted(date for date in dates.values() if date < started)
    if not earlier:
        return ""
    text = (
        f"{len(earlier)} of {len(dates)} candidates were measured in earlier runs, with the same score, versions and "
        f"settings on this machine; the first on {earlier[0]} UTC."
    )
    return Paragraph(text, "Kept: ", "  ")


def _unlimited_drop(before: Figure | None, after: Figure | None, budget: Budget) -> str:
    """A word of caution where the score fell and nobody had said how far it may."""
    if before is None or after is None or after.value >= before.value or budget.limits_score:
        return ""
    fell = show_score(before.value - after.value)
    return f"The score fell by {fell}, and no limit was set on it: set one with --max-drop or --score."


def _limit_table(limits: Sequence[tuple[str, str, str, str]]) -> Block:
    if not limits:
        return "No limit is set."
    note = (
        "An estimate is held against its limit with the far end of its range, a measurement with its median, a "
        "measured time with the 95 % confidence interval of its median."
    )
    if any(state == "too close" for *_, state in limits):
        note += " Too close: the limit lies in that interval, however long it was timed; it counts as missed."
    if any(state == "in part" for *_, state in limits):
        note += " In part: the activations alone; the weights and the runtime, which are in RAM too, are not counted."
    return Lines((Rows(("limit", "allowed", "found", "state"), limits), Paragraph(note)))


def _before_and_after(before: Measurement, after: Measurement) -> Lines:
    limits = [limit for limit in LIMITS if limit.kind == "absolute" and not limit.at_least]
    limits = [limit for limit in limits if limit.field != "instructions" or after.instructions]
    rows = [
        *((limit.measure, *_pair(before, after, limit)) for limit in limits),
        ("score", *_scores(before.score, after.score)),
        *([("validated", *_scores(before.validated, after.validated))] if after.validated else []),
        ("fidelity", "", _fidelity(after), ""),
        ("parity", _parity(before), _parity(after), ""),
    ]
    ratio = figure(after.latency_ratio, show_ratio)
    if after.instructions is not None:
        speed = "Flash, RAM and instructions of the packed network are read off a run on an emulated core."
    else:
        speed = f"Latency on this host, over that of the float original in alternation: {ratio}."
    beside = (
        f"{speed} Fidelity: what packing changed, the file's outputs against the original network's, on the "
        "calibration inputs. Parity: whether the file is exact, its outputs against those of the packed network that "
        "it was written from, in steps of the output's grid, or relative to the largest output where it has none."
        + " Validated: the score on samples that decided nothing."
        * bool(after.validated)
    )
    return Lines((Rows(("measure", "before", "after", "after / before"), rows), Paragraph(beside)))


def _pair(before: Measurement, after: Measurement, limit: Limit) -> tuple[str, str, str]:
    """Both figures, and one over the other: of measured latencies, whose moments differ, that in alternation."""
    first, second = before.figure(limit), after.figure(limit)
    share = second.value / first.value if first and second and first.value else None
    if limit.measure == "latency" and second and second.origin != "estimated":
        share = after.latency_ratio.value if after.latency_ratio else None
    return figure(first, limit.show), figure(second, limit.show), UNKNOWN if share is None else show_ratio(share)


def _scores(before: Figure | None, after: Figure | None) -> tuple[str, str, str]:
    change = f"{after.value - before.value:+.4f}" if before and after else UNKNOWN
    return figure(before, show_score), figure(after, show_score), change


def _parity(found: Measurement) -> str:
    parity = found.parity
    if parity is None:
        return UNKNOWN
    return f"off by {parity.max_steps:.3g}, same class {parity.argmax_agreement:.2%} of {parity.samples}"


def _fidelity(found: Measurement) -> str:
    fidelity = found.fidelity
    if fidelity is None:
        return UNKNOWN
    same = f"same class {fidelity.same_class:.2%} of {fidelity.samples}"
    return f"off by {fidelity.mean_difference:.2%} on average, {same}"


def _recipe(recipe: Recipe) -> Lines:
    steps = [Paragraph(describe(step), f"{place:2}. ") for place, step in enumerate(recipe.steps, start=1)]
    return Lines(["Recipe:", *(steps or [Paragraph("the network as it is", "    ")])])


def _tried(verdict: Verdict) -> Lines:
    found = verdict.candidate.measurement
    speed = f"latency ratio {figure(found.latency_ratio, show_ratio)}"
    if found.instructions is not None:
        speed = f"instructions {figure(found.instructions, show_count)}"
    figures = f"flash {figure(found.flash_bytes, show_bytes)}, {speed}, score {figure(found.score, show_score)}"
    word = "kept" if verdict.kept else "dropped"
    recipe = Paragraph(str(verdict.candidate.recipe), f"  {word:<8}")
    return Lines((recipe, Paragraph(figures, " " * 10), Paragraph(f"because: {verdict.why}", " " * 10)))


def _refused(refusals: Sequence[Refusal]) -> Lines:
    """What was refused, those of one reason together."""
    lines: list[Block] = ["Refused:"] if refusals else []
    for why in dict.fromkeys(each.why for each in refusals):
        lines += [Paragraph(str(each.recipe), "  ", " " * 4) for each in refusals if each.why == why]
        lines.append(Paragraph(f"because: {why}", " " * 10))
    return Lines(lines)


def _conditions(conditions: Conditions) -> Paragraph:
    versions = ", ".join(f"{name} {version}" for name, version in conditions.versions.items())
    text = (
        f"device {conditions.device}; a file for {runtimes.title(conditions.runtime)}, measured with "
        f"{conditions.threads} {_counted(conditions.threads, 'thread')} on {conditions.machine}; "
        f"{versions or 'versions unknown'}."
    )
    return Paragraph(text, "Conditions: ", "  ")


def _counted(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"


def benched(report: BenchReport) -> Document:
    """What a file needs on this machine, the operators that ran, and what is odd about them."""
    rows = [
        ("bytes on disk", f"{show_bytes(report.disk_bytes)} (host)"),
        ("peak RAM over an empty session", figure(report.ram_bytes, show_bytes)),
        ("latency, batch of 1", figure(report.latency_ms, show_ms)),
    ]
    if report.against is not None:
        rows.append((f"latency over {report.against}", figure(report.ratio, show_ratio)))
    warnings = [Paragraph(each, "Note: ") for each in report.warnings]
    return document(
        report.file,
        Rows(("measure", "found"), rows),
        Paragraph(_operators(report.operators), "Operators in the file: ", "  "),
        Paragraph(_operators(report.operators_as_run), "Operators as run: ", "  "),
        f"Operators that compute on integers: {report.integer_operators}",
        Lines(warnings),
        _conditions(Conditions("host", report.runtime, report.threads, report.machine, dict(report.versions))),
    )


def _operators(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


_HEAD = ("family", "width", "depth", "downsampling", "shrink", "parameters", "MACs", "distance", "epochs")


def ranked(students: Sequence[Student]) -> Block:
    """The students, best first, with their sizes and how far from the original they were after so many epochs."""
    if not students:
        return ""
    note = (
        "Each is as wide as its family may be to fit. Distance: the divergence of its outputs from the original's on "
        "the calibration inputs, after a short training. The better half of each round learned anew for twice as long."
    )
    table = Rows(_HEAD, [_row(each) for each in students], right=_HEAD[1:])
    return document(Lines(("Students, best first:", table)), Paragraph(note))


def _row(student: Student) -> tuple[str, ...]:
    member, counts = student.member, student.counts
    sizes = (f"{member.width:.4g}", f"{member.depth:.4g}", str(member.downsampling), str(member.shrink))
    judged = ("", "") if student.distance is None else (f"{student.distance:.4g}", str(student.epochs))
    return (member.family, *sizes, f"{counts.parameters:,}", f"{counts.macs:,}", *judged)
