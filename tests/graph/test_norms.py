import pytest
import torch
from prunable_networks import NETWORKS, build
from torch import nn

from haversack.graph.inference import inference
from haversack.graph.write_back import with_measured_norms, written_back_to_train
from haversack.model import Model


def test_the_network_computes_what_it_did_and_does_so_in_training_too() -> None:
    module, x = build("padded residual")
    x = torch.cat([x, torch.randn(30, *x.shape[1:], generator=torch.Generator().manual_seed(0))])
    measured = with_measured_norms(module, [(x[:10],), (x[10:],)])
    with torch.no_grad():
        wanted = module(x)
        torch.testing.assert_close(measured(x), wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(measured.train()(x), wanted, rtol=1e-3, atol=1e-3)
        assert (module.train()(x) - wanted).abs().max() > 0.1


def test_norms_without_scales_and_norms_of_nothing_stay_as_they_are() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3, track_running_stats=False)).eval()
    measured = with_measured_norms(module, [(torch.randn(4, 3, 5, 5) + 2.0,)])
    assert torch.equal(measured[0].running_mean, torch.zeros(3))


def test_a_channel_that_is_constant_stays_finite() -> None:
    module = nn.Sequential(nn.BatchNorm2d(2)).eval()
    measured = with_measured_norms(module, [(torch.ones(4, 2, 3, 3),)])
    x = torch.randn(4, 2, 3, 3)
    torch.testing.assert_close(measured(torch.ones(1, 2, 1, 1)), module(torch.ones(1, 2, 1, 1)))
    assert measured(x).isfinite().all()


@pytest.mark.parametrize("name", NETWORKS)
def test_settled_weights_are_those_that_were_chosen_and_kernels_keep_their_size(name: str) -> None:
    module, x = build(name)
    x = torch.randn(16, *x.shape[1:], generator=torch.Generator().manual_seed(0))
    model = Model(module, (x[:1],))
    network = inference(model)
    chosen = {each: network.tensor(each).detach() * 1.25 for each in network.writable}
    settled = written_back_to_train(model, inference(model), chosen, [(x,)])
    again = inference(settled)
    for each, tensor in chosen.items():
        torch.testing.assert_close(again.tensor(each), tensor, rtol=1e-4, atol=1e-5)
    kernels = {each: tensor for each, tensor in module.named_parameters() if tensor.dim() > 1 and each in chosen}
    for each, tensor in settled.module.named_parameters():
        if each in kernels:
            torch.testing.assert_close(tensor, kernels[each] * 1.25, rtol=1e-4, atol=1e-5)
