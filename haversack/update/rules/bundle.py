"""Bundle: one file that brings a device a model's next version: a signed header, and the bytes that it vouches for.

Nothing is believed before the signature over the header is verified; everything else follows from what the header says,
and each of that is bounded before anything is built from it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import Any

from haversack.errors import UpdateError
from haversack.update.rules.cbor import Items, Value, read, written
from haversack.update.rules.signing import PrivateKey, PublicKey, signed, verified

VERSION = 1
MOST_HEADER, MOST_PAYLOAD = 1 << 20, 1 << 28
"""A header of a million bytes has chunks enough for a payload of 2^28."""
CHUNK_BYTES = 1 << 14
SHA256_BYTES = 32
_OPTIONAL_FROM = 128
"""Fields with these numbers may be passed over by a reader that does not know them."""
_NUMBERS, MOST_TEXT = 1 << 63, 128
_LEAST_CHUNK = 256
_LAST_END = 253_402_300_799
"""The last second of the year 9999, after which dates are none."""
_NEWER = "read it with a newer haversack."


@dataclass(frozen=True)
class Canary:
    """Inputs that the new model is tried on, and the SHA-256 of the outputs that it must give."""

    inputs: bytes
    outputs_sha256: bytes


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a bundle says of itself. A field's number in the file is the order here."""

    version: int = VERSION
    model_id: str
    sequence: int
    runtime: str
    """What computes the model on the device."""
    format: str
    """How the model is stored there."""
    device: str = ""
    """Empty where any device will do."""
    codec: str
    codec_version: int
    base_sha256: bytes = b""
    """Which model the payload changes; empty where it holds the whole."""
    result_sha256: bytes
    result_bytes: int
    payload_bytes: int
    chunk_bytes: int
    chunks: tuple[bytes, ...]
    """The SHA-256 of each chunk of the payload."""
    canaries: tuple[Canary, ...] = ()
    ends: int = 0
    """Seconds since 1970 from which the bundle is not to be installed; 0 where it has no end."""


@dataclass(frozen=True)
class Bundle:
    """A bundle that was verified: its header, and its payload."""

    header: Header
    payload: bytes


def write(header: Header, payload: bytes, key: PrivateKey) -> bytes:
    """The file of a header whose sizes and chunks are those of the payload (`chunked`), signed."""
    _check(header)
    return signed(written(_values(header)), key) + written(payload)


def chunked(payload: bytes, chunk_bytes: int = CHUNK_BYTES) -> dict[str, Any]:
    """The header's fields that follow from the payload."""
    begins = range(0, len(payload), chunk_bytes)
    chunks = tuple(hashlib.sha256(payload[begin : begin + chunk_bytes]).digest() for begin in begins)
    return {"payload_bytes": len(payload), "chunk_bytes": chunk_bytes, "chunks": chunks}


def opened(content: bytes, key: PublicKey) -> Bundle:
    """The bundle in a file, of which every byte is what the owner of `key` signed.

    Raises UpdateError for another file or version, another key, and for what was altered, cut off or added.
    """
    items = Items(content)
    header = header_of(items, key)
    payload = items.bytes_string(MOST_PAYLOAD)
    items.close()
    found = chunked(payload, header.chunk_bytes)
    if len(payload) != header.payload_bytes or found["chunks"] != header.chunks:
        raise UpdateError("its payload is not what was signed.", mend="fetch it again.")
    return Bundle(header, payload)


def header_of(items: Items, key: PublicKey) -> Header:
    """The header that stands next, verified; the payload need not be there yet. Raises UpdateError as `opened` does."""
    values = read(verified(items, key, MOST_HEADER))
    version = values.get(0) if isinstance(values, dict) else None
    if not isinstance(values, dict) or not isinstance(version, int):
        raise _senseless()
    if version != VERSION:
        raise UpdateError(f"it has version {version} of the format, and this is {VERSION}.", mend=_NEWER)
    return _check(_header(values))


def _values(header: Header) -> dict[int, Value]:
    """The header's fields by number; what is empty is left out."""
    found: dict[int, Value] = {}
    for number, field in enumerate(fields(Header)):
        value = getattr(header, field.name)
        if field.name == "chunks":
            found[number] = b"".join(value)
        elif field.name == "canaries":
            found[number] = [[canary.inputs, canary.outputs_sha256] for canary in value]
        else:
            found[number] = value
    return {number: value for number, value in found.items() if value or number not in _DEFAULTS}


_NAMES = tuple(field.name for field in fields(Header))
_DEFAULTS = {_NAMES.index(name) for name in ("device", "base_sha256", "canaries", "ends")}


def _header(values: dict[int, Value]) -> Header:
    strange = [number for number in values if len(_NAMES) <= number < _OPTIONAL_FROM]
    if strange:
        raise UpdateError(f"it has a field {strange[0]} that a reader must know.", mend=_NEWER)
    if any(number not in values and number not in _DEFAULTS for number in range(len(_NAMES))):
        raise _senseless()
    known: dict[str, Any] = {name: values[number] for number, name in enumerate(_NAMES) if number in values}
    chunks, canaries = known["chunks"], known.get("canaries", [])
    if not isinstance(chunks, bytes) or not isinstance(canaries, list):
        raise _senseless()
    if not all(isinstance(pair, list) and len(pair) == 2 and set(map(type, pair)) == {bytes} for pair in canaries):
        raise _senseless()
    known["chunks"] = tuple(chunks[at : at + SHA256_BYTES] for at in range(0, len(chunks), SHA256_BYTES))
    return Header(**known | {"canaries": tuple(Canary(*pair) for pair in canaries)})


def _check(header: Header) -> Header:
    """The header, whose fields are of their kinds and agree; raises UpdateError where not."""
    kinds = {"int": int, "str": str, "bytes": bytes}
    for field in fields(Header):
        value, kind = getattr(header, field.name), kinds.get(str(field.type))
        if kind and type(value) is not kind:
            raise _senseless()
        if (kind is int and not 0 <= value < _NUMBERS) or (kind is str and len(value.encode()) > MOST_TEXT):
            raise _senseless()
    digests = [header.result_sha256, *header.chunks, *(canary.outputs_sha256 for canary in header.canaries)]
    digests += [header.base_sha256] if header.base_sha256 else []
    whole = all(len(digest) == SHA256_BYTES for digest in digests)
    if not whole or not header.model_id or header.ends > _LAST_END or header.chunk_bytes < _LEAST_CHUNK:
        raise _senseless()
    if header.payload_bytes > MOST_PAYLOAD or len(header.chunks) != -(-header.payload_bytes // header.chunk_bytes):
        raise _senseless()
    return header


def _senseless() -> UpdateError:
    return UpdateError("its header makes no sense.", mend="ask whoever signed it to make it again.")
