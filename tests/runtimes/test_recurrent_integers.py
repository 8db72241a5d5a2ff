"""Recurrent layers whose matrices are stored as integers, beside torch's own on the numbers that these stand for."""

import copy

import onnx
import pytest
import torch
from heard import Heard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_files import WEIGHT_BITS, as_run, run
from quantizable_networks import task_on
from sweep import count
from torch import Tensor, nn

from haversack.errors import HaversackError, NothingChangedError
from haversack.graph.inference import inference, lower
from haversack.model import Model
from haversack.progress import shown_by
from haversack.proving.blame import Counterparts
from haversack.runtimes import coded
from haversack.runtimes.onnx.write import write
from haversack.surgery.save import load, save
from haversack.techniques.quantize_dynamic import QuantizeDynamic
from haversack.techniques.quantize_static import QuantizeStatic
from haversack.techniques.quantize_training import QuantizeTraining
from haversack.techniques.quantize_weights import QuantizeWeights

KINDS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
STEPS = {
    "weights": QuantizeWeights(8),
    "4-bit weights": QuantizeWeights(4, 8),
    "static": QuantizeStatic(8, "int8", "min_max"),
    "dynamic": QuantizeDynamic(WEIGHT_BITS),
}


class Sequences(nn.Module):
    """A recurrent layer, and perhaps a head on its last outputs."""

    def __init__(self, kind, inputs: int = 8, units: int = 12, *, head: bool = True, **settings) -> None:
        super().__init__()
        self.layer = kind(inputs, units, batch_first=True, **settings)
        width = units * (1 + self.layer.bidirectional)
        self.head = nn.Linear(width, 5) if head else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


def built(kind, *, seed: int = 0, batch: int = 4, length: int = 7, inputs: int = 8, **settings) -> tuple[Model, Tensor]:
    torch.manual_seed(seed)
    x = torch.randn(batch, length, inputs)
    return Model(Sequences(kind, inputs, **settings).eval(), (x[:1],)), x


def matrices(model: Model) -> dict[str, Tensor]:
    return {name: weight for name, weight in model.module.named_parameters() if name.startswith("layer.weight")}


def with_rounded_matrices(model: Model) -> nn.Module:
    """torch's own layers on the numbers that the integers stand for."""
    module = copy.deepcopy(model.module)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name in model.grids:
                rows = weight.reshape(len(model.grids[name].scale), -1)
                weight.copy_(model.grids[name].round(rows).view_as(weight))
    return module


@settings(max_examples=count(8, 200), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(list(KINDS)),
    inputs=st.sampled_from([1, 3, 8]),
    units=st.integers(1, 20),
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    bias=st.booleans(),
    length=st.integers(1, 6),
)
@torch.no_grad()
def test_a_file_computes_what_torch_does_on_the_rounded_matrices(
    kind, inputs, units, layers, bidirectional, bias, length
):
    model, x = built(
        KINDS[kind], length=length, inputs=inputs, units=units,
        num_layers=layers, bidirectional=bidirectional, bias=bias,
    )  # fmt: skip
    packed = QuantizeWeights(8).apply(model, task_on(x))
    (found,) = run(write(lower(packed)), x)
    torch.testing.assert_close(found, with_rounded_matrices(packed)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("step", [*STEPS.values(), QuantizeTraining(epochs=0)], ids=[*STEPS, "training"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_step_stores_all_matrices_as_integers(step, kind):
    model, x = built(KINDS[kind], batch=32, units=32, num_layers=2, bidirectional=True)
    packed = step.apply(model, task_on(x))
    assert matrices(packed).keys() <= packed.grids.keys()
    content = write(lower(packed))
    numbers = sum(weight.numel() for weight in matrices(packed).values())
    held = onnx.load_from_string(content).graph.initializer
    floats = sum(len(each.raw_data) for each in held if each.data_type == onnx.TensorProto.FLOAT)
    assert floats < numbers
    assert len(write(lower(model))) - len(content) > 2.5 * numbers


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_file_computes_what_its_graph_does(step, kind):
    model, x = built(KINDS[kind], batch=32, bidirectional=True)
    lowered = lower(step.apply(model, task_on(x)))
    (found,) = run(write(lowered), x)
    torch.testing.assert_close(found, lowered(x), rtol=0, atol=0.05 * float(lowered(x).abs().max()))
    torch.testing.assert_close(lowered(x), model.module(x), rtol=0, atol=0.2)


def test_the_runtime_multiplies_out_once_when_it_loads_the_file(tmp_path):
    model, x = built(nn.LSTM, units=32)
    content = write(lower(QuantizeWeights(8).apply(model, task_on(x))))
    left = as_run(content, tmp_path)
    assert left["LSTM"] == 1
    assert left["Cast"] == left["Mul"] == 0


LSTMS = [{}, {"bidirectional": True, "inputs": 32}, {"num_layers": 2, "bidirectional": True, "bias": False}]


@pytest.mark.parametrize("settings_", LSTMS)
@torch.no_grad()
def test_an_lstm_rounded_as_it_comes_is_computed_on_integers_and_its_file_agrees(settings_, tmp_path):
    model, x = built(nn.LSTM, units=32, length=20, **settings_)
    packed = QuantizeDynamic(WEIGHT_BITS).apply(model, task_on(x))
    lowered = lower(packed)
    content, wanted = write(lowered), lowered(x)
    assert as_run(content, tmp_path)["DynamicQuantizeLSTM"] == settings_.get("num_layers", 1)
    (found,) = run(content, x)
    real = with_rounded_matrices(packed)(x)
    # Each step hangs on the one before: what falls the other way between two integers stays within rounding.
    assert float((found - wanted).norm()) < 0.5 * float((wanted - real).norm()) < 0.05 * float(real.norm())


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_a_network_of_only_a_recurrent_layer_is_changed(step):
    model, x = built(nn.GRU, head=False, units=32)
    packed = step.apply(model, task_on(x))
    assert matrices(packed).keys() <= packed.grids.keys()
    assert len(write(lower(packed))) < len(write(lower(model)))


@pytest.mark.parametrize("name", ["static", "dynamic"])
def test_where_all_is_left_float_nothing_changed(name):
    model, x = built(nn.LSTM, head=False)
    step = type(STEPS[name])(leave_float=("layer",))
    with pytest.raises(NothingChangedError):
        step.apply(model, task_on(x))


@pytest.mark.parametrize("name", ["static", "dynamic"])
def test_a_recurrent_layer_stays_float_where_asked(name):
    model, x = built(nn.LSTM)
    packed = type(STEPS[name])(leave_float=("layer",)).apply(model, task_on(x))
    assert packed.grids
    assert not matrices(packed).keys() & packed.grids.keys()


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [("static", "lstm", True), ("static", "gru", True), ("dynamic", "gru", True), ("dynamic", "lstm", False)],
)
def test_it_is_said_which_recurrent_layers_compute_in_float(name, kind, told):
    model, x = built(KINDS[kind])
    heard = Heard()
    with shown_by(heard):
        STEPS[name].apply(model, task_on(x))
    assert any("compute in float32" in line and "layer" in line for line in heard.lines) == told


def test_float16_is_new_to_a_network_of_only_a_recurrent_layer_once():
    model, x = built(nn.LSTM, head=False)
    packed = QuantizeWeights(16).apply(model, task_on(x))
    assert len(write(lower(packed))) < len(write(lower(model)))
    with pytest.raises(NothingChangedError, match="float16 already"):
        QuantizeWeights(16).apply(packed, task_on(x))


def test_dropout_between_layers_is_none_in_evaluation():
    plain, x = built(nn.LSTM, num_layers=2)
    dropped, _ = built(nn.LSTM, num_layers=2, dropout=0.5)
    (one,), (other,) = (run(write(lower(STEPS["static"].apply(model, task_on(x)))), x) for model in (plain, dropped))
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_saved_network_loads_with_its_integers(tmp_path):
    model, x = built(nn.LSTM, num_layers=2, bidirectional=True)
    packed = STEPS["static"].apply(model, task_on(x))
    save(packed, tmp_path / "network")
    loaded = load(copy.deepcopy(model.module), tmp_path / "network", model.example)
    assert write(lower(loaded)) == write(lower(packed))


def test_the_coded_file_holds_the_integers_and_gives_them_back():
    model, x = built(nn.GRU, units=32, num_layers=2)
    packed = STEPS["static"].apply(model, task_on(x))
    content = coded.write(packed)
    assert len(content) < 0.35 * len(coded.write(model))
    for name in matrices(model):
        wanted = packed.grids[name].round(inference(packed).tensor(name))
        torch.testing.assert_close(torch.tensor(coded.read(content)[name]), wanted, rtol=0, atol=0)


@pytest.mark.parametrize(("path", "stays"), [("head", True), ("layer", False)])
def test_blame_leaves_float_what_it_is_told_and_no_other_layer(path, stays):
    model, x = built(nn.LSTM)
    packed = STEPS["static"].apply(model, task_on(x))
    pair = Counterparts(inference(model), inference(packed), packed.grids)
    held = pair.with_layers_float([path]).state_dict()
    assert any(name.startswith("layer.weight_hh_l0_integers") for name in held) == stays


def test_a_projection_is_refused_by_name():
    torch.manual_seed(0)
    x = torch.randn(1, 7, 8)
    model = Model(nn.LSTM(8, 12, batch_first=True, proj_size=4).eval(), (x,))
    with pytest.raises(HaversackError, match="lstm with a projection"):
        write(inference(Model(Outputs(model.module).eval(), (x,))).module)


class Outputs(nn.Module):
    """A layer's outputs, without its last state."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


def test_a_sequence_without_steps_is_refused():
    with pytest.raises(HaversackError):
        inference(Model(Sequences(nn.LSTM).eval(), (torch.randn(1, 0, 8),)))


@pytest.mark.parametrize("name", ["static", "dynamic", "weights"])
def test_matrices_that_are_no_numbers_are_refused(name):
    model, x = built(nn.GRU)
    with torch.no_grad():
        model.module.layer.weight_hh_l0[0, 0] = torch.nan
    with pytest.raises(HaversackError):
        STEPS[name].apply(model, task_on(x))
