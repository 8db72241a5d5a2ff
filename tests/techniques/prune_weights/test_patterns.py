"""Which weights go: as many as asked, in the pattern asked, the least first, and never a whole layer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from haversack.errors import RecipeError
from haversack.model import Model
from haversack.techniques.prune_weights.patterns import (
    Pattern,
    as_matrix,
    as_weight,
    kept,
    masked,
    prunable,
    reach,
    read_pattern,
)

SHAPES = [(8, 8, 3, 3), (16, 8), (4, 24), (8, 16, 1), (12, 8, 1, 3)]


def scores(seed: int) -> dict[str, torch.Tensor]:
    """Random numbers, some of them equal."""
    generator = torch.Generator().manual_seed(seed)
    return {str(place): (torch.randn(shape, generator=generator) * 8).round() / 8 for place, shape in enumerate(SHAPES)}


def share_of_zeros(masks) -> float:
    return 1 - sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())


@given(st.integers(0, 1000), st.floats(0, 0.999))
@settings(max_examples=30)
def test_as_many_go_as_asked_the_lowest_first_and_each_layer_keeps_its_best(seed, sparsity):
    given_scores = scores(seed)
    masks = kept(given_scores, Pattern(), sparsity)
    total = sum(mask.numel() for mask in masks.values())
    wanted = min(int(sparsity * total + 1e-6), total - len(masks))
    assert round(share_of_zeros(masks) * total) == wanted
    gone = torch.cat([given_scores[name][~mask] for name, mask in masks.items()])
    stayed = [given_scores[name][mask] for name, mask in masks.items()]
    assert all(len(each) for each in stayed)
    assert all(each.max() == given_scores[name].max() for name, each in zip(masks, stayed, strict=True))
    if len(gone):
        # Only a layer's best weight may stay though it is below one that goes.
        assert all(int((each < gone.max()).sum()) <= 1 for each in stayed)


@given(st.integers(0, 1000), st.sampled_from(["1:2", "2:4", "4:8", "3:4", "1:8"]), st.floats(0, 0.95))
@settings(max_examples=30)
def test_of_every_m_input_channels_at_most_n_stay(seed, name, more):
    pattern, given_scores = read_pattern(name), scores(seed)
    sparsity = pattern.least + (1 - pattern.least) * more
    masks = kept(given_scores, pattern, sparsity)
    assert share_of_zeros(masks) == pytest.approx(min(sparsity, reach(masks, pattern)), abs=2e-3)
    for mask in masks.values():
        groups = as_matrix(mask).reshape(-1, pattern.of)
        assert int(groups.sum(1).max()) <= pattern.kept
        assert mask.any()


@given(st.integers(0, 1000), st.sampled_from([(1, 4), (4, 1), (2, 2), (4, 8)]), st.floats(0.01, 0.95))
@settings(max_examples=30)
def test_blocks_go_or_stay_as_a_whole(seed, block, sparsity):
    rows, columns = block
    for mask in kept(scores(seed), Pattern(rows, columns), sparsity).values():
        matrix = as_matrix(mask)
        blocks = matrix.view(len(matrix) // rows, rows, -1, columns).float().mean((1, 3))
        assert set(blocks.unique().tolist()) <= {0.0, 1.0}


def test_the_best_of_each_group_stay_at_the_pattern_s_own_share():
    weight = {"w": torch.tensor([[4.0, 1, 3, 2], [1, 2, 3, 4]])}
    mask = kept(weight, read_pattern("2:4"), 0.5)["w"]
    assert mask.tolist() == [[True, False, True, False], [False, False, True, True]]


def test_half_way_to_the_pattern_only_what_it_forbids_is_gone():
    weight = {"w": torch.tensor([[40.0, 10, 30, 20], [1, 2, 3, 4]])}
    mask = kept(weight, read_pattern("2:4"), 0.25)["w"]
    assert mask.tolist() == [[True, True, True, True], [False, False, True, True]]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_weight_survives_being_a_matrix(shape):
    weight = torch.randn(shape)
    assert torch.equal(as_weight(as_matrix(weight), weight), weight)
    if len(shape) == 4:
        innermost = weight.contiguous(memory_format=torch.channels_last)
        assert as_weight(as_matrix(innermost), innermost).stride() == innermost.stride()
        assert torch.equal(as_matrix(weight)[:, : shape[1]], weight[:, :, 0, 0])


@pytest.mark.parametrize("text", ["", "4:2", "2:2", "0:4", "0x4", "2-4", "block", "1x", "1.5:4"])
def test_other_patterns_are_refused(text):
    with pytest.raises(RecipeError, match="pattern is") as caught:
        read_pattern(text)
    assert caught.value.mend


@pytest.mark.parametrize("text", ["free", "2:4", "7:9", "1x4", "16x1"])
def test_a_pattern_s_name_reads_as_itself(text):
    assert read_pattern(text).name == text


def small() -> Model:
    torch.manual_seed(0)
    return Model(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3)).eval(), (torch.randn(1, 1, 4, 4),))


def test_a_mask_of_one_s_own_zeroes_and_names_what_it_masks():
    model = small()
    mask = torch.rand(3, 16, generator=torch.Generator().manual_seed(1)) > 0.5
    sparse = masked(model, {"2.weight": mask})
    assert sparse.sparse == {"2.weight"}
    assert torch.equal(sparse.module[2].weight != 0, mask)
    assert torch.equal(sparse.module[2].weight[mask], model.module[2].weight[mask])
    assert not model.sparse
    assert (model.module[2].weight != 0).all()


@pytest.mark.parametrize(
    ("name", "mask", "said"),
    [
        ("3.weight", torch.ones(3, 16, dtype=torch.bool), r"no weight '3\.weight'"),
        ("2.weight", torch.ones(16, 3, dtype=torch.bool), r"\(16, 3\), the weight \(3, 16\)"),
        ("2.weight", torch.ones(3, 16), r"float32"),
    ],
)
def test_masks_that_do_not_fit_are_refused(name, mask, said):
    with pytest.raises(RecipeError, match=said) as caught:
        masked(small(), {name: mask})
    assert caught.value.mend


def test_weights_that_layers_read_can_be_pruned_and_nothing_else():
    assert prunable(small()).keys() == {"0.weight", "2.weight"}
    both = Model(nn.Sequential(nn.Conv1d(4, 8, 3), nn.ConvTranspose1d(8, 4, 3)).eval(), (torch.randn(1, 4, 8),))
    assert prunable(both).keys() == {"0.weight", "1.weight"}
    assert prunable(both, transposed=False).keys() == {"0.weight"}
    broken = small()
    with torch.no_grad():
        broken.module[0].weight[0] = torch.nan
    with pytest.raises(RecipeError, match=r"0\.weight: .*NaN"):
        prunable(broken)
