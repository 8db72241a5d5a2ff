"""A benchmark's JSON file: figures by name, and for every row where, when and with what its figures were measured.

    {"resnet20.w8a8": 0.9177, ..., "rows": {"resnet20.w8a8": {"figures": [names], "quick": false, "machine": ...}}}

A commit that begins with "in" is the one that brought figures which were measured before commits were written down.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from haversack.errors import HaversackError
from haversack.runtimes import host

Found = dict[str, object]
"""Figures by name."""
_INTEGER_INSTRUCTIONS = "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"


@dataclass(frozen=True)
class Measured:
    """A row: its figures, and what they depend on."""

    figures: Found
    quick: bool
    date: str
    commit: str
    machine: str
    versions: Mapping[str, str]

    @classmethod
    def here(cls, figures: Found, *, quick: bool, commit: str) -> Measured:
        """Figures that were measured on this machine just now, by the code of this commit."""
        return cls(figures, quick, datetime.now(UTC).date().isoformat(), commit, _machine(), host.versions())


def read(file: Path) -> dict[str, Measured]:
    """The file's rows by name; none where it is empty. Raises HaversackError where a figure is not of one row."""
    try:
        flat: Found = json.loads(file.read_text("utf-8") or "{}")
        named = flat.pop("rows", {})
        rows = {
            name: Measured(**{**row, "figures": {each: flat[each] for each in row["figures"]}})
            for name, row in named.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HaversackError(
            f"no figures can be read from it: {error}.", where=str(file), mend="give another file."
        ) from error
    _check(file, [each for row in rows.values() for each in row.figures], flat)
    return rows


def write(file: Path, rows: Mapping[str, Measured]) -> None:
    """Writes all figures, and then which row each is of. Raises HaversackError where two rows give one figure."""
    flat = {name: value for row in rows.values() for name, value in row.figures.items()}
    _check(file, [each for row in rows.values() for each in row.figures], flat)
    named = {name: {**vars(row), "figures": list(row.figures)} for name, row in rows.items()}
    beside = file.with_name(f"{file.name}.new")
    beside.write_text(json.dumps({**flat, "rows": named}, indent=1) + "\n", encoding="utf-8")
    beside.replace(file)


def kept(file: Path, measuring: Collection[str], *, quick: bool) -> dict[str, Measured]:
    """The file's rows, before these are measured; that it can be written is known before hours have passed.

    Raises HaversackError where a quick run would replace a whole row.
    """
    try:
        with file.open("a", encoding="utf-8"):
            rows = read(file)
    except OSError as error:
        mend = "give another file."
        raise HaversackError(f"no figures can be kept in it: {error}.", where=str(file), mend=mend) from error
    whole = [name for name in measuring if name in rows and not rows[name].quick]
    if quick and whole:
        what = f"{', '.join(whole)} was measured whole, and a quick run says less."
        raise HaversackError(what, where=str(file), mend="give another file.")
    return rows


def commit(folder: Path = Path(__file__).parent) -> str:
    """The commit that is checked out here, "+changes" where files other than results differ, or "unknown"."""
    described = _git(folder, "rev-parse", "--short", "HEAD")
    if not described:
        return "unknown"
    return described + ("+changes" if _git(folder, "status", "--porcelain", "--", ":/", ":(exclude)results") else "")


def _check(file: Path, owned: list[str], flat: Found) -> None:
    """Raises HaversackError unless every figure is of one row, and no figure is called `rows`."""
    wrong = {*(each for each in owned if owned.count(each) > 1), *(flat.keys() - set(owned))} | {"rows"} & set(owned)
    if wrong:
        raise HaversackError(
            f"{', '.join(sorted(wrong))}: not the figure of one row.", where=str(file), mend="measure its row again."
        )


def _machine() -> str:
    """This machine, with the instructions for 8-bit products that its CPU has: speeds of int8 hang on them."""
    try:
        flags = Path("/proc/cpuinfo").read_text("utf-8").split()
    except OSError:
        flags = []
    return ", ".join([host.machine(), *(each for each in _INTEGER_INSTRUCTIONS if each in flags)])


def _git(folder: Path, *words: str) -> str:
    try:
        return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
