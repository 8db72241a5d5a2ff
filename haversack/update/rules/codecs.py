"""Codecs: the ways in which a bundle's payload holds a model's weights, and the smallest of them that is right."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from haversack.coded import container
from haversack.coded.tensors import Stored
from haversack.errors import CodedError, UpdateError
from haversack.update.rules import delta
from haversack.update.rules.bundle import Bundle

WHOLE, DELTA = "whole", "delta"
VERSIONS = {WHOLE: container.VERSION, DELTA: delta.VERSION}
FORMAT = f"coded-{container.VERSION}"
Tensors = Mapping[str, Stored]

# Tables are charged by the tensor, however small it is.
_LIMIT_TIMES, _LIMIT_MORE = 16, 1 << 26


@dataclass(frozen=True)
class Payload:
    """Weights on their way: how they are coded, what they change, if anything, and what comes out."""

    codec: str
    content: bytes
    base_sha256: bytes
    result_sha256: bytes
    result_bytes: int


def digest(tensors: Tensors) -> bytes:
    """Which weights these are, however they are coded: the SHA-256 of their plain file."""
    return hashlib.sha256(container.plain(tensors)).digest()


def smallest(new: Tensors, old: Tensors | None = None) -> Payload:
    """The smallest payload that gives `new` back, of the whole and, where there is `old`, of what changes it."""
    plain = container.plain(new)
    result = hashlib.sha256(plain).digest(), len(plain)
    ways = [Payload(WHOLE, container.write(new), b"", *result)]
    if old is not None and list(old) == list(new):
        ways.append(Payload(DELTA, delta.write(old, new), digest(old), *result))
    for payload in sorted(ways, key=lambda way: len(way.content)):
        if _gives(payload, old, plain):
            return payload
    raise UpdateError("its weights do not come back as they were.", mend="write the coded file again.")


def result(bundle: Bundle, old: Tensors | None = None) -> dict[str, Stored]:
    """The weights that a verified bundle brings, given those that it changes.

    Raises UpdateError for a codec that is unknown here, for another base, and where not the signed result comes out.
    """
    header = bundle.header
    if VERSIONS.get(header.codec) != header.codec_version:
        raise UpdateError(
            f"its payload is coded as {header.codec!r}, version {header.codec_version}, which is unknown here.",
            mend="read it with a newer haversack, or publish the whole model.",
        )
    if header.base_sha256 and (old is None or digest(old) != header.base_sha256):
        raise UpdateError("it changes another model than the one here.", mend="fetch the whole one.")
    if bool(header.base_sha256) != (header.codec == DELTA):
        raise UpdateError("its header makes no sense.", mend="ask whoever signed it to make it again.")
    try:
        tensors = _decoded(header.codec, bundle.payload, old, header.result_bytes)
        plain = container.plain(tensors)
    except CodedError as error:
        raise UpdateError(f"its payload cannot be decoded: {error.what}", mend="fetch the whole one.") from error
    if (len(plain), hashlib.sha256(plain).digest()) != (header.result_bytes, header.result_sha256):
        raise UpdateError("its payload gives other weights than were signed.", mend="fetch the whole one.")
    return tensors


def fields(payload: Payload) -> dict[str, Any]:
    """The header's fields that say how the payload is coded and what comes out."""
    return {
        "codec": payload.codec,
        "codec_version": VERSIONS[payload.codec],
        "base_sha256": payload.base_sha256,
        "result_sha256": payload.result_sha256,
        "result_bytes": payload.result_bytes,
    }


def _decoded(codec: str, content: bytes, old: Tensors | None, result_bytes: int) -> dict[str, Stored]:
    """The tensors of a payload; what they claim is bounded by what was said to come out."""
    limit = _LIMIT_TIMES * result_bytes + _LIMIT_MORE
    if codec == WHOLE:
        return container.read(content, limit_bytes=limit)
    return delta.read(old or {}, content, limit_bytes=limit)


def _gives(payload: Payload, old: Tensors | None, plain: bytes) -> bool:
    try:
        return container.plain(_decoded(payload.codec, payload.content, old, len(plain))) == plain
    except CodedError:
        return False
