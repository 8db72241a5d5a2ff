"""Plans of a small reader of words whose layers round what they read as it comes, against what is really built."""

import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.calibration.currency import nats
from haversack.choices import Bits
from haversack.device import find_device
from haversack.errors import RecipeError
from haversack.graph.inference import lower
from haversack.graph.run import joined
from haversack.measurement import Conditions, Figure, Measurement
from haversack.model import Model
from haversack.packing.candidates import Offers
from haversack.packing.costs import Costs
from haversack.packing.spaces import Readings
from haversack.packing.workspace import Workspace
from haversack.recipe import Recipe, recipe_from_toml
from haversack.runtimes import find_runtime
from haversack.task import Task
from haversack.techniques import catalogue
from haversack.techniques.prune_layers import PruneLayers
from haversack.techniques.quantize_dynamic import QuantizeDynamic

HOST = find_device("host")
LITERT = replace(HOST, runtime="litert")
BASELINE = Measurement(Figure(2e5, "host"), Figure(9e3, "host"), None, Conditions("host", "onnx", 1, "here"))


class Block(nn.Module):
    """Attention of one head and two layers, each added to what it reads."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x + F.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x)))
        return self.second(x + self.down(F.gelu(self.up(x))))


class Reader(nn.Module):
    """Words, three blocks, a mean and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.blocks = nn.Embedding(400, 32), nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


INPUTS = torch.randint(0, 400, (64, 8), generator=torch.Generator().manual_seed(1))
TASK = Task(train=list, calibrate=lambda: list(INPUTS.split(32)), score=lambda _: 0.0, kind="regression")


@cache
def model() -> Model:
    torch.manual_seed(0)
    return Model(Reader().eval(), (INPUTS[:1],))


def test_each_layer_and_embedding_may_have_half_the_bits():
    offered = QuantizeDynamic.choices(model(), HOST)
    names = [site.name for site in offered.sites]
    assert names[0] == "words"
    assert len(names) == 1 + 3 * 5 + 1
    effects = {site.name: [option.effect for option in site.options] for site in offered.sites}
    assert effects["words"] == [Bits("words", 8), Bits("words", 4)]
    assert effects["head"] == [Bits("head", HOST.weight_bits), Bits("head", 4)]
    assert offered.step([0] * len(names)) == QuantizeDynamic(HOST.weight_bits)
    step = offered.step([int(name in ("words", "blocks.1.up")) for name in names])
    assert recipe_from_toml(Recipe((step,)).to_toml(), catalogue()).steps == (step,)
    bits = {name: grid.bits for name, grid in step.apply(model(), TASK).grids.items() if name.endswith("weight")}
    assert {name for name, each in bits.items() if each == 4} == {"words.weight", "blocks.1.up.weight"}
    assert len(bits) == len(names)


@torch.no_grad()
def test_losses_rank_as_the_outputs_of_files_move():
    offered, (inputs,) = QuantizeDynamic.choices(model(), HOST), joined(TASK.calibration())
    losses = offered.losses(TASK.calibration(), "regression")
    assert all(each[0] == 0 < each[1] for each in losses)
    plain = lower(offered.step([0] * len(losses)).apply(model(), TASK))(inputs)
    true = []
    for place in range(len(losses)):
        step = offered.step([int(each == place) for each in range(len(losses))])
        true.append(nats(lower(step.apply(model(), TASK))(inputs), plain, "regression"))
    assert spearmanr([each[1] for each in losses], true).statistic >= 0.8


@pytest.mark.parametrize(
    ("network", "x"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 4)), torch.zeros(1, 3, 8, 8)),
        (nn.GRU(8, 8, batch_first=True), torch.zeros(1, 5, 8)),
    ],
    ids=["convolutions", "recurrent"],
)
def test_it_is_no_format_of_networks_that_mostly_do_something_else(network, x):
    if isinstance(network, nn.GRU):
        network = nn.Sequential(network, Last())
    assert QuantizeDynamic.choices(Model(network.eval(), (x,)), HOST) is None


class Last(nn.Module):
    """The outputs of a recurrent layer."""

    def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
        return x[0][:, -1]


def test_asking_for_choices_leaves_the_batch_free():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    model = Model(network, (torch.zeros(1, 1, 8, 8),))
    QuantizeDynamic.choices(model, HOST)
    (x,) = lower(model).graph.find_nodes(op="placeholder")
    assert isinstance(x.meta["val"].shape[0], torch.SymInt)


def test_it_is_no_format_of_microcontrollers():
    assert QuantizeDynamic.choices(model(), find_device("stm32f746")) is None
    assert not list(QuantizeDynamic.options(model(), replace(HOST, runtime="tflite-micro")))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"layer_bits": ("nowhere=4",)}, "no such layer: nowhere"),
        ({"layer_bits": ("words=4", "words=8")}, "names words twice"),
        ({"layer_bits": ("words=4",), "leave_float": ("words",)}, "shall stay float and have bits"),
        ({"layer_bits": ("words=9",)}, "layer_bits"),
        ({"layer_bits": ("words",)}, "layer_bits"),
        ({"layer_bits": ("=4",)}, "layer_bits"),
        ({"leave_float": ("blocks.0",), "layer_bits": ("blocks.0.up=4",)}, "no such layer: blocks.0.up"),
    ],
)
def test_bits_that_cannot_be_given_are_refused(settings, said):
    with pytest.raises(RecipeError) as refused:
        QuantizeDynamic(**settings).apply(model(), TASK)
    assert said in str(refused.value)


def test_a_module_s_path_stands_for_all_in_it_and_the_longest_path_counts():
    step = QuantizeDynamic(8, layer_bits=("blocks.1=4", "blocks.1.up=6"))
    bits = {name: grid.bits for name, grid in step.apply(model(), TASK).grids.items() if name.endswith("weight")}
    inside = {name: each for name, each in bits.items() if name.startswith("blocks.1.")}
    assert inside.pop("blocks.1.up.weight") == 6
    assert set(inside.values()) == {4}
    assert {each for name, each in bits.items() if not name.startswith("blocks.1.")} == {8}


@pytest.mark.parametrize("device", [HOST, LITERT], ids=["onnx", "litert"])
def test_files_have_the_foretold_size(device):
    gone, bits = PruneLayers.choices(model(), device), QuantizeDynamic.choices(model(), device)
    sites = (*gone.sites, *bits.sites)
    costs, chance = Costs(model(), device, sites, "dynamic"), random.Random(0)
    drawn = [[chance.randrange(len(site.options)) for site in sites] for _ in range(3)]
    for plan in ([0] * len(sites), *drawn):
        away = [site.name for site, option in zip(gone.sites, plan, strict=False) if option]
        said = [option * (not site.name.startswith(tuple(away))) for site, option in zip(sites, plan, strict=True)]
        small = model()
        for step in (gone.step(plan[: len(gone.sites)]), bits.step(said[len(gone.sites) :])):
            small = small if step is None else step.skeleton().apply(small, TASK)
        assert costs.flash_bytes.of(plan) == pytest.approx(
            len(find_runtime(device).write(lower(small))), rel=0.01, abs=900
        )


def test_layers_are_integer_pieces_and_all_else_is_float():
    bits = QuantizeDynamic.choices(model(), HOST)
    costs = Costs(model(), HOST, bits.sites, "dynamic")
    plain, few = costs.pieces(costs.nothing), costs.pieces([1] * len(bits.sites))
    assert {piece.numbers for piece in plain if piece.kind == "linear"} == {"dynamic"}
    assert {piece.numbers for piece in plain if piece.kind != "linear"} == {"float32"}
    assert few == plain  # ONNX Runtime unpacks 4 bits when it loads a file


@pytest.mark.parametrize("device", [HOST, LITERT], ids=["onnx", "litert"])
def test_it_is_a_format_of_its_own_that_loses_what_its_roundings_do(device, tmp_path: Path):
    offers = Offers(("prune_layers", "quantize_dynamic"))
    readings = Readings(model(), TASK, device, offers, BASELINE, Workspace(tmp_path, "run"), None, Recipe())
    floats, dynamic = readings.spaces(sparse=False)
    assert (floats.name, dynamic.name) == ("float32", "dynamic")
    assert {site.technique for site in floats.sites} == {"prune_layers"}
    assert {site.technique for site in dynamic.sites} == {"prune_layers", "quantize_dynamic"}
    assert floats.lost == 0 < dynamic.lost
    nothing = dynamic.recipe((0,) * len(dynamic.sites), Recipe())
    assert nothing == Recipe((QuantizeDynamic(device.weight_bits),))
    chosen = tuple(int(site.name in ("blocks.1", "words", "blocks.1.up")) for site in dynamic.sites)
    first, last = dynamic.recipe(chosen, Recipe()).steps
    assert (type(first), first.layers) == (PruneLayers, ("blocks.1",))
    assert last == QuantizeDynamic(device.weight_bits, layer_bits=("words=4",))
