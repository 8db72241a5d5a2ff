"""Commands that send new weights to devices; what they do is done elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haversack.cli.options import AsJson, ResultFolder
from haversack.cli.terminal import print_json
from haversack.disk import disk_errors
from haversack.errors import UpdateError
from haversack.untrusted import SMALL, read_file

if TYPE_CHECKING:
    from haversack.update.rules.bundle import Header

_MOST_BYTES = (1 << 28) + (1 << 21)
Base = Annotated[
    Path | None,
    typer.Option(
        help="The result folder that devices have: only what changed is sent.", metavar="DIR", resolve_path=True
    ),
]


def bundle(  # noqa: PLR0913 - one argument an option
    folder: ResultFolder,
    key: Annotated[Path, typer.Option(help="PEM file of a private key, Ed25519 or P-256.")],
    model_id: Annotated[str, typer.Option(help="Which model it is, whatever the version.")],
    sequence: Annotated[int, typer.Option(help="Devices install higher numbers only.", min=0)],
    out: Annotated[Path, typer.Option(help="The bundle.", resolve_path=True)],
    base: Base = None,
    runtime: Annotated[str, typer.Option(help="Only for devices with this runtime; the result's when left out.")] = "",
    device: Annotated[str, typer.Option(help="Only for this device; any when left out.")] = "",
    ends: Annotated[
        datetime | None, typer.Option(help="From then on (UTC) it is not to be installed.", formats=["%Y-%m-%d"])
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Write a result's weights as one small signed file, whole or as what changed since another result."""
    _require_extra()
    from haversack.result import Result
    from haversack.update.publish import Release
    from haversack.update.publish import bundle as made
    from haversack.update.rules.signing import PrivateKey

    result, old = Result(folder), Result(base) if base else None
    owner = PrivateKey.of(read_file(key, SMALL.size_bytes), str(key))
    release = Release(
        model_id=model_id,
        sequence=sequence,
        runtime=runtime or result.measured.packed.conditions.runtime,
        device=device,
        ends=int(ends.replace(tzinfo=UTC).timestamp()) if ends else 0,
    )
    header, content = made(result, old, release, owner)
    with disk_errors(out):
        out.write_bytes(content)
    _show(header, len(content), str(out), decoded=True, as_json=as_json)


def verify(
    file: Annotated[Path, typer.Argument(help="A bundle.", metavar="BUNDLE")],
    key: Annotated[Path, typer.Option(help="PEM file of the public key that devices believe.")],
    base: Base = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Check a bundle's signature and every byte of it, and say what it is; with --base, decode what changed too."""
    _require_extra()
    from haversack.result import Result
    from haversack.update.publish import looked_through
    from haversack.update.rules.signing import PublicKey

    content = read_file(file, _MOST_BYTES)
    public = PublicKey.of(read_file(key, SMALL.size_bytes), str(key))
    try:
        found, decoded = looked_through(content, public, Result(base) if base else None)
    except UpdateError as error:
        raise UpdateError(error.what, mend=error.mend, where=error.where or str(file)) from error
    _show(found.header, len(content), str(file), decoded=decoded, as_json=as_json)


def _show(header: Header, size_bytes: int, place: str, *, decoded: bool, as_json: bool) -> None:
    from haversack.quantity import show_bytes
    from haversack.report.blocks import Paragraph, Rows, document

    if as_json:
        print_json({"file": place, "bytes": size_bytes, "decoded": decoded, **_told(header)})
        return
    holds = "what changed since another version" if header.base_sha256 else "the whole model"
    rows = [
        ("model", header.model_id),
        ("sequence number", str(header.sequence)),
        ("runtime, format", f"{header.runtime}, {header.format}"),
        ("device", header.device or "any"),
        ("holds", f"{holds}, {show_bytes(header.payload_bytes)}"),
        ("changes", header.base_sha256.hex()),
        ("gives", header.result_sha256.hex()),
        ("canaries", str(len(header.canaries))),
        ("ends", datetime.fromtimestamp(header.ends, UTC).isoformat() if header.ends else "never"),
    ]
    checked = "Signature, every byte and the weights that come out are right."
    if not decoded:
        checked = (
            "Signature and every byte are right; --base decodes it, too, to see whether the right weights come out."
        )
    size = f"{show_bytes(size_bytes)} in all."
    typer.echo(
        document(place, Rows(("of the bundle", ""), [row for row in rows if row[1]]), Paragraph(f"{size} {checked}"))
    )


def _told(header: Header) -> dict[str, Any]:
    """The header's fields as JSON has them."""
    words = ("model_id", "sequence", "runtime", "format", "device", "codec", "codec_version", "result_bytes")
    told = {name: getattr(header, name) for name in (*words, "payload_bytes", "chunk_bytes", "ends")}
    digests = {name: getattr(header, name).hex() for name in ("base_sha256", "result_sha256")}
    return told | digests | {"chunks": len(header.chunks), "canaries": len(header.canaries)}


def _require_extra() -> None:
    if not (find_spec("cbor2") and find_spec("cryptography")):
        raise UpdateError("signing and verifying need cbor2 and cryptography.", mend="pip install 'haversack[update]'")
