import pytest
import torch
from quantizable_networks import NETWORKS, build, quantized
from torch import nn
from torch.nn import functional as F

from haversack.errors import RecipeError
from haversack.graph.quantized import inference, insert, layers, left_float, lower, output_step, pairs, points
from haversack.grid import Grid, affine
from haversack.model import Model


class Does(nn.Module):
    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x):
        return self.function(x, *self.layers)


def model_of(function, *layers, shape=(3, 8, 8)) -> tuple[Model, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(32, *shape)
    return Model(Does(function, *layers).eval(), (x[:1],)), x


def conv(into=3, out=4) -> nn.Module:
    return nn.Conv2d(into, out, 3, padding=1)


def grids_around(graph, name: str) -> tuple[tuple, tuple]:
    """The grids before and after an operation that runs between a dequantize and a quantize."""
    node = next(node for node in graph.graph.nodes if node.name == name)
    (after,) = node.users
    assert node.args[0].target is pairs.dequantize_per_tensor.default
    assert after.target is pairs.quantize_per_tensor.default
    return node.args[0].args[1:], after.args[1:]


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_rounding_every_build_of_network_leaves_its_outputs_close(name, activations):
    model, x = build(name)
    expected = model.module(x)
    lowered = lower(quantized(model, x, activations=activations))
    for batch in (x, x[:1], x[:5]):
        noise = lowered(batch) - expected[: len(batch)]
        assert 20 < 10 * torch.log10((expected[: len(batch)] ** 2).mean() / (noise**2).mean()) < 80


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_the_inference_graph_computes_what_the_network_computes(name):
    model, x = build(name)
    torch.testing.assert_close(inference(model)(x), model.module(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "pick",
    [
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.interpolate(x, scale_factor=2),
        lambda x: x.amax((2, 3)),
    ],
    ids=["max_pool2d", "upsample_nearest2d", "amax"],
)
def test_what_picks_values_writes_the_grid_that_it_reads(pick):
    model, x = model_of(lambda x, layer: pick(layer(x)), conv())
    lowered = lower(quantized(model, x, "mse"))
    target = next(n.name for n in lowered.graph.nodes if str(n.target).startswith(("aten.max", "aten.up", "aten.amax")))
    before, after = grids_around(lowered, target)
    assert before == after
    assert output_step(lowered) == before[0]


@pytest.mark.parametrize(
    "move",
    [
        lambda x: x.flatten(1),
        lambda x: x.view(x.shape[0], -1),
        lambda x: F.pad(x[:, :, ::2], (0, 0, 1, 2)),
        lambda x: x.permute(0, 2, 3, 1)[:, 0],
        lambda x: torch.cat(x.chunk(2, 1)[::-1], 1).squeeze(1),
    ],
    ids=["flatten", "view", "slice and pad", "permute and select", "chunk"],
)
@torch.no_grad()
def test_what_moves_values_moves_integers(move):
    model, x = model_of(lambda x, layer: move(layer(x)), conv())
    small = quantized(model, x)
    lowered = lower(small)
    between = [n for n in lowered.graph.nodes if str(n.target).startswith("aten.") and "conv" not in n.name]
    moved = [n for n in between if "cat" not in n.name and "sym_size" not in n.name]
    values = [n.meta["val"] for n in moved]
    assert all((v[0] if isinstance(v, list | tuple) else v).dtype == torch.uint8 for v in values)
    torch.testing.assert_close(lowered(x), model.module(x), atol=0.05, rtol=0)


def test_padding_with_a_number_pads_with_its_integer():
    model, x = model_of(lambda x, layer: F.pad(layer(x), (1, 1), value=0.5), conv())
    border = lower(quantized(model, x))(x)[..., 0]
    assert (border - 0.5).abs().max() < 0.02


@pytest.mark.parametrize(
    "clamp", [F.relu, F.relu6, lambda x: x.clamp(0, 2), lambda x: x.clamp_min(0), lambda x: F.hardtanh(x, 0, 1)]
)
def test_a_clamp_at_zero_shares_the_grid_with_the_layer_before_it(clamp):
    model, _ = model_of(lambda x, layer: clamp(layer(x)), conv())
    assert len(points(inference(model))) == 2


def test_a_clamp_that_does_not_begin_at_zero_has_a_grid_of_its_own_reader():
    model, _ = model_of(lambda x, first, second: second(F.hardtanh(first(x))), conv(), conv(4))
    assert points(inference(model)) == ("x", "conv2d", "hardtanh", "conv2d_1")


def test_a_value_that_two_read_keeps_what_a_clamp_would_cut():
    model, _ = model_of(lambda x, first: F.relu(y := first(x)) + y, conv())
    assert points(inference(model)) == ("x", "conv2d", "relu", "add")


def test_a_clamp_behind_a_max_pool_moves_before_it():
    model, x = model_of(lambda x, layer: F.relu(F.max_pool2d(F.max_pool2d(layer(x), 2), 2)), conv())
    graph = inference(model)
    order = [n.target for n in graph.graph.nodes if n.op == "call_function"]
    assert [str(target).split(".")[1] for target in order] == ["conv2d", "relu", "max_pool2d", "max_pool2d"]
    assert torch.equal(graph(x), model.module(x))


def test_what_a_concatenation_reads_and_writes_lies_on_one_grid_that_spans_it_all():
    model, x = model_of(lambda x, first, second: torch.cat([first(x), 5 * second(x)], 1), conv(), conv())
    grids = quantized(model, x).grids
    assert grids["conv2d"] == grids["mul"] == grids["cat"]
    with torch.no_grad():
        result = model.module(x)
    assert grids["cat"].high - grids["cat"].low == pytest.approx(float(result.max() - result.min()), rel=0.02)


@pytest.mark.parametrize(
    ("function", "kept"),
    [
        (lambda x, layer: layer(x) + 1.0, "aten.add.Tensor"),
        (lambda x, layer: torch.add(layer(x), x[:, :1], alpha=2), "aten.add.Tensor"),
        (lambda x, layer: layer(x) * (x[:, :1] > -9), "aten.mul.Tensor"),
        (lambda x, layer: F.conv2d(layer(x), x[:2, :1].expand(2, 4, 8, 8)), "aten.conv2d.default"),
        (
            lambda x, layer: torch.cat([layer(x), layer.bias.view(1, 4, 1, 1).expand(x.shape[0], 4, 8, 8)], 1),
            "aten.cat.default",
        ),
    ],
    ids=["number", "factor", "mask", "computed weight", "constant"],
)
@torch.no_grad()
def test_operations_without_an_integer_form_stay_float_and_are_named(function, kept):
    x = torch.randn(32, 3, 8, 8)
    model = Model(Does(function, conv()).eval(), (x[:2],))
    assert kept in left_float(inference(model))
    small = quantized(model, x)
    torch.testing.assert_close(lower(small)(x), model.module(x), atol=0.2, rtol=0.1)


def test_attention_stays_float_between_integer_linear_layers():
    model, x = build("transformer")
    graph = inference(model)
    assert any("attention" in name for name in left_float(graph))
    assert not any("linear" in name for name in left_float(graph))
    small = quantized(model, x)
    assert len(list(layers(graph))) == sum(grid.axis == 0 for grid in small.grids.values())


def test_a_grid_for_a_value_that_is_not_there_is_refused():
    model, _ = model_of(lambda x, layer: layer(x), conv())
    with pytest.raises(RecipeError, match="no value called lost"):
        insert(inference(model), {"lost": affine(-1, 1)})


def test_inserting_leaves_the_float_graph_alone():
    model, x = model_of(lambda x, layer: F.relu(layer(x)), conv())
    graph = inference(model)
    before = graph(x)
    insert(graph, quantized(model, x).grids)
    assert torch.equal(graph(x), before)


def test_the_output_step_is_that_of_its_grid_and_none_where_it_is_float():
    model, x = model_of(lambda x, layer: F.relu(layer(x)).flatten(1), conv())
    small = quantized(model, x)
    assert output_step(lower(small)) == small.grids["relu"].scale[0]
    assert output_step(lower(model)) is None
    model, x = model_of(lambda x, layer: torch.exp(layer(x)), conv())
    assert output_step(lower(quantized(model, x))) is None


def test_a_bias_is_stored_in_steps_of_input_times_weight():
    model, x = model_of(lambda x, layer: layer(x), conv())
    small = quantized(model, x)
    lowered = lower(small)
    stored = {name: value for name, value in vars(lowered).get("_buffers", {}).items() if "bias_integers" in name}
    tensors = dict(lowered.named_buffers()) | stored | dict(lowered.named_parameters())
    (integers,) = (tensor for name, tensor in tensors.items() if "bias_integers" in name)
    steps = torch.tensor(small.grids["x"].scale) * torch.tensor(small.grids["layers.0.weight"].scale)
    assert integers.dtype == torch.int32
    expected = Grid(32, True, tuple(steps.tolist()), (0,) * 4, 0).quantize(small.module.layers[0].bias)
    assert torch.equal(integers, expected)
