"""What a planner is offered for a small network with a block that may go, in which order, and what is left out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.choices import Bits, Factors, Gone, Swapped, Width, Zeros
from haversack.device import find_device
from haversack.errors import RecipeError, TaskError
from haversack.measurement import Conditions, Figure, Measurement
from haversack.model import Model
from haversack.packing.candidates import Offers
from haversack.packing.spaces import Readings
from haversack.packing.workspace import Workspace
from haversack.plan.solve import solve
from haversack.plan.space import FORBIDDEN, Space
from haversack.progress import shown_by
from haversack.recipe import Recipe, technique
from haversack.runtimes.pieces import Piece
from haversack.task import Task
from haversack.techniques.factorize import Factorize
from haversack.techniques.prune_channels import PruneChannels
from haversack.techniques.prune_layers import PruneLayers
from haversack.techniques.quantize_static import QuantizeStatic
from haversack.techniques.quantize_weights import QuantizeWeights

KINDS = ("prune_channels", "prune_layers", "quantize_static", "factorize", "replace_blocks", "prune_weights")
ORDER = (Gone, Width, Swapped, Factors, Zeros, Bits)


class Block(nn.Module):
    """Adds what two convolutions make of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv2(F.relu(self.conv1(x))))


@cache
def model() -> Model:
    torch.manual_seed(0)
    body = (nn.Conv2d(3, 16, 3), nn.ReLU(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    return Model(nn.Sequential(*body).eval(), (torch.zeros(1, 3, 8, 8),))


@cache
def inputs() -> Tensor:
    return torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))


TASK = Task(train=list, calibrate=lambda: [inputs()], score=lambda _: 0.0)
BASELINE = Measurement(Figure(2e4, "host"), Figure(9e3, "host"), None, Conditions("host", "onnx", 1, "here"))


def readings(folder: Path, *kinds: str, device: str = "host", made_by: Recipe | None = None) -> Readings:
    target, workspace = find_device(device), Workspace(folder, "run")
    return Readings(model(), TASK, target, Offers(kinds), BASELINE, workspace, None, made_by or Recipe())


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where losses are kept, so that each is found out once."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def spaces(kept: Path) -> list[Space]:
    return readings(kept, *KINDS).spaces(sparse=True)


def test_sites_of_all_techniques_stand_in_the_order_in_which_they_work(spaces: list[Space]) -> None:
    floats, integers = spaces
    assert (floats.name, integers.name) == ("float32", "int8")
    for space, asked in ((floats, set(KINDS) - {"quantize_static"}), (integers, set(KINDS))):
        assert {site.technique for site in space.sites} == asked
        places = [
            min(ORDER.index(type(option.effect)) for option in site.options if option.effect) for site in space.sites
        ]
        first = {site.technique: place for site, place in reversed(list(zip(space.sites, places, strict=True)))}
        assert [first[site.technique] for site in space.sites] == sorted(first[site.technique] for site in space.sites)
        assert [len(term.amounts) for term in space.losses[: len(space.sites)]] == [
            len(site.options) for site in space.sites
        ]


def test_the_first_plan_of_integers_is_quantize_static_and_that_of_floats_nothing(spaces: list[Space]) -> None:
    floats, integers = spaces
    nothing = (0,) * len(integers.sites)
    (step,) = integers.recipe(nothing, Recipe()).steps
    assert isinstance(step, QuantizeStatic)
    assert (step.weight_bits, step.layer_bits) == (find_device("host").weight_bits, ())
    assert lost(integers, nothing) == 0
    assert floats.recipe((0,) * len(floats.sites), Recipe()) == Recipe()


@pytest.mark.parametrize(("sparse", "bits"), [(False, {4}), (True, {6, 4, 3, 2})])
def test_bits_that_no_plain_file_stores_are_offered_only_where_the_coded_file_is_limited(
    kept: Path, *, sparse: bool, bits: set[int]
) -> None:
    _, integers = readings(kept, "quantize_static").spaces(sparse=sparse)
    effects = [option.effect for site in integers.sites for option in site.options]
    assert {each.bits for each in effects if isinstance(each, Bits)} == {find_device("host").weight_bits, *bits}
    assert ("update_bytes" in integers.pricing.measures()) == sparse


def lost(space: Space, plan: Sequence[int]) -> float:
    """What a plan loses."""
    return sum(term.of(plan) for term in space.losses)


def chosen(space: Space, *wanted: tuple[str, str]) -> tuple[int, ...]:
    """The strongest option of the sites of these techniques at these paths, and nothing elsewhere."""
    return tuple(len(site.options) - 1 if (site.technique, site.name) in wanted else 0 for site in space.sites)


def test_nothing_is_said_or_lost_inside_a_block_that_goes(spaces: list[Space]) -> None:
    integers = spaces[1]
    inside = [(site.technique, site.name) for site in integers.sites if site.name.startswith("2.")]
    assert {"factorize", "quantize_static"} <= {name for name, _ in inside}
    alone, both = (chosen(integers, ("prune_layers", "2"), *more) for more in ((), inside))
    assert integers.recipe(both, Recipe()) == integers.recipe(alone, Recipe())
    assert [type(step) for step in integers.recipe(both, Recipe()).steps] == [PruneLayers, QuantizeStatic]
    losses = integers.losses[: len(integers.sites)]
    alone_lost, both_lost = (sum(term.of(plan) for term in losses) for plan in (alone, both))
    assert both_lost == pytest.approx(alone_lost)
    assert alone_lost > 0


def test_a_layer_is_exchanged_once_and_is_whole_before(spaces: list[Space]) -> None:
    floats = spaces[0]
    names = {site.name for site in floats.sites if site.technique == "factorize"}
    exchanged = next(site.name for site in floats.sites if site.technique == "replace_blocks" and site.name in names)
    one, other = ("factorize", exchanged), ("replace_blocks", exchanged)
    assert lost(floats, chosen(floats, one)) < FORBIDDEN
    assert lost(floats, chosen(floats, other)) < FORBIDDEN
    assert lost(floats, chosen(floats, one, other)) >= FORBIDDEN


@pytest.mark.parametrize("tried", [("factorize",), ("quantize_static",), ("prune_layers", "quantize_static")])
def test_only_what_is_tried_is_offered(kept: Path, tried: Sequence[str]) -> None:
    spaces = readings(kept, *tried).spaces(sparse=True)
    assert {site.technique for space in spaces for site in space.sites} == set(tried)
    assert [space.name for space in spaces] == ["float32", "int8"][: 1 + ("quantize_static" in tried)]


def test_zeros_are_offered_only_where_the_coded_file_is_limited(kept: Path) -> None:
    offered = readings(kept, *KINDS).spaces(sparse=False)
    assert "prune_weights" not in {site.technique for space in offered for site in space.sites}


@dataclass(frozen=True)
class Told:
    """Hears what is told."""

    lines: list[str]

    def track(self, items, label, total):
        return iter(items)

    def say(self, line: str) -> None:
        self.lines.append(line)


def failing(error: Exception) -> Callable[..., object]:
    def asked(*_: object) -> object:
        raise error

    return asked


def test_a_technique_that_cannot_tell_its_losses_is_left_out_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = PruneChannels.choices(model(), find_device("host"))
    monkeypatch.setattr(type(whole), "losses", failing(RecipeError("the weights hold NaN.", where="0")))
    lines: list[str] = []
    with shown_by(Told(lines)):
        spaces = readings(tmp_path, "prune_channels", "quantize_static").spaces(sparse=False)
    assert {site.technique for space in spaces for site in space.sites} == {"quantize_static"}
    assert "prune_channels is left out: 0: the weights hold NaN." in lines


def test_an_error_of_the_task_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Factorize, "choices", failing(TaskError("calibrate() raised.")))
    with pytest.raises(TaskError, match="calibrate"):
        readings(tmp_path, "factorize", "quantize_static").spaces(sparse=False)


def test_losses_are_found_out_once_for_a_network_and_again_for_what_a_student_became(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = readings(tmp_path, "factorize").spaces(sparse=False)[0].losses
    kind = type(Factorize.choices(model(), find_device("host")))
    monkeypatch.setattr(kind, "losses", failing(RecipeError("asked again.")))
    again = readings(tmp_path, "factorize").spaces(sparse=False)[0].losses
    assert [term.amounts.tolist() for term in again] == [term.amounts.tolist() for term in first]
    adopted = readings(tmp_path, "factorize", made_by=Recipe((QuantizeWeights(),)))
    assert not adopted.spaces(sparse=False)[0].sites


def test_weights_in_fewer_bits_are_formats_of_their_own_where_there_are_no_integers(kept: Path) -> None:
    spaces = readings(kept, "factorize", "quantize_weights").spaces(sparse=False)
    steps = [space.numbers for space in spaces]
    assert steps[0] is None
    assert {technique(step) for step in steps[1:]} == {"quantize_weights"}
    assert len(steps) > 2
    sizes = [space.problem.figures((0,) * len(space.sites))["flash_bytes"] for space in spaces]
    assert sizes == sorted(sizes, reverse=True)
    assert spaces[0].lost == 0 < spaces[-2].lost < spaces[-1].lost
    smallest = solve(spaces[-1].problem, {"flash_bytes": sizes[-1]})
    assert spaces[-1].recipe(smallest.chosen, Recipe()) == Recipe((steps[-1],))


def test_memory_known_in_part_is_not_taken_for_all_of_it(kept: Path) -> None:
    activations = replace(BASELINE, ram_bytes=Figure(100, "estimated", part=True))
    known = replace(readings(kept, *KINDS, device="raspberry-pi-4"), baseline=activations)
    floats = known.spaces(sparse=True)[0]
    figures = floats.problem.figures([len(site.options) - 1 for site in floats.sites])
    assert figures["ram_bytes"] > figures["flash_bytes"] / 2


def test_every_step_of_a_plan_that_draws_has_the_seed_of_the_run(kept: Path) -> None:
    offered = replace(readings(kept, *KINDS), offers=Offers(KINDS, seed=5))
    for space in offered.spaces(sparse=True):
        for site in space.sites:
            plan = chosen(space, (site.technique, site.name))
            seeds = [step.seed for step in space.recipe(plan, Recipe()).steps if hasattr(step, "seed")]
            assert set(seeds) <= {5}
            assert seeds or site.technique == "quantize_static"


class Clocked:
    """Layers that take 1 ms each, in runs that take 2 ms besides."""

    call_ms = 2.0

    def of(self, piece: Piece) -> float:
        return 1.0

    def timed(self, piece: Piece) -> bool:
        return True

    def measure(self, pieces: Iterable[Piece]) -> None:
        assert not list(pieces)


def test_what_a_run_takes_besides_its_layers_is_no_less_for_fewer_of_them(kept: Path) -> None:
    reading = replace(readings(kept, "prune_layers"), times=Clocked())  # type: ignore[arg-type]
    plain = reading.spaces(sparse=False)[0]
    layers = len(plain.pricing.costs.pieces((0,)))  # type: ignore[attr-defined]
    left = len(plain.pricing.costs.pieces((1,)))  # type: ignore[attr-defined]
    assert left < layers
    ratios = [plain.problem.figures(chosen)["latency_ratio"] for chosen in ((0,), (1,))]
    assert ratios == [pytest.approx(1.0), pytest.approx((2 + left) / (2 + layers))]
