import copy
import json
import resource
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prunable_networks import NETWORKS, Excite, InvertedResidual, build, conv, settled
from torch import Tensor, nn

from haversack.channels.group import edits_for
from haversack.channels.groups import ChannelGroup, channel_groups
from haversack.errors import SurgeryError, WorkspaceError
from haversack.graph.trace import trace
from haversack.grid import affine
from haversack.model import Edits, Model, Slices
from haversack.surgery.edit import edit
from haversack.surgery.save import export_pt2, load, save
from tests import warm
from tests.sweep import count

Kept = list[tuple[int, ...]]


def groups_of(module: nn.Module, x: Tensor) -> tuple[ChannelGroup, ...]:
    return channel_groups(trace(module, (x,)), module).groups


def some(groups: tuple[ChannelGroup, ...], every: int = 2) -> Kept:
    """All but each `every`-th channel of each group."""
    return [tuple(c for c in range(group.size) if c % every or c < group.least) for group in groups]


def masked(module: nn.Module, groups: tuple[ChannelGroup, ...], kept: Kept) -> nn.Module:
    """The original with what makes the removed channels set to zero, and nothing else changed."""
    module = copy.deepcopy(module)
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with torch.no_grad():
        for group, stay in zip(groups, kept, strict=True):
            for member in group.members:
                for channel in set(range(group.size)) - set(stay):
                    if not member.reads and not member.tensor.endswith("running_var"):
                        tensors[member.tensor].index_fill_(member.dim, torch.tensor(member.indices[channel]), 0.0)
    return module


def normalised(module: nn.Module, group: ChannelGroup) -> bool:
    """Whether a LayerNorm takes its mean over the channels: then a zero counts, and a missing channel does not."""
    norms = {f"{path}.weight" for path, layer in module.named_modules() if isinstance(layer, nn.LayerNorm)}
    return any(member.tensor in norms for member in group.members)


def pruned(name: str) -> tuple[nn.Module, nn.Module, Tensor, Edits]:
    module, x = build(name)
    groups = groups_of(module, x)
    edits = edits_for(module, groups, some(groups))
    return module, edit(module, edits), x, edits


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("every", [2, 3])
def test_a_pruned_network_computes_what_the_masked_original_computes(name: str, every: int) -> None:
    module, x = build(name)
    groups = tuple(group for group in groups_of(module, x) if not normalised(module, group))
    kept = some(groups, every)
    small = edit(module, edits_for(module, groups, kept))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in module.parameters())
    with torch.no_grad():
        torch.testing.assert_close(small(x), masked(module, groups, kept)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_surgery_leaves_the_network_it_was_given_alone(name: str) -> None:
    module, x = build(name)
    before = copy.deepcopy(module.state_dict())
    with torch.no_grad():
        out = module(x)
        groups = groups_of(module, x)
        edit(module, edits_for(module, groups, some(groups)))
        assert torch.equal(out, module(x))
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_attributes_follow_the_shapes(name: str) -> None:
    _, small, _, _ = pruned(name)
    for layer in small.modules():
        if not list(layer.children()) and list(layer.parameters()):
            said = repr(layer).replace("NonDynamicallyQuantizableLinear", "Linear")
            rebuilt = eval(said, vars(nn))  # what torch prints of its layers builds them
            assert {key: value.shape for key, value in rebuilt.state_dict().items()} == {
                key: value.shape for key, value in layer.state_dict().items()
            }


def test_two_rounds_of_surgery_are_one() -> None:
    module, small, x, first = pruned("mobile")
    groups = groups_of(small, x)
    second = edits_for(small, groups, some(groups))
    twice, once = edit(small, second), edit(module, first.then(second))
    with torch.no_grad():
        assert torch.equal(twice(x), once(x))


def test_grouped_convolutions_survive_two_rounds() -> None:
    module, x = build("grouped")
    edits, small = Edits(), module
    for _ in range(3):
        groups = groups_of(small, x)
        round_edits = edits_for(small, groups, [range(max(g.least, g.size - 1)) for g in groups])
        small, edits = edit(small, round_edits), edits.then(round_edits)
        with torch.no_grad():
            assert torch.equal(small(x), edit(module, edits)(x))


BLOCKS = st.sampled_from(["conv", "wide", "mobile", "excite", "grouped", "pool"])
HEADS = st.sampled_from(["flatten", "pool"])


@pytest.mark.sweep
@given(
    st.lists(BLOCKS, min_size=1, max_size=4), st.sampled_from(["flatten", "pool"]), st.randoms(use_true_random=False)
)
@settings(max_examples=count(12, 150))
def test_random_networks_run_train_export_and_reload_after_random_pruning(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[str], head: str, random: object
) -> None:
    def network() -> nn.Module:
        torch.manual_seed(1)
        make = {
            "conv": lambda: conv(8, 8),
            "wide": lambda: nn.Sequential(conv(8, 12), conv(12, 8, 1)),
            "mobile": lambda: InvertedResidual(8, 12),
            "excite": lambda: Excite(8),
            "grouped": lambda: conv(8, 8, 3, groups=2),
            "pool": lambda: nn.MaxPool2d(3, 1, 1),
        }
        heads = {
            "flatten": (nn.Flatten(), nn.Linear(8 * 16, 3)),
            "pool": (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
        }
        return settled(nn.Sequential(conv(2, 8), *(make[block]() for block in blocks), *heads[head]))

    module, x = network(), torch.randn(2, 2, 4, 4)
    groups = groups_of(module, x)
    kept = [tuple(sorted(random.sample(range(g.size), random.randint(g.least, g.size)))) for g in groups]
    edits = edits_for(module, groups, kept)
    small = edit(module, edits)
    with torch.no_grad():
        torch.testing.assert_close(small(x), masked(module, groups, kept)(x), rtol=1e-4, atol=1e-5)
    small.train()(x).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())
    small.eval()
    assert trace(small, (x,)).graph.nodes
    folder = tmp_path_factory.mktemp("saved")
    save(Model(small, (x[:1],), edits), folder)
    with torch.no_grad():
        assert torch.equal(load(network(), folder, (x[:1],)).module(x), small(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_saved_network_reloads_to_equal_outputs(name: str, tmp_path: Path) -> None:
    _, small, x, edits = pruned(name)
    grids = {"conv": affine(-1.0, 2.5)}
    save(Model(small, (x[:1],), edits, grids), tmp_path)
    fresh, _ = build(name)
    again = load(fresh, tmp_path, (x[:1],))
    assert (again.edits, again.grids) == (edits, grids)
    with torch.no_grad():
        assert torch.equal(again.module(x), small(x))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["network.json", "weights.safetensors"]


@pytest.mark.parametrize("name", ["padded residual", "recurrent", "transformer"])
def test_another_process_reloads_the_same_network_and_trains_it(name: str, tmp_path: Path) -> None:
    _, small, x, edits = pruned(name)
    save(Model(small, (x[:1],), edits), tmp_path)
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import sys, torch; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from prunable_networks import build; from haversack.surgery.save import load\n"
        "folder = Path(sys.argv[2]); x = torch.load(folder / 'x.pt')\n"
        "module = load(build(sys.argv[3])[0], folder, (x[:1],)).module\n"
        "print(module(x).detach().flatten().tolist()); module.train()(x).sum().backward()\n"
    )
    here = str(Path(__file__).parents[1] / "networks")
    told = json.loads(warm.run(code, here, tmp_path, name))
    torch.testing.assert_close(torch.tensor(told), small(x).detach().flatten())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden, self.out = nn.Embedding(11, 6), nn.Linear(6, 6), nn.Linear(6, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.hidden(self.embed(x))))


def test_tied_weights_are_pruned_saved_and_reloaded_as_one(tmp_path: Path) -> None:
    module, x = Tied().eval(), torch.randint(0, 11, (2, 3))
    (group,) = groups_of(module, x)
    edits = edits_for(module, [group], [(0, 2, 5)])
    small = edit(module, edits)
    assert small.out.weight is small.embed.weight
    assert small.out.in_features == small.embed.embedding_dim == small.hidden.in_features == 3
    save(Model(small, (x[:1],), edits), tmp_path)
    again = load(Tied(), tmp_path, (x[:1],)).module
    assert again.out.weight is again.embed.weight
    assert torch.equal(again(x), small(x))


def test_a_pt2_file_runs_without_us(tmp_path: Path) -> None:
    _, small, x, edits = pruned("mobile")
    path = tmp_path / "small.pt2"
    export_pt2(Model(small, (x[:1],), edits), path)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.load(path).module()(x), small(x))


@pytest.mark.parametrize(
    ("kept", "what"),
    [
        ({"nowhere.weight": {0: (0,)}}, "no tensor 'nowhere.weight'"),
        ({"stem.0.weight": {7: (0,)}}, "no dimension 7"),
        ({"stem.0.weight": {0: (0, 8)}}, "cannot keep"),
        ({"stem.0.weight": {0: ()}}, "cannot keep"),
        ({"stem.0.weight": {0: (1, 0)}}, "cannot keep"),
        ({"stem.0.weight": {0: (-1,)}}, "cannot keep"),
    ],
)
def test_edits_that_do_not_fit_are_refused(kept: dict[str, dict[int, tuple[int, ...]]], what: str) -> None:
    module, _ = build("padded residual")
    with pytest.raises(SurgeryError, match=what):
        edit(module, Edits((Slices(kept),)))


def test_a_group_cannot_lose_all_its_channels() -> None:
    module, x = build("grouped")
    group = groups_of(module, x)[0]
    with pytest.raises(SurgeryError, match=r"keep 2 or more of 0\.\.3"):
        edits_for(module, [group], [(0,)])


def test_weights_of_another_network_are_refused_with_both_shapes(tmp_path: Path) -> None:
    _, small, x, edits = pruned("padded residual")
    save(Model(small, (x[:1],), edits), tmp_path)
    (tmp_path / "network.json").write_text('{"format": 2, "edits": [], "sparse": [], "grids": {}}')
    fresh, _ = build("padded residual")
    with pytest.raises(SurgeryError, match=r"'[a-z].*is \(.*\) torch.float32 in the file, but \(.*\) torch.float32"):
        load(fresh, tmp_path, (x[:1],))
    other, _ = build("mobile")
    with pytest.raises(SurgeryError, match="only the"):
        load(other, tmp_path, (x[:1],))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 2, "edits": {"a": 3}, "grids": {}}'])
def test_a_damaged_edits_file_is_refused(text: str, tmp_path: Path) -> None:
    module, x = build("signal")
    save(Model(module, (x[:1],)), tmp_path)
    (tmp_path / "network.json").write_text(text)
    with pytest.raises(SurgeryError, match=r"network\.json"):
        load(module, tmp_path, (x[:1],))


WHOLE = {"kind": "Conv2d", "in_channels": 2, "out_channels": 4, "kernel_size": [3, 3]}


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ([{"keep": {"0.weight": {"0": "0-9999999999"}}}], "holds no edit: 0-9999999999"),
        ([{"keep": {"0.weight": {"0": "0-999999999"}}}], "cannot keep"),
        ([{"keep": {"0.weight": {"0": "0 0 0"}}}], "cannot keep"),
        ([{"keep": {"0.weight": {"00": "0"}}}], "no dimension 00"),
        ([{"keep": {"0.weight": {"0": "٣"}}}], "holds no edit"),
        ([{"keep": {"0.weight": {"0": [0]}}}], "holds no edit"),
        ([{"keep": {"0.weight": "0"}}], "holds no edit"),
        ([{}] * 1001, "1001 edits"),
        ([{"swap": "0", "by": [{"kind": "Linear", "in_features": 20000, "out_features": 20000}]}], "more than the"),
        ([{"swap": "0", "by": [{"kind": "Linear", "in_features": 10**12, "out_features": 1}]}], "holds no edit"),
        ([{"swap": "0", "by": [{"kind": "LSTM", "input_size": 1, "hidden_size": 1, "num_layers": 9999}]}], "holds no"),
        ([{"swap": "0", "by": [{"kind": "Conv2d", "in_channels": 4, "out_channels": 4, "kernel_size": [2**20] * 2,
           "groups": 0}]}], "cannot be built"),
        ([{"swap": "0", "by": [{**WHOLE, "device": "cpu"}]}], "holds no edit"),
        ([{"swap": "0", "by": [{**WHOLE, "padding": {}}]}], "holds no edit"),
        ([{"swap": "0", "by": [{"kind": "mobilenet_v2.MobileNetV2", "depth": 10**6}]}], "cannot be built: depth is"),
        ([{"swap": "0", "by": [WHOLE] * 100}], "100 layers"),
        ([{"swap": 0, "by": []}], "holds no edit"),
        ([3], "holds no edit"),
    ],
)  # fmt: skip
def test_edits_of_any_size_are_refused_before_they_take_memory(edits: list[object], said: str, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(40, 40))
    save(Model(network, (torch.ones(1, 40),)), tmp_path)
    (tmp_path / "network.json").write_text(json.dumps({"format": 2, "edits": edits, "sparse": [], "grids": {}}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SurgeryError, match=rf"network\.json(.|\n)*{said}"):
        load(network, tmp_path, (torch.ones(1, 40),))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


@pytest.mark.parametrize(
    "grids",
    [
        {"0.weight": {"bits": 8}},
        {"0.weight": {"bits": 99, "signed": True, "scale": [1.0], "zero_point": [0]}},
        {"0.weight": {"bits": 8, "signed": True, "scale": ["1"], "zero_point": [0]}},
        {"0.weight": {"bits": 8, "signed": True, "scale": [float("nan")], "zero_point": [0]}},
        {"0.weight": {"bits": 8, "signed": 1, "scale": [1.0], "zero_point": [0]}},
        {"0.weight": 3},
        [],
    ],
)
def test_grids_of_other_types_are_refused(grids: object, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 4))
    save(Model(network, (torch.ones(1, 4),)), tmp_path)
    (tmp_path / "network.json").write_text(json.dumps({"format": 2, "edits": [], "sparse": [], "grids": grids}))
    with pytest.raises(SurgeryError, match=r"network\.json"):
        load(network, tmp_path, (torch.ones(1, 4),))


def test_a_weights_file_that_is_larger_than_any_of_the_network_is_not_read(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 4))
    save(Model(network, (torch.ones(1, 4),)), tmp_path)
    with (tmp_path / "weights.safetensors").open("r+b") as stream:
        stream.truncate(10**11)
    with pytest.raises(SurgeryError, match=r"weights.safetensors: it has more than [\d,]+ bytes"):
        load(network, tmp_path, (torch.ones(1, 4),))


def test_a_cut_off_weights_file_is_refused(tmp_path: Path) -> None:
    module, x = build("signal")
    save(Model(module, (x[:1],)), tmp_path)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(SurgeryError, match="not a whole safetensors file"):
        load(module, tmp_path, (x[:1],))
    path.unlink()
    with pytest.raises(SurgeryError, match="cannot be read"):
        load(module, tmp_path, (x[:1],))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    module, x = build("signal")
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match="cannot be written"):
        save(Model(module, (x[:1],)), tmp_path / "file" / "below")
