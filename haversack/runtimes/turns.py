"""What the programs that measure share: runs taking turns against the clock, peak memory, requests and answers.

It imports nothing but NumPy, psutil (off Linux) and the standard library, and is not imported through our package
there: the process of a measurement holds its runtime and little else.
"""

from __future__ import annotations

import gc
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.random

Request = dict[str, Any]
Run = Callable[[], object]
Array = np.ndarray[Any, Any]

_TURN_NS = 10_000_000
"""How long one file runs before it is the next one's turn: long against the clock, short against a neighbour's job."""
_ROUNDS = 12
"""So many rounds fill the time: enough for an interval, and long enough that each file is left alone once in each."""
_PORTION_NS = 1_000_000
"""The same for small files of which many are compared with one: long enough to be warm again after the other."""
_LEAST_ROUNDS = 3
_QUIET = 1.15
"""Times its least: so long the first file takes at most while no neighbour computes beside the core."""
_PATIENCE = 3
"""Times the seconds of a file: so long it is run at most where it is never left alone."""


class RefusedError(Exception):
    """What is wrong with a file, and how to mend it; `position` says which file of the request."""

    def __init__(self, what: str, mend: str = "", position: int = 0) -> None:
        super().__init__(what)
        self.what, self.mend, self.position = what, mend, position


def answer(jobs: Mapping[str, Callable[[Request], dict[str, Any]]]) -> None:
    """Answer the request on stdin; what a user can mend comes back as an answer too, not as a traceback."""
    request = json.load(sys.stdin)
    try:
        found = jobs[request["job"]](request)
    except RefusedError as refused:
        found = {"refused": refused.what, "mend": refused.mend, "position": refused.position}
    sys.stdout.write(json.dumps(found) + "\n")


def grown_bytes(prepare: Callable[[], Run]) -> dict[str, int]:
    """How far the resident memory grew at its peak while `prepare` loaded a file and its run was made three times.

    What the imports took before is not counted.
    """
    np.random.default_rng(0)  # what the first one takes is not the file's
    before = _resident_bytes()
    run = prepare()
    for _ in range(3):
        run()
    return {"grown_bytes": _peak_bytes() - before}


def in_turns(request: Request, bound: Callable[[str], Run]) -> dict[str, Any]:
    """Ms of each file in each round where nobody disturbed it: `{"rounds": [[first, second, ...], ...]}`.

    The files take turns, forwards and then backwards, several times a round, and the best turn of each counts: a
    neighbour, on the same core or beside it, only makes some turns slower. `bound` makes the function that runs a file
    once, on inputs that it has already: the runtime's own time.
    """
    runs = []
    for position, file in enumerate(request["files"]):
        try:
            runs.append(bound(file))
        except RefusedError as refused:
            raise RefusedError(refused.what, refused.mend, position) from refused
    budget_ns = int(request["seconds"] * 1e9)
    turn_ns = min(_TURN_NS, budget_ns // (4 * _ROUNDS * len(runs)))
    counts = [max(1, turn_ns // max(1, _warm_up(run, turn_ns))) for run in runs]
    gc.disable()
    rounds: list[list[float]] = []
    order, end = list(range(len(runs))), time.perf_counter_ns() + budget_ns
    while len(rounds) < _LEAST_ROUNDS or time.perf_counter_ns() < end:
        best, round_end = [math.inf] * len(runs), time.perf_counter_ns() + budget_ns // _ROUNDS
        while math.inf in best or time.perf_counter_ns() < round_end:
            for index in order:
                best[index] = min(best[index], _undisturbed_ns(runs[index], counts[index]) / 1e6)
            order.reverse()
        rounds.append(best)
    return {"rounds": rounds, "runs_per_turn": counts}


def beside_first(request: Request, bound: Callable[[str], Run]) -> dict[str, Any]:
    """What each file takes, and the first file before or behind it, the slower, round by round: each in a portion.

    `{"rounds": [[[ms, ms of the first], ...] a file]}`, without a list for the first file, and with an empty one for a
    file that the runtime refuses. The files take turns forwards and backwards. A file is run for `seconds`, portions of
    the first included, for three rounds at least, and for longer where fewer than three were quiet (see `quiet`).
    """
    first, *more = request["files"]
    first, bindings = bound(first), [_bound_or_none(bound, file) for file in more]
    runs = {index: run for index, run in enumerate(bindings) if run is not None}
    budget_ns, turn_ns = int(request["seconds"] * 1e9), _PORTION_NS
    first_count = max(1, turn_ns // max(1, _warm_up(first, turn_ns)))
    counts = {index: max(1, turn_ns // max(1, _warm_up(run, turn_ns))) for index, run in runs.items()}
    rounds: list[list[list[float]]] = [[] for _ in more]
    spent, order, least, last = dict.fromkeys(runs, 0), list(runs), math.inf, [0.0, 0.0]
    gc.disable()
    while order:
        for index in order:
            start = time.perf_counter_ns()
            before = _undisturbed_ns(first, first_count) / 1e6
            least, last[1] = min(least, before), max(last[1], before)
            last = [_undisturbed_ns(runs[index], counts[index]) / 1e6, before]
            rounds[index].append(last)
            spent[index] += time.perf_counter_ns() - start
        few = {index for index in order if len(quiet(rounds[index], least)) < _LEAST_ROUNDS}
        order = [
            index
            for index in order[::-1]
            if spent[index] < budget_ns * (_PATIENCE if index in few else 1) or len(rounds[index]) < _LEAST_ROUNDS
        ]
    return {"rounds": rounds}


def quiet(rounds: Sequence[list[float]], least: float) -> list[list[float]]:
    """The rounds in which the first file took hardly longer than its `least`.

    For seconds at a time all runs are slower, but not all by as much, so that no ratio to the first file cancels it. A
    neighbour beside the core may be why; that was not proven.
    """
    return [pair for pair in rounds if pair[1] <= _QUIET * least]


def _bound_or_none(bound: Callable[[str], Run], file: str) -> Run | None:
    try:
        return bound(file)
    except RefusedError:
        return None


def given_arrays(request: Request, kinds: Sequence[type]) -> list[Array] | None:
    """The arrays that came with the request, as numbers of the `kinds` that the file wants; None where none came."""
    if request["inputs"] is None:
        return None
    with np.load(request["inputs"]) as arrays:
        given = [arrays[f"arr_{index}"] for index in range(len(arrays.files))]
    if len(given) != len(kinds):
        raise RefusedError(f"it takes {len(kinds)} inputs, but {len(given)} arrays were given.")
    return [np.ascontiguousarray(array, kind) for array, kind in zip(given, kinds, strict=True)]


def random_arrays(wanted: Sequence[tuple[tuple[int, ...], type]], seed: int) -> list[Array]:
    """Random inputs by shape and type: normal numbers, any byte, and 0 for wider integers (an index)."""
    rng = np.random.default_rng(seed)
    return [_random(shape, kind, rng) for shape, kind in wanted]


def _random(shape: tuple[int, ...], kind: type, rng: np.random.Generator) -> Array:
    if issubclass(kind, np.floating):
        return rng.standard_normal(shape, dtype=np.float32).astype(kind, copy=False)
    if kind in (np.int8, np.uint8):
        return rng.integers(np.iinfo(kind).min, np.iinfo(kind).max, shape, kind, endpoint=True)
    return np.zeros(shape, kind)


def _warm_up(run: Run, turn_ns: int) -> int:
    """How long one run takes that nobody disturbs, after the first runs have filled the caches.

    The least of them: were it told by a run that waited for a neighbour, each turn would be too few runs.
    """
    end, taken = time.perf_counter_ns() + turn_ns, list[float]()
    while time.perf_counter_ns() < end or (len(taken) < _LEAST_ROUNDS and min(taken, default=0) < 10 * _TURN_NS):
        taken.append(_undisturbed_ns(run, 1))
    return round(min(taken))


def _undisturbed_ns(run: Run, count: int) -> float:
    """The lower quartile of so many runs: what others take from a machine only adds, and the least of all is luck."""
    clock = time.perf_counter_ns
    taken = []
    for _ in range(count):
        start = clock()
        run()
        taken.append(clock() - start)
    return sorted(taken)[(count - 1) // 4]


def _peak_bytes() -> int:
    """The largest resident memory of this process so far.

    Linux: VmHWM and not ru_maxrss, for a child starts with the ru_maxrss of the parent that started it.
    """
    if Path("/proc/self/status").exists():
        return _status_bytes("VmHWM")
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _resident_bytes() -> int:
    if Path("/proc/self/status").exists():
        return _status_bytes("VmRSS")
    import psutil

    return int(psutil.Process().memory_info().rss)


def _status_bytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
