"""Networks that ship as programs of a microcontroller: what is limited is read off a run on an emulated core."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import fx, nn

from haversack.cli import main
from haversack.device import Device, find_device
from haversack.errors import BudgetError, DeviceError, InfeasibleError, MeasureError, RecipeError
from haversack.graph.inference import lower
from haversack.graph.run import named_tensors
from haversack.limits import Budget
from haversack.model import Model
from haversack.packing import Settings, pack
from haversack.packing.costs import Costs
from haversack.proving.sources import source_of
from haversack.runtimes import Program, find_runtime
from haversack.runtimes.c_source import build, emulator
from haversack.runtimes.c_source.cores import board_of
from haversack.runtimes.c_source.write import write
from haversack.runtimes.counts import Counts
from haversack.runtimes.pieces import Piece
from haversack.task import Task
from haversack.techniques.factorize.ways import METHODS
from haversack.techniques.prune_weights import PruneWeights
from haversack.techniques.quantize_static import QuantizeStatic

BOARD = replace(find_device("stm32f405"), runtime="c")
LIMITS = Budget(flash_bytes=9_000, instructions=230_000, max_drop=0.2)
CONV = Piece("conv2d", ((4, 8, 8),), (8, 8, 8), (8, 4, 3, 3), (1, 1), (1, 1), (1, 1), 1, "relu", "int8")
WIDER = replace(CONV, output=(16, 8, 8), weight=(16, 4, 3, 3))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 16, 3, 2, 1), nn.ReLU()),
        # Without this convolution its batch norm is real numbers, of which there is no C.
        *(nn.Conv2d(16, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)),
    ).eval()


def task() -> Task:
    images = torch.rand(96, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = network()(images).argmax(1)
    return Task(
        train=lambda: [(images, labels)],
        calibrate=lambda: [images[:48]],
        score=lambda predict: (predict(images).argmax(1) == labels).float().mean().item(),
    )


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAVERSACK_CACHE", str(tmp_path / "cache"))
    if not emulator.is_installed() or not build.compilers(board_of(BOARD)):
        pytest.skip(build.INSTALL)


def commanded(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["pack", str(Path(__file__)), "--device", "stm32f405", *words])
    return ended.value.code  # type: ignore[return-value]


def test_a_network_is_packed_within_flash_and_instructions_of_its_program_and_proved_in_one_command(tmp_path, capsys):
    limits = ("--flash", "9kB", "--instructions", "230k", "--max-drop", "20%", "--runtime", "c")
    out = tmp_path / "out"
    assert commanded(*limits, "--try", "prune_channels,prune_layers,quantize_static", "--out", str(out), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    found, before, proof = told["packed"], told["baseline"], told["proof"]
    figures = [found[name] for name in ("flash_bytes", "ram_bytes", "instructions")]
    assert [each["origin"] for each in figures] == ["emulator"] * 3
    flash, ram, instructions = (each["value"] for each in figures)
    assert flash <= 9_000
    assert instructions <= 230_000
    assert (before["instructions"], before["latency_ratio"], found["latency_ratio"]) == (None, None, None)
    assert found["latency_ms"]["low"] == pytest.approx(1e3 * 1.2 * instructions / 168e6)
    assert found["score"]["runtime"] == "tflite-micro"
    assert (proof["flash_bytes"], proof["mismatching_bytes"], proof["host_mismatching_bytes"]) == (flash, 0, 0)
    assert proof["board_ram_bytes"] == BOARD.ram_bytes
    assert [proof["ram_bytes"], proof["instructions"]] == pytest.approx([ram, instructions], rel=0.03)
    foretold = [each for each in told["predictions"] if each["measure"] == "instructions"]
    assert foretold
    assert all(each["predicted"] == pytest.approx(each["true"], rel=0.15) for each in foretold)
    model = write(source_of(out, network(), task()).graph)
    assert {name: (out / name).read_bytes() for name in model.files} == model.files
    assert "instructions   " in (out / "report.txt").read_text(encoding="utf-8")


def wide() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    ).eval()


def test_a_program_for_less_memory_is_another_one_in_strips(tmp_path):
    images = torch.rand(48, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = wide()(images).argmax(1)
    right = Task(
        train=list,
        calibrate=lambda: [images],
        score=lambda predict: (predict(images).argmax(1) == labels).float().mean().item(),
    )
    settings = Settings(cache=tmp_path, techniques=("quantize_static",))
    whole, small, again = (
        pack(wide(), right, BOARD, Budget(ram_bytes=most, flash_bytes=20_000, max_drop=0.2), settings).artifact
        for most in (20_000, 7_000, 20_000)
    )
    rams = [each.measurement.ram_bytes.value for each in (whole, small, again)]
    assert rams[0] > 8 * 32 * 32
    assert rams[1] <= 7_000
    assert rams[2] <= 20_000
    assert whole.recipe == small.recipe
    assert b" strips, in which rows that are still read are kept" in small.files["model.c"]
    assert small.files["model.tflite"] == whole.files["model.tflite"]
    with pytest.raises(InfeasibleError, match=r"RAM|ram"):
        pack(wide(), right, BOARD, Budget(ram_bytes=3_500, max_drop=0.2), settings)


def test_instructions_are_counted_once_and_kept(tmp_path, monkeypatch):
    runtime = find_runtime(BOARD)
    assert runtime.programs is not None
    first = Counts(runtime, runtime.programs, BOARD, folder=tmp_path)
    first.measure([CONV, WIDER])
    assert first.of(WIDER) > 1.5 * first.of(CONV) > CONV.macs / 2
    asked = []
    again = replace(runtime.programs, run=lambda graph, *_: asked.append(graph) or Program(0, 0, 0))
    second = Counts(runtime, again, BOARD, folder=tmp_path)
    second.measure([CONV, WIDER])
    assert not asked
    assert second.of(CONV) == first.of(CONV)
    between = replace(CONV, output=(12, 8, 8), weight=(12, 4, 3, 3))
    assert first.of(CONV) < second.of(between) < first.of(WIDER)
    other = Counts(runtime, replace(again, version=lambda: "another"), BOARD, folder=tmp_path)
    other.measure([CONV])
    assert len(asked) == 1


def test_what_is_no_program_by_itself_is_estimated(tmp_path):
    runtime = find_runtime(BOARD)
    assert runtime.programs is not None

    def not_narrow(graph: fx.GraphModule, *_: object) -> Program:
        channels = len(next(each for each in named_tensors(graph).values() if each.dim() == 1))
        if channels == 8:
            raise MeasureError("no.")
        return Program(1, 1, 100 * channels)

    counts = Counts(runtime, replace(runtime.programs, run=not_narrow), BOARD, folder=tmp_path)
    widest = replace(CONV, output=(32, 8, 8), weight=(32, 4, 3, 3))
    counts.measure([CONV, WIDER, widest])
    assert [counts.timed(each) for each in (CONV, WIDER, widest)] == [False, True, True]
    assert counts.of(CONV) == pytest.approx(800, rel=0.3)


@pytest.mark.parametrize(
    ("device", "limits", "techniques", "error", "said"),
    [
        (BOARD, Budget(latency_ratio=0.5), (), BudgetError, r"a ratio is of files.*stm32f405.*\n.*--instructions"),
        (BOARD, LIMITS, ("prune_channels",), RecipeError, r"plain C computes integers.*\n.*quantize_static"),
        (replace(BOARD, runtime="tflite-micro"), LIMITS, (), BudgetError, r"instructions are counted.*\n.*--runtime c"),
        (replace(BOARD, core="z80"), LIMITS, (), DeviceError, r"no core that can be emulated.*\n.*cortex-m4"),
        (replace(find_device("host"), runtime="c"), LIMITS, (), DeviceError, r"host has no core"),
    ],
)
def test_what_no_program_can_be_held_against_is_refused_at_the_start(
    device: Device, limits: Budget, techniques: tuple[str, ...], error: type[Exception], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        pack(network(), task(), device, limits, Settings(cache=tmp_path, techniques=techniques))


def test_a_count_that_is_none_is_told_with_its_option(capsys):
    assert commanded("--instructions", "4X") == 2
    assert "--instructions: '4X' is not a count" in capsys.readouterr().err


def test_plans_know_what_a_program_saves_by_zeros():
    torch.manual_seed(0)
    module = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 48, 3, 2, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 4)),
    ).eval()
    images = torch.rand(48, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    given = Task(train=list, calibrate=lambda: [images], score=lambda _: 0.0)
    model, programs = Model(module, (images[:1],)), find_runtime(BOARD).programs
    choices = PruneWeights.choices(model, BOARD)
    assert choices is not None
    assert programs is not None
    costs = Costs(model, BOARD, choices.sites, "int8", METHODS)
    plan = [len(site.options) - 1 if site.name.startswith("2") else 0 for site in choices.sites]
    assert any(plan)
    step = choices.step(plan)
    assert step is not None

    def flash(of: Model) -> int:
        return programs.run(lower(QuantizeStatic(8, "int8").apply(of, given)), BOARD, None).flash_bytes

    saved = flash(model) - flash(step.apply(model, given))
    assert saved > 5_000
    foretold = costs.flash_bytes.of(costs.nothing) - costs.flash_bytes.of(plan)
    assert foretold == pytest.approx(saved + 1_380, rel=0.15)  # and the code that reads them
