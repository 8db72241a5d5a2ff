"""Which weights go: as many as asked, the least first, and never a whole layer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from haversack.errors import RecipeError
from haversack.model import Model
from haversack.techniques.prune_weights.masks import kept, masked, prunable, reach

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
    masks = kept(given_scores, sparsity)
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


def test_masks_lie_in_memory_as_their_scores_and_what_is_in_reach_is_reached():
    innermost = torch.randn(8, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    weights = {"w": innermost, "v": torch.randn(3, 5)}
    masks = kept(weights, reach(weights))
    assert masks["w"].stride() == innermost.stride()
    assert [int(mask.sum()) for mask in masks.values()] == [1, 1]


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
    broken = small()
    with torch.no_grad():
        broken.module[0].weight[0] = torch.nan
    with pytest.raises(RecipeError, match=r"0\.weight: .*NaN"):
        prunable(broken)
