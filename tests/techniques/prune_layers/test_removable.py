"""Which modules may go, read off networks of many builds."""

import pytest
import torch
from prunable_networks import PaddedBlock, build, conv
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.model import Model
from haversack.surgery.save import load, save
from haversack.techniques.prune_layers.removable import Removables, outermost, removable, removal, without

IMAGE = torch.randn(1, 3, 8, 8)


def paths(module: nn.Module, x: Tensor = IMAGE) -> list[str]:
    return [each.path for each in removable(module.eval(), (x,)).removable]


def reasons(found: Removables) -> dict[str, str]:
    return {each.path: each.reason for each in found.staying}


class Staged(nn.Module):
    """Two stages of residual blocks, each widened by its first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.one = nn.Sequential(PaddedBlock(8, 8, 1), PaddedBlock(8, 8, 1))
        self.two = nn.Sequential(PaddedBlock(8, 16, 2), PaddedBlock(16, 16, 1))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(self.stem(x))).mean((2, 3)))


def test_residual_blocks_with_an_identity_shortcut_may_go_and_of_those_that_widen_the_inner_layer() -> None:
    assert paths(Staged()) == ["one.0", "one.1", "two.0.conv2", "two.1"]


def test_a_stage_is_its_blocks_and_the_layers_of_a_block_do_not_go_alone() -> None:
    module = nn.Sequential(conv(3, 8), nn.Sequential(PaddedBlock(8, 8, 1), PaddedBlock(8, 8, 1)))
    assert paths(module) == ["1.0", "1.1"]


def test_of_a_plain_stack_the_layers_as_wide_as_their_input_may_go() -> None:
    module = nn.Sequential(conv(3, 8), conv(8, 8), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    assert paths(module) == ["1", "2"]


def test_inverted_residuals_and_excitation_may_go() -> None:
    module, x = build("mobile")
    assert [path for path in paths(module, x) if "." not in path] == ["1", "2"]
    module, x = build("excited")
    assert paths(module, x) == ["1"]


def test_an_encoder_layer_may_go_though_it_is_given_a_mask() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(6, 16)
            self.layers = nn.ModuleList(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            for layer in self.layers:
                x = layer(x, src_mask=torch.zeros(7, 7))
            return x

    module, x = Encoder().eval(), torch.randn(1, 7, 6)
    assert paths(module, x) == ["layers.0", "layers.1"]
    assert torch.equal(without(module, ["layers.0", "layers.1"])(x), module.embed(x))


def test_torchs_own_encoder_keeps_its_first_layer_whose_attributes_it_reads() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    module = nn.Sequential(nn.Linear(6, 16), nn.TransformerEncoder(layer, 3, norm=nn.LayerNorm(16)), nn.Linear(16, 2))
    found = removable(module.eval(), (torch.randn(1, 7, 6),))
    assert [each.path for each in found.removable] == ["1", "1.layers.1", "1.layers.2"]
    assert reasons(found)["1.layers.0"] == "the network does not run without it (AttributeError)"


class Odd(nn.Module):
    """Layers that must stay, each for another reason."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.shaped = nn.Linear(4, 4), nn.Linear(4, 8)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.join, self.norm = nn.Bilinear(8, 8, 8), nn.LayerNorm(8)
        self.pair, self.last = nn.LSTM(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shaped(self.twice(self.twice(x)))
        x = self.second(self.first(x))
        y, _ = self.pair(self.norm(self.join(x, x + 1)))
        return self.last(y) * self.last.bias.numel()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("twice", "it runs 2 times"),
        ("shaped", "it turns 4 into 8"),
        ("first", "it shares weights with another layer"),
        ("second", "it shares weights with another layer"),
        ("join", "it joins several tensors"),
        ("norm", "it multiplies by no matrix"),
        ("pair", "it does not turn one tensor into one"),
        ("last", "the network does not run without it (AttributeError)"),
    ],
)
def test_what_stays_says_why(path: str, reason: str) -> None:
    torch.manual_seed(0)
    found = removable(Odd().eval(), (torch.randn(1, 4),))
    assert not found.removable
    assert reasons(found)[path] == reason


def test_the_network_itself_never_goes() -> None:
    assert paths(nn.Linear(4, 4), torch.randn(1, 4)) == []


def test_looking_leaves_no_hooks_behind() -> None:
    module = Staged().eval()
    removable(module, (IMAGE,))
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in module.modules())


def test_blocks_of_one_build_are_known_as_such() -> None:
    first, second, _, third = removable(Staged().eval(), (IMAGE,)).removable
    assert first.build == second.build != third.build


def test_of_nested_modules_the_outermost_is_found() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    module = nn.Sequential(nn.Linear(6, 16), nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(16)))
    found = removable(module.eval(), (torch.randn(1, 7, 6),))
    assert [each.path for each in outermost(found.removable)] == ["1"]


def test_without_a_residual_block_its_input_passes_through() -> None:
    torch.manual_seed(0)
    module = Staged().eval()
    expected = module.head(module.two(module.one[1](module.stem(IMAGE))).mean((2, 3)))
    assert torch.equal(without(module, ["one.0"])(IMAGE), expected)
    assert isinstance(module.one[0], PaddedBlock)


def test_a_removal_is_saved_and_rebuilt_onto_the_fresh_network(tmp_path) -> None:
    torch.manual_seed(0)
    module, edits = Staged().eval(), removal(["one.1", "two.1"])
    short = without(module, ["one.1", "two.1"])
    save(Model(short, (IMAGE,), edits), tmp_path)
    again = load(Staged(), tmp_path, (IMAGE,))
    assert torch.equal(again.module(IMAGE), short(IMAGE))
    assert F.mse_loss(again.module(IMAGE), module(IMAGE)) > 0
