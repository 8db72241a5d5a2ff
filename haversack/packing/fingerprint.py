"""Fingerprint: what the user's functions are made of, code and data, as far as it can be seen without calling them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_MOST_BYTES = 1 << 26
"""Of larger data every n-th element tells them apart."""
_DEEPEST, _MOST_OBJECTS = 6, 1 << 20


def fingerprint(*values: object) -> str:
    """A hash of functions (code, defaults, and what they read of their surroundings), tensors, arrays and plain values.

    Of other objects, and of lists and dictionaries, which may be in use, only the tensors and arrays in them count.
    What a function reads from files is not seen.
    """
    return _Feeder().read(values)


class _Feeder:
    """Feeds one hash, each object once."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.seen: dict[int, object] = {}

    def read(self, values: tuple[object, ...]) -> str:
        for value in values:
            self.feed(value)
        return self.hash.hexdigest()

    def feed(self, value: object, depth: int = 0, *, data_only: bool = False) -> None:
        """One value; of what is `data_only`, tensors and arrays alone."""
        if isinstance(value, _PLAIN):
            if not data_only:
                self.hash.update(f"{type(value).__name__} {value!r};".encode())
            return
        if id(value) in self.seen or depth > _DEEPEST or len(self.seen) > _MOST_OBJECTS:
            return
        self.seen[id(value)] = value
        if isinstance(value, Tensor | np.ndarray):
            # What is on no device, quantized or sparse is told apart by its kind and shape.
            with contextlib.suppress(RuntimeError, NotImplementedError):
                self._data(value)
        elif isinstance(value, dict):
            self._all(value.values(), depth, data_only=True)
        elif isinstance(value, list | set | frozenset):
            self._all(value, depth, data_only=True)
        elif isinstance(value, tuple):
            self._all(value, depth, data_only=data_only)
        elif callable(value) and not isinstance(value, type | torch.nn.Module):
            self._function(value, depth)
        elif not isinstance(value, type | types.ModuleType | torch.nn.Module):
            self._all(getattr(value, "__dict__", {}).values(), depth, data_only=True)

    def _all(self, values: Any, depth: int, *, data_only: bool) -> None:  # noqa: ANN401 - an iterable of anything
        for each in list(values):
            self.feed(each, depth + 1, data_only=data_only)

    def _data(self, value: Tensor | np.ndarray[Any, Any]) -> None:
        self.hash.update(f"{value.dtype} {tuple(value.shape)};".encode())
        flat = value.detach().reshape(-1) if isinstance(value, Tensor) else value.reshape(-1)
        flat = flat[:: max(1, value.nbytes // _MOST_BYTES)]
        if isinstance(flat, Tensor):
            flat = flat.contiguous().cpu().view(torch.uint8).numpy()
        if not flat.dtype.hasobject:
            self.hash.update(np.ascontiguousarray(flat).tobytes())

    def _function(self, value: Callable[..., object], depth: int) -> None:
        if isinstance(value, functools.partial):
            self._all((value.func, value.args, tuple(value.keywords.items())), depth, data_only=False)
            return
        if isinstance(value, types.MethodType):
            self.feed(value.__self__, depth + 1, data_only=True)
        function = inspect.unwrap(value)
        code = getattr(function, "__code__", None) or getattr(type(value).__call__, "__code__", None)
        self.hash.update(f"{getattr(function, '__qualname__', type(value).__qualname__)};".encode())
        if code is None or "site-packages" in code.co_filename:
            return
        self._code(code)
        cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or () if _is_filled(cell)]
        self._all((getattr(function, "__defaults__", None), *cells), depth, data_only=False)
        surroundings = getattr(function, "__globals__", {})
        self._all((surroundings.get(name) for name in _names(code)), depth, data_only=False)
        self._all(vars(value).values() if hasattr(value, "__dict__") else (), depth, data_only=True)

    def _code(self, code: types.CodeType) -> None:
        self.hash.update(code.co_code + repr((code.co_names, code.co_varnames)).encode())
        for each in code.co_consts:
            if isinstance(each, types.CodeType):
                self._code(each)
            elif not isinstance(each, frozenset):  # whose order changes from process to process
                self.hash.update(repr(each).encode())


def _names(code: types.CodeType) -> list[str]:
    """The names that a function and the functions in it look up."""
    inner = [name for each in code.co_consts if isinstance(each, types.CodeType) for name in _names(each)]
    return sorted({*code.co_names, *inner})


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
