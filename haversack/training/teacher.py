"""Teacher: how far a student's outputs are from what it says, which is remembered and not computed again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.batches import Outputs as Values
from haversack.batches import each_of
from haversack.errors import TrainingError
from haversack.graph.run import Tensors, digest, named_tensors
from haversack.progress import say
from haversack.task import Kind, Kinds, kinds_of
from haversack.training.tensor_file import read_tensors, write_tensors

_MOST_BYTES = 2**29
"""What the outputs of one teacher may take up; inputs that come when it is full are computed each time."""
_KEY_BYTES, _ENTRY_BYTES = 16, 700
"""A key, and what Python needs for an output beside its values."""
_LEAST_FOUND = 0.05
"""The share of inputs that come back below which remembering is no help."""


@contextmanager
def outputs_kept(folder: Path | None = None) -> Iterator[None]:
    """Within this block, trainings share what they have computed of their teachers' outputs.

    In a `folder` it is written down at the end, for later blocks to start from: a file for each teacher, known by its
    weights and its layers; teachers of other code are for the caller to keep apart. A teacher must give the same for
    the same sample, whatever else is in the batch.
    """
    shelf = _Shelf(folder)
    token = _shelf.set(shelf)
    try:
        yield
    finally:
        _shelf.reset(token)
        shelf.close()


def memory_of(teacher: nn.Module, epochs: int, process: int) -> Memory:
    """What is remembered of the teacher to begin with; it has given up where a single epoch is shared with no other."""
    shelf = _shelf.get()
    if shelf is None:
        return Memory(has_given_up=epochs < 2)
    return shelf.memory(digest(named_tensors(teacher), str(teacher), process)[:24])


class Memory:
    """A teacher's outputs, each under a hash of its input.

    It gives up by itself after an epoch in which hardly any input came back although as many could have: data that are
    augmented at random never do. Hashing takes one or two milliseconds for a megabyte of inputs.
    """

    def __init__(self, *, has_given_up: bool = False) -> None:
        self._outputs: dict[bytes, Tensor] = {}
        self._asked, self._found, self._before = 0, 0, 0
        self.has_given_up = has_given_up

    def known(self, keys: Sequence[bytes]) -> list[int]:
        """Which of the keys, by position, it has outputs for."""
        found = [position for position, key in enumerate(keys) if key in self._outputs]
        self._asked, self._found = self._asked + len(keys), self._found + len(found)
        return found

    def recall(self, keys: Sequence[bytes]) -> Tensor:
        """The outputs for keys that are known."""
        return torch.stack([self._outputs[key] for key in keys])

    def keep(self, keys: Sequence[bytes], outputs: Tensor) -> None:
        """Takes in outputs, one for each key, unless it is full or they are of another form than those before."""
        one, new = next(iter(self._outputs.values()), outputs[0]), outputs[0]
        needed = (len(self._outputs) + len(keys)) * (one.nbytes + _ENTRY_BYTES)
        if needed <= _MOST_BYTES and (one.shape, one.dtype) == (new.shape, new.dtype):
            self._outputs |= zip(keys, outputs.detach().to("cpu", copy=True).unbind(), strict=True)

    def end_epoch(self) -> None:
        """Gives up where the epoch showed that remembering is no help."""
        could_find = self._before >= self._asked / 2 > 0
        if could_find and self._found < _LEAST_FOUND * self._asked:
            self._outputs, self.has_given_up = {}, True
        self._asked, self._found, self._before = 0, 0, len(self._outputs)

    @property
    def state(self) -> dict[str, Tensor]:
        """All that it is, to be written down."""
        found = {"counts": torch.tensor([self._asked, self._found, self._before, self.has_given_up])}
        if self._outputs:
            keys = torch.frombuffer(bytearray(b"".join(self._outputs)), dtype=torch.uint8)
            found |= {"keys": keys.view(-1, _KEY_BYTES), "outputs": self.recall(list(self._outputs))}
        return found

    def restore(self, state: Tensors) -> None:
        """Takes on a state that was written down."""
        self._asked, self._found, self._before, given_up = state["counts"].tolist()
        self.has_given_up = bool(given_up)
        self._outputs = {}
        if "keys" in state:
            keys = [each.tobytes() for each in state["keys"].numpy()]
            self._outputs = dict(zip(keys, state["outputs"].unbind(), strict=True))


class Remembered(nn.Module):
    """A teacher in evaluation mode that computes its outputs for a sample once.

    They are the teacher's own within rounding: what is new in a batch is computed together, and processors round
    according to how many samples they compute at once.
    """

    def __init__(self, teacher: nn.Module, memory: Memory) -> None:
        super().__init__()
        self.teacher, self.memory = teacher, memory

    @torch.no_grad()
    def forward(self, *inputs: Tensor) -> Any:  # noqa: ANN401 - outputs
        """What the teacher gives for a batch."""
        if self.memory.has_given_up:
            return self.teacher(*inputs)
        keys = _keys(inputs)
        known = self.memory.known(keys)
        if not known:
            return self._computed(keys, inputs)
        found = self.memory.recall([keys[each] for each in known]).to(inputs[0].device)
        new = sorted(set(range(len(keys))).difference(known))
        if not new:
            return found
        # Some networks take a batch of one for no batch at all: a sample that is known goes with it.
        some = new if len(new) > 1 else [*new, known[0]]
        computed = self._computed([keys[each] for each in some], tuple(each[some] for each in inputs))
        outputs = found.new_empty(len(keys), *found.shape[1:])
        outputs[known], outputs[new] = found, computed[: len(new)]
        return outputs

    def _computed(self, keys: Sequence[bytes], inputs: tuple[Tensor, ...]) -> Any:  # noqa: ANN401 - outputs
        """The teacher's outputs, which are remembered where it is one tensor with a row for each sample."""
        outputs = self.teacher(*inputs)
        if isinstance(outputs, Tensor) and len(outputs) == len(keys):
            self.memory.keep(keys, outputs)
        return outputs


class _Shelf:
    """The memories of several teachers."""

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._memories = folder, dict[str, Memory]()

    def memory(self, name: str) -> Memory:
        """The memory of this name, from an earlier block where that wrote one."""
        if name not in self._memories:
            self._memories[name] = Memory()
            state = None if self._folder is None else read_tensors(self._folder / f"{name}.outputs")
            if state is not None:
                self._memories[name].restore(state)
        return self._memories[name]

    def close(self) -> None:
        """Writes the memories down, where there is a folder, and says which were of no use."""
        if any(memory.has_given_up for memory in self._memories.values()):
            say(
                "a teacher's outputs were computed each time, for hardly any input came back: augment in a few fixed "
                "ways to have them remembered."
            )
        if self._folder is None:
            return
        for name, memory in self._memories.items():
            if not memory.has_given_up:
                write_tensors(self._folder / f"{name}.outputs", memory.state, "the teacher's outputs")


_shelf: ContextVar[_Shelf | None] = ContextVar("remembered outputs", default=None)


def _keys(inputs: tuple[Tensor, ...]) -> list[bytes]:
    """A hash of each sample of a batch, by the form and the content of all its inputs."""
    start = hashlib.blake2b(repr([(each.shape[1:], each.dtype) for each in inputs]).encode(), digest_size=_KEY_BYTES)
    hashes = [start.copy() for _ in inputs[0]]
    for each in inputs:
        content = each.detach().cpu().contiguous().view(len(each), -1).view(torch.uint8).numpy()
        for found, row in zip(hashes, content, strict=True):
            found.update(row)
    return [found.digest() for found in hashes]


Outputs = Literal["dist", "dkd", "kd"]
"""DIST (Huang et al. 2022), decoupled distillation (Zhao et al. 2022) or softened probabilities (Hinton et al. 2015).

Values that are no class scores are compared by their squared difference, whatever is written.
"""
_NON_TARGET = 2.0
"""Weight of the wrong classes' share in DKD. The authors' is 2 for ResNet-56 and ResNet-20, and up to 8 for others.

A pruned ResNet-20 recovered 0.6 points more with 2 than by plain softening.
"""
_LEAST_SPREAD = 1e-6
"""A vector whose spread is this small beside its largest entry is constant: the rest is rounding."""


def distance(  # noqa: PLR0913 - what a distance is made of
    outputs: Values, taught: Values, target: Values | None, kind: Kinds, way: Outputs, heat: float
) -> Tensor:
    """The loss that outputs have for a teacher whose outputs `taught` have the same shapes; a scalar from 0 up.

    Of several outputs it is the sum; a `target` is heard where there is one for each.
    """
    if not isinstance(outputs, Tensor):
        apart = isinstance(target, tuple | list) and len(target) == len(outputs)
        targets = cast("Sequence[Tensor | None]", target) if apart else [None] * len(outputs)
        ways = zip(outputs, taught, targets, kinds_of(kind, len(outputs)), strict=True)
        return torch.stack([_distance(*each, way, heat) for each in ways]).sum()
    return _distance(outputs, cast("Tensor", taught), cast("Tensor | None", target), cast("Kind", kind), way, heat)


def _distance(  # noqa: PLR0913
    outputs: Tensor, taught: Tensor, target: Tensor | None, kind: Kind, way: Outputs, heat: float
) -> Tensor:
    """That of one output.

    Classes come last, or second as in torch's cross-entropy: in maps (samples, classes, height, width), and where the
    target says so. Every other dimension counts samples. A single score stands for two classes, of which the other
    one's score is 0. `target` are class numbers where there are any: DKD tells the right class from the others by them,
    and by the teacher's opinion without them; what is labelled as no class (-100) does not count there.
    """
    if kind != "classification":
        return F.mse_loss(outputs, taught)
    ours, theirs = (by_class(each, target) for each in (outputs, taught))
    if way == "kd":
        return _softened(ours, theirs, heat)
    if way == "dkd":
        hard = target is not None and not target.is_floating_point() and target.numel() == len(ours)
        return _decoupled(ours, theirs, target.flatten() if hard and target is not None else theirs.argmax(-1), heat)
    return _related(ours, theirs, heat)


@torch.no_grad()
def check_outputs(student: nn.Module, teacher: nn.Module | None, example: tuple[Tensor, ...]) -> None:
    """Raises TrainingError where the student gives no tensor, or its teacher, if any, gives another shape."""
    two = tuple(torch.cat([each, each]) for each in example)  # some networks take a batch of one for no batch at all
    ours = student(*two)
    theirs = ours if teacher is None else teacher(*two)
    if not isinstance(ours, Tensor | tuple) or not all(isinstance(each, Tensor) for each in each_of(ours)):
        raise TrainingError(
            f"the network gives {_form(ours)}.",
            mend="wrap it in a module whose forward() returns the tensors that are scored.",
        )
    if _form(ours) != _form(theirs):
        raise TrainingError(
            f"for two samples the student gives {_form(ours)}, its teacher {_form(theirs)}.",
            mend="let both end alike, or set distillation to 0: then labels teach alone.",
        )


def _form(outputs: object) -> str:
    """The shape of outputs, or how many there are."""
    if isinstance(outputs, Tensor):
        return str(tuple(outputs.shape))
    if isinstance(outputs, tuple) and all(isinstance(each, Tensor) for each in outputs):
        return f"{len(outputs)} outputs, {', '.join(map(_form, outputs))}"
    return f"{len(outputs)} outputs" if isinstance(outputs, Sized) else f"no tensor but {type(outputs).__name__}"


def by_class(scores: Tensor, target: Tensor | None) -> Tensor:
    """The scores as (samples, classes)."""
    if scores.dim() == 1:
        scores = scores.unsqueeze(-1)
    last, second = scores.shape[:-1], scores.shape[:1] + scores.shape[2:]
    are_second = scores.dim() > 3 if target is None else target.shape == second and target.shape != last
    scores = (scores.movedim(1, -1) if are_second else scores).flatten(0, -2)
    return F.pad(scores, (1, 0)) if scores.shape[-1] == 1 else scores


def _softened(outputs: Tensor, taught: Tensor, heat: float) -> Tensor:
    return _divergence(F.log_softmax(outputs / heat, dim=-1), F.log_softmax(taught / heat, dim=-1)) * heat**2


def _decoupled(outputs: Tensor, taught: Tensor, right: Tensor, heat: float) -> Tensor:
    """The right class against all others, and the others among themselves, each softened and weighted by itself."""
    labelled = (right >= 0) & (right < outputs.shape[-1])
    ours, theirs = outputs[labelled] / heat, taught[labelled] / heat
    is_right = F.one_hot(right[labelled].long(), outputs.shape[-1]).bool()
    target_class = _divergence(_right_or_wrong(ours, is_right), _right_or_wrong(theirs, is_right))
    wrong, wanted = (F.log_softmax(x[~is_right].view(-1, x.shape[-1] - 1), dim=-1) for x in (ours, theirs))
    return (target_class + _NON_TARGET * _divergence(wrong, wanted)) * heat**2


def _right_or_wrong(scores: Tensor, is_right: Tensor) -> Tensor:
    """Log probabilities (samples, 2) of the right class and of all others together."""
    logs = F.log_softmax(scores, dim=-1)
    wrong = logs.masked_fill(is_right, -torch.inf).logsumexp(-1)
    return torch.stack([logs[is_right], wrong], dim=-1)


def _divergence(logs: Tensor, wanted: Tensor) -> Tensor:
    """The mean over samples of the Kullback-Leibler divergence of log probabilities; 0 where there are no samples."""
    return F.kl_div(logs, wanted, reduction="sum", log_target=True) / max(1, len(logs))


def _related(outputs: Tensor, taught: Tensor, heat: float) -> Tensor:
    """One minus the correlation with the teacher: of each sample's classes, and of each class over the samples."""
    ours, theirs = F.log_softmax(outputs / heat, dim=-1), F.log_softmax(taught / heat, dim=-1)
    return (_uncorrelated(ours, theirs) + _uncorrelated(ours.mT, theirs.mT)) * heat**2


def _uncorrelated(logs: Tensor, wanted: Tensor) -> Tensor:
    """One minus the mean correlation of rows of probabilities, whose logarithms are given.

    Rows that the teacher gives all alike, as in a batch of one, say nothing and are left out; 0 where all are.
    """
    (ours, _), (theirs, varies) = _standardised(logs), _standardised(wanted)
    return ((1 - (ours * theirs).sum(-1)) * varies).sum() / varies.sum().clamp(min=1)


def _standardised(logs: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of mean 0 and length 1, and which of them vary at all; how large the probabilities are plays no part."""
    relative = (logs - logs.detach().amax(-1, keepdim=True)).exp()
    centred = relative - relative.mean(-1, keepdim=True)
    least = _LEAST_SPREAD * logs.shape[-1] ** 0.5
    length = centred.norm(dim=-1, keepdim=True)
    return centred / length.clamp(min=least), (length > least).squeeze(-1)
