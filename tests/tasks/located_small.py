"""A network of two outputs: which mark an image holds, and where."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.task import Task

SIZE, CLASSES, SAMPLES = 12, 4, 256


class Located(nn.Module):
    """A body of convolutions, and two heads on it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.seen, self.place = nn.Linear(32, CLASSES), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = F.relu(self.second(F.relu(self.first(x)))).mean((2, 3))
        return {"class": self.seen(found), "place": self.place(found), "features": found}


def network() -> Located:
    """The network, the same each time."""
    torch.manual_seed(0)
    return Located().eval()


def task() -> Task:
    """Its task: one score over both outputs, which the untouched network reaches in full."""
    inputs = torch.randn(SAMPLES, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        known = network()(inputs)
    classes, places = known["class"].argmax(1), known["place"]

    def train() -> list[tuple[Tensor, tuple[Tensor, Tensor]]]:
        parts = [slice(start, start + 64) for start in range(0, SAMPLES, 64)]
        return [(inputs[part], (classes[part], places[part])) for part in parts]

    def score(predict) -> float:
        seen, place = predict(inputs)
        apart = float((place - places).square().mean() / places.var())
        return float((seen.argmax(1) == classes).float().mean()) * max(0.0, 1 - apart)

    return Task(train, lambda: [inputs], score, kind=("classification", "regression"), outputs=("class", "place"))
