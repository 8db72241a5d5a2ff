"""How long a file is timed: until its limit is met or missed beyond doubt, up to a bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from haversack.artifact import Artifact
from haversack.device import find_device
from haversack.graph.inference import lower
from haversack.limits import Budget
from haversack.measurement import Conditions, Figure, Measurement
from haversack.model import Model
from haversack.packing.gauge import Gauge
from haversack.plan.found import Trial
from haversack.recipe import Recipe
from haversack.runtimes import Arrays, agreement, host
from haversack.task import Task
from haversack.techniques.quantize_static import QuantizeStatic

TASK = Task(train=list, calibrate=None, score=lambda predict: 0.5)


def gauge(**limits: float) -> Gauge:
    original = Model(nn.Linear(2, 2), (torch.zeros(1, 2),))
    return Gauge(original, TASK, find_device("host"), 1, 1.0, Budget(**limits))  # type: ignore[arg-type]


class Clock:
    """Stands in for timing: 20 rounds a second of the second file at `ratio` of the first, which takes 10 ms."""

    def __init__(self, ratio: float) -> None:
        self.ratio, self.seconds = ratio, list[float]()
        self.rng = np.random.default_rng(0)

    def time_files(
        self, files: Sequence[bytes], *, threads: int, seconds: float, inputs: Arrays | None = None
    ) -> tuple[host.Timing, ...]:
        assert inputs is None  # of a network of one length
        self.seconds.append(seconds)
        ratios = self.rng.normal(self.ratio, 0.05, int(20 * seconds))
        return tuple(host._timings([[10.0, 10.0 * ratio] for ratio in ratios], "onnx"))


@pytest.mark.parametrize(
    ("ratio", "limits", "state", "seconds"),
    [
        (0.40, {"latency_ratio": 0.5}, "met", [1.0]),
        (0.60, {"latency_ratio": 0.5}, "missed", [1.0]),
        (0.40, {"latency_ms": 5.0}, "met", [1.0]),
        (0.52, {"latency_ratio": 0.5}, "missed", None),
        (0.48, {"latency_ms": 5.0}, "met", None),
        (0.50, {"latency_ratio": 0.5}, "too close", [1.0, 1.0, 2.0, 4.0]),
        (0.50, {"flash_bytes": 5}, None, [1.0]),
    ],
)
def test_a_time_is_taken_for_longer_only_while_it_is_too_close_to_its_limit(
    monkeypatch: pytest.MonkeyPatch,
    ratio: float,
    limits: dict[str, Any],
    state: str | None,
    seconds: list[float] | None,
) -> None:
    clock = Clock(ratio)
    monkeypatch.setattr(host, "time_files", clock.time_files)
    timing, spent, _ = gauge(**limits)._timing(b"packed", b"original", 1.0)
    assert spent == sum(clock.seconds) <= 8
    assert seconds in (None, clock.seconds)
    assert len(timing.rounds) == 20 * spent
    measured = measurement(timing.latency_ms, timing.ratio)
    assert [each.state for each in measured.judged(Budget(**limits)) if each.limit.timed] == ([state] if state else [])


def measurement(latency_ms: Figure, ratio: Figure, timed_s: float = 1.0) -> Measurement:
    conditions = Conditions("host", "onnx", 1, "here", timed_s=timed_s)
    return Measurement(Figure(9, "host"), Figure(9, "host"), latency_ms, conditions, latency_ratio=ratio)


@pytest.mark.parametrize(("allowed", "timed_s", "undecided"), [(0.5, 1.0, True), (0.5, 8.0, False), (0.6, 1.0, False)])
def test_what_an_earlier_run_timed_is_timed_again_where_it_is_too_close_to_this_run_s_limit(
    allowed: float, timed_s: float, *, undecided: bool
) -> None:
    found = measurement(Figure(5.0, "host", 4.9, 5.1), Figure(0.5, "host", 0.49, 0.51), timed_s)
    recipe = Recipe((QuantizeStatic(),))
    assert gauge(latency_ratio=allowed).undecided(Artifact("onnx", {}, recipe, found)) == undecided
    assert not gauge(latency_ratio=allowed).undecided(Artifact("onnx", {}, Recipe(), found))


def test_the_original_runs_once_on_each_batch_however_many_candidates_are_held_against_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[object] = []

    def counted(network: Any) -> Any:
        def predict(*inputs: torch.Tensor) -> torch.Tensor:
            ran.append(network)
            with torch.no_grad():
                return network(*inputs)

        return predict

    monkeypatch.setattr(agreement, "in_torch", counted)
    monkeypatch.setattr(host, "time_files", Clock(1.0).time_files)
    monkeypatch.setattr(host, "peak_ram", lambda *_, **__: Figure(1.0, "host"))
    random = torch.Generator().manual_seed(0)
    batches, samples = [torch.randn(64, 2, generator=random) for _ in range(2)], torch.randn(32, 2, generator=random)
    task = Task(list, lambda: batches, lambda predict: -float(predict(samples).square().mean()), kind="regression")
    original = Model(nn.Linear(2, 2).eval(), (torch.zeros(1, 2),))
    measures = Gauge(original, task, find_device("host"), 1, 0.1)
    start = measures.artifact(Trial(Recipe()), original, None)
    step = QuantizeStatic(find_device("host").weight_bits)
    for recipe in (Recipe((step,)), Recipe((replace(step, weight_bits=4),))):
        model = recipe.steps[0].apply(original, task)
        figures = measures.artifact(Trial(recipe), model, start.files["model.onnx"]).measurement
        assert figures.fidelity is not None
        assert figures.fidelity.divergence is not None
        assert figures.fidelity.divergence > 0
    assert ran.count(original.module) == len(batches) + 1


class Kept:
    """Stands in for the user's table of times."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[tuple[float, float], ...]] = {}

    def kept(self, digest: str) -> tuple[tuple[float, float], ...] | None:
        return self.files.get(digest)

    def keep(self, digest: str, rounds: tuple[tuple[float, float], ...]) -> None:
        self.files[digest] = rounds

    def date_of(self, digest: str) -> str:
        return "2026-01-31 23:59:59" if digest in self.files else ""


def test_the_same_files_are_judged_by_the_same_times_until_they_are_wanted_afresh(monkeypatch):
    clock, table = Clock(0.4), Kept()
    monkeypatch.setattr(host, "time_files", clock.time_files)
    first, second = (replace(gauge(latency_ratio=0.5), times=table) for _ in range(2))
    told = first._timing(b"packed", b"original", 1.0)[0]
    assert second._timing(b"packed", b"original", 1.0)[0] == told
    assert second._timing(b"other", b"original", 1.0)[0] != told
    assert second._timing(b"packed", b"original", 1.0, afresh=True)[0] != told
    assert len(clock.seconds) == 3


def test_a_kept_time_is_dated_as_it_was_taken(monkeypatch):
    monkeypatch.setattr(host, "time_files", Clock(0.4).time_files)
    measures = replace(gauge(), times=Kept())
    found = measurement(Figure(5.0, "host"), Figure(0.5, "host"))
    lowered = lower(Model(nn.Linear(2, 2).eval(), (torch.zeros(1, 2),)))
    first, second = (measures._timed(found, lowered, b"packed", b"original", 0.1).conditions for _ in range(2))
    assert first.date > "2026-02"
    assert second.date == "2026-01-31 23:59:59"


@pytest.mark.parametrize(("scored", "seconds"), [(True, 1.0), (False, 1 / 3)])
def test_a_file_that_can_be_no_answer_is_timed_roughly(monkeypatch, scored, seconds):
    clock = Clock(0.4)
    monkeypatch.setattr(host, "time_files", clock.time_files)
    model = Model(nn.Linear(2, 2).eval(), (torch.zeros(1, 2),))
    task = Task(list, lambda: [torch.randn(8, 2)], lambda predict: 0.5)
    measures = replace(gauge(), original=model, task=task)
    measures.artifact(Trial(Recipe(), scored=scored), model, None)
    assert clock.seconds == [seconds]
