import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_files import folded, run
from torch import nn

from haversack.errors import ExportError
from haversack.graph.fold import fold
from haversack.graph.trace import trace
from haversack.grid import symmetric
from haversack.runtimes.onnx import file
from haversack.runtimes.onnx.graph import OnnxGraph
from haversack.runtimes.onnx.write import write


def written(weight: torch.Tensor) -> tuple[bytes, nn.Linear]:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False).eval()
    with torch.no_grad():
        layer.weight.copy_(weight)
    return write(folded(layer, torch.randn(1, weight.shape[1]))), layer


def test_numbers_that_float16_holds_exactly_take_two_bytes_and_stay_what_they_are():
    weight = torch.randn(64, 63).half().float()
    content, layer = written(weight)
    assert weight.numel() * 2 < len(content) < weight.numel() * 2 + 400
    x = torch.randn(3, 63)
    torch.testing.assert_close(run(content, x)[0], layer(x).detach())


def test_other_numbers_stay_float32():
    weight = torch.randn(64, 63)
    weight[5, 7] = 1 + 2**-20
    assert len(written(weight)[0]) > weight.numel() * 4


@settings(max_examples=25)
@given(count=st.integers(1, 300), rows=st.integers(1, 70), columns=st.integers(1, 70), seed=st.integers(0, 99))
def test_a_codebook_gives_exactly_its_numbers(count, rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    codebook = torch.randn(count, generator=generator)
    weight = codebook[torch.randint(0, count, (rows, columns), generator=generator)]
    content, _ = written(weight)
    (read,) = run(content, torch.eye(columns))
    assert torch.equal(read.T, weight)


@pytest.mark.parametrize(("count", "bits"), [(2, 4), (16, 4), (17, 8), (256, 8)])
def test_few_different_numbers_take_as_many_bits_as_an_index_needs(count, bits):
    weight = torch.randn(count)[torch.arange(256 * 128).remainder(count)].view(256, 128)
    content, _ = written(weight)
    assert len(content) < weight.numel() * bits // 8 + count * 4 + 1000


@pytest.mark.parametrize("shape", [(512,), (513,), (27, 19), (3, 5, 7, 11)])
def test_integers_of_4_bits_come_back_two_a_byte_whether_they_are_odd_or_even(shape):
    graph, weight = OnnxGraph(), torch.arange(torch.Size(shape).numel()).remainder(16).sub(8).to(torch.int8).view(shape)
    graph.rename({graph.node("Cast", graph.constant(weight), dtype=torch.int32, to=6): "output"})
    ends = [onnx.helper.make_tensor_value_info("output", onnx.TensorProto.INT32, shape)]
    content = graph.content([], ends)
    assert torch.equal(run(content)[0], weight.int())
    assert max(each.dims[0] for each in onnx.load_from_string(content).graph.initializer) == -(-weight.numel() // 2)


@pytest.mark.parametrize(("bits", "group"), [(4, 16), (4, 48), (8, 16), (8, 48)])
def test_weights_alone_on_grids_of_groups_are_computed_in_float(bits, group):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(16, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 7)).eval()
    x = torch.randn(2, 16, 8, 8)
    graph = fold(trace(network, (x[:1],)))
    limits = network[0].weight.detach().reshape(-1, group).abs().amax(1)
    lowered = graph.lowered({"0.weight": symmetric(limits, axis=0, bits=bits)})
    assert {tuple(node.meta["val"].shape) for node in lowered.graph.nodes if "reshape" in node.name} == {(8, 16, 3, 3)}
    content = write(lowered)
    torch.testing.assert_close(run(content, x)[0], lowered(x).detach(), rtol=1e-4, atol=1e-5)
    assert not {"DequantizeLinear"} & {node.op_type for node in onnx.load_from_string(content).graph.node}
    weights = network[0].weight.numel()
    sizes = {(each.data_type, len(each.raw_data)) for each in onnx.load_from_string(content).graph.initializer}
    assert ((onnx.TensorProto.UINT8, weights // 2) if bits == 4 else (onnx.TensorProto.INT8, weights)) in sizes


def test_a_file_has_the_bytes_that_protobuf_gives_for_it():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 200), nn.Linear(200, 7)]
    network, x = nn.Sequential(*layers).eval(), torch.randn(2, 3, 8, 8)
    content = write(folded(network, x))
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert model.SerializeToString() == content


def test_a_file_that_no_reader_would_take_is_refused_before_it_is_written():
    weight = torch.zeros(1).expand(1 << 29)
    with pytest.raises(ExportError, match=r"2\.1 GB"):
        file.content([], [], [], {"w": weight})
