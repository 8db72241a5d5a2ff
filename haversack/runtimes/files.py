"""A file that is measured: on disk or in memory, and which runtime it is for."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haversack.errors import MeasureError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

File = bytes | Path
Arrays = Sequence["Array"]

_TITLES = {"onnx": "an ONNX file", "litert": "a .tflite file", "executorch": "a .pte file"}
_ALSO_RUN_BY = {"litert": "tflite-micro", "onnx": "openvino"}
"""A second runtime for the same files."""
_PACKAGES = {
    "litert": ("ai_edge_litert", "pip install 'haversack[litert]'"),
    "tflite-micro": ("tflite_micro", "pip install --pre tflite-micro"),
    "executorch": ("executorch", "pip install 'haversack[executorch]'"),
    "openvino": ("openvino", "pip install 'haversack[openvino]'"),
}
"""The package of each runtime that may be missing, and how to get it."""


@dataclass(frozen=True)
class Opened:
    """A file opened in its runtime within this process.

    `prepare` makes of torch's arrays what the file wants, `run` makes real numbers in torch's layout of them.
    """

    inputs: int
    batch: int | None
    """How many samples `run` takes at once; None where that is free."""
    prepare: Callable[[Arrays], list[Array]]
    run: Callable[[Arrays], Array]


@dataclass(frozen=True)
class Contents:
    """What stands in a file and what its runtime makes of it: each operator's name and how often."""

    operators: dict[str, int]
    as_run: dict[str, int]
    integer: int
    """Operators as run that compute on integers; conversions are not counted."""
    integer_layers: int
    """Those of them that multiply by weights."""
    disk_bytes: int
    warnings: tuple[str, ...]


def runtime_of(file: File) -> str:
    """The runtime that the file's bytes are for: by the marks of TFLite's and ExecuTorch's flatbuffers, else "onnx"."""
    if isinstance(file, bytes):
        start = file[:8]
    else:
        with checked_path(file).open("rb") as stream:
            start = stream.read(8)
    if start[4:] == b"TFL3":
        return "litert"
    if start[4:6] == b"ET" and start[6:8].isdigit():
        return "executorch"
    if isinstance(file, Path) and file.suffix in (".tflite", ".pte"):
        raise MeasureError(
            f"this is not a {file.suffix} file, or it is cut short.",
            where=str(file),
            mend=f"give a {file.suffix} model.",
        )
    return "onnx"


def checked_runtime(file: File, wanted: str | None = None) -> str:
    """The runtime that the file is for, or `wanted` where that runs such files too; it is installed."""
    runtime = runtime_of(file)
    if wanted is not None and wanted == _ALSO_RUN_BY.get(runtime):
        runtime = wanted
    elif wanted not in (None, runtime):
        raise MeasureError(f"this is no file for {wanted}, but for {runtime}.", where=name_of(file))
    if not is_installed(runtime):
        raise MeasureError(
            f"this needs {runtime}, which is not installed.", where=name_of(file), mend=_PACKAGES[runtime][1]
        )
    return runtime


def is_installed(runtime: str) -> bool:
    """Whether files can be run in that runtime here."""
    return runtime not in _PACKAGES or importlib.util.find_spec(_PACKAGES[runtime][0]) is not None


def checked_path(path: Path) -> Path:
    """`path`, which is a file."""
    if not path.is_file():
        raise MeasureError(
            "there is no such file.", where=str(path), mend="give the path of an ONNX, .tflite or .pte file."
        )
    return path


def checked_threads(threads: int) -> int:
    """`threads`, one or more."""
    if threads < 1:
        raise MeasureError(f"{threads} threads cannot run anything.", mend="give 1 or more.")
    return threads


def name_of(file: File) -> str:
    """What an error calls the file."""
    return str(file) if isinstance(file, Path) else f"{_TITLES[runtime_of(file)]} of {len(file)} bytes"
