"""Sizes, times and shares as people write them: `90kB`, `256KiB`, `5ms`, `0.45x`, `1%`."""

from __future__ import annotations

import math
import re

from haversack.errors import QuantityError

_BYTES = {"b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
_MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_MILLIJOULES = {"uj": 1e-3, "µj": 1e-3, "mj": 1.0, "j": 1e3}
_SHARES = {"%": 0.01, "": 1.0}


def parse_bytes(text: str) -> int:
    """Bytes in `90kB` (1000 bytes a kB), `256KiB` (1024 bytes a KiB) or `2MB`. A bare number is refused."""
    return round(_parse(text, _BYTES, "a size", "90kB, 256KiB or 2MB"))


def parse_ms(text: str) -> float:
    """Milliseconds in `5ms`, `800us` or `0.2s`. A bare number is refused."""
    return _parse(text, _MILLISECONDS, "a time", "5ms, 800us or 0.2s")


def parse_mj(text: str) -> float:
    """Millijoules in `3mJ`, `450uJ` or `0.1J`. A bare number is refused."""
    return _parse(text, _MILLIJOULES, "an energy", "3mJ, 450uJ or 0.1J")


def parse_share(text: str) -> float:
    """A share between 0 and 1 from `1%`, `0.01` or `92.5%`."""
    share = _parse(text, _SHARES, "a share", "1% or 0.01")
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
    for limit, unit in ((1000**3, "GB"), (1000**2, "MB"), (1000, "kB")):
        if abs(count) >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count:.0f} B"


def show_count(count: float) -> str:
    """A large count with a metric suffix: 40.8 M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= limit:
            return f"{count / limit:.2f} {unit}"
    return f"{count:.0f}"


def show_ms(milliseconds: float) -> str:
    """A time with three significant digits."""
    return f"{milliseconds:.3g} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.3g} s"


def _parse(text: str, units: dict[str, float] | dict[str, int], what: str, examples: str) -> float:
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-zµ%]*)\s*", text.lower())
    if match is None or match[2] not in units:
        raise QuantityError(f"'{text}' is not {what}.", mend=f"write for example {examples}.")
    value = float(match[1]) * units[match[2]]
    if not math.isfinite(value) or value <= 0:
        raise QuantityError(f"'{text}' must be more than zero.", mend=f"write for example {examples}.")
    return value
