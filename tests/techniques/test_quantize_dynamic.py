"""Dynamic quantization of small text networks, beside ONNX Runtime's own quantizer and torch's fake quantization."""

import onnx
import pytest
import torch
from onnx_files import WEIGHT_BITS, Does, as_run, run
from ort_quantizer import dynamically_quantized_by_onnx_runtime
from test_onnx_levels import LEVELS, Encoder, outputs
from torch import nn

from haversack.device import find_device
from haversack.errors import NothingChangedError, RecipeError
from haversack.graph.inference import inference, lower
from haversack.grid import DYNAMIC, Grid, affine, symmetric
from haversack.model import Model
from haversack.runtimes import agreement, host
from haversack.runtimes.onnx.write import write
from haversack.surgery.save import load, save
from haversack.task import Task
from haversack.techniques.quantize_dynamic import QuantizeDynamic

TASK = Task(train=list, calibrate=None, score=lambda _: 0.0)


class Tied(nn.Module):
    """A language model without anything between words and words."""

    def __init__(self, words: int = 300, width: int = 64) -> None:
        super().__init__()
        self.embedding, self.mix = nn.Embedding(words, width), nn.Linear(width, width)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.mix(self.embedding(x))))


class Product(nn.Module):
    """A product by a parameter, once of a sequence and once of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(24, 40)), nn.Parameter(torch.randn(40, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x @ self.first).mean(1) @ self.second


def words(count: int = 32, of: int = 20, length: int = 6) -> torch.Tensor:
    return torch.randint(0, of, (count, length), generator=torch.Generator().manual_seed(1))


def built(kind, x) -> Model:
    torch.manual_seed(0)
    return Model(kind().eval(), (x[:1],))


def quantized(model: Model, **settings) -> Model:
    return QuantizeDynamic(**{"weight_bits": WEIGHT_BITS, **settings}).apply(model, TASK)


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).square().mean() / wanted.square().mean()) ** 0.5


CASES = {
    "encoder": (Encoder, words()),
    "tied": (Tied, words(of=300)),
    "product": (Product, torch.randn(16, 5, 24, generator=torch.Generator().manual_seed(1))),
}


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_a_file_computes_what_its_graph_does_at_every_optimization_level(name):
    kind, x = CASES[name]
    lowered = lower(quantized(built(kind, x)))
    content, wanted = write(lowered), lowered(x)
    for level in LEVELS:
        # Roundings on the edge between two integers fall either way, once in each layer.
        assert relative(outputs(content, level, x), wanted) < 0.01, level


@torch.no_grad()
def test_a_linear_layer_multiplies_what_torch_s_fake_quantization_gives():
    x = torch.randn(4, 7, 24, generator=torch.Generator().manual_seed(1)) + 0.3
    model = built(lambda: nn.Linear(24, 10), x)
    small = quantized(model)
    scale = (x.max() - x.min()) / 255
    rounded = torch.fake_quantize_per_tensor_affine(x, float(scale), int((-x.min() / scale).round()), 0, 255)
    steps = torch.tensor(small.grids["weight"].scale)
    zeros, top = torch.zeros(10, dtype=torch.int32), (1 << WEIGHT_BITS - 1) - 1
    weight = torch.fake_quantize_per_channel_affine(model.module.weight, steps, zeros, 0, -top, top)
    wanted = nn.functional.linear(rounded, weight, model.module.bias)
    torch.testing.assert_close(lower(small)(x), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(run(write(lower(small)), x)[0], wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_zeros_alone_stay_zeros():
    x = torch.zeros(2, 5, 24)
    lowered = lower(quantized(built(lambda: nn.Linear(24, 10, bias=False), x)))
    assert not lowered(x).any()
    assert not run(write(lowered), x)[0].any()


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_a_file_is_as_close_to_the_float_network_as_that_of_onnx_runtime_s_quantizer(name, tmp_path):
    kind, x = CASES[name]
    model = built(kind, x)
    theirs = dynamically_quantized_by_onnx_runtime(write(lower(model)), tmp_path, reduce_range=WEIGHT_BITS < 8)
    wanted, ours = model.module(x), run(write(lower(quantized(model))), x)[0]
    assert relative(ours, wanted) < max(1.1 * relative(run(theirs, x)[0], wanted), 1e-3)


@pytest.mark.parametrize("name", CASES)
def test_as_few_operators_run_as_in_the_file_of_onnx_runtime_s_quantizer_and_no_product_less_is_fused(name, tmp_path):
    kind, x = CASES[name]
    model = built(kind, x)
    content = write(lower(quantized(model)))
    theirs = as_run(dynamically_quantized_by_onnx_runtime(write(lower(model)), tmp_path), tmp_path, "ORT_ENABLE_ALL")
    ours = as_run(content, tmp_path, "ORT_ENABLE_ALL")
    assert ours.total() <= theirs.total()
    fused = "DynamicQuantizeMatMul", "MatMulIntegerToFloat"
    assert sum(ours[each] for each in fused) >= max(2, sum(theirs[each] for each in fused))
    # Products of two values, in attention, stay float.
    assert not {"MatMulInteger", "DequantizeLinear", "Gemm", "MatMulNBits"} & ours.keys()
    assert ours["MatMul"] == theirs["MatMul"]


@torch.no_grad()
def test_the_rows_of_an_embedding_are_those_of_its_grid_in_a_byte_a_number():
    x = words(of=300)
    model = built(lambda: nn.Embedding(300, 64), x)
    small = quantized(model)
    content = write(lower(small))
    wanted = small.grids["weight"].round(model.module.weight)[x]
    assert torch.equal(lower(small)(x), wanted)
    torch.testing.assert_close(run(content, x)[0], wanted)
    # float16 holds the steps.
    assert 300 * 64 < len(content) < 300 * (64 + 2) + 1000


@torch.no_grad()
def test_an_embedding_of_4_bits_takes_half_a_byte_a_number():
    x = words(of=300)
    small = quantized(built(lambda: nn.Embedding(300, 64), x), embedding_bits=4)
    content = write(lower(small))
    assert 300 * 32 < len(content) < 300 * (32 + 2) + 2000
    torch.testing.assert_close(run(content, x)[0], lower(small)(x))


def test_a_weight_of_words_and_of_a_layer_is_stored_once():
    small = quantized(built(Tied, words(of=300)))
    assert [grid.bits for grid in small.grids.values() if grid.axis == 0] == [WEIGHT_BITS] * 2
    assert len(write(lower(small))) < (300 + 64) * (64 + 4) + 2500


def test_what_shall_stay_float_does():
    x = words()
    model = built(Encoder, x)
    whole = quantized(model).grids
    assert {"embedding.weight", "linear.weight", "layer.linear1.weight", "head.weight"} <= whole.keys()
    assert "embedding.weight" not in quantized(model, leave_float=("embedding",)).grids
    left = quantized(model, leave_float=("layer", "head")).grids
    assert {name for name, grid in left.items() if not grid.is_dynamic} == {"embedding.weight", "linear.weight"}
    with pytest.raises(RecipeError, match="no layer with an integer form lies at 'tail'") as caught:
        quantized(model, leave_float=("tail",))
    assert "embedding" in caught.value.mend


@torch.no_grad()
def test_layers_that_stay_float_read_what_was_not_rounded():
    x = torch.randn(8, 24, generator=torch.Generator().manual_seed(1))
    network = Does(lambda x, left, right: torch.cat([left(x), right(x)], 1), nn.Linear(24, 4), nn.Linear(24, 4))
    model = built(lambda: network, x)
    found = lower(quantized(model, leave_float=("layers.1",)))(x)
    wanted = model.module(x)
    assert torch.equal(found[:, 4:], wanted[:, 4:])
    assert 0 < relative(found[:, :4], wanted[:, :4]) < 0.02


def test_a_network_without_linear_layers_is_refused():
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(NothingChangedError, match="no linear or recurrent layer"):
        quantized(built(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), x))


def test_a_grid_for_a_weight_that_cannot_be_integers_is_refused():
    folded = inference(built(Encoder, words()))
    with pytest.raises(RecipeError, match="could read integers") as caught:
        folded.lowered({"norm.weight": symmetric(torch.ones(128), axis=0)})
    assert caught.value.where == "norm.weight"


@pytest.mark.parametrize(
    "grid",
    [
        Grid(8, True, (0.1,) * 64, (0,) * 64, 1),
        Grid(8, True, (0.1,) * 7, (0,) * 7, 0),
        Grid(8, True, (0.1,) * 900, (0,) * 900, 0),
        Grid(8, True, (0.1,) * 300, (1,) * 300, 0),
    ],
)
def test_a_grid_that_fits_no_embedding_is_refused(grid):
    folded = inference(built(lambda: nn.Embedding(300, 64), words(of=300)))
    with pytest.raises(RecipeError, match="does not fit an embedding"):
        folded.lowered({"weight": grid})


@torch.no_grad()
def test_an_embedding_of_one_step_gives_integers_on_that_grid_to_what_moves_them():
    x = words(of=300)
    model = built(lambda: Does(lambda x, table: table(x).transpose(1, 2), nn.Embedding(300, 64)), x)
    grid = affine(-4, 5)
    lowered = inference(model).lowered({"layers.0.weight": grid, "embedding": grid})
    (result,) = run(write(lowered), x)
    assert torch.equal(lowered(x), grid.round(model.module.layers[0].weight)[x].transpose(1, 2))
    torch.testing.assert_close(result, lowered(x))
    assert len(write(lowered)) < 300 * 64 + 1000
    with pytest.raises(RecipeError, match="does not fit an embedding"):
        inference(model).lowered({"layers.0.weight": grid, "embedding": affine(-3, 5)})


def test_a_saved_network_still_rounds_as_it_comes(tmp_path):
    x = words()
    small = quantized(built(Encoder, x))
    save(small, tmp_path)
    again = load(Encoder(), tmp_path, small.example)
    assert again.grids == small.grids
    assert DYNAMIC in again.grids.values()
    assert write(lower(again)) == write(lower(small))


def test_the_gate_that_files_pass_takes_it_for_quantized():
    x = words()
    small = quantized(built(Encoder, x))
    assert (small.number_format, small.weight_bits) == ("int8", max(8, WEIGHT_BITS))
    lowered = lower(small)
    ours, theirs = (agreement.outputs(each, [(x,)]) for each in (lowered, host.load(write(lowered), 1)))
    assert agreement.Gate(quantized=True).lets(agreement.compare(ours, theirs))


def test_fewer_bits_are_stored_in_fewer_bytes():
    x = words()
    sizes = [len(write(lower(quantized(built(Encoder, x), weight_bits=bits)))) for bits in (8, 4)]
    weights = sum(tensor.numel() for name, tensor in Encoder().state_dict().items() if "weight" in name) - 20 * 128
    assert sizes[0] - sizes[1] == pytest.approx(weights / 2, rel=0.05)


@pytest.mark.parametrize(("device", "bits"), [("host", WEIGHT_BITS), ("stm32f405", None)])
def test_it_is_offered_to_onnx_runtime_alone(device, bits):
    offered = list(QuantizeDynamic.options(built(Encoder, words()), find_device(device)))
    assert offered == ([] if bits is None else [QuantizeDynamic(bits)])


def test_a_file_holds_integers_alone_of_what_is_multiplied():
    content = write(lower(quantized(built(Encoder, words()))))
    held = onnx.load_from_string(content).graph.initializer
    tables = [each for each in held if len(each.dims) > 1 and min(each.dims) > 1]
    assert len(tables) == 7
    assert {each.data_type for each in tables} == {onnx.TensorProto.INT8}
