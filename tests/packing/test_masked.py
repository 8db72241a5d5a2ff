"""Positions that a mask does not count have no part in ranges, in what is lost, nor in what a teacher says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from haversack.batches import each_of
from haversack.calibration.currency import OriginalOutputs
from haversack.calibration.ranges import observe
from haversack.calibration.replay import Replay
from haversack.device import find_device
from haversack.graph.distributions import Noted
from haversack.graph.inference import inference, lower
from haversack.graph.ops import points
from haversack.model import Model
from haversack.packing import Settings, apply
from haversack.packing.beside import RunBeside
from haversack.packing.check import checked_model
from haversack.recipe import Recipe
from haversack.runtimes.agreement import in_torch
from haversack.task import Task
from haversack.techniques.quantize_static import QuantizeStatic
from haversack.training.learner import Lessons
from haversack.training.settings import Training
from haversack.wiring import mask_of

LENGTHS, WIDTH = (9, 6), 9
"""The longest is as long as the network is wide: only a size that is free tells one from the other."""
FREE = {"x": {1: "frames"}, "mask": {1: "frames"}}


class Frames(nn.Module):
    """A class of each frame, and one of the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, WIDTH), nn.Conv1d(WIDTH, WIDTH, 1)
        self.norm, self.last, self.whole = nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor, mask: Tensor) -> dict[str, Tensor]:
        hidden = torch.relu(self.norm(self.second(torch.relu(self.first(x)).transpose(1, 2)))).transpose(1, 2)
        kept = mask.unsqueeze(-1)
        mean = torch.where(kept > 0, hidden, 0.0).sum(1) / kept.sum(1)
        return {"frames": self.last(hidden), "whole": self.whole(mean)}


def network() -> Frames:
    torch.manual_seed(1)
    return Frames().eval()


def batches(filler: float) -> list[dict[str, Tensor]]:
    """Signals of two lengths, some of which end earlier: then come numbers as large as the filler."""
    draw = torch.Generator().manual_seed(0)
    found = []
    for length in LENGTHS:
        mask = (torch.arange(length) < torch.randint(2, length + 1, (40, 1), generator=draw)).float()
        x, rest = (torch.randn(40, length, 3, generator=draw) for _ in range(2))
        found.append({"x": torch.where(mask.unsqueeze(-1) > 0, x, rest * filler), "mask": mask})
    return found


def task(filler: float = 0.0, **settings: Any) -> Task:
    told: dict[str, Any] = {"outputs": ("frames", "whole"), "free": FREE, "mask": "mask"}
    return Task(list, lambda: batches(filler), _score, **{**told, **settings})


def _score(predict: Any) -> float:
    return float(predict(**batches(0.0)[0])[1].argmax(1).float().mean())


CLEAN, GARBAGE = task(), task(1000.0)


@pytest.fixture(scope="module")
def model() -> Model:
    return checked_model(network(), CLEAN)


def test_values_have_positions_where_torch_calls_a_size_so_and_not_where_it_is_as_large(model: Model) -> None:
    folded = inference(model)
    assert folded.positions is not None
    assert folded.positions.called == "mask"
    shapes = {node.name: node.meta["val"] for node in folded.graph.nodes if "val" in node.meta}
    dims = {name: along.positions for name, along in folded.positions.along.items()}
    assert [tuple(shapes["linear"].shape[1:]), dims["linear"]] == [(9, 9), (1,)]
    assert [tuple(shapes["conv1d"].shape[1:]), dims["conv1d"]] == [(9, 9), (2,)]
    mask = mask_of(model.module)
    assert mask is not None
    assert mask.place == 0
    assert [along and along.positions for along in mask.outputs] == [(1,), None]


@pytest.mark.parametrize("ranges", ["min_max", "mse"])
def test_ranges_and_corrected_biases_are_those_of_positions_that_count(model: Model, ranges: Any) -> None:
    step = QuantizeStatic(8, ranges=ranges, correct_bias=True)
    ours, theirs = (step.apply(model, known) for known in (CLEAN, GARBAGE))
    assert ours.grids == theirs.grids
    for name, tensor in ours.module.state_dict().items():
        torch.testing.assert_close(tensor, theirs.module.state_dict()[name])


def test_without_a_mask_they_are_those_of_all() -> None:
    """What the others are held against: the garbage is as loud as it should be."""
    plain = [task(filler, mask="") for filler in (0.0, 1000.0)]
    ours, theirs = (QuantizeStatic(8, ranges="min_max").apply(checked_model(network(), each), each) for each in plain)
    assert theirs.grids["x"].scale[0] > 100 * ours.grids["x"].scale[0]


def test_ranges_are_those_of_each_sample_alone(model: Model) -> None:
    """Each cut off where it ends, and run by itself."""
    folded = inference(model)
    names = points(folded.graph)
    seen = observe(folded, names, GARBAGE.calibration(), counted=False)
    alone = [
        (mask[:, :length], x[:, :length])
        for batch in GARBAGE.calibration()
        for mask, x in zip(*(value.split(1) for value in batch), strict=True)
        for length in [int(mask.sum())]
    ]
    wanted = observe(folded, names, alone, counted=False)
    for name in names:
        assert (seen[name].low, seen[name].high) == pytest.approx((wanted[name].low, wanted[name].high), rel=1e-5)


def test_distributions_are_those_of_positions_that_count(model: Model) -> None:
    folded = inference(model)
    found = []
    for known in (CLEAN, GARBAGE):
        noted = Noted(folded, known.calibration())
        observe(folded, points(folded.graph), noted.batches, run=noted.watch)
        found.append(noted.distributions(folded.norms))
    for weight, ours in found[0].items():
        torch.testing.assert_close(ours.mean, found[1][weight].mean)
        torch.testing.assert_close(ours.variance, found[1][weight].variance)


def test_what_is_lost_is_what_positions_that_count_lose(model: Model) -> None:
    folded, mask = inference(model), mask_of(model.module)
    weight, rounded = "first.weight", lower(QuantizeStatic(3).apply(model, CLEAN))
    other = folded.tensor(weight) * -3
    lost = []
    for known in (CLEAN, GARBAGE):
        replay = Replay(folded, known.calibration(), 1.0, normed=None).losses(weight, [other])
        original = OriginalOutputs.of(model.module, known.calibration(), "classification", mask)
        beside = RunBeside(in_torch(rounded), in_torch(model.module), "classification", mask)
        for batch in known.calibration():
            beside(*batch)
        lost.append([*replay, original.nats(rounded), beside.divergence])
    assert lost[0] == pytest.approx(lost[1], rel=1e-4)
    assert min(lost[0]) > 1e-5


class Attention(nn.Module):
    """Scores of positions under a mask that is added, as those of BERT are."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.pairs, self.last = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        rows = self.rows(x)
        scores = self.pairs(rows) @ rows.transpose(1, 2) + (1 - mask.unsqueeze(1)) * -100.0
        return self.last(torch.softmax(scores, -1) @ rows)


def test_what_a_mask_put_in_is_in_ranges_for_it_is_read() -> None:
    """Cut off, it would hide nothing: a softmax would read numbers like any others at the positions it hid."""
    torch.manual_seed(2)
    attention, known = Attention().eval(), task(1.0, outputs="", kind="regression")
    model = checked_model(attention, known)
    lowered = lower(QuantizeStatic(8, ranges="min_max").apply(model, known))
    mask, x = known.calibration()[0]
    louder = torch.where(mask.unsqueeze(-1) > 0, x, x.flip(0))
    counted = mask > 0
    with torch.no_grad():
        assert torch.equal(lowered(mask, x)[counted], lowered(mask, louder)[counted])
    positions = inference(model).positions
    assert positions is not None
    assert {"matmul", "linear", "linear_1", "linear_2"} <= positions.along.keys()
    assert not {"add", "rsub", "mul"} & positions.along.keys()


@pytest.mark.parametrize("outputs", ["kd", "dkd", "dist"])
def test_a_teacher_is_asked_about_positions_that_count(model: Model, outputs: Any) -> None:
    torch.manual_seed(5)
    student, mask = Frames().eval(), mask_of(model.module)
    taught = checked_model(student, CLEAN).module
    losses = []
    for filler in (0.0, 1000.0):
        batch = batches(filler)[0]
        lessons = Lessons(taught, model.module, CLEAN, Training(outputs=outputs), None, mask)
        losses.append(float(lessons.loss(((batch["mask"], batch["x"]),)).detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] > 0


def test_a_result_is_held_against_the_original_where_positions_count(tmp_path: Any) -> None:
    figures = []
    for place, known in enumerate((CLEAN, GARBAGE)):
        settings = Settings(cache=tmp_path / str(place), seconds=0.02)
        step = QuantizeStatic(find_device("host").weight_bits)
        measured = apply(Recipe((step,)), network(), known, find_device("host"), settings).artifact.measurement
        assert measured.fidelity is not None
        figures.append([measured.fidelity.same_class, measured.fidelity.mean_difference])
    assert figures[0] == pytest.approx(figures[1], rel=1e-3)


def test_each_output_is_compared_where_it_counts(model: Model) -> None:
    mask = mask_of(model.module)
    assert mask is not None
    batch = CLEAN.calibration()[0]
    whole = each_of(in_torch(model.module)(*batch))
    kept = each_of(mask.kept(whole, batch))
    assert len(kept[0]) == int(batch[0].sum())
    assert kept[1] is whole[1]
