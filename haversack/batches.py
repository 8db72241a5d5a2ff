"""Batches: what train(), calibrate() and score() hand over, by position or by name, as tensors by position.

Inputs that go by name (a dictionary, a tokenizer's batch) count in the order of their names, whatever order they came
in; behind the door everything goes by position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from torch import Tensor

from haversack.errors import TaskError

Placed = Tensor | tuple[Tensor, ...]
Inputs = Placed | Mapping[str, Tensor]
Batch = tuple[Placed, Tensor] | tuple[Placed]
"""For training, by position."""
Outputs = Tensor | tuple[Tensor, ...]
"""Of a batch: one tensor, or several."""
Given = tuple[Inputs, Tensor] | tuple[Inputs] | Mapping[str, Tensor]
"""As train() may yield it."""
TARGETS = ("labels", "label")
"""What a dictionary calls what the outputs should be; it is no input."""


def names_of(inputs: object) -> tuple[str, ...]:
    """The names of a batch's inputs, in their order; none where they go by position."""
    return tuple(sorted(_named(inputs))) if isinstance(inputs, Mapping) else ()


def in_order(inputs: Any, names: Sequence[str] | None = None, where: str = "") -> tuple[Any, ...]:  # noqa: ANN401
    """The inputs of a batch by position. Raises TaskError where they are not those called `names`, if that is known."""
    if isinstance(inputs, Mapping):
        found = _named(inputs)
        if names is not None and sorted(found) != list(names):
            raise TaskError(
                f"a batch has the inputs {_listed(sorted(found))}, where calibrate() yields {_listed(names)}.",
                where=where,
                mend="let all batches have the same inputs.",
            )
        return tuple(found[name] for name in sorted(found))
    given = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    if names and len(names) > 1:
        raise TaskError(
            f"a batch has {len(given)} inputs without names, where calibrate() yields {_listed(names)}.",
            where=where,
            mend="hand them over by name: a dictionary, or predict(**batch).",
        )
    return given


def each_of(outputs: Outputs) -> tuple[Tensor, ...]:
    """The tensors of a batch's outputs."""
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def mapped(change: Callable[..., Tensor], *outputs: Outputs) -> Outputs:
    """What `change` makes of each output, or of what stands in its place in several."""
    if isinstance(outputs[0], Tensor):
        return change(*outputs)
    return tuple(change(*each) for each in zip(*outputs, strict=True))


def unpack(batch: Any) -> tuple[tuple[Tensor, ...], Tensor]:  # noqa: ANN401 - a Batch, as far as users keep to it
    """The inputs and the target of a training batch; a batch of inputs alone is its own target."""
    inputs = in_order(batch if isinstance(batch, Tensor | Mapping) else batch[0])
    target = target_of(batch)
    return inputs, inputs[0] if target is None else target


def target_of(batch: Any) -> Any:  # noqa: ANN401
    """What a training batch says that the outputs should be; None where it does not."""
    if isinstance(batch, Mapping):
        return next((batch[name] for name in TARGETS if batch.get(name) is not None), None)
    return batch[1] if not isinstance(batch, Tensor) and len(batch) > 1 else None


def has_target(batch: Any) -> bool:  # noqa: ANN401
    """Whether a training batch says what the outputs should be."""
    return target_of(batch) is not None


def by_position(batch: Any, names: Sequence[str] | None) -> Batch:  # noqa: ANN401 - what a user yields
    """A training batch whose inputs go by position: as it is, where they do already."""
    inputs = batch if isinstance(batch, Tensor | Mapping) or not len(batch) else batch[0]
    if not isinstance(inputs, Mapping):
        return cast("Batch", batch)
    ordered, target = in_order(inputs, names, "train()"), target_of(batch)
    return (ordered,) if target is None else (ordered, target)


def _named(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a dictionary: all that is there, but for the target."""
    return {name: value for name, value in inputs.items() if name not in TARGETS and value is not None}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "inputs without names"
