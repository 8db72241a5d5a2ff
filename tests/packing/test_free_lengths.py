"""Networks whose inputs have different lengths: one file for all of them, packed, measured and proved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from haversack.device import find_device
from haversack.errors import ExportError, TaskError, TraceError
from haversack.graph.inference import inference, lower
from haversack.integer.read import read
from haversack.packing import Packed, Settings, apply
from haversack.packing.check import checked_model
from haversack.proving.prove import Effort, prove
from haversack.recipe import Recipe
from haversack.runtimes.onnx.write import write
from haversack.task import Task
from haversack.techniques.quantize_dynamic import QuantizeDynamic
from haversack.techniques.quantize_static import QuantizeStatic
from tests.tasks.lengths_small import LONGEST, batch, network, task

LENGTHS = range(1, LONGEST + 1)
FREE = {"tokens": {1: "words"}, "mask": {1: "words"}}
BITS = find_device("host").weight_bits


def run(file: bytes | Path, inputs: Mapping[str, Tensor]) -> Tensor:
    """What ONNX Runtime makes of them."""
    session = onnxruntime.InferenceSession(file if isinstance(file, bytes) else file.read_bytes())
    return torch.tensor(session.run(None, {name: value.numpy() for name, value in inputs.items()})[0])


def sizes(file: bytes) -> dict[str, list[Any]]:
    """Of each input and output, as ONNX Runtime reads them."""
    session = onnxruntime.InferenceSession(file)
    return {each.name: each.shape for each in (*session.get_inputs(), *session.get_outputs())}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lengths") / "out"


@pytest.fixture(scope="module")
def packed(out: Path) -> Packed:
    settings = Settings(out=out, cache=out.parent / "cache", seconds=0.05)
    return apply(Recipe((QuantizeStatic(BITS),)), network(), task(free=FREE), find_device("host"), settings)


@pytest.mark.parametrize(("free", "called"), [(None, "length"), (FREE, "words")])
def test_one_file_computes_what_torch_does_at_each_length(free: Any, called: str) -> None:
    file = write(lower(checked_model(network(), task(free=free))))
    assert sizes(file) == {"mask": ["batch", called], "tokens": ["batch", called], "logits": ["batch", 3]}
    for length in LENGTHS:
        inputs = batch(length, 3)
        torch.testing.assert_close(run(file, inputs), network()(**inputs)["logits"].detach(), rtol=0, atol=1e-5)


def test_an_output_is_as_long_as_its_input_and_says_so() -> None:
    file = write(lower(checked_model(network(), task("words", FREE))))
    assert sizes(file)["words"] == ["batch", "words", 16]
    for length in LENGTHS:
        inputs = batch(length, 2)
        torch.testing.assert_close(run(file, inputs), network()(**inputs)["words"].detach(), rtol=0, atol=1e-5)


def test_nobody_has_to_pad() -> None:
    """Sentence by sentence at its own length, or in one padded batch under a mask: the same outputs."""
    file, padded = write(lower(checked_model(network(), task()))), batch(LONGEST, 8)
    together = run(file, padded)
    for row, (tokens, mask) in enumerate(zip(padded["tokens"], padded["mask"], strict=True)):
        alone = {"tokens": tokens[None, : mask.sum()], "mask": mask[None, : mask.sum()]}
        torch.testing.assert_close(run(file, alone)[0], together[row], rtol=0, atol=1e-5)


@pytest.mark.parametrize("step", [QuantizeStatic(BITS), QuantizeDynamic(BITS)], ids=["static", "dynamic"])
def test_a_quantized_file_computes_what_was_quantized_at_each_length(step: Any) -> None:
    known = task()
    model = step.apply(checked_model(network(), known), known)
    lowered = lower(model)
    file = write(lowered)
    for length in LENGTHS:
        inputs = batch(length, 3)
        wanted = lowered(inputs["mask"], inputs["tokens"])
        wanted = wanted if isinstance(wanted, Tensor) else wanted[0]
        torch.testing.assert_close(run(file, inputs), wanted, rtol=0, atol=0.05 * float(wanted.abs().max()))


def test_ranges_are_those_of_all_lengths() -> None:
    """An input's grid is that of the largest number, in whichever batch it stands."""
    network = nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    short, long = torch.rand(8, 2, 6), torch.rand(8, 2, 20)
    short[0, 0, 0] = 40.0
    known = Task(list, lambda: [(long,), (short,)], lambda _: 0.0)
    grids = QuantizeStatic(BITS, ranges="min_max").apply(checked_model(network, known), known).grids
    grid = next(grid for name, grid in grids.items() if name in {"input_1", "x", "input"})
    assert float(grid.dequantize(grid.quantize(torch.tensor(40.0)))) == pytest.approx(40.0, rel=0.01)


def test_nodes_have_the_sizes_of_the_longest_inputs_where_a_file_has_none() -> None:
    model = checked_model(network(), task())
    assert model.example[0].shape == (1, LONGEST)
    shapes = [node.meta["val"].shape for node in inference(model).graph.nodes if node.op == "placeholder"]
    assert [shape[1] for shape in shapes] == [LONGEST, LONGEST]
    free = [node.meta["val"].shape[1] for node in lower(model).graph.nodes if node.op == "placeholder"]
    assert all(isinstance(size, torch.SymInt) for size in free)


def test_it_is_measured_and_says_at_which_length(packed: Packed) -> None:
    measured = packed.artifact.measurement
    assert measured.latency_ms is not None
    assert measured.ram_bytes is not None
    assert measured.parity is not None
    assert measured.parity.samples == 96
    assert any(f"longest calibration inputs: words {LONGEST}" in note for note in measured.notes)


def test_the_result_is_proved_at_each_length(packed: Packed, out: Path) -> None:
    proof = prove(out, network(), task(free=FREE), Effort(30))
    assert packed.artifact.files
    assert not proof.broken
    ours = next(each for each in proof.witnesses if each.name == "ONNX Runtime")
    assert ours.calibration is not None
    assert ours.calibration.samples == 30
    assert "fixed sizes" in proof.absent["LiteRT"]


@pytest.mark.slow
def test_outputs_of_different_lengths_are_proved_too(tmp_path: Path) -> None:
    settings = Settings(out=tmp_path / "out", cache=tmp_path / "cache", seconds=0.05)
    apply(Recipe((QuantizeDynamic(BITS),)), network(), task("words"), find_device("host"), settings)
    proof = prove(tmp_path / "out", network(), task("words"), Effort(12))
    assert not proof.broken
    assert [each.calibration.samples for each in proof.witnesses if each.calibration] == [12, 12]


def test_torchs_own_file_takes_each_length_too(packed: Packed, out: Path) -> None:
    program = torch.export.load(out / "network" / "network.pt2").module()
    for length in (2, 7, LONGEST):
        inputs = batch(length, 3)
        wanted = packed.model.module(inputs["mask"], inputs["tokens"]).detach()
        torch.testing.assert_close(program(inputs["mask"], inputs["tokens"]), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("device", ["stm32h743", "nrf52840"])
def test_devices_whose_files_have_one_size_refuse(device: str, tmp_path: Path) -> None:
    settings = Settings(cache=tmp_path, seconds=0.05)
    with pytest.raises(ExportError, match=r"a \.tflite file has fixed sizes.*'words'") as refused:
        apply(Recipe((QuantizeStatic(8),)), network(), task(free=FREE), find_device(device), settings)
    assert "pad all inputs to one length" in refused.value.mend


def test_an_integer_graph_is_not_read_at_a_length_of_one() -> None:
    with pytest.raises(ExportError, match="fixed sizes"):
        read(lower(checked_model(network(), task())))


class Fixed(nn.Module):
    """Takes any length, but turns out the same graph for one only."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.stack([x[:, place] for place in range(x.shape[1])]).mean(0))


@pytest.mark.parametrize("free", [None, {"x": {1: "length"}}])
def test_a_network_that_fixes_the_length_when_traced_is_refused(free: Any) -> None:
    known = Task(list, lambda: [torch.randn(4, 6, 4), torch.randn(4, 9, 4)], lambda _: 0.0, free=free)
    with pytest.raises(TraceError, match="takes the input 'x' with 9 along dimension 1 alone") as refused:
        checked_model(Fixed(), known)
    assert "pad all inputs to one length" in refused.value.mend


def test_a_network_that_takes_one_length_alone_is_refused() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    known = Task(list, lambda: [torch.randn(4, 9, 4), torch.randn(4, 6, 4)], lambda _: 0.0)
    with pytest.raises(TaskError, match=r"does not take calibrate\(\)'s inputs of shape \(1, 6, 4\)") as refused:
        checked_model(network, known)
    assert "pad all inputs to one length" in refused.value.mend


def test_an_input_that_forward_does_not_have_is_refused() -> None:
    known = Task(list, lambda: [torch.randn(4, 9, 4)], lambda _: 0.0, free={"y": {1: "length"}})
    with pytest.raises(TaskError, match="names the input 'y'; there is 'x'"):
        checked_model(Fixed(), known)


def test_a_single_length_of_one_is_still_free() -> None:
    known = Task(list, lambda: [torch.randn(4, 1, 4)], lambda _: 0.0, free={"input": {1: "length"}})
    layer = nn.Linear(4, 2)
    file = write(lower(checked_model(nn.Sequential(layer), known)))
    x = torch.randn(2, 5, 4)
    np.testing.assert_allclose(run(file, {"input_1": x}), layer(x).detach(), atol=1e-6)
