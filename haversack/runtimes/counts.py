"""Counts: how many instructions pieces take as programs on a core; counted once, and kept in the user's cache."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from haversack.device import Device
from haversack.errors import ExportError, MeasureError
from haversack.progress import note, track
from haversack.quantity import now
from haversack.runtimes import Programs, Runtime
from haversack.runtimes.piece_estimates import Estimates
from haversack.runtimes.piece_graphs import graph_of
from haversack.runtimes.pieces import Piece
from haversack.runtimes.timing_tables import Place, TimedPiece, TimingTable, cache_folder


class Counts:
    """Instructions of pieces on one core. Tables are shared by all runs; any processor counts the same."""

    def __init__(self, runtime: Runtime, programs: Programs, device: Device, *, folder: Path | None = None) -> None:
        """Reads what is kept for the device's core and the writer's version."""
        self._programs, self._device = programs, device
        self._place = Place(cache_folder() if folder is None else folder)
        self._table = self._place.read(TimingTable(device.core, runtime.name, programs.version(), threads=1))
        self._refused: set[Piece] = set()
        self._estimates: Estimates | None = None

    def of(self, piece: Piece) -> float:
        """Instructions of one sample, counted or estimated from counted ones; MeasureError where none was counted."""
        if self._estimates is None:
            self._estimates = Estimates(self._table.ratios)
        return self._estimates.of(piece)

    def timed(self, piece: Piece) -> bool:
        """Whether it was counted itself."""
        return piece in self._table.ratios

    def measure(self, pieces: Iterable[Piece]) -> None:
        """Counts those that were not counted yet, and keeps what they take.

        Those of which no program can be written stay estimated; that is said.
        """
        wanted = [each for each in dict.fromkeys(pieces) if not self.timed(each) and each not in self._refused]
        found = list[TimedPiece]()
        for piece in track(wanted, f"counting the instructions of {len(wanted)} layers by themselves", len(wanted)):
            try:
                program = self._programs.run(graph_of(piece, signed=True), self._device, None)
                found.append(TimedPiece(piece, float(program.instructions)))
            except (ExportError, MeasureError):
                self._refused.add(piece)
        refused = [piece for piece in wanted if piece in self._refused]
        if refused:
            kinds = ", ".join(sorted({piece.kind for piece in refused}))
            note(f"{len(refused)} operations are no programs by themselves, so theirs are estimated: {kinds}")
        if found:
            known = (*self._table.pieces, *found)
            self._table = self._place.merged(replace(self._table, reference_ms=1.0, pieces=known, date=now()))
            self._estimates = None
