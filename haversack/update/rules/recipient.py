"""Recipient: what a device is and has, and which bundles are therefore not for it."""

from __future__ import annotations

from dataclasses import dataclass

from haversack.errors import UpdateError
from haversack.update.rules.bundle import Header

_OTHER = "fetch the bundle that was made for this device."


@dataclass(frozen=True, kw_only=True)
class Recipient:
    """A device as its updates see it."""

    model_id: str
    sequence: int
    """That of the model it has, or the highest that it ever confirmed; -1 where it has none."""
    device: str
    runtime: str
    formats: tuple[str, ...]
    base_sha256: bytes = b""
    """The digest of the model it has; empty where it has none."""
    most_bytes: int
    """Room for a model."""
    now: int | None = None
    """Seconds since 1970; None where nothing tells the time."""


def check_recipient(header: Header, recipient: Recipient) -> None:
    """Raises UpdateError, saying why, unless a verified bundle is for this recipient and newer than what it has."""
    _check_device(header, recipient)
    if header.ends and recipient.now is None:
        raise UpdateError("it has an end, and this device has no clock.", mend="fetch one without an end.")
    if header.ends and recipient.now is not None and recipient.now >= header.ends:
        raise UpdateError("it has expired.", mend="fetch a newer one, or set this device's clock.")
    if header.sequence <= recipient.sequence:
        raise UpdateError(
            f"its sequence number is {header.sequence}, and {recipient.sequence} is here already.",
            mend="publish older weights again under a higher number, if they are wanted back.",
        )
    if header.base_sha256 and header.base_sha256 != recipient.base_sha256:
        raise UpdateError("it changes another model than the one here.", mend="fetch the whole one.")
    if header.result_bytes > recipient.most_bytes:
        raise UpdateError(
            f"its model has {header.result_bytes:,} bytes, and there is room for {recipient.most_bytes:,}.",
            mend="make room, or a smaller model.",
        )


def _check_device(header: Header, recipient: Recipient) -> None:
    wanted = {
        "model": (header.model_id, (recipient.model_id,)),
        "device": (header.device, ("", recipient.device)),
        "runtime": (header.runtime, (recipient.runtime,)),
        "format": (header.format, recipient.formats),
    }
    for name, (asked, there) in wanted.items():
        if asked not in there:
            has = " or ".join(each for each in there if each)
            raise UpdateError(f"it is for the {name} {asked!r}, and this is {has!r}.", mend=_OTHER)
