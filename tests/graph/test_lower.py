import pytest
import torch
from quantizable_networks import NETWORKS, build, convolution, model_of, quantized
from torch.nn import functional as F

from haversack.graph.inference import lower
from haversack.graph.pairs import output_step


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


def test_the_output_step_is_that_of_its_grid_and_none_where_it_is_float():
    model, x = model_of(lambda x, layer: F.relu(layer(x)).flatten(1), convolution())
    small = quantized(model, x)
    assert output_step(lower(small)) == small.grids["relu"].scale[0]
    assert output_step(lower(model)) is None
    model, x = model_of(lambda x, layer: torch.exp(layer(x)), convolution())
    assert output_step(lower(quantized(model, x))) is None
