""".pte files in ExecuTorch's Python runtime, in this process.

It imports torch and is a test harness, not what runs on a device: files are run and timed in it, but what it takes in
memory says nothing about a device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from haversack.errors import MeasureError
from haversack.runtimes import Arrays, File, Opened, Orders, process
from haversack.runtimes.files import name_of

if TYPE_CHECKING:
    import numpy as np

    from haversack.runtimes.turns import RefusedError

    Array = np.ndarray[Any, Any]


def open_file(
    file: File,
    threads: int | None,
    _orders: Orders | None = None,
    *,
    optimized: bool = True,  # noqa: ARG001 - it cannot be told to run a file as it stands
) -> Opened:
    """The file in ExecuTorch; inputs and outputs lie as torch has them, and each input keeps its type."""
    with _logged() as place:
        from haversack.runtimes.executorch import worker
        from haversack.runtimes.turns import RefusedError

        where = name_of(file)
        try:
            method = worker.open_method(file if isinstance(file, bytes) else str(file), threads)
            wanted = worker.inputs_of(method)
        except RefusedError as refused:
            raise _explained(refused, place, where) from refused

    def prepare(arrays: Arrays) -> list[Array]:
        for (shape, _), array in zip(wanted, arrays, strict=True):
            if array.shape[1:] != shape[1:]:
                raise MeasureError(f"it takes {list(shape)}, but was given {list(array.shape)}.", where=where)
        return list(arrays)

    def run(arrays: Arrays) -> list[Array]:
        with _logged() as place:
            try:
                found = worker.execute(method, list(arrays))
            except RefusedError as refused:
                raise _explained(refused, place, where) from refused
        return [each.numpy().copy() for each in found]  # the next run writes into the same memory

    return Opened(len(wanted), wanted[0][0][0] if wanted and wanted[0][0] else 1, prepare, run)


def empty() -> NoReturn:
    """A MeasureError: there is nothing to hold the memory of a .pte file against."""
    raise _not_measured("a .pte file")


def contents(path: Path, _threads: int) -> NoReturn:
    """A MeasureError: the operators of a .pte file are XNNPACK's own affair, and its memory is not measured."""
    raise _not_measured(str(path))


@contextmanager
def _logged() -> Iterator[BinaryIO]:
    """Within this block what ExecuTorch logs goes to the file that it gives: by itself, and through sys.stderr."""
    with (
        process.caught() as place,
        open(2, "w", buffering=1, encoding="utf-8", closefd=False) as stderr,
        redirect_stderr(stderr),
    ):
        yield place


def _not_measured(where: str) -> MeasureError:
    return MeasureError(
        "ExecuTorch's Python runtime imports torch, so that the memory it takes is not a device's.",
        where=where,
        mend="measure it on the device (ExecuTorch's executor_runner), or choose another runtime.",
    )


def _explained(refused: RefusedError, place: BinaryIO, where: str) -> MeasureError:
    """The refusal with the first thing that the runtime logged as an error, which says more than its exception."""
    said = [line for line in process.lines(place) if line.startswith("[") and "cpuinfo" not in line]
    return MeasureError(f"{refused.what}{f' ({said[0]})' if said else ''}", where=where, mend=refused.mend)
