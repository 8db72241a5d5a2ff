"""Kinds: the operations of the integer graph, one row each: what they read, how they are set, what they compute in.

A kind is the name of TFLite's builtin operator and means what TFLite's specification says. Readers, passes, the
reference and writers ask this table; nobody else knows a default or what the third input is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from haversack.grid import Grid
from haversack.integer.arithmetic import Array
from haversack.integer.tables import Affine, hard_swish_table, logistic_table, tanh_table

FLOAT, INT8, INT16 = "float32", "int8", "int16"
_ALL = (FLOAT, INT8, INT16)
_PLAIN = ("int32", "int64")
ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6")
PADDINGS = ("SAME", "VALID")


@dataclass(frozen=True)
class Input:
    """What an operation reads at one place; where `dtypes` is empty, numbers of the type that it computes in.

    A `constant` stands in the file, or is what DEQUANTIZE makes of one that does; other inputs may be either. Only the
    last ones may be left out. One that is `repeated` is the last, and stands for any number of them. One that `rounds`
    may be of integers where the operation computes on real numbers: it then rounds these as they come, row by row.
    """

    name: str
    dtypes: tuple[str, ...] = ()
    constant: bool = False
    optional: bool = False
    repeated: bool = False
    rounds: bool = False


@dataclass(frozen=True)
class OptionKind:
    """A setting of an operation: a number, a flag, a pair (height, width), or one of some words.

    One whose `default` is None has to be given.
    """

    name: str
    type: type | tuple[str, ...]
    default: Any = None

    def allows(self, value: object) -> bool:
        """Whether the option can have this value."""
        if isinstance(self.type, tuple):
            return value in self.type
        if self.type is tuple:
            return isinstance(value, tuple) and len(value) == 2 and all(type(each) is int for each in value)
        return type(value) in ({int, float} if self.type is float else {self.type})


@dataclass(frozen=True)
class Curve:
    """A function of one number: of real ones, and the table of what int8 integers on two grids become.

    There is no table where it is computed on real numbers alone. `exact_shifts` are those of a 16-bit form's input that
    are taken as they are; `least` is the smallest step of the result that the arithmetic of 8 bits can write, as a
    share of what it reads.
    """

    real: Callable[[Array], Array]
    table: Callable[[Affine, Affine], Array] | None = None
    exact_shifts: tuple[int, ...] = ()
    least: float = 0.0


@dataclass(frozen=True)
class Kind:
    """What an operation reads, its options and the types it computes in, which are those of what it makes.

    `fixed` holds, by type, the grid that its result must have where TFLite's specification names one. Each kind makes
    one value, but for SPLIT, which makes as many as its option says. What computes a `curve` needs no other rule.
    """

    inputs: tuple[Input, ...]
    options: tuple[OptionKind, ...] = ()
    dtypes: tuple[str, ...] = _ALL
    fixed: Mapping[str, Grid] = field(default_factory=dict)
    curve: Curve | None = None

    @property
    def data(self) -> int:
        """The place of what is computed on; whatever stands before it only says how."""
        return next(place for place, each in enumerate(self.inputs) if not each.constant)

    def place(self, name: str) -> int:
        """Where the input of this name stands."""
        return [each.name for each in self.inputs].index(name)

    def input(self, place: int) -> Input | None:
        """What is read there; None behind the last one."""
        last = self.inputs[-1]
        return self.inputs[place] if place < len(self.inputs) else last if last.repeated else None


def _unit(bits: int, low: int) -> Grid:
    """[low, 1) in steps that are a power of two; 16 bits are symmetric."""
    if bits == 16:
        return Grid(16, True, (1 / (1 << 15),), (0,))
    return Grid(8, True, (1 / 256,), (-128,)) if low == 0 else Grid(8, True, (1 / 128,), (0,))


_FRACTION = {INT8: _unit(8, 0), INT16: _unit(16, 0)}
_SIGNED_FRACTION = {INT8: _unit(8, -1), INT16: _unit(16, -1)}

_DATA = Input("input")
_WEIGHT = Input("weight", (FLOAT, INT8), constant=True)
_BIAS = Input("bias", (FLOAT, *_PLAIN), constant=True, optional=True)
_TWO = (Input("left"), Input("right"))


def _plain(name: str) -> Input:
    return Input(name, _PLAIN, constant=True)


_ACTIVATION = OptionKind("activation", ACTIVATIONS, "NONE")
_WINDOW = (OptionKind("stride", tuple), OptionKind("padding", PADDINGS))
_DILATION = OptionKind("dilation", tuple, (1, 1))
_KEEP = OptionKind("keep_dims", bool, False)
_MASKS = tuple(OptionKind(f"{name}_mask", int, 0) for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis"))

_LAYER = Kind((_DATA, _WEIGHT, _BIAS), (*_WINDOW, _DILATION, _ACTIVATION))
_POOL = Kind((_DATA,), (OptionKind("filter", tuple), *_WINDOW, _ACTIVATION))
_REDUCTION = Kind((_DATA, _plain("axes")), (_KEEP,))
_SUM = Kind(_TWO, (_ACTIVATION,))
_EITHER = Kind(_TWO)
_RECTIFIER = Kind((_DATA,))
_REAL = (FLOAT,)


def _logistic(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _one_over_root(x: Array) -> Array:
    return np.asarray(1 / np.sqrt(x))


def _hard_swish(x: Array) -> Array:
    return np.asarray(x * np.clip(x + np.float32(3), np.float32(0), np.float32(6)) / np.float32(6))


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "ADD": _SUM,
        "AVERAGE_POOL_2D": _POOL,
        "BATCH_MATMUL": Kind(_TWO, tuple(OptionKind(f"adj_{side}", bool, False) for side in "xy"), _REAL),
        "CAST": Kind((Input("input", ("int32",)),), dtypes=_REAL),
        "CONCATENATION": Kind((Input("input", repeated=True),), (OptionKind("axis", int), _ACTIVATION)),
        "CONV_2D": _LAYER,
        "DEPTHWISE_CONV_2D": Kind(_LAYER.inputs, (*_LAYER.options, OptionKind("depth_multiplier", int))),
        "DEQUANTIZE": Kind((Input("input", ("float16", INT8, INT16)),), dtypes=_REAL),
        "DIV": Kind(_TWO, (_ACTIVATION,), _REAL),
        "FULLY_CONNECTED": Kind(
            (_DATA, replace(_WEIGHT, rounds=True), _BIAS),
            (*(OptionKind(name, bool, False) for name in ("keep_num_dims", "asymmetric_quantize_inputs")), _ACTIVATION),
        ),
        "GATHER": Kind(
            (_DATA, Input("indices", ("int32",))),
            (OptionKind("axis", int, 0), OptionKind("batch_dims", int, 0)),
            dtypes=(FLOAT, INT8),
        ),
        "GELU": Kind((_DATA,), (OptionKind("approximate", bool, False),), _REAL),
        "HARD_SWISH": Kind((_DATA,), dtypes=(FLOAT, INT8), curve=Curve(_hard_swish, hard_swish_table, least=1 / 128)),
        "LEAKY_RELU": Kind((_DATA,), (OptionKind("alpha", float),)),
        "LOGISTIC": Kind((_DATA,), fixed=_FRACTION, curve=Curve(_logistic, logistic_table, (0,))),
        "MAXIMUM": _EITHER,
        "MAX_POOL_2D": _POOL,
        "MEAN": _REDUCTION,
        "MINIMUM": _EITHER,
        "MUL": _SUM,
        "PAD": Kind((_DATA, _plain("paddings"))),
        "PADV2": Kind((_DATA, _plain("paddings"), Input("value", constant=True))),
        "QUANTIZE": Kind((Input("input", _ALL),), dtypes=(INT8, INT16)),
        "REDUCE_MAX": _REDUCTION,
        "RELU": _RECTIFIER,
        "RELU6": _RECTIFIER,
        "RELU_N1_TO_1": Kind((_DATA,), dtypes=(FLOAT, INT8)),
        "RESHAPE": Kind((_DATA, _plain("shape"))),
        "RESIZE_NEAREST_NEIGHBOR": Kind(
            (_DATA, _plain("size")),
            (OptionKind("align_corners", bool, False), OptionKind("half_pixel_centers", bool, False)),
        ),
        "RSQRT": Kind((_DATA,), dtypes=_REAL, curve=Curve(_one_over_root)),
        "SOFTMAX": Kind((_DATA,), (OptionKind("beta", float),), fixed=_FRACTION),
        "SPLIT": Kind((_plain("axis"), _DATA), (OptionKind("num_splits", int),)),
        "STRIDED_SLICE": Kind((_DATA, _plain("begin"), _plain("end"), _plain("strides")), _MASKS),
        "SUB": _SUM,
        "SUM": Kind(_REDUCTION.inputs, _REDUCTION.options, _REAL),
        "TANH": Kind((_DATA,), fixed=_SIGNED_FRACTION, curve=Curve(np.tanh, tanh_table, (0, 1))),
        "TRANSPOSE": Kind((_DATA, _plain("permutation"))),
        "TRANSPOSE_CONV": Kind((_plain("shape"), _WEIGHT, _DATA, _BIAS), (*_WINDOW, _ACTIVATION)),
    }
)
