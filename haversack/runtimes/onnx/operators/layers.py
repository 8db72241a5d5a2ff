"""Layers: convolutions, linear layers, matrix products, attention, embeddings."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import torch
from torch import fx

from haversack.graph.pads import margin_of
from haversack.graph.pairs import pairs
from haversack.graph.trace import arguments_of
from haversack.runtimes.onnx.call import Call, Dim, Table, shape_of
from haversack.runtimes.onnx.operators.quantization import dequantize, product_as_it_comes, turned
from haversack.runtimes.onnx.operators.shapes import reshaped

Sides = tuple[tuple[int, ...], tuple[int, ...]]


def convolution(call: Call) -> str:
    """Conv in one to three dimensions, zeros that a pad puts around the map before it included."""
    dims = _spatial_dims(call, len(shape_of(call["weight"])) - 2)
    x, (before, behind) = _without_margin(call, dims)
    pads = [own + more for own, more in zip(_pads(call, dims), (*before, *behind), strict=True)]
    return call.graph.node(
        "Conv",
        x,
        *_weights(call)[1:],
        strides=_unless(call.spatial("stride", dims), 1),
        pads=_unless(pads, 0),
        dilations=_unless(call.spatial("dilation", dims), 1),
        group=call["groups"] if call["groups"] != 1 else None,
    )


def _pads(call: Call, dims: int) -> list[int]:
    """The convolution's own zeros before and then behind each dimension; of "same", the odd one is at the end."""
    if call["padding"] == "valid":
        return [0] * dims * 2
    if call["padding"] != "same":
        return call.spatial("padding", dims) * 2
    sizes = zip(call.spatial("dilation", dims), shape_of(call["weight"])[2:], strict=True)
    total = [rate * (int(size) - 1) for rate, size in sizes]
    return [pad // 2 for pad in total] + [pad - pad // 2 for pad in total]


def _without_margin(call: Call, dims: int) -> tuple[str, Sides]:
    """The convolution's input without the zeros that a pad puts around it, and how many these are."""
    real = call.first
    if real.target is pairs.dequantize_per_tensor.default:
        integers, _, zero, *_ = cast("tuple[Any, ...]", real.args)
        margin = margin_of(integers, dims, zero)
        if margin is not None:
            arguments = {**arguments_of(real), "input": margin.value}
            return dequantize(replace(call, operation=real, arguments=arguments)), (margin.before, margin.behind)
    margin = margin_of(real, dims)
    if margin is not None:
        return call.value(margin.value), (margin.before, margin.behind)
    return call.x, ((0,) * dims, (0,) * dims)


def transposed_convolution(call: Call) -> str:
    """ConvTranspose in one to three dimensions."""
    dims = _spatial_dims(call, len(shape_of(call["weight"])) - 2)
    return call.graph.node(
        "ConvTranspose",
        *_weights(call),
        strides=_unless(call.spatial("stride", dims), 1),
        pads=_unless(call.spatial("padding", dims) * 2, 0),
        output_padding=_unless(call.spatial("output_padding", dims), 0),
        dilations=_unless(call.spatial("dilation", dims), 1),
        group=call["groups"] if call["groups"] != 1 else None,
    )


def _spatial_dims(call: Call, dims: int) -> int:
    if len(call.shape) != dims + 2:
        raise call.unsupported("without a batch dimension")
    return dims


def _weights(call: Call) -> tuple[str, str, str]:
    return call.x, call.value(call["weight"]), call.value(call["bias"])


def _unless(values: list[int], default: int) -> list[int] | None:
    """The attribute's values, or None where ONNX means the same by leaving them out."""
    return None if all(value == default for value in values) else values


def linear(call: Call) -> str:
    """Gemm for rows, else a matrix product and an addition, since Gemm knows two dimensions only."""
    product = product_as_it_comes(call, call["weight"])
    if product is None and len(call.shape) == 2:
        return call.graph.node("Gemm", *_weights(call), transB=1)
    product = product or call.graph.node("MatMul", call.x, _transposed(call, call["weight"]))
    return product if call["bias"] is None else call.graph.node("Add", product, call.value(call["bias"]))


def _transposed(call: Call, weight: fx.Node) -> str:
    """The weight as (in, out): turned around now where it is a constant of its own, also a quantized one."""
    value = call.value(weight)
    # What others read too, such as an embedding, is stored once and turned around when the file is loaded.
    if value in call.graph.tensors and not any(value in node.input for node in call.graph.nodes):
        return call.graph.constant(call.graph.tensors[value].t())
    producer = next((node for node in reversed(call.graph.nodes) if value in node.output), None)
    if producer is not None and producer.op_type == "DequantizeLinear" and producer.input[0] in call.graph.tensors:
        integers = turned(call.graph, producer.input[0])
        axis = next((1 - attribute.i for attribute in producer.attribute if attribute.name == "axis"), None)
        return call.graph.node(
            "DequantizeLinear", integers, *producer.input[1:], dtype=call.graph.types[value], axis=axis
        )
    return call.graph.node("Transpose", value, perm=[1, 0])


def matrix_product(call: Call) -> str:
    """matmul, mm, bmm, mv and dot follow numpy's rules, as ONNX's MatMul does."""
    _, other, *_ = call.arguments.values()
    return product_as_it_comes(call, other) or call.graph.node("MatMul", call.x, call.value(other))


def added_matrix_product(call: Call) -> str:
    """Beta * bias + alpha * (left @ right)."""
    _, left, right, beta, alpha = call.arguments.values()
    if "baddbmm" in str(call.operation.target):
        product = call.graph.node("MatMul", call.value(left), call.value(right))
        product, bias = (_times(call, *each) for each in ((product, alpha), (call.x, beta)))
        return call.graph.node("Add", product, bias) if beta else product
    factors: dict[str, Any] = {
        "alpha": None if alpha == 1 else float(alpha),
        "beta": None if beta == 1 else float(beta),
    }
    return call.graph.node("Gemm", call.value(left), call.value(right), call.x, **factors)


def _times(call: Call, x: str, factor: float) -> str:
    return x if factor == 1 else call.graph.node("Mul", x, call.graph.number(factor, call.dtype))


def einsum(call: Call) -> str:
    """Einsum, whose equations mean the same."""
    return call.graph.node("Einsum", *(call.value(tensor) for tensor in call["tensors"]), equation=call["equation"])


def embedding(call: Call) -> str:
    """Rows of the weight."""
    return call.graph.node("Gather", call.value(call["weight"]), call.value(call["indices"]))


def attention(call: Call) -> str:
    """softmax(q k^T * scale + mask) v (Vaswani et al. 2017); several queries may share a key (Ainslie et al. 2023)."""
    if call["dropout_p"]:
        raise call.unsupported("with dropout")
    graph, query, rank = call.graph, call.shape, len(shape_of(call["key"]))
    scale = 1 / math.sqrt(int(query[-1])) if call["scale"] is None else call["scale"]
    scaled = graph.node("Mul", call.x, graph.number(scale, call.dtype))
    keys, values = (_for_all_heads(call, call[name]) for name in ("key", "value"))
    order = [*range(rank - 2), rank - 1, rank - 2]
    scores = graph.node("MatMul", scaled, graph.node("Transpose", keys, perm=order))
    mask = _additive_mask(call)
    scores = graph.node("Add", scores, mask) if mask else scores
    return graph.node("MatMul", graph.node("Softmax", scores, axis=-1), values)


def _for_all_heads(call: Call, node: fx.Node) -> str:
    """Keys or values, each as often in a row as queries share it."""
    if not call["enable_gqa"]:
        return call.value(node)
    (batch, heads, *rest), graph = shape_of(node), call.graph
    if not isinstance(heads, int):
        raise call.unsupported("with free heads")
    times = call.size(1) // heads
    apart = graph.node("Unsqueeze", call.value(node), graph.integers([2]))
    copies = graph.node("Tile", apart, graph.integers([1, 1, times, *[1] * len(rest)]))
    return reshaped(call, copies, (batch, heads, times, *rest), (batch, heads * times, *rest))


def _additive_mask(call: Call) -> str:
    """What is added to the scores: '' for nothing, minus infinity where a key must not be seen."""
    graph, mask = call.graph, call["attn_mask"]
    if call["is_causal"]:
        queries, keys = call.shape[-2], shape_of(call["key"])[-2]
        if isinstance(queries, int) and isinstance(keys, int):
            return graph.constant(torch.full((queries, keys), -math.inf).triu(1))
        return _triangle(call, queries, keys)
    if mask is None or mask.meta["val"].dtype != torch.bool:
        return graph.cast(call.value(mask), call.dtype) if mask else ""
    seen, unseen = graph.number(0.0, call.dtype), graph.number(-math.inf, call.dtype)
    return graph.node("Where", call.value(mask), seen, unseen, dtype=call.dtype)


def _triangle(call: Call, queries: Dim, keys: Dim) -> str:
    """Minus infinity for each key that comes after the query, by sizes that the inputs tell."""
    graph = call.graph
    zero, one = (graph.number(number, torch.int64) for number in (0, 1))
    rows, columns = (graph.node("Range", zero, call.value(size, torch.int64), one) for size in (queries, keys))
    later = graph.node("Less", graph.node("Unsqueeze", rows, graph.integers([1])), columns, dtype=torch.bool)
    seen, unseen = graph.number(0.0, call.dtype), graph.number(-math.inf, call.dtype)
    return graph.node("Where", later, unseen, seen, dtype=call.dtype)


TABLE: Table = {
    "aten.addmm": added_matrix_product,
    "aten.baddbmm": added_matrix_product,
    "aten.bmm": matrix_product,
    "aten.conv1d": convolution,
    "aten.conv2d": convolution,
    "aten.conv3d": convolution,
    "aten.conv_transpose1d": transposed_convolution,
    "aten.conv_transpose2d": transposed_convolution,
    "aten.conv_transpose3d": transposed_convolution,
    "aten.dot": matrix_product,
    "aten.einsum": einsum,
    "aten.embedding": embedding,
    "aten.linear": linear,
    "aten.matmul": matrix_product,
    "aten.mm": matrix_product,
    "aten.mv": matrix_product,
    "aten.scaled_dot_product_attention": attention,
}
