"""What counts as equal, how far apart outputs are, and in how many bytes."""

import pytest
import torch
from litert_files import images, network, quantized

from haversack.errors import ParityError
from haversack.graph.inference import lower
from haversack.model import Model
from haversack.runtimes.agreement import Scale, compare, outputs

OURS = torch.tensor([[0.0, 0.5, 1.0], [1.5, 0.5, 0.0]])


def test_a_difference_is_counted_in_steps_and_bytes():
    theirs = OURS.clone()
    theirs[0, 0] += 1.5
    found = Scale(0.5, 3, 1).agreement(theirs, OURS)
    assert (found.samples, found.equal, found.max_steps, found.mismatching_bytes) == (2, 5 / 6, 3.0, 1)
    assert found.same_class == 0.5


def test_sixteen_bit_numbers_differ_in_one_byte_or_two():
    scale = Scale(1.0, 0, 2)
    whole = torch.zeros(1, 3)
    assert scale.agreement(torch.tensor([[0.0, 1.0, 257.0]]), whole).mismatching_bytes == 3


def test_numbers_that_a_byte_cannot_tell_apart_are_not_equal():
    found = Scale(1.0, 0, 1).agreement(torch.tensor([[256.0]]), torch.tensor([[0.0]]))
    assert (found.equal, found.max_steps) == (0.0, 256.0)


def test_without_a_grid_differences_are_relative_to_the_largest_output():
    found = Scale(None).agreement(OURS + 0.15, OURS)
    assert found.max_steps == pytest.approx(0.1)
    assert found.equal == 0.0


def test_the_scale_is_the_grid_that_the_output_lies_on():
    model = quantized(network(), images(64))
    scale = Scale.of(lower(model))
    grid = next(grid for grid in model.grids.values() if grid.scale == (scale.step,))
    assert (scale.zero_point, scale.itemsize) == (grid.zero_point[0], 1)
    assert Scale.of(lower(Model(network(), (images(1),)))).step is None


def test_outputs_of_other_shapes_are_refused():
    with pytest.raises(ParityError, match="shapes"):
        Scale(None).agreement(OURS[:, :2], OURS)


def test_two_networks_that_are_compared_batch_by_batch_leave_gradients_on():
    batches = [(torch.rand(2, 3),), (torch.rand(2, 3),)]
    compare(*(outputs(lambda x: x, batches) for _ in range(2)))
    assert torch.is_grad_enabled()
