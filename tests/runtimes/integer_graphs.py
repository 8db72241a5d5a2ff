"""Small integer graphs by hand, and the three interpreters that run their files."""

import numpy as np

from haversack.grid import Grid, affine
from haversack.integer import IntegerGraph, Operation, Value

RNG = np.random.default_rng(0)
ACTIVATIONS = {"int8": affine(-1, 1.2, signed=True), "int16": Grid(16, True, (2.0**-14,), (0,)), "float32": None}


class Draft:
    """A graph in the making: activations of one type, operations in a row."""

    def __init__(self, shape, dtype="int8"):
        self.dtype, self.values, self.operations = dtype, {}, []
        self.input = self.value("input", shape)

    def value(self, name, shape, grid=None):
        self.values[name] = Value(name, shape, self.dtype, grid or ACTIVATIONS[self.dtype])
        return name

    def constant(self, array, grid=None):
        name = f"c{len(self.values)}"
        array = np.asarray(array)
        self.values[name] = Value(name, array.shape, str(array.dtype), grid, array)
        return name

    def weights(self, shape, axis, bits=8, *, per_channel=True):
        """Random weights of so many bits, and a bias."""
        if self.dtype == "float32":
            real = RNG.normal(0, 0.2, shape).astype(np.float32), RNG.normal(0, 0.2, shape[axis]).astype(np.float32)
            return [self.constant(each) for each in real]
        top, count = (1 << bits - 1) - 1, shape[axis] if per_channel else 1
        scale = tuple(float(np.float32(step)) for step in RNG.uniform(0.5, 1, count) / top / 3)
        grid = Grid(bits, True, scale, (0,) * count, axis if per_channel else None, -top, top)
        step = ACTIVATIONS[self.dtype].scale[0]
        wide = Grid(
            32, True, tuple(float(np.float32(step * each)) for each in scale), (0,) * count, 0 if per_channel else None
        )
        bias = RNG.integers(-500, 500, shape[axis]).astype(np.int64 if self.dtype == "int16" else np.int32)
        return [self.constant(RNG.integers(-top, top + 1, shape).astype(np.int8), grid), self.constant(bias, wide)]

    def then(self, kind, inputs, shape, name=None, grid=None, **options):
        output = self.value(name or f"v{len(self.values)}", shape, grid)
        self.operations.append(Operation(kind, tuple(inputs), (output,), options, f"net.{len(self.operations)}"))
        return output

    def graph(self, *outputs):
        orders = [tuple(range(len(self.values[name].shape))) for name in ("input", *outputs)]
        return IntegerGraph(self.values, tuple(self.operations), ("input",), outputs, (orders[0],), tuple(orders[1:]))

    def rows(self, count=4):
        shape = self.values["input"].shape
        if self.dtype == "float32":
            return list(RNG.uniform(-1, 1, (count, *shape)).astype(np.float32))
        info = np.iinfo(self.dtype)
        return list(RNG.integers(info.min, info.max + 1, (count, *shape), dtype=self.dtype))


def every_layer(dtype="int8", bits=8):
    """Convolution, depthwise, grouped, addition, pools, padding, reshape, linear and softmax."""
    draft = Draft((1, 9, 9, 4), dtype)
    conv = {"stride": (1, 1), "padding": "SAME", "activation": "RELU"}
    x = draft.then("CONV_2D", [draft.input, *draft.weights((8, 3, 3, 4), 0, bits)], (1, 9, 9, 8), **conv)
    y = draft.then(
        "DEPTHWISE_CONV_2D", [x, *draft.weights((1, 3, 3, 8), 3, bits)], (1, 9, 9, 8), **conv, depth_multiplier=1
    )
    z = draft.then("CONV_2D", [y, *draft.weights((8, 1, 1, 8), 0, bits)], (1, 9, 9, 8), stride=(1, 1), padding="VALID")
    x = draft.then("ADD", [x, z], (1, 9, 9, 8), activation="RELU")
    x = draft.then("PAD", [x, draft.constant(np.array([[0, 0], [1, 0], [1, 0], [0, 0]], np.int32))], (1, 10, 10, 8))
    x = draft.then("AVERAGE_POOL_2D", [x], (1, 5, 5, 8), filter=(2, 2), stride=(2, 2), padding="VALID")
    x = draft.then("MEAN", [x, draft.constant(np.array([1, 2], np.int32))], (1, 1, 1, 8), keep_dims=True)
    x = draft.then("RESHAPE", [x, draft.constant(np.array([1, 8], np.int32))], (1, 8))
    x = draft.then("FULLY_CONNECTED", [x, *draft.weights((5, 8), 0, bits, per_channel=dtype == "int8")], (1, 5))
    last = {"int8": Grid(8, True, (1 / 256,), (-128,)), "int16": Grid(16, True, (1 / 32768,), (0,)), "float32": None}
    draft.then("SOFTMAX", [x], (1, 5), "output", last[dtype], beta=1.0)
    return draft, draft.graph("output")


def litert(content, rows, *, reference=False):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
    interpreter = Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    place, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    outputs = []
    for row in rows:
        interpreter.set_tensor(place, row)
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(result).copy())
    return np.stack(outputs)


def micro(content, rows):
    from tflite_micro.python.tflite_micro import runtime

    # The arena that it guesses for small files is too small, and then it ends the process.
    interpreter = runtime.Interpreter.from_bytes(content, arena_size=1 << 20)
    outputs = []
    for row in rows:
        interpreter.set_input(row, 0)
        interpreter.invoke()
        outputs.append(np.array(interpreter.get_output(0)))
    return np.stack(outputs)


def reference(graph, rows):
    from haversack.integer.reference import run

    return np.stack([run(graph, [row])[0] for row in rows])
