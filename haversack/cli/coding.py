"""Commands about coded files: `encode` a result's weights, `decode` a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from haversack.cli.options import AsJson, ResultFolder, TaskPath
from haversack.cli.running import loaded, print_json
from haversack.errors import CodedError, WorkspaceError

if TYPE_CHECKING:
    from haversack.coded.tensors import Stored


def encode(
    folder: ResultFolder,
    task: TaskPath,
    out: Annotated[
        Path | None, typer.Option(help="The coded file; model.hsk in the folder when left out.", resolve_path=True)
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Write a result's weights as one coded file, which is what flash or a link has to hold."""
    from haversack.artifact import CODED_FILE
    from haversack.coded.container import read
    from haversack.export import coded
    from haversack.result import read_result, replace_file

    file = loaded(task)
    content = coded.write(read_result(folder, file.fresh_network(), file.task))
    place = out or folder / CODED_FILE
    if out is None:
        replace_file(folder, CODED_FILE, content)
    else:
        _write(place, content)
    _show(read(content), len(content), str(place), as_json=as_json)


def decode(
    file: Annotated[Path, typer.Argument(help="A coded file.", metavar="FILE")],
    out: Annotated[Path | None, typer.Option(help="Write the decoded weights here, as .npz.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """List what a coded file holds, and write its weights out."""
    from haversack.coded.container import read

    try:
        content = file.read_bytes()
    except OSError as error:
        raise CodedError(f"it cannot be read: {error.strerror}.", where=str(file)) from error
    try:
        tensors = read(content)
    except CodedError as error:
        raise CodedError(error.what, mend=error.mend, where=str(file)) from error
    if out is not None:
        _write(out, _archive(tensors))
    _show(tensors, len(content), str(file), as_json=as_json)


def _archive(tensors: dict[str, Stored]) -> bytes:
    """What np.savez would write, which takes names for its arguments and so has no room for some."""
    import io
    import zipfile

    from numpy.lib.format import write_array

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, tensor in tensors.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as place:
                write_array(place, tensor.real, allow_pickle=False)
    return stream.getvalue()


def _show(tensors: dict[str, Stored], size_bytes: int, place: str, *, as_json: bool) -> None:
    from haversack.report.coded import coded, contents

    if as_json:
        print_json({"file": place, "bytes": size_bytes, "tensors": contents(tensors)})
    else:
        typer.echo(coded(tensors, size_bytes, place))


def _write(place: Path, content: bytes) -> None:
    try:
        place.write_bytes(content)
    except OSError as error:
        raise WorkspaceError(
            f"it cannot be written: {error.strerror}.", where=str(place), mend="choose another place with --out."
        ) from error
