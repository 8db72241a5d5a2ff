"""Tables of timings in the user's cache: sealed, merged where two runs write at once, and never in the way."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

from haversack.disk import disk_errors, locked
from haversack.errors import UntrustedError
from haversack.progress import note, say
from haversack.runtimes.pieces import Piece
from haversack.untrusted import Bounds, read_json, typed

FORMAT = 2
_MOST_FILES = 2000
"""The times of so many whole files are kept, those that were timed last."""
_UNFINISHED = ".unfinished-"
_BOUNDS = Bounds(size_bytes=1 << 25, values=3_000_000)


Rounds = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class TimedPiece:
    """A piece, and what a run of it took over one of the reference piece."""

    piece: Piece
    ratio: float


@dataclass(frozen=True)
class TimingTable:
    """What was timed on one kind of processor, in one version of a runtime, on so many threads."""

    processor: str
    runtime: str
    version: str
    threads: int
    date: str = ""
    """When it was last added to."""
    reference_ms: float = 0.0
    call: float = 0.0
    """What a run of an empty file takes, over the reference piece."""
    pieces: tuple[TimedPiece, ...] = ()
    files: Mapping[str, Rounds] = field(default_factory=dict)
    """Milliseconds of whole files, and what they take over their original, round by round, by their digest."""
    dates: Mapping[str, str] = field(default_factory=dict)
    """When each of these was timed, as far as it was written down."""

    @cached_property
    def ratios(self) -> dict[Piece, float]:
        """What each piece takes over the reference piece."""
        return {each.piece: each.ratio for each in self.pieces}

    @property
    def of(self) -> tuple[str, str, str, int]:
        """What all of its times hold for."""
        return self.processor, self.runtime, self.version, self.threads

    @property
    def name(self) -> str:
        """The file that it is kept in."""
        return f"{self.runtime}-{hashlib.sha256(repr(self.of).encode()).hexdigest()[:16]}.json"


@dataclass(frozen=True)
class _Sealed:
    format: int
    digest: str
    table: object


class _NewerError(UntrustedError):
    """A table of a version that is not known yet."""


def cache_folder() -> Path:
    """The folder of tables: in HAVERSACK_CACHE, or where the user's caches are."""
    named = os.environ.get("HAVERSACK_CACHE")
    if named:
        return Path(named) / "timings"
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not caches.is_absolute():
        caches = Path(os.path.expanduser("~")) / ".cache"  # noqa: PTH111 - Path.expanduser raises where there is no home
    return caches / "haversack" / "timings"


def read_table(path: Path) -> TimingTable:
    """The table in a file; raises UntrustedError where it is damaged, or of a version that is not known."""
    data = read_json(path, _BOUNDS)
    if isinstance(data, dict) and isinstance(data.get("format"), int) and data["format"] > FORMAT:
        raise _NewerError("it was written by a newer version.", where=str(path))
    sealed = typed(_Sealed, data, str(path))
    if sealed.format != FORMAT or sealed.digest != _digest(sealed.table):
        raise UntrustedError("it is damaged.", where=str(path))
    return typed(TimingTable, sealed.table, str(path))


@dataclass(frozen=True)
class TableFile:
    """A file of the folder: its table, or what is wrong with it."""

    path: Path
    table: TimingTable | None
    wrong: str = ""

    def to_json(self) -> dict[str, object]:
        """What there is, without the times themselves."""
        told: dict[str, object] = {"file": self.path.name}
        if self.table is None:
            return {**told, "wrong": self.wrong}
        what = ("processor", "runtime", "version", "threads", "date")
        counts = {"pieces": len(self.table.pieces), "files": len(self.table.files)}
        return {**told, **{name: getattr(self.table, name) for name in what}, **counts}


def tables(folder: Path) -> Iterator[TableFile]:
    """Every table in the folder; none where there is no such folder."""
    for path in sorted(folder.glob("*.json")):
        try:
            yield TableFile(path, read_table(path))
        except UntrustedError as error:
            yield TableFile(path, None, error.what)


def remove_tables(folder: Path) -> None:
    """Removes every table in the folder; raises WorkspaceError where that cannot be done."""
    with disk_errors(folder):
        for path in folder.glob("*.json"):
            path.unlink()


class Place:
    """Where tables are kept. It says so where one is damaged and so ignored, or cannot be written and so not kept."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._closed = folder, False

    def read(self, empty: TimingTable) -> TimingTable:
        """The table that is kept for the same processor, runtime and threads as the empty one, or that.

        What a killed process left half written goes.
        """
        _sweep(self.folder)
        path = self.folder / empty.name
        if not path.exists():
            self._tell_of_others(empty)
            return empty
        try:
            table = read_table(path)
        except UntrustedError as error:
            self._closed = isinstance(error, _NewerError)
            note(f"the times kept in {path} are ignored: {error.what}")
            return empty
        if table.of != empty.of:
            note(f"the times kept in {path} are ignored: they are of {table.processor}, {table.version}.")
            return empty
        return table

    def merged(self, table: TimingTable) -> TimingTable:
        """The table with what another run kept meanwhile, written where that can be done."""
        if self._closed:
            return table
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder):
                together = self._with_kept(table)
                _write(self.folder / table.name, together)
        except OSError as error:
            self._closed = True
            note(f"times of layers are not kept for the next run: {self.folder} cannot be written: {error.strerror}.")
            return table
        return together

    def _with_kept(self, table: TimingTable) -> TimingTable:
        try:
            kept = read_table(self.folder / table.name)
        except UntrustedError:
            return table
        if kept.of != table.of:
            return table
        # Ratios to the reference piece hold in every run; its own time and the empty call's are the first run's.
        first = kept if kept.pieces else table
        pieces = tuple(TimedPiece(piece, ratio) for piece, ratio in {**table.ratios, **kept.ratios}.items())
        files = dict(list({**kept.files, **table.files}.items())[-_MOST_FILES:])
        known = {**kept.dates, **table.dates}
        dates = {digest: known[digest] for digest in files if digest in known}
        return replace(table, reference_ms=first.reference_ms, call=first.call, pieces=pieces, files=files, dates=dates)

    def _tell_of_others(self, empty: TimingTable) -> None:
        others = [each.table for each in tables(self.folder) if each.table]
        if any(table.runtime == empty.runtime and table.threads == empty.threads for table in others):
            say(f"times kept in {self.folder} are of another processor or version of {empty.runtime}, and not used.")


def _write(path: Path, table: TimingTable) -> None:
    content = asdict(table)
    text = json.dumps({"format": FORMAT, "digest": _digest(content), "table": content}, separators=(",", ":"))
    handle, fresh = tempfile.mkstemp(prefix=_UNFINISHED, dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(fresh).replace(path)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise


def _sweep(folder: Path) -> None:
    """Removes unfinished files: whoever writes one holds the lock until it has its name."""
    with suppress(OSError), locked(folder) as alone:
        for each in folder.glob(f"{_UNFINISHED}*") if alone else ():
            each.unlink()


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
