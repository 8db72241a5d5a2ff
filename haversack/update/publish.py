"""Publish: a result becomes the bundle that brings it to devices, and a bundle is looked through before it is sent."""

from __future__ import annotations

from dataclasses import dataclass

from haversack.errors import UpdateError
from haversack.result import Result
from haversack.update.rules import codecs
from haversack.update.rules.bundle import MOST_TEXT, Bundle, Header, chunked, opened, write
from haversack.update.rules.signing import PrivateKey, PublicKey


@dataclass(frozen=True, kw_only=True)
class Release:
    """What a publisher says of a version."""

    model_id: str
    sequence: int
    runtime: str
    device: str = ""
    ends: int = 0

    def __post_init__(self) -> None:
        for text in (self.model_id, self.runtime, self.device):
            if len(text.encode()) > MOST_TEXT:
                raise UpdateError(f"{text[:40]!r}... is too long a name.", mend=f"give it at most {MOST_TEXT} bytes.")
        if not self.model_id:
            raise UpdateError("the model has no name.", mend="give one with --model-id, the same for all its versions.")


def bundle(new: Result, old: Result | None, release: Release, key: PrivateKey) -> tuple[Header, bytes]:
    """The smallest bundle of a result's coded weights, which may build on those of an older one, and its header."""
    payload = codecs.smallest(new.weights.tensors, old.weights.tensors if old else None)
    header = Header(
        model_id=release.model_id,
        sequence=release.sequence,
        runtime=release.runtime,
        format=codecs.FORMAT,
        device=release.device,
        ends=release.ends,
        **codecs.fields(payload),
        **chunked(payload.content),
    )
    return header, write(header, payload.content, key)


def looked_through(content: bytes, key: PublicKey, old: Result | None = None) -> tuple[Bundle, bool]:
    """The bundle in a file, verified; and whether its payload was decoded too, which a delta needs `old` for."""
    found = opened(content, key)
    if old is None and found.header.base_sha256:
        return found, False
    if old is not None and not found.header.base_sha256:
        raise UpdateError("it holds a whole model, and changes none.", mend="leave out --base.")
    codecs.result(found, old.weights.tensors if old else None)
    return found, True
