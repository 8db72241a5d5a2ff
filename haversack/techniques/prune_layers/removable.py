"""Removable: modules that may give way to nothing, so that their input passes through, and those that may not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from haversack.channels.group import ChannelGroup
from haversack.channels.groups import channel_groups
from haversack.graph.trace import trace
from haversack.model import Edits, Model, Swap
from haversack.surgery.edit import edit


@dataclass(frozen=True)
class Removable:
    """A module whose output has the shape of its input.

    Modules of equal `build` compute the same operations on values of the same shape.
    """

    path: str
    build: str

    def within(self, other: Removable) -> bool:
        """Whether it is a part of `other`."""
        return self.path.startswith(f"{other.path}.")


@dataclass(frozen=True)
class Stays:
    """A module that cannot be removed, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Removables:
    """The modules with parameters of a network: those that may go, in the order in which they run, and those that stay.

    One may be a part of another.
    """

    removable: tuple[Removable, ...]
    staying: tuple[Stays, ...]


def removable(module: nn.Module, example: tuple[Tensor, ...]) -> Removables:
    """What may be removed whole from `module`: blocks with an identity shortcut, layers as wide as what they read.

    A module may go when it is run once on a tensor and gives one of the same shape, holds weights of its own that
    multiply, and the rest of the network runs without it. What only chains modules that may go themselves is not named,
    and neither are the layers inside a block that may go: a layer alone leaves a block that was trained with it.
    """
    calls, outputs = _calls(module, example)
    stays = {path: next(_reasons(module, path, call), "") for path, call in calls.items()}
    chosen = _named([path for path, why in stays.items() if not why], module, calls)
    stays |= {path: _failure(module, path, example, outputs) for path in chosen}
    return Removables(
        tuple(Removable(path, _build(module.get_submodule(path), calls[path])) for path in chosen if not stays[path]),
        tuple(Stays(path, why) for path, why in stays.items() if why),
    )


def _named(fitting: Sequence[str], module: nn.Module, calls: Mapping[str, _Call]) -> list[str]:
    """Those of `fitting` that are worth a choice: no mere chains of others, and no layers inside a block."""
    links = [path for path in fitting if not _is_chain(path, fitting, calls)]
    blocks = [path for path in links if any(module.get_submodule(path).children())]
    return [path for path in links if path in blocks or not any(path.startswith(f"{each}.") for each in blocks)]


@dataclass
class _Call:
    """What a module was given and gave back when the example ran; `times` it ran."""

    times: int = 0
    given: tuple[object, ...] = ()
    result: object = None


def _calls(module: nn.Module, example: tuple[Tensor, ...]) -> tuple[Mapping[str, _Call], object]:
    """The call of every module within that holds parameters, in the order in which they start, and the outputs."""
    calls: dict[str, _Call] = {}
    with ExitStack() as hooks, torch.no_grad():
        for path, layer in module.named_modules():
            if path and any(True for _ in layer.parameters()):

                def enter(_: nn.Module, given: tuple[object, ...], named: dict[str, object], path: str = path) -> None:
                    call = calls.setdefault(path, _Call())
                    call.times, call.given = call.times + 1, (*given, *named.values())

                def leave(_: nn.Module, __: object, result: object, path: str = path) -> None:
                    calls[path].result = result

                hooks.callback(layer.register_forward_pre_hook(enter, with_kwargs=True).remove)
                hooks.callback(layer.register_forward_hook(leave).remove)
        outputs = module(*example)
    return calls, outputs


def _reasons(module: nn.Module, path: str, call: _Call) -> Iterator[str]:
    """Why the module at `path` cannot go, as its call shows; nothing where it can."""
    layer, first = module.get_submodule(path), next(iter(call.given), None)
    if not any(parameter.dim() > 1 for parameter in layer.parameters()):
        yield "it multiplies by no matrix"
    if call.times > 1:
        yield f"it runs {call.times} times"
    if not isinstance(first, Tensor) or not isinstance(call.result, Tensor):
        yield "it does not turn one tensor into one"
        return
    if first.shape != call.result.shape or first.dtype != call.result.dtype:
        yield f"it turns {_sized(first)} into {_sized(call.result)}"
    if any(isinstance(each, Tensor) and each is not first and each.shape == first.shape for each in call.given[1:]):
        yield "it joins several tensors"
    if _shares(module, layer):
        yield "it shares weights with another layer"


def _sized(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape[1:]) or "a scalar"


def _shares(module: nn.Module, layer: nn.Module) -> bool:
    """Whether a weight of `layer`, or all of it, is found elsewhere in the network too."""
    everywhere = Counter(id(each) for _, each in module.named_parameters(remove_duplicate=False))
    here = Counter(id(each) for _, each in layer.named_parameters(remove_duplicate=False))
    return any(everywhere[key] > count for key, count in here.items())


def _failure(module: nn.Module, path: str, example: tuple[Tensor, ...], outputs: object) -> str:
    """What goes wrong without the module: code that reads its attributes fails here and not at the user's."""
    try:
        with torch.no_grad():
            rest = without(module, [path])(*example)
    except Exception as error:  # noqa: BLE001 - whatever the user's code raises without the module
        return f"the network does not run without it ({type(error).__name__})"
    same = isinstance(rest, Tensor) and isinstance(outputs, Tensor) and rest.shape == outputs.shape
    return "" if same else "the network's output changes its shape without it"


def joining(model: Model, paths: Sequence[str]) -> frozenset[str]:
    """Those of the modules whose removal makes one channel group of two, whose channels must be as many then.

    Such a module alone makes or reads a group, which the removal joins with the group on its other side.
    """
    groups = channel_groups(trace(model.module, model.example), model.module).groups if paths else ()
    return frozenset(path for path in paths if any(_ends(group, f"{path}.") for group in groups))


def _ends(group: ChannelGroup, inside: str) -> bool:
    """Whether all makers of a group, or all its readers, are `inside`, but not all of both."""
    makers = {member.tensor.startswith(inside) for member in group.members if not member.reads}
    readers = {member.tensor.startswith(inside) for member in group.members if member.reads}
    return makers | readers == {False, True} and (makers == {True} or readers == {True})


def outermost(among: Sequence[Removable]) -> tuple[Removable, ...]:
    """Those of `among` that are no part of another one."""
    return tuple(each for each in among if not any(each.within(other) for other in among))


def removal(paths: Sequence[str]) -> Edits:
    """The edits that remove the modules at `paths`."""
    return Edits(tuple(Swap(path) for path in paths))


def without(module: nn.Module, paths: Sequence[str]) -> nn.Module:
    """A copy of `module` in which the input of those at `paths` passes through."""
    return edit(module, removal(paths))


def _is_chain(path: str, may_go: Sequence[str], calls: Mapping[str, _Call]) -> bool:
    """Whether the module does nothing but run modules that may go themselves, one after the other."""
    inner = [each for each in may_go if each.startswith(f"{path}.")]
    value = calls[path].given[0]
    for each in sorted(inner, key=list(calls).index):
        if calls[each].given[0] is value:
            value = calls[each].result
    return bool(inner) and value is calls[path].result


def _build(layer: nn.Module, call: _Call) -> str:
    """What tells modules apart that take different time."""
    first = call.given[0]
    parts = (f"{type(each).__qualname__}({each.extra_repr()})" for each in _leaves(layer))
    return f"{type(layer).__qualname__} of {tuple(first.shape) if isinstance(first, Tensor) else ''}: {' '.join(parts)}"


def _leaves(layer: nn.Module) -> Iterator[nn.Module]:
    return (each for each in layer.modules() if not any(each.children()))
