"""Which layers are paired: the ends of stages, from the back to the front, or what the user wrote."""

import copy

import pytest
import torch
from cifar10 import ResNet
from torch import nn

from haversack import zoo
from haversack.errors import RecipeError
from haversack.training.pairs import features_of, paired, results_of

IMAGE = (torch.zeros(1, 3, 32, 32),)
IMAGE_FAMILIES = [name for name in zoo.names() if zoo.family(name).dimensions == 2]


def compact(name: str, downsampling: int) -> nn.Module:
    return zoo.family(name)(channels=3, outputs=10, width=0.5, downsampling=downsampling).eval()


def resnet(blocks: int = 2) -> nn.Module:
    return ResNet(blocks).eval()


def found(student, teacher, example=IMAGE, given=()) -> list[str]:
    return [str(each) for each in paired(student.eval(), teacher.eval(), example, given)]


def refused(*words) -> str:
    with pytest.raises(RecipeError) as caught:
        found(*words)
    assert caught.value.mend
    return str(caught.value)


def test_a_resnet_s_stages_meet_another_resnet_s():
    assert found(resnet(1), resnet(9)) == [
        "layer1 (16x32x32) = layer1 (16x32x32)",
        "layer2 (32x16x16) = layer2 (32x16x16)",
        "layer3 (64x8x8) = layer3 (64x8x8)",
    ]


def test_a_mobilenet_s_stages_end_before_the_next_block_widens_them():
    assert found(compact("mobilenet_v2", 8), resnet()) == [
        "features.1 (8x16x16) = layer1 (16x32x32)",
        "features.3 (16x8x8) = layer2 (32x16x16)",
        "features (1280x4x4) = layer3 (64x8x8)",
    ]
    assert found(compact("mobilenet_v2", 32), resnet())[-1] == "features.13 (48x2x2) = layer3 (64x8x8)"


@pytest.mark.parametrize("downsampling", [4, 8])
@pytest.mark.parametrize("name", IMAGE_FAMILIES)
def test_each_family_s_stages_meet_a_resnet_s_from_the_back(name, downsampling):
    pairs = paired(compact(name, downsampling), resnet(), IMAGE, ())
    sizes = [each.student.extent for each in pairs]
    assert sizes == sorted(set(sizes), reverse=True)
    assert len(pairs) == {4: 2, 8: 3}[downsampling]
    assert [each.teacher.path for each in pairs] == ["layer1", "layer2", "layer3"][-len(pairs) :]
    deepest = max(each.depth for each in features_of(compact(name, downsampling), IMAGE).values() if each.path)
    assert pairs[-1].student.depth > 0.7 * deepest


def test_a_network_with_channels_gone_is_paired_stage_by_stage_with_what_it_was():
    small = resnet()
    small.layer1[0].conv1, small.layer1[0].bn1 = nn.Conv2d(16, 5, 3, 1, 1, bias=False), nn.BatchNorm2d(5)
    small.layer1[0].conv2 = nn.Conv2d(5, 16, 3, 1, 1, bias=False)
    pairs = paired(small.eval(), resnet(), IMAGE, ())
    assert (
        [each.student.path for each in pairs] == [each.teacher.path for each in pairs] == ["layer1", "layer2", "layer3"]
    )


def shuffled() -> nn.Module:
    """A stage that starts with two branches, one of which first works on the larger map."""

    class Unit(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Conv2d(4, 4, 3, 2, 1)
            self.other = nn.Sequential(nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, 2, 1))

        def forward(self, x):
            return torch.cat([self.one(x), self.other(x)], 1)

    return nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), Unit(), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(2048, 10))


def test_branches_of_two_sizes_within_a_block_are_no_stages():
    assert found(shuffled(), shuffled()) == ["0 (4x32x32) = 0 (4x32x32)", "2 (8x16x16) = 2 (8x16x16)"]


def flat(blocks: int, width: int) -> nn.Module:
    """Blocks that leave the size as it is."""
    stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1), nn.ReLU())
    body = [nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.ReLU()) for _ in range(blocks)]
    return nn.Sequential(stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def test_where_no_map_changes_its_size_layers_of_the_same_relative_depth_are_paired():
    assert found(flat(8, 4), flat(8, 6)) == [f"{at} (4x32x32) = {at} (6x32x32)" for at in (2, 5, 8)]
    deep, shallow = flat(8, 4), flat(2, 6)
    assert [each.split(" ")[0] for each in found(deep, shallow)] == ["2", "5", "8"]
    assert [each.split(" ")[3] for each in found(deep, shallow)] == ["0", "1", "2"]


def test_where_one_network_has_stages_and_the_other_has_one_size_the_depth_decides():
    assert found(resnet(), flat(11, 4)) == [
        "layer1 (16x32x32) = 4 (4x32x32)",
        "layer2 (32x16x16) = 7 (4x32x32)",
        "layer3 (64x8x8) = 11 (4x32x32)",
    ]


def test_networks_of_vectors_are_paired_behind_their_activations():
    def perceptron(*widths: int) -> nn.Module:
        layers = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in zip((6, *widths), widths, strict=False)]
        return nn.Sequential(*layers, nn.Linear(widths[-1], 3))

    assert found(perceptron(4, 4, 4), perceptron(8, 8, 8, 8, 8), (torch.zeros(1, 6),)) == [
        "0 (4) = 1 (8)",
        "1 (4) = 2 (8)",
        "2 (4) = 4 (8)",
    ]


def test_sequences_have_their_channels_behind_or_before_the_steps():
    def convolved(width: int) -> nn.Module:
        return nn.Sequential(nn.Conv1d(5, width, 3, padding=1), nn.Conv1d(width, width, 3, 2, 1), nn.Flatten())

    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm, self.head = nn.Linear(5, 16), nn.LayerNorm(16), nn.Linear(16, 2)

        def forward(self, x):
            return self.head(self.norm(self.embed(x.mT)).mean(1))

    pair = paired(convolved(7).eval(), Rows().eval(), (torch.zeros(1, 5, 12),), ("0=norm",))[0]
    assert (pair.student.width, pair.student.extent) == (7, (12,))
    assert (pair.teacher.width, pair.teacher.extent) == (16, (12,))


def test_channels_that_a_linear_layer_moved_back_are_found_before_the_map():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(3, 6), nn.GELU())
            self.drop = nn.Dropout()

        def forward(self, x):
            return self.drop(self.inner(x.movedim(1, -1)).movedim(-1, 1)).mean((2, 3))

    seen = features_of(Mixed().eval(), IMAGE)
    assert (seen["inner"].width, seen["drop"].width) == (6, 6)
    assert seen["drop"].extent == (32, 32)


def test_a_layer_that_runs_twice_is_paired_only_on_request():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act, self.pool = nn.Conv2d(3, 3, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2)

        def forward(self, x):
            return self.act(self.conv(self.pool(self.act(self.conv(x))))).mean((2, 3))

    assert found(Twice(), Twice()) == ["pool (3x16x16) = pool (3x16x16)"]
    assert found(Twice(), Twice(), IMAGE, ("act=act",)) == ["act (3x16x16) = act (3x16x16)"]


def test_given_pairs_are_taken_as_they_are_written():
    given = ("layer1.0.bn2 = layer2", "layer3=layer3.1")
    assert found(resnet(), resnet(), IMAGE, given) == [
        "layer1.0.bn2 (16x32x32) = layer2 (32x16x16)",
        "layer3 (64x8x8) = layer3.1 (64x8x8)",
    ]


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("layer9=layer1", "the student has no layer 'layer9'"),
        ("layer1=layer9", "the teacher has no layer 'layer9'"),
        ("layer1=linear", "layer1 (16x32x32) = linear (10) cannot be compared"),
    ],
)
def test_a_given_pair_that_cannot_be_made_is_refused_with_what_there_is(pair, words):
    message = refused(resnet(), resnet(), IMAGE, (pair,))
    assert words in message


def test_a_layer_that_gives_no_tensor_is_refused():
    class Memory(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.lstm(x)[0][:, -1])

    message = refused(Memory(), Memory(), (torch.zeros(1, 7, 3),), ("lstm=lstm",))
    assert "no layer 'lstm' that gives one tensor" in message


def test_networks_without_layers_inside_cannot_be_paired():
    line = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    message = refused(line, resnet())
    assert "no layer of the student can be paired" in message
    assert "layer3" in message
    assert "no layer of the student can be paired" in refused(nn.Identity(), nn.Identity())


def test_looking_leaves_the_networks_as_they_were_even_when_they_fail():
    network = resnet()
    before = copy.deepcopy(network.state_dict())
    features_of(network, IMAGE)
    with pytest.raises(RuntimeError):
        features_of(network, (torch.zeros(1, 4, 32, 32),))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(each._forward_hooks for each in network.modules())


def test_results_are_seen_within_the_block_only():
    network = resnet()
    with results_of(network, ("layer1", "layer3")) as seen, torch.no_grad():
        network(*IMAGE)
    assert {path: tuple(result.shape) for path, result in seen.items()} == {
        "layer1": (1, 16, 32, 32),
        "layer3": (1, 64, 8, 8),
    }
    assert not any(each._forward_hooks for each in network.modules())
    with pytest.raises(KeyError), results_of(network, ("layer1",)):
        raise KeyError
    assert not any(each._forward_hooks for each in network.modules())
