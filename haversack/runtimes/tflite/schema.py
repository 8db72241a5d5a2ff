"""What of TensorFlow Lite's schema the writer needs: slot numbers, codes, options and versions of each operator.

Source: tensorflow/compiler/mlir/lite/schema/schema.fbs, version 3, whose numbers never change: slots and codes are
only added. The generated package `tflite` holds the same in 187 files; a test compares the two. Versions are those of
tensorflow/compiler/mlir/lite/tools/versioning/op_version.cc: a runtime that knows only older ones refuses the file when
it loads it, rather than computing something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from haversack.errors import ExportError
from haversack.integer import KINDS, IntegerGraph, Operation, Value

IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
BUFFER_ALIGNMENT = 16
LARGEST_FILE_BYTES = 2**31 - 1

TENSOR_TYPES: Mapping[str, int] = MappingProxyType(
    {
        "float32": 0,
        "float16": 1,
        "int32": 2,
        "uint8": 3,
        "int64": 4,
        "bool": 6,
        "int16": 7,
        "int8": 9,
        "int4": 17,
    }
)
WORDS: Mapping[str, int] = MappingProxyType(
    {"NONE": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3, "SAME": 0, "VALID": 1, "REFLECT": 0, "SYMMETRIC": 1}
)


@dataclass(frozen=True)
class Field:
    """An option of an operator: the slots of its table that hold it, two for a pair (height, width).

    `default` is the schema's: what a reader takes where nothing stands. `fixed` is what all our files hold, where the
    graph has no such option.
    """

    option: str
    slots: tuple[int, ...]
    width: str
    default: float = 0
    fixed: float | None = None


@dataclass(frozen=True)
class Builtin:
    """One of the builtin operators: its code, its place in the union BuiltinOptions, and the fields of its options.

    `versions` are those of float32, int8 and int16 kernels, as tools/versioning/op_version.cc counts them; `releases`
    the first ones of TensorFlow Lite with version 1, 2, ..., from tools/versioning/runtime_version.cc.
    """

    code: int
    options: int = 0
    fields: tuple[Field, ...] = ()
    versions: tuple[int, ...] = (1, 1, 1)
    releases: str = ""


def _activation(slot: int) -> Field:
    return Field("activation", (slot,), "Int8")


def _pair(option: str, height: int, width: int, default: int = 0) -> Field:
    return Field(option, (height, width), "Int32", default)


_PADDING = Field("padding", (0,), "Int8")
_STRIDE = _pair("stride", 2, 1)
_PLAIN = Field("weights_format", (1,), "Int8", fixed=0)
_POOL = (_PADDING, _STRIDE, _pair("filter", 4, 3), _activation(5))
_DEPTHWISE = (_PADDING, _STRIDE, Field("depth_multiplier", (3,), "Int32"), _activation(4), _pair("dilation", 6, 5, 1))
_MASKS = ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
_SLICE = (
    *(Field(f"{name}_mask", (slot,), "Int32") for slot, name in enumerate(_MASKS)),
    Field("offset", (5,), "Bool", fixed=False),
)
_RESIZE = (Field("align_corners", (0,), "Bool"), Field("half_pixel_centers", (1,), "Bool"))
_REDUCER = (Field("keep_dims", (0,), "Bool"),)
_BY_FORMAT = (1, 2, 3)
# 16-bit sums whose steps are powers of two: an older arithmetic that is the schema's default and that nothing emits.
_POWER_OF_TWO = Field("pot_scale_int16", (1,), "Bool", default=True, fixed=False)

BUILTINS: Mapping[str, Builtin] = MappingProxyType(
    {
        "ADD": Builtin(0, 11, (_activation(0), _POWER_OF_TWO), _BY_FORMAT, releases="1.5.0 1.14.0 2.4.0 2.6.0"),
        "AVERAGE_POOL_2D": Builtin(1, 5, _POOL, _BY_FORMAT, releases="1.5.0 1.14.0 2.3.0"),
        "BATCH_MATMUL": Builtin(
            126, 101, (Field("adj_x", (0,), "Bool"), Field("adj_y", (1,), "Bool")), releases="2.3.0"
        ),
        "CAST": Builtin(53, releases="1.5.0"),
        "CONCATENATION": Builtin(
            2, 10, (Field("axis", (0,), "Int32"), _activation(1)), _BY_FORMAT, releases="1.5.0 1.14.0 2.3.0"
        ),
        "CONV_2D": Builtin(
            3,
            1,
            (_PADDING, _STRIDE, _activation(3), _pair("dilation", 5, 4, 1)),
            (1, 3, 4),
            releases="1.5.0 1.14.0 1.14.0 2.3.0 2.4.0 2.9.0 2.11.0",
        ),
        "DEPTHWISE_CONV_2D": Builtin(
            4, 2, _DEPTHWISE, (1, 3, 5), releases="1.5.0 1.12.0 1.14.0 2.2.0 2.3.0 2.3.0 2.11.0"
        ),
        "DEQUANTIZE": Builtin(6, versions=_BY_FORMAT, releases="1.13.1 1.14.0 1.15.0 2.2.0 2.7.0 2.18.0"),
        "DIV": Builtin(42, 29, (_activation(0),), releases="1.6.0 2.3.0"),
        "FULLY_CONNECTED": Builtin(
            9,
            8,
            (
                *(_activation(0), _PLAIN, Field("keep_num_dims", (2,), "Bool")),
                Field("asymmetric_quantize_inputs", (3,), "Bool"),
            ),
            (1, 4, 7),
            releases="1.5.0 1.10.0 1.14.0 1.14.0 2.0.0 2.1.0 2.3.0 2.3.0 2.3.0 2.11.0 2.15.0 2.17.0",
        ),
        "LOGISTIC": Builtin(14, versions=_BY_FORMAT, releases="1.14.0 1.14.0 2.3.0"),
        "MAX_POOL_2D": Builtin(17, 5, _POOL, _BY_FORMAT, releases="1.5.0 1.14.0 2.3.0"),
        "MUL": Builtin(18, 21, (_activation(0),), (1, 2, 4), releases="1.5.0 1.14.0 1.15.0 2.3.0"),
        "RELU": Builtin(19, versions=_BY_FORMAT, releases="1.5.0 2.1.0 2.5.0"),
        "RELU_N1_TO_1": Builtin(20, versions=(1, 1), releases="1.5.0"),
        "RELU6": Builtin(21, versions=_BY_FORMAT, releases="1.5.0 1.14.0 2.5.0"),
        "RESHAPE": Builtin(22, releases="1.5.0"),
        "SOFTMAX": Builtin(25, 9, (Field("beta", (0,), "Float32"),), _BY_FORMAT, releases="1.5.0 1.14.0 2.3.0"),
        "TANH": Builtin(28, versions=_BY_FORMAT, releases="1.14.0 1.14.0 2.3.0"),
        "PAD": Builtin(34, versions=_BY_FORMAT, releases="1.5.0 1.14.0 2.4.0 2.6.0"),
        "TRANSPOSE": Builtin(39, versions=(1, 2, 5), releases="1.6.0 1.14.0 1.15.0 2.3.0 2.4.0"),
        "GELU": Builtin(150, 116, (Field("approximate", (0,), "Bool"),), releases="2.9.0"),
        "GATHER": Builtin(
            36,
            23,
            (Field("axis", (0,), "Int32"), Field("batch_dims", (1,), "Int32")),
            (1, 2, 4),
            releases="1.6.0 1.14.0 1.15.0 2.4.0 2.5.0 2.13.0 2.15.0",
        ),
        "MEAN": Builtin(40, 27, _REDUCER, _BY_FORMAT, releases="1.6.0 1.14.0 2.4.0"),
        "RSQRT": Builtin(76, releases="1.10.0"),
        "SUB": Builtin(41, 28, (_activation(0), _POWER_OF_TWO), (1, 2, 5), releases="1.6.0 1.14.0 2.3.0 2.4.0 2.4.0"),
        "STRIDED_SLICE": Builtin(45, 32, _SLICE, (1, 2, 2), releases="1.6.0 1.14.0 2.1.0 2.2.0"),
        "SPLIT": Builtin(
            49, 35, (Field("num_splits", (0,), "Int32"),), (1, 2, 4), releases="1.5.0 1.14.0 1.14.0 2.3.0"
        ),
        "SUM": Builtin(74, 27, _REDUCER, releases="1.10.0"),
        "MAXIMUM": Builtin(55, versions=(1, 2, 4), releases="1.14.0 1.14.0 2.3.0 2.3.0"),
        "MINIMUM": Builtin(57, versions=(1, 2, 4), releases="1.14.0 1.14.0 2.3.0 2.3.0"),
        "PADV2": Builtin(60, versions=_BY_FORMAT, releases="1.9.0 1.14.0 2.4.0 2.6.0"),
        "TRANSPOSE_CONV": Builtin(
            67, 49, (_PADDING, _STRIDE, _activation(3)), _BY_FORMAT, releases="1.9.0 2.2.0 2.3.0 2.13.0"
        ),
        "REDUCE_MAX": Builtin(82, 27, _REDUCER, _BY_FORMAT, releases="1.11.0 1.14.0 2.5.0"),
        "RESIZE_NEAREST_NEIGHBOR": Builtin(97, 74, _RESIZE, (1, 2, 4), releases="1.13.1 1.14.0 2.3.0 2.4.0"),
        "LEAKY_RELU": Builtin(98, 75, (Field("alpha", (0,), "Float32"),), (1, 1, 2), releases="1.13.1 2.3.0"),
        "QUANTIZE": Builtin(114, versions=(1, 1, 2), releases="1.14.0 1.15.0"),
        "HARD_SWISH": Builtin(117, versions=(1, 1), releases="1.15.0"),
    }
)

_FORMATS = {"int8": 1, "int16": 2}
_WITH_MANY_DIMENSIONS = {
    "DIV": 2,
    "TRANSPOSE": 4,
    "PAD": 4,
    "PADV2": 4,
    "STRIDED_SLICE": 4,
    "SUB": 3,
    "MAXIMUM": 3,
    "MINIMUM": 3,
}
# LiteRT for Microcontrollers (October 2026) loads a file with these, and fails when it runs.
_NOT_IN_MICRO = {
    ("REDUCE_MAX", "int16"): "leave this layer float, or use int8 activations.",
    ("GELU", "float32"): "take another activation, such as ReLU, or choose another runtime.",
}


@dataclass(frozen=True)
class Typed:
    """An operation with the values that it is given and makes, left-out ones not counted."""

    operation: Operation
    inputs: Sequence[Value]
    outputs: Sequence[Value]
    has_int4_weights: bool = False


def version(typed: Typed) -> int:
    """The first version of the operation's kernel that computes this. Raises ExportError when none does."""
    kind, dtype = typed.operation.kind, typed.outputs[0].dtype
    if dtype not in KINDS[kind].dtypes:
        raise ExportError(
            f"no runtime of .tflite files has {kind} on {dtype}.",
            where=typed.operation.path,
            mend="leave this layer float, or use int8 activations.",
        )
    data = typed.outputs[0] if kind == "QUANTIZE" else typed.inputs[KINDS[kind].data]
    usual = BUILTINS[kind].versions[_FORMATS.get(data.dtype, 0)]
    return max(usual, _special(typed), _WITH_MANY_DIMENSIONS.get(kind, 1) if len(data.shape) > 4 else 1)


def oldest_release(versions: Iterable[tuple[str, int]]) -> str:
    """The first release of TensorFlow Lite that has all these operators in these versions."""
    releases = (BUILTINS[kind].releases.split()[version - 1] for kind, version in versions)
    return max(releases, key=lambda release: tuple(map(int, release.split("."))))


def check_micro(graph: IntegerGraph) -> None:
    """Nothing, or an ExportError that names the first operation that LiteRT for Microcontrollers lacks."""
    for operation in graph.operations:
        value = graph.values[operation.inputs[0]]
        if (operation.kind, value.dtype) in _NOT_IN_MICRO:
            raise ExportError(
                f"LiteRT for Microcontrollers has no {operation.kind} on {value.dtype}.",
                where=operation.path,
                mend=_NOT_IN_MICRO[operation.kind, value.dtype],
            )
        # It takes files of the first sort, and computes with the first channel's step throughout.
        widened = operation.kind == "DEQUANTIZE" and _has_steps(value)
        if widened or (
            operation.kind == "FULLY_CONNECTED" and _rounds([graph.values[name] for name in operation.inputs[:2]])
        ):
            raise ExportError(
                "LiteRT for Microcontrollers cannot compute with integer weights and real activations.",
                where=operation.path,
                mend="quantize the activations too (quantize_static), or choose another runtime.",
            )


def _special(typed: Typed) -> int:
    """What weights, options or steps ask for, whatever the format of the numbers."""
    kind, option, inputs = typed.operation.kind, typed.operation.option, typed.inputs
    if kind == "FULLY_CONNECTED" and _rounds(inputs):
        return 12 if _has_steps(inputs[1]) else 10 if typed.has_int4_weights else 9
    if typed.has_int4_weights:
        return {"FULLY_CONNECTED": 10, "DEQUANTIZE": 6}.get(kind, 7)
    checks = {
        "CONV_2D": ((6, lambda: inputs[1].shape[3] != inputs[0].shape[3]),),
        "DEPTHWISE_CONV_2D": ((2, lambda: option("dilation") != (1, 1)),),
        "FULLY_CONNECTED": ((6, lambda: len(inputs) == 2), (5, lambda: option("keep_num_dims"))),
        "TRANSPOSE_CONV": ((4, lambda: option("activation") != "NONE"), (3, lambda: len(inputs) == 4)),
        "RESIZE_NEAREST_NEIGHBOR": ((3, lambda: option("half_pixel_centers") or option("align_corners")),),
        "DEQUANTIZE": ((3, lambda: inputs[0].dtype == "float16"), (5, lambda: _has_steps(inputs[0]))),
        "MUL": ((3, lambda: _multiplies_up(typed)),),
    }
    return next((number for number, holds in checks.get(kind, ()) if holds()), 1)


def _rounds(inputs: Sequence[Value]) -> bool:
    """Whether a layer reads real numbers and multiplies integers."""
    return inputs[0].dtype == "float32" and inputs[1].grid is not None


def _has_steps(value: Value) -> bool:
    """Whether each channel has a step of its own."""
    return value.grid is not None and len(value.grid.scale) > 1


def _multiplies_up(typed: Typed) -> bool:
    """Whether a product of two integers is worth at least one step of the output."""
    grids = [value.grid for value in (*typed.inputs, *typed.outputs)]
    first, second, output = (grid.scale[0] if grid else 0.0 for grid in grids)
    return output > 0 and first * second >= output
