"""Inputs of different lengths for runtimes whose files have one: filled up before a file, outputs cut behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from haversack.device import find_device
from haversack.errors import ExportError, TaskError
from haversack.graph.inference import lower
from haversack.graph.one_length import at_its_length, without_sizes
from haversack.model import Model
from haversack.packing import Packed, Settings, apply
from haversack.packing.check import checked_model
from haversack.proving.prove import Effort, prove
from haversack.recipe import Recipe
from haversack.runtimes import host, named
from haversack.task import Predict, Task
from haversack.techniques.quantize_static import QuantizeStatic
from tests.tasks import lengths_small

LENGTHS, LONGEST, WORDS = (5, 24, 11), 24, 40
FREE = {"tokens": {1: "words"}, "mask": {1: "words"}}
PAD = {"tokens": 3, "mask": 0}
OUTPUTS = ("tags", "halves", "any")
DEVICE = find_device("stm32h743")


class Tagger(nn.Module):
    """Tags of each word, others of every second one, and those that any word has which a mask leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, 8), nn.Parameter(torch.randn(LONGEST, 8) / 4)
        self.more_places = nn.Embedding(LONGEST, 8)
        self.around, self.halved = nn.Conv1d(8, 8, 3, padding=1), nn.Conv1d(8, 4, 3, stride=2, padding=1)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        length, kept = tokens.shape[1], mask.unsqueeze(-1)
        x = self.words(tokens) + self.places[:length] + self.more_places(torch.arange(length))
        x = torch.relu(self.around((x * kept).transpose(1, 2))).transpose(1, 2) * kept
        tags = torch.relu(self.down(torch.relu(self.up(x))))
        return {"tags": tags, "halves": self.halved(x.transpose(1, 2)), "any": (tags * kept).amax(1)}


def batch(length: int, samples: int = 12) -> dict[str, Tensor]:
    """Random words of one length, some masked at the end."""
    draw = torch.Generator().manual_seed(length)
    kept = torch.randint(1 + length // 2, length + 1, (samples, 1), generator=draw)
    tokens = torch.randint(0, WORDS, (samples, length), generator=draw)
    return {"tokens": tokens, "mask": (torch.arange(length) < kept).float()}


def network() -> Tagger:
    """The network, the same each time."""
    torch.manual_seed(0)
    return Tagger().eval()


def task(**settings: Any) -> Task:
    """Its task: nothing is better than what the network itself says."""
    batches = [batch(length) for length in LENGTHS]
    with torch.no_grad():
        wanted = [network()(**each) for each in batches]

    def score(predict: Predict) -> float:
        found = [dict(zip(OUTPUTS, predict(**each), strict=True)) for each in batches]
        pairs = zip(found, wanted, strict=True)
        return 1 - max(float((ours[name] - theirs[name]).abs().max()) for ours, theirs in pairs for name in OUTPUTS)

    return Task(
        list, lambda: batches, score, outputs=OUTPUTS, **{"kind": "regression", "free": FREE, "pad": PAD, **settings}
    )


def file_of(model: Model) -> Predict:
    """The .tflite file of a model in LiteRT, for inputs of any length."""
    lowered, litert = lower(model), named("litert")
    assert litert
    assert litert.orders
    file = litert.write(lowered)
    return at_its_length(lowered, host.load(file, runtime="litert", orders=litert.orders(lowered)))


def differences(predict: Predict, inputs: Mapping[str, Tensor]) -> list[float]:
    """How far each output is from the network's, of which it has the shape; inputs go by the order of their names."""
    outputs = predict(inputs["mask"], inputs["tokens"])
    with torch.no_grad():
        wanted = network()(**inputs)
    for name, output in zip(OUTPUTS, outputs, strict=True):
        assert output.shape == wanted[name].shape
    return [float((output - wanted[name]).abs().max()) for name, output in zip(OUTPUTS, outputs, strict=True)]


@pytest.fixture(scope="module")
def model() -> Model:
    return checked_model(network(), task(), "a .tflite file")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("filled") / "out"


@pytest.fixture(scope="module")
def packed(out: Path) -> Packed:
    settings = Settings(out=out, cache=out.parent / "cache", seconds=0.05)
    return apply(Recipe((QuantizeStatic(8),)), network(), task(), DEVICE, settings)


def test_a_file_of_one_length_computes_what_torch_does_at_each_length(model: Model) -> None:
    predict = file_of(model)
    for length in range(1, LONGEST + 1):
        assert max(differences(predict, batch(length, 2))) < 1e-5


def test_so_does_a_quantized_one(model: Model) -> None:
    """What is filled up lies on grids too, and changes nothing before it."""
    predict = file_of(QuantizeStatic(8).apply(model, task()))
    for length in LENGTHS:
        assert max(differences(predict, batch(length, 4))) < 0.15


def test_a_network_that_reads_what_is_filled_up_is_said_to() -> None:
    """One under a mask is not."""
    reads = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d((1, 4)), nn.Flatten())
    batches = [torch.rand(4, 1, length, 4) for length in (4, 8)]
    known = Task(list, lambda: batches, lambda _: 0.0, free={"input": {2: "rows"}}, pad={"input": 0})
    notes = checked_model(reads, known, "a .tflite file").notes
    assert "filled up to rows 8" in notes[0]
    assert "filling up alone moves outputs" in notes[1]
    assert len(checked_model(network(), task(), "a .tflite file").notes) == 1


def test_a_longer_input_than_the_file_takes_is_refused(model: Model) -> None:
    with pytest.raises(TaskError, match=r"has 25 along dimension 1 \('words'\), and the file takes 24"):
        file_of(model)(torch.ones(1, 25), torch.ones(1, 25).long())


def test_the_graph_still_runs_at_any_length(model: Model) -> None:
    """What techniques lose and are trained for is told from inputs as the user yields them."""
    inputs = batch(11)
    with torch.no_grad():
        found = lower(model)(inputs["mask"], inputs["tokens"])
    torch.testing.assert_close(found[0], network()(**inputs)["tags"].detach())


def test_no_size_is_left_in_what_torchs_own_exporters_are_given(model: Model) -> None:
    """ExecuTorch's, too: at a batch of one."""
    settled = without_sizes(lower(model))
    assert not [node for node in settled.graph.nodes if "sym_size" in str(node.target) or "arange" in str(node.target)]
    inputs = batch(LONGEST, 1)
    program = torch.export.export(settled, (inputs["mask"], inputs["tokens"])).module()
    torch.testing.assert_close(program(inputs["mask"], inputs["tokens"])[0], network()(**inputs)["tags"])


def test_it_is_packed_and_measured_on_inputs_of_all_lengths(packed: Packed) -> None:
    measured = packed.artifact.measurement
    assert measured.parity is not None
    assert measured.parity.samples == 12 * len(LENGTHS)
    assert measured.fidelity is not None
    assert measured.score is not None
    assert measured.score.value > 0.8
    assert "filled up to words 24" in packed.report


def test_the_result_is_proved(packed: Packed, out: Path) -> None:
    proof = prove(out, network(), task(), Effort(12))
    assert packed.artifact.files
    assert not proof.broken
    witnesses = {each.name: each for each in proof.witnesses}
    assert {"integer reference", "torch", "LiteRT", "ONNX Runtime"} <= witnesses.keys()
    assert witnesses["LiteRT"].score == pytest.approx(witnesses["torch"].score, abs=0.05)


def test_files_for_onnx_stay_free(tmp_path: Path) -> None:
    packed = apply(Recipe(), network(), task(), find_device("host"), Settings(cache=tmp_path, seconds=0.05))
    assert "lengths are free in the file" in packed.report
    assert b"words" in packed.artifact.files["model.onnx"]


def test_without_it_such_runtimes_refuse_and_name_it(tmp_path: Path) -> None:
    settings = Settings(cache=tmp_path, seconds=0.05)
    with pytest.raises(ExportError, match=r"a \.tflite file has fixed sizes.*'words'") as refused:
        apply(Recipe(), network(), task(pad=None), DEVICE, settings)
    assert "Task(pad=" in refused.value.mend


class Attention(nn.Module):
    """Scores of positions under a mask that is added, as those of BERT are."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.pairs, self.last = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        rows = self.rows(x)
        scores = torch.matmul(self.pairs(rows), rows.transpose(1, 2)) + (mask.unsqueeze(1) - 1) * 20.0
        mixed: Tensor = self.last(torch.matmul(torch.softmax(scores, -1), rows))
        return mixed


def test_ranges_know_a_mask_that_only_hides_what_is_filled_up() -> None:
    """No calibration input ends before its batch does: without filling, the mask would be zero on its grid."""
    torch.manual_seed(0)
    attention = Attention().eval()
    batches = [{"x": torch.randn(32, length, 3), "mask": torch.ones(32, length)} for length in (4, 16)]
    frames = {"x": {1: "frames"}, "mask": {1: "frames"}}
    known = Task(list, lambda: batches, lambda _: 0.0, kind="regression", free=frames, pad={"x": 0, "mask": 0})
    model = QuantizeStatic(8).apply(checked_model(attention, known, "a .tflite file"), known)
    lowered = lower(model)
    for batch in batches:
        with torch.no_grad():
            wanted = attention(**batch)
            found = at_its_length(lowered, lowered)(batch["mask"], batch["x"])
        assert (found - wanted).square().mean() < 0.02 * wanted.var()


@pytest.mark.parametrize("outputs", ["logits", "words"])
def test_a_transformer_that_masks_what_is_filled_up_gives_what_it_gives_without(outputs: str) -> None:
    """Attention in LiteRT, whose keys at the end are hidden: no number is another one for it."""
    known = replace(lengths_small.task(outputs, FREE), pad={"tokens": 7, "mask": 0})
    model = checked_model(lengths_small.network(), known, "a .tflite file")
    assert len(model.notes) == 1
    predict = file_of(model)
    for length in (1, 5, 11, 24):
        inputs = lengths_small.batch(length, 3)
        with torch.no_grad():
            wanted = lengths_small.network()(**inputs)[outputs]
        torch.testing.assert_close(predict(inputs["mask"], inputs["tokens"]), wanted, rtol=0, atol=1e-5)


class Flat(nn.Module):
    """Gives one row a word, of all samples."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = self.layer(x).flatten(0, 1)
        return rows


def test_an_output_whose_samples_cannot_be_told_from_their_positions_is_refused() -> None:
    batches = [torch.rand(4, length, 4) for length in (5, 8)]
    known = Task(list, lambda: batches, lambda _: 0.0, pad={"x": 0})
    with pytest.raises(ExportError, match="output 0 has samples and positions along one dimension"):
        checked_model(Flat(), known, "a .tflite file")
    assert checked_model(Flat(), known).filling is None
