"""Result: the folder that `pack` and `apply` leave, read without torch, each part checked before it is believed.

Updates, reports and servers read it here, and so does whatever goes on with the network in torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from haversack.artifact import CODED_FILE
from haversack.coded.container import MOST_BYTES, CodedFile
from haversack.disk import LISTING, changed, check_regular, file_in, listed
from haversack.errors import MeasureError, UntrustedError
from haversack.limits import Budget
from haversack.measurement import Measurement
from haversack.untrusted import SMALL, decoded, parse_json, parse_toml, plain_name, read_file, typed

NETWORK, WORKSPACE = "network", "workspace"
RECIPE, MEASURED, REPORT = "recipe.toml", "measurement.json", "report.txt"
TEXTS = (RECIPE, MEASURED, REPORT)
_MEND = "make the result again."


@dataclass(frozen=True)
class KeptRow:
    """A row of a frontier as it is kept."""

    recipe: str
    """As TOML."""
    predicted: dict[str, float] = field(default_factory=dict)
    measurement: Measurement | None = None
    """None where it was predicted, and not built."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What `measurement.json` says: the result's figures beside the original's, its limits, and the frontier."""

    baseline: Measurement | None = None
    packed: Measurement
    limits: Budget = field(default_factory=Budget)
    frontier: tuple[KeptRow, ...] = ()
    """The recipes that no other beats, of which the result is one."""

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary for `measurement.json`."""
        return asdict(self)


@dataclass(frozen=True)
class ResultFile:
    """A file of a result as it was written."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Result:
    """A result folder. Each part is read when it is asked for, and must be what was written where a listing tells.

    Names stay within the folder, links are not followed, and sizes and types are checked before anything is built.
    What asks for a part raises MeasureError where the folder holds no result, UntrustedError where the part is gone,
    damaged, too large, or something else, and CodedError where the coded weights are.
    """

    folder: Path

    @cached_property
    def listing(self) -> Mapping[str, str] | None:
        """The digest of each file by its name; None in a result of a version that wrote down none."""
        if not os.path.lexists(self.folder / LISTING):
            return None
        try:
            check_regular(self.folder / LISTING)
            return listed(self.folder)
        except UntrustedError as error:
            raise MeasureError(error.what, where=error.where, mend=_MEND) from error

    @property
    def files(self) -> tuple[ResultFile, ...]:
        """All files with size and digest, by name; raises MeasureError unless each of them is what was written."""
        if self.listing is None:
            raise self._absent(f"it has no {LISTING}, which says what a result consists of.")
        if altered := self.changed():
            raise self._altered(altered[0])
        return tuple(
            ResultFile(name, (self.folder / name).lstat().st_size, digest) for name, digest in self.listing.items()
        )

    @property
    def recipe(self) -> str:
        """The recipe as `recipe_from_toml` reads it."""
        return self._text(RECIPE)

    @property
    def techniques(self) -> tuple[str, ...]:
        """The names in the recipe, which may be of techniques that this version does not have."""
        where = str(self.folder / RECIPE)
        steps = parse_toml(self.recipe, where).get("step", [])
        if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
            raise UntrustedError("it holds no steps.", where=where, mend=_MEND)
        names = tuple(step.get("technique") for step in steps)
        if not all(map(plain_name, names)):
            raise UntrustedError("it holds a step of no technique.", where=where, mend=_MEND)
        return names

    @property
    def measured(self) -> Measured:
        """What was measured of it and of the original, and its limits."""
        where = str(self.folder / MEASURED)
        data = parse_json(self._text(MEASURED), where)
        if isinstance(data, dict):
            data = {each.name: data[each.name] for each in fields(Measured) if each.name in data}
        return typed(Measured, data, where)

    @property
    def report(self) -> str:
        """The report."""
        return self._text(REPORT)

    @property
    def weights(self) -> CodedFile:
        """The coded weights."""
        return CodedFile.of(self._content(CODED_FILE, MOST_BYTES), str(self.folder / CODED_FILE))

    @property
    def network(self) -> Path:
        """The folder that `surgery.save` reads the network from; raises MeasureError unless it is what was written."""
        place = self.folder / NETWORK
        if not place.is_dir():
            raise self._absent("it holds no result of `pack` or `apply`.")
        if altered := self.changed(f"{NETWORK}/"):
            raise self._altered(altered[0])
        return place

    def changed(self, start: str = "") -> list[str]:
        """The files whose names start so that are gone, or no longer what was written; none without a listing."""
        return changed(
            self.folder, {name: each for name, each in (self.listing or {}).items() if name.startswith(start)}
        )

    def path(self, name: str) -> Path:
        """Where a file of the result lies; raises UntrustedError for a name that leads elsewhere, and for no file."""
        return file_in(self.folder, name)

    def _text(self, name: str) -> str:
        return decoded(self._content(name, SMALL.size_bytes), str(self.folder / name))

    def _content(self, name: str, most_bytes: int) -> bytes:
        if self.listing is None and not (self.folder / NETWORK).is_dir():
            raise self._absent("it holds no result of `pack` or `apply`.")
        if self.listing is not None and name not in self.listing:
            raise UntrustedError(f"its {LISTING} names no {name}.", where=str(self.folder), mend=_MEND)
        content = read_file(self.path(name), most_bytes)
        if self.listing is not None and hashlib.sha256(content).hexdigest() != self.listing[name]:
            raise UntrustedError(
                "it is not what was written: its digest differs.", where=str(self.folder / name), mend=_MEND
            )
        return content

    def _absent(self, what: str) -> MeasureError:
        return MeasureError(what, where=str(self.folder), mend="give the folder that --out named.")

    def _altered(self, name: str) -> MeasureError:
        return MeasureError(f"{name} is gone, or not what was written.", where=str(self.folder), mend=_MEND)
