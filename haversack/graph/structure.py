"""Structure: what torch.export says of a network, asked once for all networks that are built alike.

An exported graph holds no weights: it follows from the modules, from all that they hold beside their tensors, and from
these tensors' shapes and types. So it is remembered under just that, as long as a network of this structure lives. What
changes in place is another structure at once, or other weights in the same one, which are never remembered.
"""

from __future__ import annotations

import inspect
import io
import logging
import pickle
import types
import warnings
import weakref
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import ExportGraphSignature

from haversack.errors import TraceError
from haversack.graph.in_place import is_seen_elsewhere, out_of_place, with_batch_norms
from haversack.graph.run import named_tensors, on_the_same_tensors
from haversack.graph.sizes import settle
from haversack.lengths import PAD, Axes
from haversack.wiring import free_axes

aten = torch.ops.aten

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Structure:
    """The graph of an exported network without its weights.

    `network` is as torch.export gives it, with weights as inputs, whose entries in the network's state `weights` names
    and whose `parameters` are told apart from buffers; `plain` reads them itself (`get_attr`), takes and gives tensors
    by position, and writes into none. `constants` are the tensors that are no entries of the network's state.

    Free lengths are still free in `plain`; in `network` they have become those of the inputs that it was traced with.
    """

    network: fx.GraphModule
    plain: fx.Graph
    weights: Mapping[str, str]
    parameters: frozenset[str]
    constants: Mapping[str, Tensor]


_KNOWN: weakref.WeakValueDictionary[Hashable, Structure] = weakref.WeakValueDictionary()
# By network and by what it was run on: a structure lives as long as a network that has it.
_OF: weakref.WeakKeyDictionary[nn.Module, dict[Hashable, Structure]] = weakref.WeakKeyDictionary()


def structure_of(module: nn.Module, inputs: Inputs) -> Structure:
    """The structure of `module` in evaluation mode, for inputs of these shapes and types.

    What forward() reads that hangs on no module, such as global variables, is taken for a part of its code. Raises
    TraceError, naming the layer, when torch.export cannot read the network.
    """
    # The caller's mode stays, and its weights are only looked at.
    copied = on_the_same_tensors(module).eval()
    key = _described(copied, inputs)
    known = None if key is None else _KNOWN.get(key)
    structure = known or _read(export(copied, inputs), named_tensors(copied).keys(), free_axes(copied))
    if key is not None:
        _KNOWN[key] = structure
        _OF.setdefault(module, {})[_metadata(inputs)] = structure
    return structure


def _described(module: nn.Module, inputs: Inputs) -> Hashable | None:
    """All that the exported graph follows from; None where something cannot be told.

    It is what a copy of the network is made of: so much pickle would write, but for the numbers in the network's state.
    """
    stream = io.BytesIO()
    try:
        described = _Description(stream, module)
        described.dump(module)
    except Exception:  # noqa: BLE001 - users' classes may refuse to be pickled in any way
        return None
    # Without gradients, attention has other operations.
    modes = torch.is_grad_enabled(), torch.get_default_dtype()
    return stream.getvalue(), tuple(described.code), _metadata(inputs), modes


class _Description(pickle.Pickler):
    """Writes an object with places for the network's tensors; `code` is what is the same only where it is identical."""

    def __init__(self, stream: io.BytesIO, module: nn.Module) -> None:
        super().__init__(stream, protocol=4)
        tensors = {id(tensor): tensor for tensor in named_tensors(module).values()}
        storages: dict[int, int] = {}
        self._tensors = {
            key: (place, storages.setdefault(tensor.untyped_storage()._cdata, place), *_metadata((tensor,)))  # noqa: SLF001
            for place, (key, tensor) in enumerate(tensors.items())
        }
        self.code: list[weakref.ref[Any]] = []

    def persistent_id(self, obj: Any) -> object:  # noqa: ANN401 - whatever a network holds
        """A tensor by its place and form, a class or a function by itself; None for all that is written out."""
        if isinstance(obj, Tensor):
            return self._tensors.get(id(obj))
        if isinstance(obj, type):
            self.code.append(weakref.ref(obj))
            if issubclass(obj, nn.Module):
                self.code.append(weakref.ref(obj.forward))
            return len(self.code)
        if isinstance(obj, types.FunctionType | types.BuiltinFunctionType):
            self.code.append(weakref.ref(obj))
            return len(self.code)
        return None

    def reducer_override(self, obj: Any) -> Any:  # noqa: ANN401 - as pickle declares it
        """A module with all that it holds, whatever its class would leave out, and what a weak reference stands for."""
        if isinstance(obj, nn.Module):
            return type, (type(obj),), object.__getstate__(obj)
        if isinstance(obj, weakref.ref):
            return weakref.ref, (obj(),)
        return NotImplemented


def _metadata(tensors: Sequence[Tensor]) -> tuple[object, ...]:
    return tuple(
        (
            *(type(each).__qualname__, each.dtype, tuple(each.shape), each.stride(), each.storage_offset()),
            *(str(each.device), each.requires_grad, each.is_conj(), each.is_neg()),
        )
        for each in tensors
    )


def export(module: nn.Module, inputs: Inputs) -> torch.export.ExportedProgram:
    """The program of `module`, as it is, with a free batch dimension, where the network allows one, and free lengths.

    Raises TraceError, naming the layer, when torch.export cannot read the network, and where it fixes a length that
    shall be free.
    """
    free = free_axes(module) or ((),) * len(inputs)
    dims = tuple(dict.fromkeys((0, *dict(axes)), torch.export.Dim.AUTO) for axes in free)
    with _layers_followed(module) as layers, _quiet():
        try:
            program = torch.export.export(module, inputs, dynamic_shapes=_as_parameters(module, dims), strict=False)
        except Exception as error:
            raise _explained(error, layers) from error
    _check_free(program, free)
    _put_in_line(program.graph_module, program.graph_signature)
    return program


_FIXING = "GRU, LSTM and MaxPool1d fix what they read (torch.export's way); MaxPool2d does not."


def _check_free(program: torch.export.ExportedProgram, free: Sequence[Axes]) -> None:
    """Raises TraceError where a length is one number to the network."""
    values = {node.name: node.meta.get("val") for node in program.graph.find_nodes(op="placeholder")}
    for name, axes in zip(program.graph_signature.user_inputs, free, strict=True):
        for dim, called in axes:
            size = values[str(name)].shape[dim]
            fixed = size if isinstance(size, int) else size.node.maybe_as_int()
            if fixed is not None:
                raise TraceError(
                    f"traced, the network takes the input '{name}' with {fixed} along dimension {dim} alone, which "
                    f"shall be free ('{called}').",
                    where="network()",
                    mend=f"{PAD} {_FIXING}",
                )


_MODES = {
    torch.ops.higher_order.wrap_with_set_grad_enabled: 1,
    torch.ops.higher_order.wrap_with_autocast: 4,
}
"""Operations that run a graph in a mode, and which of their arguments it is."""


def _put_in_line(module: fx.GraphModule, signature: ExportGraphSignature | None = None) -> None:
    """What runs under `torch.no_grad()`, or under an autocast that is off, runs without: results are the same."""
    for node in list(module.graph.nodes):
        place = _MODES.get(node.target)
        if place is None or (place == 4 and node.args[2]):
            continue
        body, *arguments = cast("tuple[Any, ...]", node.args[place:])
        inner = cast("fx.GraphModule", module.get_submodule(body.target))
        _put_in_line(inner)
        values = dict(zip(inner.graph.find_nodes(op="placeholder"), arguments, strict=True))
        with module.graph.inserting_before(node):
            results = cast("tuple[fx.Node, ...]", module.graph.graph_copy(inner.graph, values))
        for part in list(node.users):
            result = results[cast("int", part.args[1])]
            part.replace_all_uses_with(result)
            if signature is not None:
                signature.replace_all_uses(part.name, result.name)
            module.graph.erase_node(part)
        module.graph.erase_node(node)
        if not body.users:
            module.graph.erase_node(body)
    module.recompile()


def _as_parameters(module: nn.Module, each: tuple[object, ...]) -> tuple[object, ...]:
    """One entry a parameter of forward(), as torch.export wants it: those of `*inputs` are one entry."""
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return each
    first = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*each[:first], each[first:])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch's own warnings and log lines away: what matters of them is in the TraceError."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _layers_followed(module: nn.Module) -> Iterator[list[str]]:
    """Keeps the path of the module that is running, so that a failure can name it."""
    running: list[str] = []
    handles = []
    for path, layer in module.named_modules():

        def enter(_: nn.Module, __: object, path: str = path) -> None:
            running.append(path)

        def leave(_: nn.Module, __: object, ___: object) -> None:
            running.pop()

        handles += [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]
    try:
        yield running
    finally:
        for handle in handles:
            handle.remove()


def _explained(error: Exception, layers: list[str]) -> TraceError:
    layer = next((path for path in reversed(layers) if path), "")
    first = str(error).strip().splitlines()
    return TraceError(
        f"torch.export cannot trace the network: {type(error).__name__}: {first[0] if first else ''}",
        where=f"layer {layer}" if layer else "network()",
        mend="replace control flow that depends on data in that layer's forward(), then try again.",
    )


def _read(program: torch.export.ExportedProgram, own: Collection[str], free: Sequence[Axes]) -> Structure:
    signature = program.graph_signature
    weights = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    plain, tensors = _plain(program)
    tensors = program.constants | tensors
    if free:
        settle(program.graph, program.example_inputs[0], free)
    return Structure(
        program.graph_module,
        plain,
        weights,
        frozenset(signature.parameters),
        {name: tensor for name, tensor in tensors.items() if name not in own and isinstance(tensor, Tensor)},
    )


def _plain(program: torch.export.ExportedProgram) -> tuple[fx.Graph, dict[str, Tensor]]:
    """A graph with weights as attributes, plain inputs and plain outputs; and the tensors that it reads."""
    graph, tensors = _unlifted(program)
    if is_seen_elsewhere(graph):
        # torch's functionalization traces the network again: slower, needed by few, and it warns of torch's own ways.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph, tensors = _unlifted(program.run_decompositions({}))
        with_batch_norms(graph)
    out_of_place(graph)
    return graph, tensors


def _unlifted(program: torch.export.ExportedProgram) -> tuple[fx.Graph, dict[str, Tensor]]:
    module = program.module(check_guards=False)
    graph = fx.Graph()
    leaves = tuple(cast("tuple[fx.Node, ...]", graph.graph_copy(module.graph, {})))
    graph.output(leaves[0] if program.call_spec.out_spec.is_leaf() else leaves)
    targets = {str(node.target) for node in graph.find_nodes(op="get_attr")}
    return graph, {target: _attribute(module, target) for target in targets}


def _attribute(module: nn.Module, target: str) -> Tensor:
    parent, _, name = target.rpartition(".")
    tensor: Tensor = getattr(module.get_submodule(parent), name)
    return tensor
