from dataclasses import replace

import numpy as np
import pytest
import torch
from quantizable_networks import NETWORKS, build, quantized, task_on
from torch import nn

from haversack.coded import container
from haversack.coded.tensors import Codebook, Integers, Raw
from haversack.errors import CodedError
from haversack.graph.inference import inference, lower
from haversack.graph.write_back import written_back
from haversack.model import Model
from haversack.runtimes import coded
from haversack.techniques.cluster_weights import ClusterWeights
from haversack.techniques.quantize_weights import QuantizeWeights


def pruned(model: Model) -> Model:
    """Nine weights of ten zero, some of them negative zeros, as masks by multiplication leave them."""
    network = inference(model)
    large = {name: each for name, each in network.tensors.items() if each.dim() > 1}
    sparse = {name: each * (each.abs() > each.abs().quantile(0.9)) for name, each in large.items()}
    return written_back(model, network, sparse)


MADE = {
    "float": lambda model, x: model,
    "sparse": lambda model, x: pruned(model),
    "half": lambda model, x: QuantizeWeights(16).apply(model, task_on(x)),
    "weights in 8 bits": lambda model, x: QuantizeWeights(8).apply(model, task_on(x)),
    "weights in 4 bits of groups": lambda model, x: QuantizeWeights(4, 8).apply(model, task_on(x)),
    "8 bits": quantized,
    "4 bits": lambda model, x: quantized(model, x, weight_bits=4, rounding="gptq"),
    "codebooks": lambda model, x: ClusterWeights(2, epochs=0).apply(model, task_on(x)),
    "sparse codebooks": lambda model, x: ClusterWeights(2, epochs=0).apply(pruned(model), task_on(x)),
}


def fresh(name: str, written: Model) -> Model:
    """The network with other weights; the grids of values between layers are code, and come with it."""
    torch.manual_seed(1)
    between = {key: grid for key, grid in written.grids.items() if grid.axis is None}
    return Model(NETWORKS[name][0]().eval(), written.example, grids=between)


@pytest.mark.parametrize(
    ("name", "how"), [*(("hard excite", how) for how in MADE), ("u-net", "8 bits"), ("autoencoder", "codebooks")]
)
def test_a_restored_network_computes_the_same_to_the_bit(name, how):
    model, x = build(name)
    written = MADE[how](model, x)
    content = coded.write(written)
    restored = coded.restored(content, fresh(name, written))
    with torch.no_grad():
        assert torch.equal(lower(restored)(x), lower(written)(x))
    assert restored.grids == written.grids
    assert coded.write(restored) == content


def test_each_weight_is_in_the_form_that_techniques_gave_it():
    model, x = build("hard excite")
    some = ("float", "sparse", "4 bits", "codebooks")
    forms = {how: container.read(coded.write(MADE[how](model, x)))["stem.weight"] for how in some}
    assert isinstance(forms["float"], Raw)
    assert isinstance(forms["4 bits"], Integers)
    assert forms["4 bits"].bits == 4
    assert isinstance(forms["codebooks"], Codebook)
    assert not np.signbit(forms["sparse"].real[forms["sparse"].real == 0]).any()


def test_reading_gives_the_folded_network_s_numbers():
    model, x = build("hard excite")
    written = quantized(model, x)
    network, found = inference(written), coded.read(coded.write(written))
    for name, values in found.items():
        grid = written.grids.get(name)
        wanted = network.tensor(name)
        assert np.array_equal(values, (grid.round(wanted) if grid else wanted).detach().numpy())


def test_pruned_and_clustered_weights_are_many_times_smaller():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 64))
    model, x = Model(network.eval(), (torch.randn(1, 256),)), torch.randn(8, 256)
    small = coded.write(MADE["sparse codebooks"](model, x))
    assert len(small) < len(coded.write(model)) / 12


def test_a_file_of_another_network_is_refused():
    model, _ = build("hard excite")
    other, _ = build("autoencoder")
    with pytest.raises(CodedError, match="of another network"):
        coded.restored(coded.write(model), other)


def test_a_tensor_that_the_network_computes_is_restored_only_where_it_is_the_same():
    model, _ = build("dense")
    content = coded.write(model)
    assert coded.write(coded.restored(content, model)) == content
    with pytest.raises(CodedError, match="computes or shares"):
        coded.restored(content, replace(fresh("dense", model)))
