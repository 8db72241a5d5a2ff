"""Pruning on any topology: each architecture is pruned, saved, loaded, exported and compared with ONNX Runtime."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent / "architectures"))
import attention
import maps
import mobile
import plain
import refused
import residual
import sequences

from haversack.channels.groups import Groups, channel_groups
from haversack.errors import HaversackError
from haversack.graph.cost import cost
from haversack.graph.inference import lower
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.runtimes import agreement, host
from haversack.runtimes.onnx.write import write
from haversack.surgery.save import load, save
from haversack.task import Task
from haversack.techniques.prune_channels import PruneChannels
from tests.sweep import part

FAMILIES = (plain, residual, mobile, maps, sequences, attention)
NETWORKS = {name: each for family in FAMILIES for name, each in family.NETWORKS.items()}
# One of each kind of topology in the quick tests; what is pinned somewhere and one in four others in the slow ones.
QUICK = {"SE-Net", "ShuffleNetV2", "bidirectional GRU", "ViT", "ViT, whole heads", "spelled flatten", "maxout and GLU"}
# Why networks are refused as a whole, and which layers of others must stay besides their outputs.
REFUSED = {
    "logistic regression": "no channel of this network can go (1: an output of the network)",
    "spelled attention": "the code splits channels: unbind in the network itself",
    "fixed filters": "tied to a dimension of fixed size (conv2d in the network itself)",
    "a branch on values": "torch.export cannot trace the network",
    "sorted channels": "topk in the network itself: how it uses channels is not known",
    "LSTM cell": "the code spells the size: lstm_cell in layer cell",
}
PINNED = {
    # What mixes positions has one channel a position.
    "MLP-Mixer": {"blocks.0.tokens.3": "tied to a dimension of fixed size (add in layer blocks.0)"},
    "gMLP": {
        "blocks.0.mix": "tied to a dimension of fixed size (mul in layer blocks.0)",
        "blocks.0.up": "slid over: conv1d in layer blocks.0.mix",
        "blocks.1.up": "slid over: conv1d in layer blocks.1.mix",
    },
    "ECA-Net": {"0.0": "slid over: conv1d in layer 1.conv"},
    "tied language model": {"out": "the vocabulary: embedding in layer embed"},
    "ResNet option A": {"2.body.1.0": "zero channels that the code adds: pad in layer 2"},
    "cross attention": {"embed": "the code splits channels unevenly: split_with_sizes in layer cross"},
    "spelled flatten": {"features.2.0": "the code spells the size: view in the network itself"},
}


def inputs(shape: tuple[int, ...], batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if shape == sequences.TOKENS:
        return torch.randint(0, 40, (batch, *shape), generator=generator)
    return torch.randn(batch, *shape, generator=generator)


def built(name: str) -> tuple[nn.Module, Tensor]:
    kind, shape = (NETWORKS | refused.NETWORKS)[name]
    torch.manual_seed(0)
    return kind().eval(), inputs(shape, 4)


def pruned(module: nn.Module, x: Tensor) -> Model:
    task = Task(train=list, calibrate=lambda: [x], score=lambda _: 0.0)
    step = PruneChannels(keep=0.7, importance="l2", correct="nothing", imitate=0, epochs=0)
    return step.apply(Model(module, (x[:1],)), task)


TRIED = part(list(NETWORKS), [*QUICK, *PINNED], 4)


@pytest.mark.sweep
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TRIED]
)
def test_an_architecture_loses_three_tenths_and_runs_everywhere(name: str, tmp_path: Path) -> None:
    module, x = built(name)
    read = trace(module, (x[:1],))
    assert must_stay(channel_groups(read, module)) == PINNED.get(name, {})
    small = pruned(module, x)
    assert 0.4 * cost(read).macs < cost(trace(small.module, (x[:1],))).macs <= 0.7 * cost(read).macs
    save(small, tmp_path)
    again = load(built(name)[0], tmp_path, (x[:1],))
    with torch.no_grad():
        assert torch.equal(again.module(x), small.module(x))
    exported = host.load(write(lower(again)), threads=1)
    outputs = [small.module(x).detach()]
    assert agreement.Gate(quantized=False).lets(agreement.compare(outputs, [exported(x)]))


def must_stay(found: Groups) -> dict[str, str]:
    """The layers, but for those that make outputs, with channels that cannot go, and why."""
    return {each.layer: each.reason for each in found.pinned if each.reason != "an output of the network"}


@pytest.mark.parametrize("name", refused.NETWORKS)
def test_what_cannot_be_pruned_is_refused_with_the_reason(name: str) -> None:
    module, x = built(name)
    with pytest.raises(HaversackError) as refusal:
        pruned(module, x)
    assert REFUSED[name] in str(refusal.value)
