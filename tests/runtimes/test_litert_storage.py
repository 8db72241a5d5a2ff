"""Weights of 4 bits in .tflite files, and how large whole files are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from integer_graphs import Draft, every_layer, litert, micro, reference
from litert_files import images
from quantizable_networks import task_on
from torch import fx, nn

from haversack.errors import ExportError
from haversack.graph.inference import lower
from haversack.integer.passes import packed
from haversack.model import Model
from haversack.progress import shown_by
from haversack.runtimes.tflite import LITERT, MICRO
from haversack.runtimes.tflite.read import read
from haversack.runtimes.tflite.write import write
from haversack.techniques.quantize_weights import QuantizeWeights


class Listener:
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def unpacked(data: np.ndarray, count: int) -> np.ndarray:
    low, high = data.astype(np.int8) << 4 >> 4, data.view(np.int8) >> 4
    return np.stack([low, high], 1).reshape(-1)[:count]


@settings(max_examples=50)
@given(arrays.arrays(np.int8, st.tuples(st.integers(0, 5), st.integers(1, 7)), elements=st.integers(-8, 7)))
def test_two_integers_share_a_byte_and_come_back(integers):
    data = packed(integers)
    assert data.dtype == np.uint8
    assert data.size == -(-integers.size // 2)
    assert np.array_equal(unpacked(data, integers.size), integers.reshape(-1))


def test_the_first_of_two_integers_is_in_the_low_half():
    assert packed(np.array([1, -1, 7], np.int8)).tolist() == [0xF1, 0x07]


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_tflite_micro_computes_the_same_bytes_with_weights_of_few_bits(bits):
    draft, graph = every_layer(bits=bits)
    rows = draft.rows()
    assert np.array_equal(micro(write(graph, micro=True), rows), reference(graph, rows))
    assert np.abs(litert(write(graph), rows).astype(int) - reference(graph, rows)).max() <= 2


def largest_buffer(content):
    import tflite

    model = tflite.Model.GetRootAs(content)
    return max(model.Buffers(index).DataLength() for index in range(model.BuffersLength()))


def convolution(bits, dtype="int8"):
    draft = Draft((1, 5, 5, 32), dtype)
    inputs = [draft.input, *draft.weights((64, 3, 3, 32), 0, bits)]
    draft.then("CONV_2D", inputs, (1, 5, 5, 64), "output", stride=(1, 1), padding="SAME")
    return draft.graph("output")


def test_a_file_of_4_bits_is_half_a_file_of_8():
    assert len(write(convolution(8))) - len(write(convolution(4))) == 64 * 9 * 32 // 2


def test_what_cannot_be_read_in_4_bits_takes_a_byte_and_is_said():
    listener = Listener()
    with shown_by(listener):
        content = write(convolution(4, "int16"))
    assert len(content) > 64 * 9 * 32
    assert listener.lines == [
        "LiteRT cannot read these weights in 4 bits, so each takes a byte in the .tflite file: net.0."
    ]


@pytest.mark.parametrize(("per_channel", "said"), [(True, True), (False, False)])
def test_tflite_micro_reads_linear_layers_in_4_bits_with_one_step_only(per_channel, said):
    draft, listener = Draft((1, 64)), Listener()
    inputs = [draft.input, *draft.weights((32, 64), 0, 4, per_channel=per_channel)]
    draft.then("FULLY_CONNECTED", inputs, (1, 32), "output")
    graph, rows = draft.graph("output"), draft.rows()
    with shown_by(listener):
        content = write(graph, micro=True)
    assert np.array_equal(micro(content, rows), reference(graph, rows))
    assert bool(listener.lines) == said
    weights = 32 * 64
    assert largest_buffer(content) == (weights if said else weights // 2)
    assert largest_buffer(write(graph)) == weights // 2


def weights_alone(step: QuantizeWeights | None) -> fx.GraphModule:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, groups=32), nn.Flatten())
    model = Model(nn.Sequential(*layers, nn.Linear(32 * 16, 24)).eval(), (images(1)[..., :6, :6],))
    return lower(step.apply(model, task_on(model.example[0])) if step else model)


@pytest.mark.parametrize(("bits", "share"), [(16, 1 / 2), (8, 1 / 4), (4, 1 / 8)])
@torch.no_grad()
def test_weights_alone_take_their_bits_in_litert_and_are_computed_in_float(bits, share):
    lowered, x = weights_alone(QuantizeWeights(bits)), images(3)[..., :6, :6]
    content = LITERT.write(lowered)
    whole = len(LITERT.write(weights_alone(None)))
    assert len(content) < whole * share + 3000
    rows = list(x.permute(0, 2, 3, 1).unsqueeze(1).numpy())
    assert np.allclose(litert(content, rows)[:, 0], lowered(x), atol=1e-5)


def test_weights_of_which_one_number_needs_float32_stay_as_they_are():
    draft = Draft((1, 64), "float32")
    weight = np.ones((32, 64), np.float32)
    weight[31, 63] = 1 + 2**-20
    draft.then("FULLY_CONNECTED", [draft.input, draft.constant(weight)], (1, 32), "output")
    graph = draft.graph("output")
    assert largest_buffer(write(graph)) == weight.nbytes
    rows = draft.rows()
    assert np.allclose(litert(write(graph), rows)[:, 0], np.stack(rows)[:, 0] @ weight.T, atol=1e-4)


@pytest.mark.parametrize("bits", [8, 4])
def test_tflite_micro_is_refused_weights_alone_whose_channels_it_would_give_one_step(bits):
    with pytest.raises(
        ExportError, match=r"0: LiteRT for Microcontrollers cannot compute with integer weights and real"
    ):
        MICRO.write(weights_alone(QuantizeWeights(bits)))


@torch.no_grad()
def test_float16_weights_are_float32_to_tflite_micro_and_that_is_said():
    lowered, x, listener = weights_alone(QuantizeWeights(16)), images(3)[..., :6, :6], Listener()
    with shown_by(listener):
        content = MICRO.write(lowered)
    assert listener.lines == ["tflite-micro has no float16, so each weight takes four bytes in the .tflite file."]
    rows = list(x.permute(0, 2, 3, 1).unsqueeze(1).numpy())
    assert np.allclose(micro(content, rows)[:, 0], lowered(x), atol=1e-5)


@pytest.mark.parametrize("runtime", [LITERT, MICRO])
@pytest.mark.parametrize(("group", "layer"), [(9, 0), (32, 4)])
def test_groups_of_weights_are_refused_by_the_layer_that_has_them(group, layer, runtime):
    with pytest.raises(
        ExportError, match=rf"layer {layer}: TFLite's weights have one step a channel, and none for each"
    ):
        runtime.write(weights_alone(QuantizeWeights(4, group)))


DATA = Path(__file__).parents[3] / "shared" / "data" / "mlperf-tiny"


@pytest.mark.skipif(not DATA.is_dir(), reason="the MLPerf Tiny files are not there")
@pytest.mark.parametrize("name", ["ic_resnet8_int8", "kws_ref_model_int8", "vww_96_int8", "ad01_int8"])
def test_a_reference_file_s_graph_is_written_in_fewer_bytes_and_computes_the_same(name):
    content = (DATA / f"{name}.tflite").read_bytes()
    graph = read(content)
    ours = write(graph)
    assert len(ours) < len(content)
    shape = graph.values[graph.inputs[0]].shape
    rows = list(np.random.default_rng(0).integers(-128, 128, (2, *shape), dtype=np.int8))
    assert np.array_equal(micro(ours, rows), micro(content, rows))
