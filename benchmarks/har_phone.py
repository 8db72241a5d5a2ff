"""Windows of har-phone: a phone's accelerometer and gyroscope while 23 people sit, stand up, turn and walk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

LENGTH, STEP, CLASSES = 100, 50, 5
BATCH = 64


@dataclass(frozen=True)
class Recordings:
    """All 223 recordings one after the other."""

    windows: Tensor
    """Every stretch of a second: (starts, 6, LENGTH) in m/s² and rad/s."""
    labels: Tensor
    """What most of its points are labelled as."""
    starts: Tensor
    """Where the windows begin that are scored: half a window apart, none across two recordings."""
    limits: Tensor
    """The first and the last start in the same recording; (2, windows)."""
    subjects: Tensor
    """Whose window it is."""


@cache
def recordings(data: Path) -> Recordings:
    """What the data folder holds."""
    with np.load(data / "har-phone" / "har_phone.npz") as held:
        signals, labels, offsets, subjects = (held[f"sp_{each}"] for each in ("x", "y", "offsets", "subject"))
    seen = np.pad(np.eye(CLASSES, dtype=np.int64)[labels].cumsum(0), ((1, 0), (0, 0)))
    spans = list(zip(offsets[:-1], offsets[1:] - LENGTH, subjects, strict=True))
    starts = [np.arange(first, last + 1, STEP) for first, last, _ in spans]
    rows = np.concatenate([np.tile(span, (len(each), 1)) for span, each in zip(spans, starts, strict=True)])
    return Recordings(
        torch.from_numpy(signals).unfold(0, LENGTH, 1),
        torch.from_numpy((seen[LENGTH:] - seen[:-LENGTH]).argmax(1)),
        torch.from_numpy(np.concatenate(starts)),
        torch.from_numpy(rows[:, :2].T.astype(np.int64)),
        torch.from_numpy(rows[:, 2].astype(np.int64)),
    )


@dataclass(frozen=True)
class Windows:
    """Windows of some people, and what the mean and the spread of all signals are taken to be."""

    recordings: Recordings
    chosen: Tensor
    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, data: Path, subjects: Iterable[int], like: Windows | None = None) -> Self:
        """The windows of `subjects`, standardized by their own statistics or by those of `like`."""
        held = recordings(data)
        chosen = torch.isin(held.subjects, torch.tensor(list(subjects))).nonzero().flatten()
        if like is not None:
            return cls(held, chosen, like.mean, like.spread)
        signals = held.windows[held.starts[chosen]]
        return cls(held, chosen, signals.mean((0, 2))[:, None], signals.std((0, 2))[:, None])

    def __len__(self) -> int:
        return len(self.chosen)

    def first(self, count: int) -> Windows:
        """The first `count` of them."""
        return Windows(self.recordings, self.chosen[:count], self.mean, self.spread)

    def inputs(self, which: slice | Tensor = slice(None)) -> Tensor:
        """The windows as networks take them: (windows, 6, LENGTH)."""
        return (self.recordings.windows[self.recordings.starts[self.chosen[which]]] - self.mean) / self.spread

    def accuracy(self, predict: Callable[[Tensor], Tensor]) -> float:
        """The share of windows whose label has the highest output."""
        labels = self.recordings.labels[self.recordings.starts[self.chosen]]
        with torch.no_grad():
            outputs = torch.cat([predict(each) for each in self.inputs().split(256)])
        return float((outputs.argmax(1) == labels).float().mean())


@dataclass(frozen=True)
class Epoch:
    """One epoch in random order; each window begins up to half a step elsewhere, of a phone that sits askew.

    `askew` is the spread, in radians, of the turn about each axis.
    """

    windows: Windows
    askew: float = 0.3

    def __len__(self) -> int:
        return len(self.windows) // BATCH

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        held, (first, last) = self.windows.recordings, self.windows.recordings.limits
        for some in self.windows.chosen[torch.randperm(len(self.windows))].split(BATCH)[: len(self)]:
            moved = held.starts[some] + torch.randint(-STEP // 2, STEP // 2 + 1, (len(some),))
            starts = moved.clamp(first[some], last[some])
            yield self._turned(held.windows[starts]), held.labels[starts]

    def _turned(self, signals: Tensor) -> Tensor:
        """Each window with its axes turned as one, standardized."""
        x, y, z = self.askew * torch.randn(3, len(signals))
        none = torch.zeros_like(x)
        turns = torch.linalg.matrix_exp(torch.stack([none, -z, y, z, none, -x, -y, x, none], 1).view(-1, 3, 3))
        turned = torch.einsum("nij,nkjt->nkit", turns, signals.unflatten(1, (2, 3))).flatten(1, 2)
        return (turned - self.windows.mean) / self.windows.spread
