"""Sizes, times and shares as people write them: `90kB`, `256KiB`, `5ms`, `0.45x`, `1%`."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

from haversack.errors import QuantityError

_BYTES = {"b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
_MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_MILLIJOULES = {"uj": 1e-3, "µj": 1e-3, "mj": 1.0, "j": 1e3}
_COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_SHARES = {"%": 0.01, "": 1.0}


def parse_bytes(text: str) -> int:
    """Bytes in `90kB` (1000 bytes a kB), `256KiB` (1024 bytes a KiB) or `2MB`. A bare number is refused."""
    if re.search(r"[MG]i?b\s*$", text):
        raise QuantityError(f"'{text}' reads as bits.", mend="write B for bytes, as in 2MB or 256KiB.")
    count = _parse(text, _BYTES, "a size", "90kB, 256KiB or 2MB")
    if count < 1:
        raise QuantityError(f"'{text}' is less than a byte.", mend="write for example 90kB, 256KiB or 2MB.")
    return round(count)


def parse_ms(text: str) -> float:
    """Milliseconds in `5ms`, `800us` or `0.2s`. A bare number is refused."""
    return _parse(text, _MILLISECONDS, "a time", "5ms, 800us or 0.2s")


def parse_mj(text: str) -> float:
    """Millijoules in `3mJ`, `450uJ` or `0.1J`. A bare number is refused."""
    return _parse(text, _MILLIJOULES, "an energy", "3mJ, 450uJ or 0.1J")


def parse_count(text: str) -> int:
    """A whole number of things from `4M`, `500k` or `4000000`."""
    count = _parse(text, _COUNTS, "a count", "4M, 500k or 4000000")
    if count < 1:
        raise QuantityError(f"'{text}' is less than one.", mend="write for example 4M, 500k or 4000000.")
    return round(count)


def parse_share(text: str) -> float:
    """A share between 0 and 1 from `1%`, `0.01` or `92.5%`."""
    share = _parse(text, _SHARES, "a share", "1% or 0.01", may_be_zero=True)
    if share > 1:
        raise QuantityError(f"'{text}' is more than the whole.", mend="write 1% or 0.01 for one hundredth.")
    return share


def parse_latency(text: str) -> tuple[float | None, float | None]:
    """(milliseconds, None) for `5ms`, (None, ratio to the float original) for `0.45x`."""
    if text.strip().lower().endswith("x"):
        return None, _parse(text, {"x": 1.0}, "a ratio", "0.45x")
    return parse_ms(text), None


def show_bytes(count: float) -> str:
    """`count` bytes as people read them, in units of 1000."""
    return _scaled(count, ("B", "kB", "MB", "GB"), 1)


def show_count(count: float) -> str:
    """A large count with a metric suffix: 40.80 M."""
    return _scaled(count, ("", "k", "M", "G"), 2)


def show_ms(milliseconds: float) -> str:
    """A time with three significant digits, in seconds from one second on."""
    value, unit = (milliseconds, "ms") if abs(milliseconds) < 999.5 else (milliseconds / 1000, "s")
    # From 999.5 on, three significant digits would be written with an exponent.
    return f"{value:.3g} {unit}" if abs(value) < 999.5 else f"{value:.0f} {unit}"


def show_ratio(ratio: float) -> str:
    """A ratio: 0.45x."""
    return f"{ratio:.3g}x"


def show_score(score: float) -> str:
    """A score with enough digits to see one sample of ten thousand."""
    return f"{score:.4f}"


def show_mj(millijoules: float) -> str:
    """An energy with three significant digits."""
    return f"{millijoules:.3g} mJ"


def _scaled(count: float, units: tuple[str, ...], digits: int) -> str:
    """`count` in the first unit in which it stays below 1000 as rounded, so that no 1000.0 kB is shown."""
    shown = f"{count:.0f}"
    power = 0
    while abs(float(shown)) >= 1000 and power < len(units) - 1:
        power += 1
        shown = f"{count / 1000**power:.{digits}f}"
    return f"{shown} {units[power]}".rstrip()


def _parse(
    text: str, units: dict[str, float] | dict[str, int], what: str, examples: str, *, may_be_zero: bool = False
) -> float:
    plain = text.lower().replace("\N{GREEK SMALL LETTER MU}", "\N{MICRO SIGN}")
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-zµ%]*)\s*", plain)
    if match is None or match[2] not in units:
        raise QuantityError(f"'{text}' is not {what}.", mend=f"write for example {examples}.")
    value = float(match[1]) * units[match[2]]
    if not math.isfinite(value):
        raise QuantityError(f"'{text}' is too large.", mend=f"write for example {examples}.")
    if value == 0 and not may_be_zero:
        raise QuantityError(f"'{text}' must be more than zero.", mend=f"write for example {examples}.")
    return value


def now() -> str:
    """The time in UTC to the second, such as 2026-01-31 23:59:59: earlier ones sort before later ones."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
