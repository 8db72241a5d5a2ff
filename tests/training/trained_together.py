"""Trainings that one process or several go through, and what came of each, written to a folder of its name."""

import argparse
import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import accelerate
import torch
from accelerate.utils import gather_object
from torch import nn
from torch.nn import functional as F

from haversack.model import Model
from haversack.progress import shown_by
from haversack.task import Task
from haversack.training import Training, checkpoints_in, finetune


class Stop:
    """A listener that ends the program before a step, as a kill does."""

    def __init__(self, step: int | None) -> None:
        self._step = step

    def track(self, items, label, total):
        for step, item in enumerate(items):
            if step == self._step:
                os._exit(0)
            yield item

    def say(self, line):
        pass


class Data:
    """Random images, and the loss of each batch that was learned from; a network of doubles rounds next to nothing."""

    def __init__(self, rows: int, dtype: torch.dtype) -> None:
        self._rows = rows
        self.images = torch.randn(4 * rows + 1, 2, 6, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
        self.labels = (self.images.mean((1, 2, 3)) * 20).round().long().clamp(-1, 1) + 1
        self.losses, self._sizes = Counter(), []

    def train(self):
        """The last batch has one row."""
        for some in torch.randperm(len(self.images)).split(self._rows):
            self._sizes.append(len(some))
            yield self.images[some], self.labels[some]

    def loss(self, outputs, target):
        """Cross-entropy; its share of the whole batch's is noted."""
        loss = F.cross_entropy(outputs, target)
        batch = len(self._sizes) - 1
        self.losses[batch] += loss.item() * len(target) / self._sizes[batch]
        return loss

    def score(self, predict) -> float:
        return -F.cross_entropy(predict(self.images), self.labels).item()


def network(dtype: torch.dtype, *, norm: bool) -> nn.Module:
    """The processes' networks differ: all shall go on with the first one's."""
    torch.manual_seed(accelerate.PartialState(cpu=True).process_index)
    norms = (nn.BatchNorm2d(8),) if norm else ()
    return nn.Sequential(nn.Conv2d(2, 8, 3), *norms, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 3)).to(dtype)


def train(what: str, folder: Path, stop_at: int | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    dtype = torch.float32 if what == "norms" else torch.float64
    data = Data(1 if what == "few" else 9, dtype)
    start = network(dtype, norm=what == "norms")
    torch.manual_seed(7)
    training = Training(epochs=5, learning_rate=0.1)
    teacher = None
    if what == "taught":
        teacher = nn.Sequential(nn.Flatten(), nn.Linear(72, 3)).to(dtype)
    if what == "hints":
        teacher = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3)).to(dtype)
        training = replace(training, features="fitnet")
    task = Task(data.train, None, data.score, loss=data.loss)
    with checkpoints_in(folder / "states", seconds=0), shown_by(Stop(stop_at)):
        after = finetune(Model(start, (data.images[:1],), teacher=teacher), task, training)
    losses = sum(map(Counter, gather_object([data.losses])), Counter())
    found = {
        "losses": [losses[batch] for batch in sorted(losses) if losses[batch]],
        "weights": torch.cat([each.double().flatten() for each in after.state_dict().values()]).tolist(),
    }
    (folder / f"{accelerate.PartialState().process_index}.json").write_text(json.dumps(found))


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("folder", type=Path)
    words.add_argument("what", nargs="+")
    words.add_argument("--stop-at", type=int)
    given = words.parse_args()
    for what in given.what:
        train(what, given.folder / what, given.stop_at)
    state = accelerate.PartialState()
    state.wait_for_everyone()  # torch aborts now and then in a process that another leaves behind
    state.destroy_process_group()
    os._exit(0)  # and where its threads outlive the interpreter


if __name__ == "__main__":
    main()
