"""Task: the user's data and score, and the file they come from."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.batches import Batch, Given, Inputs, Outputs, by_position, each_of, in_order, names_of
from haversack.errors import HaversackError, TaskError
from haversack.filling import Pad, check_pad
from haversack.lengths import Free, check_free
from haversack.preparing import Prepare

T = TypeVar("T")
Predict = Callable[..., Any]
"""Takes a batch of inputs, and gives a tensor, or a tuple of them where the task names several outputs."""
Kind = Literal["classification", "regression", "reconstruction"]
Kinds = Kind | tuple[Kind, ...]
"""Of one output, or of all of several; or one for each of them."""

_FAILURES = (Exception, SystemExit)
"""What the user's functions may end with: a sys.exit() in them must not end us without a word."""
_DEEPEST = 60
"""So many modules within each other: Python's stack is not deep enough to copy and trace many more."""


@dataclass(frozen=True)
class Task:
    """What a network is for.

    `train()` yields one epoch of (inputs, target) batches, in a fresh random order if you like; `calibrate()` yields
    batches of typical inputs (no labels; None where there are no data at all); `score(predict)` returns one number,
    more is better, where `predict` takes a batch of inputs and returns the outputs as a tensor: the trained network and
    every exported file are scored with the same function. Classification scores lie in 0..1. `validate(predict)` is as
    `score`, on samples that decide nothing: it is taken once of the original and of the file that was chosen, and
    reported. `kind` picks the loss (cross-entropy, or mean squared error) unless `loss(outputs, target)` is given; a
    reconstruction task's target is its input. `samples` says of how many independent samples a score in 0..1 is a
    share, which tells how far chance moves it: two scores closer than that are equal. Without it, those that pass
    through `predict` are counted where the task is a classification.

    Inputs are a tensor, a tuple of them, or a dictionary by the names of forward()'s parameters, such as a tokenizer's
    batch; what it calls `labels` is the target. Where forward() returns several tensors `outputs` names the one that is
    wanted (of a tuple, its place); without it `logits`, `last_hidden_state` or `out` is. Of a tuple of names all are:
    then `predict` returns a tuple, `kind` may be a tuple too, and a target is one for each output, unless `loss` reads
    them all by itself.

    With `prepare` the inputs are an image's raw bytes, everywhere: the network is handed what it makes of them, and
    files take the bytes.

    Inputs may be longer in one batch than in another: `free` names, for each input as forward() calls it, the
    dimensions that differ, such as {"tokens": {1: "length"}}; without it they are those that differ among the
    calibration inputs. Files then take any length, and keep the names. For runtimes whose files have one size `pad`
    says what each of these inputs is filled up with, such as {"tokens": 0, "mask": 0}: their files have the length of
    the longest calibration input, and everything is filled up to it before it goes to a file. `mask` names the input
    that is 1 where a position counts, and 0 where one was filled up: the others have no part in ranges, in what is
    lost, nor in what a teacher says.
    """

    train: Callable[[], Iterable[Given]]
    calibrate: Callable[[], Iterable[Inputs]] | None
    score: Callable[[Predict], float]
    kind: Kinds = "classification"
    loss: Callable[[Any, Any], Tensor] | None = None
    validate: Callable[[Predict], float] | None = None
    samples: int | None = None
    outputs: str | tuple[str, ...] = ""
    prepare: Prepare | None = None
    free: Free | None = field(default=None, hash=False)
    pad: Pad | None = field(default=None, hash=False)
    mask: str = ""

    def __post_init__(self) -> None:
        for kind in self.kind if isinstance(self.kind, tuple) else (self.kind,):
            if kind not in ("classification", "regression", "reconstruction"):
                raise TaskError(f"kind is '{kind}'.", mend="write 'classification', 'regression' or 'reconstruction'.")
        if isinstance(self.outputs, tuple) and len(set(self.outputs)) < max(2, len(self.outputs)):
            raise TaskError(
                f"outputs are {self.outputs}, which are not several.", mend="name each once; one alone as a string."
            )
        named = len(self.outputs) if isinstance(self.outputs, tuple) else 0
        if isinstance(self.kind, tuple) and len(self.kind) != named:
            raise TaskError(
                f"there are {len(self.kind)} kinds for {named or 'no'} named outputs.",
                mend="name the outputs, Task(outputs=('class', 'place')), and give as many kinds.",
            )
        if not isinstance(self.prepare, Prepare | None):
            said = f"prepare is {type(self.prepare).__name__}."
            raise TaskError(said, mend="write Task(prepare=haversack.Prepare(mean=..., std=...)).")
        for name in ("train", "calibrate", "score", "validate"):
            absent = name in ("calibrate", "validate") and getattr(self, name) is None
            if not callable(getattr(self, name)) and not absent:
                raise TaskError(f"Task.{name} is not a function.", mend=f"pass a function; Task({name}=...).")
        check_free(self.free)
        check_pad(self.pad)
        if self.samples is not None and self.samples < 1:
            raise TaskError(f"Task.samples is {self.samples}.", mend="say how many samples score() is a share of.")

    def error(self, outputs: Outputs, target: Any, label_smoothing: float = 0.0) -> Tensor:  # noqa: ANN401
        """The loss to be made small: a scalar tensor. Labels can be smoothed where the loss is cross-entropy."""
        try:
            if self.loss is not None:
                return self.loss(outputs, target)
            tensors, targets = each_of(outputs), (target,) if isinstance(target, Tensor) else tuple(target)
            ways = zip(tensors, targets, kinds_of(self.kind, len(tensors)), strict=True)
            return sum(_default_loss(ours, wanted, kind, label_smoothing) for ours, wanted, kind in ways)  # type: ignore[return-value]
        except _FAILURES as error:
            raise TaskError(
                f"the loss of outputs {_form(outputs)} and a target {_form(target)} raised {brief(error)}.",
                where="train()",
                mend="yield (inputs, target) batches whose target fits the loss: class numbers, or values.",
            ) from error

    def calibration(self) -> list[tuple[Tensor, ...]]:
        """All calibration inputs as tuples of tensors, checked: some, finite, and alike but for sizes that may differ.

        They are read once, so that a calibrate() that draws them gives all steps the same; again only where a network
        wrote into them.
        """
        if self.calibrate is None:
            raise TaskError(
                "the task has no calibration inputs.",
                where="calibrate",
                mend="give Task a calibrate() that yields batches of typical inputs, such as some training samples.",
            )
        kept = vars(self).get("_calibration")
        if kept is None or kept[1] != _writes(kept[0]):
            names: list[tuple[str, ...]] = []
            inputs = list(_checked_inputs(_guarded("calibrate()", partial(_batches, self.calibrate)), names))
            kept = inputs, _writes(inputs), names[0]
            vars(self)["_calibration"] = kept
        return list(kept[0])

    @property
    def names(self) -> tuple[str, ...] | None:
        """What calibrate() calls the inputs, in their order, () where they go by position; None until it was read."""
        kept = vars(self).get("_calibration")
        return kept[2] if kept is not None else None

    def epoch(self) -> Iterator[Batch]:
        """One epoch of training batches, by position. What goes wrong in the user's function is a TaskError."""
        return (by_position(batch, self.names) for batch in _guarded("train()", self.train))

    def scored(self, predict: Predict) -> float:
        """The score of `predict`, checked to be one finite number."""
        return _number("score()", self.score, self._by_name(predict))

    def validated(self, predict: Predict) -> float:
        """What `validate` gives for `predict`, checked alike. Raises TaskError where the task has none."""
        if self.validate is None:
            raise TaskError("the task has no validate().", mend="give Task a function validate(predict), like score.")
        return _number("validate()", self.validate, self._by_name(predict))

    def _by_name(self, predict: Predict) -> Predict:
        """`predict`, which goes by position, for batches as calibrate() yields them: by name, where those are."""

        def predicted(*inputs: Tensor, **named: Tensor) -> Any:  # noqa: ANN401 - outputs
            batch = inputs[0] if len(inputs) == 1 and isinstance(inputs[0], Mapping) else named or inputs
            return predict(*in_order(batch, self.names, "score()"))

        return predicted


def kinds_of(kind: Kinds, count: int) -> tuple[Kind, ...]:
    """The kind of each of so many outputs."""
    return kind if isinstance(kind, tuple) else (kind,) * count


def _default_loss(outputs: Tensor, target: Tensor, kind: Kind, label_smoothing: float) -> Tensor:
    if kind == "classification":
        return F.cross_entropy(outputs, target, label_smoothing=label_smoothing)
    return F.mse_loss(outputs, target)


def _form(values: object) -> str:
    """The shapes of outputs or targets, and of what numbers they are."""
    if isinstance(values, Tensor):
        return f"{tuple(values.shape)} of {str(values.dtype).removeprefix('torch.')}"
    return ", ".join(map(_form, values)) if isinstance(values, tuple | list) else type(values).__name__


@dataclass
class Counted:
    """A predict function that counts the samples passing through it."""

    predict: Predict
    samples: int = 0

    def __call__(self, *inputs: Tensor) -> Any:  # noqa: ANN401 - outputs
        """The outputs of `predict`."""
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].dim():
            self.samples += len(inputs[0])
        return self.predict(*inputs)


@dataclass(frozen=True)
class TaskFile:
    """What a user's file holds: a function that returns the trained network, and the task."""

    path: Path
    network: Callable[[], nn.Module]
    task: Task
    digest: str = field(default="", compare=False)

    def fresh_network(self) -> nn.Module:
        """The trained network in evaluation mode, built anew."""
        try:
            module = self.network()
        except _FAILURES as error:
            raise TaskError(
                f"network() raised {brief(error)}.", where=str(self.path), mend="call network() in Python first."
            ) from error
        if not isinstance(module, nn.Module):
            raise TaskError(
                f"network() returned {type(module).__name__}, not a torch.nn.Module.",
                where=str(self.path),
                mend="return the trained module itself.",
            )
        check_depth(module)
        return module.eval()


def read_task_file(path: Path) -> TaskFile:
    """The network and task that the Python file at `path` defines."""
    place = path.absolute()  # the file may change the working directory
    module = _run(path)
    for name in ("network", "task"):
        if not callable(getattr(module, name, None)):
            raise TaskError(
                f"the file defines no function {name}().",
                where=str(path),
                mend="define network() -> nn.Module and task() -> haversack.Task; see examples/digits.py.",
            )
    try:
        task = module.task()
    except HaversackError:
        raise
    except _FAILURES as error:
        raise TaskError(
            f"task() raised {brief(error)}.", where=str(path), mend="call task() in Python first."
        ) from error
    if not isinstance(task, Task):
        raise TaskError(f"task() returned {type(task).__name__}.", where=str(path), mend="return a haversack.Task.")
    return TaskFile(path, module.network, task, _digest(place))


def check_depth(module: nn.Module) -> None:
    """Raises TaskError for modules nested too deeply to be copied and traced."""
    level, depth = {id(module): module}, 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise TaskError(
                f"modules are nested more than {_DEEPEST} deep.",
                where="network()",
                mend="build the network flat: one nn.Sequential of layers, not one within another.",
            )
        level = {id(child): child for each in level.values() for child in each.children()}


def brief(error: BaseException) -> str:
    """An exception on one line, with the place in the user's code that it came from."""
    frames = [each for each in traceback.extract_tb(error.__traceback__) if not _is_installed(each.filename)]
    place = f" (line {frames[-1].lineno} of {Path(frames[-1].filename).name})" if frames else ""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}{': ' if lines else ''}{lines[0] if lines else ''}{place}"


def _is_installed(filename: str) -> bool:
    """Whether the code is a library's or our own, where the user will look last."""
    folders = (str(Path(__file__).parent), *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))
    return filename.startswith("<") or any(Path(filename).is_relative_to(folder) for folder in folders)


def _digest(path: Path) -> str:
    """A hash of the file and of the neighbours that it imported: any of them may hold the data or the score."""
    folder = path.resolve().parent
    sources = {
        Path(origin).resolve() for each in list(sys.modules.values()) if (origin := getattr(each, "__file__", None))
    }
    neighbours = sorted(each for each in sources if each.parent == folder and each.is_file())
    return hashlib.sha256(b"".join(each.read_bytes() for each in (path, *neighbours))).hexdigest()


def _run(path: Path) -> ModuleType:
    if not path.is_file():
        raise TaskError("there is no such file.", where=str(path), mend="give the path of your task's Python file.")
    spec = importlib.util.spec_from_file_location(f"haversack_task_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise TaskError("this is not a Python file.", where=str(path), mend="give a file that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except _FAILURES as error:
        raise TaskError(
            f"the file raised {brief(error)}.", where=str(path), mend="run it with python first."
        ) from error
    finally:
        # Its functions may import their neighbours later, but must not hide the packages that we import ourselves.
        sys.path[:] = [*(each for each in sys.path if each != folder), folder]
    return module


def _number(where: str, function: Callable[[Predict], float], predict: Predict) -> float:
    """What the user's function gives for `predict`, checked to be one finite number."""
    name = where.removesuffix("()")
    try:
        value = float(function(predict))
    except HaversackError:
        raise
    except _FAILURES as error:
        raise TaskError(
            f"{where} raised {brief(error)}.",
            where=where,
            mend=f"make {name}(predict) run: predict takes a batch of inputs and returns a tensor.",
        ) from error
    if not math.isfinite(value):
        raise TaskError(f"it returned {value}.", where=where, mend="return one finite number, where more is better.")
    return value


def _guarded(where: str, function: Callable[[], Iterable[T]]) -> Iterator[T]:
    """What the user's function yields."""
    try:
        yield from function()
    except HaversackError:
        raise
    except _FAILURES as error:
        raise TaskError(
            f"it raised {brief(error)}.", where=where, mend=f"make {where} return an iterable of batches."
        ) from error


def _batches(calibrate: Callable[[], Iterable[Inputs]]) -> Iterable[Inputs]:
    """What calibrate() returns, unless it is one tensor, whose samples would be taken for batches."""
    found = calibrate()
    if isinstance(found, Tensor):
        raise TaskError("it returned one tensor, not batches.", where="calibrate()", mend="return [inputs], a list.")
    return found


def _writes(batches: list[tuple[Tensor, ...]]) -> list[int]:
    """How often each tensor was written into."""
    return [value._version for inputs in batches for value in inputs if not value.is_inference()]  # noqa: SLF001


def _checked_inputs(batches: Iterable[Inputs], names: list[tuple[str, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """The inputs by position, each checked; what the first batch calls them is added to `names`."""
    kinds: list[str] | None = None
    mend = "let calibrate() yield batches of typical inputs: float tensors, first dimension the batch."
    for position, batch in enumerate(batches):
        where = f"calibrate(), batch {position}"
        names += [names_of(batch)] * (not names)
        inputs = in_order(batch, names[0] if isinstance(batch, Mapping) or names[0] else None, where)
        if not all(isinstance(value, Tensor) for value in inputs):
            tokens = isinstance(batch, Mapping) and all(isinstance(value, Tensor | list) for value in inputs)
            mended = "ask the tokenizer for tensors: return_tensors='pt', padding=True." if tokens else mend
            raise TaskError("a batch is not a tensor.", where=where, mend=mended)
        if any(value.layout is not torch.strided or value.is_meta or value.is_quantized for value in inputs):
            raise TaskError("a tensor is sparse, quantized or without numbers.", where=where, mend=mend)
        if not inputs or any(value.dim() == 0 or value.shape[0] == 0 for value in inputs):
            raise TaskError("a batch is empty.", where=where, mend=mend)
        if any(value.is_floating_point() and not value.isfinite().all() for value in inputs):
            raise TaskError("the inputs hold NaN or infinity.", where=where, mend="clean the data first.")
        found = [f"{value.dim()} dimensions of {str(value.dtype).removeprefix('torch.')}" for value in inputs]
        if kinds not in (None, found):
            said = f"an input with {', '.join(found)} follows one with {', '.join(kinds)}."
            raise TaskError(said, where=where, mend=mend)
        kinds = found
        yield inputs
    if kinds is None:
        raise TaskError("it yielded nothing.", where="calibrate()", mend=mend)
