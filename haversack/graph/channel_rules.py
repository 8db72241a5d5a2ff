"""How the channels of each operation's inputs, weights and outputs belong together.

Every index of every dimension of every weight is an atom. A rule reads one operation of the exported graph, notes
which atoms are one and the same channel and which must stay, and says which atoms each dimension of the result
carries; None is a dimension that never shrinks (batch, space, tokens).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from haversack.graph.trace import layer_path

Atoms = NDArray[np.int64]
Dims = tuple[Atoms | None, ...]
Value = Dims | list[Dims]
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# A batch size that divides nothing, to follow reshapes with: sizes that depend on the batch become multiples of it.
_ODD_BATCH = 1_000_003


@dataclass
class Book:
    """What the rules have noted so far."""

    count: int = 0
    same: list[tuple[Atoms, Atoms]] = field(default_factory=list)
    pinned: list[tuple[Atoms, str]] = field(default_factory=list)
    produced: list[tuple[Atoms, str]] = field(default_factory=list)
    read: list[Atoms] = field(default_factory=list)
    """Columns of weights that a product sums over: there, channels are taken in."""
    paired: list[Atoms] = field(default_factory=list)
    """Channels of grouped convolutions: two a group must stay, since one would read as depthwise."""

    def fresh(self, size: int) -> Atoms:
        """New atoms, related to nothing yet."""
        self.count += size
        return np.arange(self.count - size, self.count, dtype=np.int64)

    def unite(self, ours: Atoms | None, theirs: Atoms | None, why: str) -> None:
        """Position by position, both are one channel; what meets a fixed dimension must stay."""
        if ours is not None and theirs is not None:
            self.same.append((ours, theirs))
        else:
            self.pin(theirs if ours is None else ours, f"tied to a dimension of fixed size ({why})")

    def pin(self, atoms: Atoms | None, why: str) -> None:
        """These must stay."""
        if atoms is not None:
            self.pinned.append((atoms, why))

    def contract(self, ours: Atoms | None, weight: Atoms | None, why: str) -> None:
        """The product sums over both: one channel each, taken in by the weight."""
        self.unite(ours, weight, why)
        if weight is not None:
            self.read.append(weight)

    def interleave(self, atoms: Atoms | None, groups: int) -> Atoms | None:
        """The first group's atoms, each united with those at its place in the other groups."""
        if atoms is None:
            return None
        rows = atoms.reshape(groups, -1)
        for row in rows[1:]:
            self.same.append((rows[0], row))
        return rows[0]


@dataclass(frozen=True)
class Operation:
    """One operation: its node, the network it belongs to, the atoms of every earlier value, and the book."""

    node: fx.Node
    module: nn.Module
    values: Mapping[fx.Node, Value]
    book: Book

    @property
    def name(self) -> str:
        """ATen's name without namespace, overload and the underscore of in-place forms."""
        return operation_name(self.node)

    @property
    def layer(self) -> str:
        """The dotted path of the layer whose code this is."""
        return layer_path(self.node).partition("@")[0]

    @property
    def why(self) -> str:
        """The operation and its place, for the reasons of pins."""
        return f"{self.name} in layer {self.layer}" if self.layer else f"{self.name} in the network itself"

    def argument(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - whatever the operation takes
        """The argument that the operation's schema calls `name`; `default` where it has none."""
        for place, each in enumerate(self.node.target._schema.arguments):  # type: ignore[union-attr]  # noqa: SLF001 - no public reader
            if each.name == name:
                given = self.node.args[place] if place < len(self.node.args) else self.node.kwargs.get(name)
                return each.default_value if given is None else given
        return default

    def dims(self, name: str) -> Dims | None:
        """The atoms of the tensor argument `name`, or None where it is left out."""
        node = self.argument(name)
        return self.of(node) if isinstance(node, fx.Node) else None

    def of(self, node: fx.Node) -> Dims:
        """The atoms of an earlier value."""
        value = self.values.get(node, ())
        return value if isinstance(value, tuple) else ()

    def tensors(self) -> list[fx.Node]:
        """The inputs that are tensors."""
        return [node for node in self.node.all_input_nodes if isinstance(node.meta.get("val"), Tensor)]

    def within(self, kinds: type[nn.Module] | tuple[type[nn.Module], ...]) -> bool:
        """Whether a layer of these types runs this: its attributes follow its weights' shapes."""
        return isinstance(_layer(self.module, self.layer), kinds)


def operation_name(node: fx.Node) -> str:
    """ATen's name of a node's operation: `conv2d`; Python's own name where it is no ATen operation."""
    schema = getattr(node.target, "_schema", None)
    name = schema.name if schema is not None else getattr(node.target, "__name__", str(node.target))
    return str(name).rpartition("::")[2].rstrip("_")


def follow(operation: Operation) -> Value:
    """The atoms of the operation's result; an operation that nobody knows pins all it touches."""
    rule = _RULES.get(operation.name)
    if rule is None and torch.Tag.pointwise in getattr(operation.node.target, "tags", ()):
        rule = pointwise
    if rule is None and (space := re.search(r"(?:pool|upsample).*([123])d", operation.name)):
        rule = _pools[int(space[1])]
    value = (rule or unknown)(operation)
    # The heads of nn.MultiheadAttention are numbers in its attributes, and it checks its input against them.
    if any(isinstance(_layer(operation.module, path), nn.MultiheadAttention) for path in _parents(operation.layer)):
        _pin_all(operation, [value] if isinstance(value, tuple) else value, "attention heads: " + operation.why)
    return value


def sizes(node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's result, with a number that divides nothing for the batch."""
    return tuple(_number(size) for size in node.meta["val"].shape)


def unknown(operation: Operation) -> Value:
    """Fixed dimensions: how this operation treats channels is not known, so all that it touches must stay."""
    _pin_all(operation, [], f"{operation.why}: how it uses channels is not known")
    return _fixed(operation.node.meta.get("val"))


def pointwise(operation: Operation) -> Dims:
    """Right-aligned dimensions united, those of size 1 stretched: NumPy's broadcasting."""
    return _broadcast(operation, operation.tensors())


def _broadcast(operation: Operation, nodes: Sequence[fx.Node]) -> Dims:
    rank = max((len(sizes(node)) for node in nodes), default=0)
    columns: list[list[tuple[Atoms | None, int]]] = [[] for _ in range(rank)]
    for node in nodes:
        shape = sizes(node)
        for place, each in enumerate(zip(operation.of(node), shape, strict=True), start=rank - len(shape)):
            columns[place].append(each)
    return tuple(_united(operation, column) for column in columns)


def _united(operation: Operation, column: list[tuple[Atoms | None, int]]) -> Atoms | None:
    wide = [atoms for atoms, size in column if size != 1] or [atoms for atoms, _ in column]
    first = next((atoms for atoms in wide if atoms is not None), None)
    if first is not None:
        for other in wide:
            if other is not first:
                operation.book.unite(first, other, operation.why)
    return first


def _convolution(operation: Operation) -> Dims:
    dims, weight = operation.dims("input") or (), operation.dims("weight") or ()
    bias = operation.dims("bias")
    transposed = operation.name.startswith("conv_transpose") or bool(operation.argument("transposed", False))
    groups = int(operation.argument("groups", 1))
    channel = len(dims) - len(weight) + 1
    for atoms in (*dims[channel + 1 :], *weight[2:]):
        operation.book.pin(atoms, f"slid over: {operation.why}")
    if groups == 1:
        into, out = (weight[0], weight[1]) if transposed else (weight[1], weight[0])
        operation.book.contract(dims[channel], into, operation.why)
    else:
        channels = sizes(operation.argument("input"))[channel]
        out = (_grouped_transposed if transposed else _grouped)(operation, dims[channel], weight, groups, channels)
    if bias is not None:
        operation.book.unite(out, bias[0], operation.why)
    if out is not None:
        operation.book.produced.append((out, operation.layer))
    return (*dims[:channel], out, *(None for _ in weight[2:]))


def _grouped(operation: Operation, into: Atoms | None, weight: Dims, groups: int, channels: int) -> Atoms | None:
    book, out = operation.book, weight[0]
    if groups == channels:
        times = sizes(operation.argument("weight"))[0] // channels
        book.unite(None if into is None else np.repeat(into, times), out, operation.why)
        _pin_spelled_groups(operation, out)
        return out
    first = book.interleave(into, groups)
    book.contract(first, weight[1], operation.why)
    if first is not None:
        book.paired.append(first)
    book.interleave(out, groups)
    return out


def _grouped_transposed(
    operation: Operation, into: Atoms | None, weight: Dims, groups: int, channels: int
) -> Atoms | None:
    book = operation.book
    book.unite(into, weight[0], operation.why)
    if groups == channels:
        times = sizes(operation.argument("weight"))[1]
        book.pin(weight[1], f"a multiplier: {operation.why}")
        _pin_spelled_groups(operation, into)
        return None if into is None else np.repeat(into, times)
    if weight[0] is not None:
        book.read.append(weight[0])
    first = book.interleave(into, groups)
    if first is not None:
        book.paired.append(first)
    return None if weight[1] is None else np.tile(weight[1], groups)


def _pin_spelled_groups(operation: Operation, atoms: Atoms | None) -> None:
    if not operation.within(_CONVOLUTIONS):
        operation.book.pin(atoms, f"the code spells the number of groups: {operation.why}")


def _linear(operation: Operation) -> Dims:
    dims, weight, bias = operation.dims("input") or (), operation.dims("weight") or (), operation.dims("bias")
    operation.book.contract(dims[-1], weight[-1], operation.why)
    out = weight[:-1]
    if bias is not None:
        operation.book.unite(out[0], bias[0], operation.why)
    if out and out[0] is not None:
        operation.book.produced.append((out[0], operation.layer))
    return (*dims[:-1], *out)


def _matmul(operation: Operation) -> Dims:
    left, right = operation.tensors()[0], operation.tensors()[-1]
    return _product(operation, left, right)


def _addmm(operation: Operation) -> Dims:
    product = _product(operation, operation.argument("mat1"), operation.argument("mat2"))
    bias = operation.dims("input") or operation.dims("self") or ()
    if bias and product[-1] is not None:
        operation.book.unite(product[-1], bias[-1], operation.why)
    for atoms in bias[:-1]:
        operation.book.pin(atoms, operation.why)
    return product


def _product(operation: Operation, left: fx.Node, right: fx.Node) -> Dims:
    ours, theirs = operation.of(left), operation.of(right)
    if len(ours) < 2 or len(theirs) < 2:
        _pin_all(operation, [], operation.why)
        fixed = _fixed(operation.node.meta["val"])
        return fixed if isinstance(fixed, tuple) else ()
    operation.book.unite(ours[-1], theirs[-2], operation.why)
    operation.book.read += [
        atoms
        for node, atoms in ((left, ours[-1]), (right, theirs[-2]))
        if node.op == "placeholder" and atoms is not None
    ]
    for atoms in (*ours[:-2], *theirs[:-2]):
        operation.book.pin(atoms, f"batch of matrices: {operation.why}")
    for node, atoms in ((left, ours[-2]), (right, theirs[-1])):
        if node.op == "placeholder" and atoms is not None:
            operation.book.produced.append((atoms, operation.layer))
    return (*(None for _ in range(max(len(ours), len(theirs)) - 2)), ours[-2], theirs[-1])


def _embedding(operation: Operation) -> Dims:
    weight, indices = operation.dims("weight") or (), operation.dims("indices") or ()
    operation.book.pin(weight[0], f"the vocabulary: {operation.why}")
    if weight[1] is not None:
        operation.book.produced.append((weight[1], operation.layer))
    return (*indices, weight[1])


def _channel_norm(operation: Operation) -> Dims:
    """Batch and instance norm, PReLU: one number a channel, channels in dimension 1."""
    first, *others = operation.tensors()
    dims = operation.of(first)
    for node in others:
        (atoms,) = operation.of(node)
        if sizes(node) != (1,) or operation.name != "prelu":
            operation.book.unite(dims[min(1, len(dims) - 1)], atoms, operation.why)
    return dims


def _group_norm(operation: Operation) -> Dims:
    dims = _channel_norm(operation)
    operation.book.interleave(dims[1], int(operation.argument("num_groups")))
    return dims


def _layer_norm(operation: Operation) -> Dims:
    dims, weight = operation.dims("input") or (), operation.dims("weight")
    last = dims[len(dims) - len(operation.argument("normalized_shape")) :]
    affine = [each for each in (weight, operation.dims("bias")) if each is not None]
    for parameter in affine:
        for atoms, its in zip(last, parameter, strict=True):
            operation.book.unite(atoms, its, operation.why)
    if not affine or not operation.within((nn.LayerNorm, nn.RMSNorm)):
        for atoms in last:
            operation.book.pin(atoms, f"the code spells the normalised shape: {operation.why}")
    return dims


def _attention(operation: Operation) -> Dims:
    """Query, key and value stay whole: the scale and the heads hang on their sizes."""
    query, key, value = (operation.dims(name) or () for name in ("query", "key", "value"))
    for atoms in (*query, *key, *value[:-1]):
        operation.book.pin(atoms, f"attention head: {operation.why}")
    return (*query[:-1], value[-1])


def _same(operation: Operation) -> Dims:
    return operation.of(operation.tensors()[0])


def _cat(operation: Operation) -> Dims:
    # torch.cat skips empty tensors of one dimension, whatever the rank of the others.
    nodes = [node for node in operation.argument("tensors") if math.prod(sizes(node)) or len(sizes(node)) > 1]
    rank = len(sizes(nodes[0]))
    joined = int(operation.argument("dim", 0)) % rank
    dims = [
        _united(operation, [(operation.of(node)[dim], 0) for node in nodes]) if dim != joined else None
        for dim in range(rank)
    ]
    parts = [operation.of(node)[joined] for node in nodes]
    if any(part is not None for part in parts) and sizes(operation.node)[joined] < _ODD_BATCH:
        why = f"joined with channels: {operation.why}"
        dims[joined] = np.concatenate(
            [
                _constant(operation, sizes(node)[joined], why) if part is None else part
                for node, part in zip(nodes, parts, strict=True)
            ]
        )
    return tuple(dims)


def _stack(operation: Operation) -> Dims:
    nodes = operation.argument("tensors")
    dims = list(_broadcast(operation, nodes))
    dims.insert(int(operation.argument("dim", 0)) % (len(dims) + 1), None)
    return tuple(dims)


def _pad(operation: Operation) -> Dims:
    """Zero channels that the code adds stay (their number stands in the code); the others may go."""
    dims = list(_same(operation))
    pads = [each if isinstance(each, int) else 0 for each in operation.argument("pad")]
    constant = operation.argument("mode", "constant") == "constant"
    for dim, low, high in zip(range(len(dims) - 1, -1, -1), pads[::2], pads[1::2], strict=False):
        atoms = dims[dim]
        if atoms is None or low == high == 0:
            continue
        if constant and low >= 0 and high >= 0:
            why = f"zero channels that the code adds: {operation.why}"
            dims[dim] = np.concatenate([_constant(operation, low, why), atoms, _constant(operation, high, why)])
        else:
            operation.book.pin(atoms, f"cut or mirrored: {operation.why}")
            dims[dim] = None
    return tuple(dims)


def _constant(operation: Operation, size: int, why: str) -> Atoms:
    atoms = operation.book.fresh(size)
    operation.book.pin(atoms, why)
    return atoms


def _slice(operation: Operation) -> Dims:
    dims = list(_same(operation))
    dim = int(operation.argument("dim", 0)) % len(dims)
    start, end, step = (operation.argument(name) for name in ("start", "end", "step"))
    atoms = dims[dim]
    if atoms is None:
        return tuple(dims)
    whole = start in (None, 0) and step in (None, 1) and (end is None or (isinstance(end, int) and end >= len(atoms)))
    if not whole:
        operation.book.pin(atoms, f"the code picks channels: {operation.why}")
        fixed = any(isinstance(each, fx.Node) for each in (start, end, step))
        dims[dim] = None if fixed else atoms[start:end:step]
    return tuple(dims)


def _select(operation: Operation) -> Dims:
    dims = list(_same(operation))
    dim = int(operation.argument("dim", 0)) % len(dims)
    operation.book.pin(dims.pop(dim), f"the code picks a channel: {operation.why}")
    return tuple(dims)


def _split(operation: Operation) -> list[Dims]:
    dims = _same(operation)
    dim = int(operation.argument("dim", 0)) % len(dims)
    operation.book.pin(dims[dim], f"the code splits channels: {operation.why}")
    pieces = operation.node.meta["val"]
    if operation.name == "unbind":
        return [(*dims[:dim], *dims[dim + 1 :]) for _ in pieces]
    return [(*dims[:dim], None, *dims[dim + 1 :]) for _ in pieces]


def _getitem(operation: Operation) -> Dims:
    source, place = operation.node.args[:2]
    value = operation.values.get(source, ()) if isinstance(source, fx.Node) else ()
    return value[place] if isinstance(value, list) and isinstance(place, int) else ()


def _permute(operation: Operation) -> Dims:
    dims = _same(operation)
    if operation.name == "permute":
        return tuple(dims[dim] for dim in operation.argument("dims"))
    if operation.name in ("t", "numpy_T"):
        return dims[::-1]
    first, second = (operation.argument("dim0", -2), operation.argument("dim1", -1))
    swapped = list(dims)
    swapped[first], swapped[second] = swapped[second], swapped[first]
    return tuple(swapped)


def _squeeze(operation: Operation) -> Dims:
    given = operation.argument("dim", range(len(_same(operation))))
    shape = sizes(operation.tensors()[0])
    dropped = {dim % len(shape) for dim in ([given] if isinstance(given, int) else given)}
    return tuple(a for dim, a in enumerate(_same(operation)) if not (dim in dropped and shape[dim] == 1))


def _unsqueeze(operation: Operation) -> Dims:
    dims = list(_same(operation))
    dims.insert(int(operation.argument("dim")) % (len(dims) + 1), None)
    return tuple(dims)


def _expand(operation: Operation) -> Dims:
    if operation.name == "expand_as":
        return _broadcast(operation, operation.tensors())
    shape, spelled = sizes(operation.tensors()[0]), operation.argument("size")
    dims: list[Atoms | None] = [None] * (len(spelled) - len(shape))
    for atoms, size, said in zip(_same(operation), shape, spelled[len(dims) :], strict=True):
        if size != 1 and said != -1:
            operation.book.pin(atoms, f"the code spells the size: {operation.why}")
        dims.append(None if size == 1 and said not in (1, -1) else atoms)
    return tuple(dims)


def _reduce(operation: Operation) -> Value:
    dims = _same(operation)
    given = operation.argument("dim")
    gone = range(len(dims)) if given in (None, []) else [given] if isinstance(given, int) else given
    gone = {dim % len(dims) for dim in gone} if dims else set()
    keep = bool(operation.argument("keepdim", False))
    left = tuple(None if dim in gone else atoms for dim, atoms in enumerate(dims) if keep or dim not in gone)
    return left if isinstance(operation.node.meta["val"], Tensor) else [left for _ in operation.node.meta["val"]]


def _pool(space: int) -> Callable[[Operation], Value]:
    def rule(operation: Operation) -> Value:
        dims = _same(operation)
        for atoms in dims[-space:]:
            operation.book.pin(atoms, f"slid over: {operation.why}")
        left = (*dims[:-space], *(None for _ in range(space)))
        return left if isinstance(operation.node.meta["val"], Tensor) else [left for _ in operation.node.meta["val"]]

    return rule


def _reshape(operation: Operation) -> Dims:
    """Blocks of dimensions with equal products: kept, merged (atoms repeated) or split (pinned)."""
    spelled = operation.argument("size", operation.argument("shape"))
    before, after = sizes(operation.tensors()[0]), sizes(operation.node)
    dims, result = _same(operation), [None] * len(after)
    said = list(spelled) if isinstance(spelled, Sequence) and operation.name != "unflatten" else [-1] * len(after)
    for ours, theirs in _blocks(before, after):
        tracked = [dim for dim in ours if dims[dim] is not None]
        if not tracked:
            continue
        merged = len(theirs) == 1 and len(tracked) == 1
        constants = [dim for dim in theirs if isinstance(said[dim], int) and said[dim] != -1]
        if not merged or constants:
            for dim in tracked:
                operation.book.pin(dims[dim], f"the code spells the size: {operation.why}")
        if merged:
            result[theirs[0]] = _spread(dims[tracked[0]], [before[dim] for dim in ours], ours.index(tracked[0]))
    return tuple(result)


def _spread(atoms: Atoms | None, shape: list[int], axis: int) -> Atoms | None:
    """Atoms of one dimension at each place of the flattened block; none where the batch is part of it."""
    if atoms is None or any(size % _ODD_BATCH == 0 for size in shape):
        return None
    column = atoms.reshape([-1 if dim == axis else 1 for dim in range(len(shape))])
    return np.broadcast_to(column, shape).reshape(-1)


def _blocks(before: tuple[int, ...], after: tuple[int, ...]) -> Iterable[tuple[list[int], list[int]]]:
    ours = [dim for dim, size in enumerate(before) if size != 1]
    theirs = [dim for dim, size in enumerate(after) if size != 1]
    while ours and theirs:
        left, right = [ours.pop(0)], [theirs.pop(0)]
        while (a := math.prod(before[d] for d in left)) != (b := math.prod(after[d] for d in right)):
            (left if a < b else right).append((ours if a < b else theirs).pop(0))
        yield left, right


def _einsum(operation: Operation) -> Value:
    equation, nodes = operation.argument("equation").replace(" ", ""), operation.argument("tensors")
    terms, arrow, result = equation.partition("->")
    if not arrow or "." in equation:
        return unknown(operation)
    letters: dict[str, list[tuple[Atoms | None, int]]] = {}
    for term, node in zip(terms.split(","), nodes, strict=True):
        for letter, atoms in zip(term, operation.of(node), strict=True):
            letters.setdefault(letter, []).append((atoms, 0))
    united = {letter: _united(operation, column) for letter, column in letters.items()}
    return tuple(united[letter] for letter in result)


def _pin_all(operation: Operation, results: list[Dims], why: str) -> None:
    for dims in (*(operation.of(node) for node in operation.tensors()), *results):
        for atoms in dims:
            operation.book.pin(atoms, why)


def _fixed(value: object) -> Value:
    if isinstance(value, Tensor):
        return (None,) * value.dim()
    return [(None,) * each.dim() if isinstance(each, Tensor) else () for each in value] if _many(value) else ()  # type: ignore[attr-defined]


def _many(value: object) -> bool:
    return isinstance(value, tuple | list)


def _number(size: Any) -> int:  # noqa: ANN401 - int or SymInt
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.xreplace(dict.fromkeys(expression.free_symbols, _ODD_BATCH)))


def _layer(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _parents(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


_pools = {space: _pool(space) for space in (1, 2, 3)}
_RULES: dict[str, Callable[[Operation], Value]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _convolution),
    **dict.fromkeys(("batch_norm", "instance_norm", "prelu"), _channel_norm),
    **dict.fromkeys(("layer_norm", "rms_norm"), _layer_norm),
    **dict.fromkeys(("matmul", "mm", "bmm"), _matmul),
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "unflatten"), _reshape),
    **dict.fromkeys(("permute", "transpose", "t", "numpy_T"), _permute),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "unbind", "tensor_split"), _split),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "logsumexp"), _reduce),
    **dict.fromkeys(("prod", "any", "all", "argmax", "argmin", "linalg_vector_norm"), _reduce),
    **dict.fromkeys(("contiguous", "clone", "to", "_to_copy", "detach", "alias", "lift_fresh_copy"), _same),
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "softmax", "log_softmax", "cumsum"), _same),
    **dict.fromkeys(("zeros_like", "ones_like", "full_like", "empty_like", "type_as"), _same),
    **dict.fromkeys(("relu6", "hardtanh", "hardswish", "silu", "gelu", "celu", "selu", "rrelu"), pointwise),
    **dict.fromkeys(("expand", "expand_as"), _expand),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    "linear": _linear,
    "addmm": _addmm,
    "einsum": _einsum,
    "embedding": _embedding,
    "group_norm": _group_norm,
    "scaled_dot_product_attention": _attention,
    "stack": _stack,
    "slice": _slice,
    "select": _select,
    "getitem": _getitem,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
}
