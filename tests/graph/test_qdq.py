import pytest
import torch
from quantizable_networks import convolution, model_of, quantized
from torch import nn
from torch.nn import functional as F

from haversack.errors import RecipeError
from haversack.graph.inference import inference, lower
from haversack.graph.pairs import output_step, pairs
from haversack.grid import Grid, affine
from haversack.model import Model


def grids_around(graph, name: str) -> tuple[tuple, tuple]:
    """The grids before and after an operation that runs between a dequantize and a quantize."""
    node = next(node for node in graph.graph.nodes if node.name == name)
    (after,) = node.users
    assert node.args[0].target is pairs.dequantize_per_tensor.default
    assert after.target is pairs.quantize_per_tensor.default
    return node.args[0].args[1:], after.args[1:]


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
    model, x = model_of(lambda x, layer: pick(layer(x)), convolution())
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
    model, x = model_of(lambda x, layer: move(layer(x)), convolution())
    small = quantized(model, x)
    lowered = lower(small)
    between = [n for n in lowered.graph.nodes if str(n.target).startswith("aten.") and "conv" not in n.name]
    moved = [n for n in between if "cat" not in n.name and "sym_size" not in n.name]
    values = [n.meta["val"] for n in moved]
    assert all((v[0] if isinstance(v, list | tuple) else v).dtype == torch.uint8 for v in values)
    torch.testing.assert_close(lowered(x), model.module(x), atol=0.05, rtol=0)


def test_padding_with_a_number_pads_with_its_integer():
    model, x = model_of(lambda x, layer: F.pad(layer(x), (1, 1), value=0.5), convolution())
    border = lower(quantized(model, x))(x)[..., 0]
    assert (border - 0.5).abs().max() < 0.02


def test_a_grid_for_a_value_that_is_not_there_is_refused():
    model, _ = model_of(lambda x, layer: layer(x), convolution())
    with pytest.raises(RecipeError, match="no value called lost"):
        inference(model).lowered({"lost": affine(-1, 1)})


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("0.weight", Grid(8, True, (0.1,) * 4, (0,) * 4, 5)),
        ("0.weight", Grid(8, True, (0.1,) * 4, (0,) * 4, 1)),
        ("0.weight", Grid(8, True, (0.1,) * 2, (0,) * 2, 0)),
        ("0.weight", Grid(8, True, (0.1,), (0,))),
        ("conv2d", Grid(8, True, (0.1,) * 4, (0,) * 4, 1)),
    ],
)
def test_a_grid_that_does_not_fit_is_refused_by_name(name, grid):
    model = Model(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), (torch.randn(1, 3, 8, 8),))
    with pytest.raises(RecipeError, match=rf"^{name}: a grid of .* does not fit a"):
        inference(model).lowered({name: grid})


def test_inserting_leaves_the_float_graph_alone():
    model, x = model_of(lambda x, layer: F.relu(layer(x)), convolution())
    graph = inference(model)
    before = graph(x)
    graph.lowered(quantized(model, x).grids)
    assert torch.equal(graph(x), before)


def test_a_bias_is_stored_in_steps_of_input_times_weight():
    model, x = model_of(lambda x, layer: layer(x), convolution())
    small = quantized(model, x)
    lowered = lower(small)
    stored = {name: value for name, value in vars(lowered).get("_buffers", {}).items() if "bias_integers" in name}
    tensors = dict(lowered.named_buffers()) | stored | dict(lowered.named_parameters())
    (integers,) = (tensor for name, tensor in tensors.items() if "bias_integers" in name)
    steps = torch.tensor(small.grids["x"].scale) * torch.tensor(small.grids["layers.0.weight"].scale)
    assert integers.dtype == torch.int32
    expected = Grid(32, True, tuple(steps.tolist()), (0,) * 4, 0).quantize(small.module.layers[0].bias)
    assert torch.equal(integers, expected)
