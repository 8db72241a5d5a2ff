"""Options: what an operation says beside its inputs, as a table of TFLite's schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from haversack.errors import ExportError
from haversack.export.litert.schema import BUILTINS, WORDS, Builtin, Field
from haversack.export.litert.tables import Slot
from haversack.graph.integer import Operation

# Nothing reads the older 16-bit arithmetic any more; the graph means the one without powers of two.
_ALWAYS: Mapping[str, Any] = {"pot_scale_int16": False}


def builtin_of(operation: Operation) -> Builtin:
    """The operator of the operation's kind. Raises ExportError, naming the layer, when there is none."""
    builtin = BUILTINS.get(operation.kind)
    if builtin is None:
        raise ExportError(
            f"the .tflite writer has no operator {operation.kind}.",
            where=operation.path,
            mend="leave this part of the network out, or pack for a device that runs onnx.",
        )
    return builtin


def option_slots(operation: Operation) -> tuple[Slot, ...]:
    """The slots of the operation's options. Raises ExportError for an option that is unknown or missing."""
    fields = builtin_of(operation).fields
    unknown = sorted(set(operation.options) - {field.option for field in fields})
    if unknown:
        raise ExportError(f"{operation.kind} has no option {', '.join(unknown)}.", where=operation.path)
    return tuple(slot for field in fields for slot in _slots(operation, field))


def _slots(operation: Operation, field: Field) -> Iterator[Slot]:
    value = operation.options.get(field.option, _ALWAYS.get(field.option, field.default))
    if value is None:
        raise ExportError(f"{operation.kind} does not say its {field.option}.", where=operation.path)
    values = tuple(value) if isinstance(value, tuple | list) else (value,) * len(field.slots)
    for slot, number in zip(field.slots, values, strict=True):
        yield slot, field.width, WORDS[number] if isinstance(number, str) else number, field.default or 0
