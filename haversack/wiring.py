"""Wiring: a network that takes inputs by name and gives outputs by name, as one that takes and gives tensors in order.

It is the network itself, of a class of its own: its modules, their paths and their tensors are the same ones.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from haversack.batches import Outputs
from haversack.errors import TaskError
from haversack.lengths import Axes
from haversack.positions import Mask
from haversack.preparing import Prepare, Prepared

_NAMES, _FREE, _MASK, _OWN = "_names_of_outputs", "_free_axes", "_mask", "_unwired"
_MAIN = ("logits", "last_hidden_state", "out")
"""What libraries call the output that a network is used for, where it has others beside."""


def rewired(
    network: nn.Module,
    inputs: Sequence[str],
    outputs: str | tuple[str, ...] = "",
    prepare: Prepare | None = None,
    free: tuple[Axes, ...] = (),
) -> nn.Module:
    """The network with forward(*tensors), those being the inputs of these names, if any, which gives tensors alone.

    That is the output of the name `outputs`, or a tuple of several; where none is named, the only tensor that there is,
    or the one that libraries call logits, last_hidden_state or out. With `prepare` its one input are bytes. `free` says
    which sizes of the inputs are read off them in each run, beside the batch. The network is left as it is, and shares
    its modules and tensors.
    """
    twin = copy.copy(network)
    own = getattr(type(network), _OWN, type(network))  # one that is wired already is wired anew
    twin.__class__ = _wired_class(own, tuple(inputs), outputs, prepare, free)  # type: ignore[arg-type]
    return twin


def free_axes(network: nn.Module) -> tuple[Axes, ...]:
    """The free dimensions of each input of a wired network, beside the batch; () where there are none."""
    free: tuple[Axes, ...] = getattr(type(network), _FREE, ())
    return free


def masked(network: nn.Module, mask: Mask) -> nn.Module:
    """The wired network, of whose positions only those count that one of its inputs says."""
    twin = copy.copy(network)
    twin.__class__ = _masked_class(type(network), mask)  # type: ignore[arg-type]
    return twin


def mask_of(network: nn.Module) -> Mask | None:
    """What says which positions of a network's inputs and outputs count; None where all do."""
    mask: Mask | None = getattr(type(network), _MASK, None)
    return mask


def input_names(network: nn.Module, count: int) -> tuple[str, ...]:
    """What forward() calls its first inputs; none where it does not name so many."""
    places = inspect.signature(network.forward).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = [each.name for each in places if each.kind in kinds]
    return tuple(named[:count]) if len(named) >= count else ()


def output_names(network: nn.Module) -> tuple[str, ...]:
    """What its task calls the outputs of a wired network; nothing where they have no names."""
    names: str | tuple[str, ...] = getattr(type(network), _NAMES, "")
    return names if isinstance(names, tuple) else (names,) if names else ()


def picked(found: object, outputs: str | tuple[str, ...] = "") -> Outputs:
    """The outputs of these names, or the one that stands out. Raises TaskError where none does."""
    if isinstance(found, Tensor) and not outputs:
        return found
    return tuple(_picked(found, each) for each in outputs) if isinstance(outputs, tuple) else _picked(found, outputs)


def _picked(found: object, output: str) -> Tensor:
    named = tensors_of(found)
    known = [name for name in _MAIN if name in named] or (list(named) if len(named) == 1 else [])
    chosen = output or next(iter(known), "")
    if chosen not in named:
        told = ", ".join(f"'{name}'" for name in named) or "no tensor"
        raise TaskError(
            f"the network returns {type(found).__name__} with {told}{f', and no {output!r}' if output else ''}.",
            where="network()",
            mend="say which output is scored, Task(outputs='...') or a tuple of names, or return that tensor.",
        )
    return named[chosen]


def tensors_of(found: object) -> dict[str, Tensor]:
    """The tensors that a network returned, by name; those of a tuple are called by their places."""
    parts: dict[str, Any] = {}
    if isinstance(found, Tensor):
        parts = {"0": found}
    elif isinstance(found, Mapping):
        parts = {str(name): value for name, value in found.items()}
    elif is_dataclass(found) and not isinstance(found, type):
        parts = {each.name: getattr(found, each.name) for each in fields(found)}
    elif hasattr(found, "_asdict"):
        parts = dict(found._asdict())
    elif isinstance(found, tuple | list):
        parts = {str(place): value for place, value in enumerate(found)}
    return {name: value for name, value in parts.items() if isinstance(value, Tensor)}


@functools.cache
def _masked_class(wired: type[nn.Module], mask: Mask) -> type[nn.Module]:
    body = {_MASK: mask, "__module__": wired.__module__, "__qualname__": wired.__qualname__}
    return type(wired.__name__, (wired,), body)


@functools.cache
def _wired_class(
    own: type[nn.Module],
    inputs: tuple[str, ...],
    outputs: str | tuple[str, ...],
    prepare: Prepare | None,
    free: tuple[Axes, ...],
) -> type[nn.Module]:
    """The class of a wired network; one a way of wiring, so that what is known of a network's code holds for all."""
    prepared = Prepared(prepare) if prepare is not None else None

    def forward(self: nn.Module, *tensors: Tensor, **named: Tensor) -> Outputs:
        if prepared is not None:
            tensors = tuple(map(prepared, tensors))
            named |= {name: prepared(value) for name, value in named.items() if name in inputs}
        if not inputs:
            return picked(own.forward(self, *tensors, **named), outputs)
        return picked(own.forward(self, **dict(zip(inputs, tensors, strict=not named)), **named), outputs)

    if inputs and all(map(str.isidentifier, inputs)):
        places = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", *inputs)]
        forward.__signature__ = inspect.Signature(places)  # type: ignore[attr-defined]
    elif not inputs:
        forward.__signature__ = inspect.signature(own.forward)  # type: ignore[attr-defined]
    body = {
        "forward": forward,
        _NAMES: outputs,
        _FREE: free,
        _OWN: own,
        "__module__": own.__module__,
        "__qualname__": own.__qualname__,
    }
    return type(own.__name__, (own,), body)
