"""Timings: what pieces take here, in one runtime on so many threads; timed once, and kept in the user's cache."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from haversack.device import find_device
from haversack.errors import ExportError, MeasureError
from haversack.progress import note, track
from haversack.quantity import now
from haversack.runtimes import File, Runtime, turns
from haversack.runtimes.files import checked_threads
from haversack.runtimes.host import processor_in_full, versions
from haversack.runtimes.piece_estimates import Estimates
from haversack.runtimes.piece_graphs import graph_of, with_integer_ports
from haversack.runtimes.pieces import Piece
from haversack.runtimes.process import TIMEOUT_S, ask
from haversack.runtimes.timing_tables import Place, Rounds, TimedPiece, TimingTable, cache_folder

REFERENCE = Piece("conv2d", ((32, 16, 16),), (32, 16, 16), (32, 32, 3, 3), (1, 1), (1, 1), (1, 1), 1, "relu")
"""What every piece takes turns with."""
_TOGETHER = 30
"""So many pieces share a process; what was timed is kept after each."""
_SECONDS = 0.15
_ENOUGH = 3
"""So many quiet rounds are told from luck."""


def written(piece: Piece, runtime: Runtime) -> bytes:
    """A file of the piece alone, as the runtime meets it within a network: integers come in and go out as they are.

    Raises ExportError where no such file can be written.
    """
    integers = piece.passes_integers
    turned = integers and runtime.maps_channels_last
    graph = graph_of(piece, signed=find_device("host").signed_activations, channels_last=turned)
    return runtime.write(with_integer_ports(graph) if integers and runtime.integer_ports else graph)


class Times:
    """Times of pieces on this machine, without the time of the call itself. Tables are shared by all runs."""

    def __init__(
        self, runtime: Runtime, threads: int = 1, *, folder: Path | None = None, seconds: float = _SECONDS
    ) -> None:
        """Reads what is kept for this processor, the runtime's version and `threads`; `seconds` is for each piece."""
        self._runtime, self._threads, self._seconds = runtime.first, checked_threads(threads), seconds
        self._place = Place(cache_folder() if folder is None else folder)
        self._table = self._place.read(_empty_table(self._runtime, threads))
        self._refused: set[Piece] = set()
        self._estimates: Estimates | None = None

    def of(self, piece: Piece) -> float:
        """Milliseconds of one sample, timed or estimated from timed ones; raises MeasureError where none was timed."""
        if self._estimates is None:
            times = {each.piece: max(0.0, each.ratio - self._table.call) for each in self._table.pieces}
            self._estimates = Estimates(times)
        return self._estimates.of(piece) * self._table.reference_ms

    @property
    def call_ms(self) -> float:
        """Milliseconds that a run takes besides its pieces, once some were timed."""
        return self._table.call * self._table.reference_ms

    def timed(self, piece: Piece) -> bool:
        """Whether it was timed itself."""
        return piece in self._table.ratios

    def measure(self, pieces: Iterable[Piece]) -> None:
        """Times those that were not timed yet, and keeps what they take.

        Those of which no file can be written, or which the runtime refuses, stay estimated; that is said.
        """
        wanted = [each for each in dict.fromkeys(pieces) if not self.timed(each) and each not in self._refused]
        parts = [wanted[start : start + _TOGETHER] for start in range(0, len(wanted), _TOGETHER)]
        for some in track(parts, f"timing {len(wanted)} layers by themselves", len(parts)):
            part = list(self._files(some))
            self._measure([piece for piece, _ in part], [file for _, file in part])
        refused = [piece for piece in wanted if piece in self._refused]
        if refused:
            kinds = ", ".join(sorted({piece.kind for piece in refused}))
            note(f"{len(refused)} operations cannot be timed by themselves, so their time is estimated: {kinds}")

    def kept(self, digest: str) -> Rounds | None:
        """Milliseconds of a whole file of that digest, and its share of the original's, in rounds that were kept."""
        return self._table.files.get(digest)

    def date_of(self, digest: str) -> str:
        """When a whole file that is kept was timed, in UTC; empty where that was not written down."""
        return self._table.dates.get(digest, "")

    def keep(self, digest: str, rounds: Rounds) -> None:
        """Keeps what a whole file takes, round by round; the digest is of all that its time depends on."""
        table = self._table
        files, dates = {**table.files, digest: rounds}, {**table.dates, digest: now()}
        self._store(replace(table, files=files, dates=dates))

    def _files(self, pieces: Sequence[Piece]) -> Iterator[tuple[Piece, bytes]]:
        for piece in pieces:
            try:
                yield piece, written(piece, self._runtime)
            except ExportError:
                self._refused.add(piece)

    def _measure(self, pieces: Sequence[Piece], files: Sequence[bytes]) -> None:
        first: list[File] = [written(REFERENCE, self._runtime), self._runtime.format.empty()]
        timeout_s = TIMEOUT_S + 10 * self._seconds * len(files)
        found = ask("beside", [*first, *files], self._threads, timeout_s=timeout_s, seconds=self._seconds)
        firsts = [first for rounds in found["rounds"] for _, first in rounds]
        call, *ratios = (_ratio(rounds, min(firsts, default=0.0)) for rounds in found["rounds"])
        if call is None:
            raise MeasureError("the runtime does not run an empty file.", where=self._runtime.title)
        timed = tuple(
            TimedPiece(piece, ratio) for piece, ratio in zip(pieces, ratios, strict=True) if ratio is not None
        )
        self._refused |= {piece for piece, ratio in zip(pieces, ratios, strict=True) if ratio is None}
        first_time = not self._table.pieces
        self._store(
            replace(
                self._table,
                call=call if first_time else self._table.call,
                reference_ms=_undisturbed(firsts) if first_time else self._table.reference_ms,
                pieces=(*self._table.pieces, *timed),
            )
        )

    def _store(self, table: TimingTable) -> None:
        self._table, self._estimates = self._place.merged(replace(table, date=now())), None


def _ratio(rounds: Sequence[list[float]], least: float) -> float | None:
    """What a piece takes over the reference piece, both where nobody disturbed them; None where it never ran.

    `least` is the least that the reference piece took beside any piece.
    """
    if not rounds:
        return None
    alone = turns.quiet(rounds, least)
    taken, first = (_undisturbed(times) for times in zip(*(alone if len(alone) >= _ENOUGH else rounds), strict=True))
    return taken / first


def _undisturbed(times: Sequence[float]) -> float:
    """The lower decile: what others take from a machine only adds, and the least of all is luck."""
    return statistics.quantiles(times, n=10, method="inclusive")[0]


def _empty_table(runtime: Runtime, threads: int) -> TimingTable:
    known = versions()
    names = [package.replace("_", "-") for package in runtime.packages]
    version = ", ".join(f"{name} {known.get(name, 'unknown')}" for name in names)
    return TimingTable(processor_in_full(), runtime.name, version, threads)
