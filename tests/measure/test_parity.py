"""The gate between the network and the file that was written from it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from haversack.errors import ParityError
from haversack.measure.parity import compare, require
from haversack.measurement import Parity

OUTPUTS = torch.tensor([[0.0, 1.0, 3.0], [4.0, 1.0, 0.0]])


def _gives(outputs):
    return lambda *_: outputs


def _parity(theirs, step=None, ours=OUTPUTS):
    return compare(_gives(ours), _gives(theirs), [(torch.zeros(len(ours), 1),)], step)


def test_a_network_agrees_with_itself():
    assert _parity(OUTPUTS) == Parity(0.0, 1.0, 2)


@settings(max_examples=30)
@given(st.floats(0.01, 10), st.integers(0, 50))
def test_a_difference_of_so_many_steps_is_reported_as_so_many(step, steps):
    theirs = OUTPUTS.double()
    theirs[0, 0] -= steps * step
    assert _parity(theirs, step).max_steps == pytest.approx(steps, abs=1e-6)


def test_without_a_step_differences_are_relative_to_the_largest_output():
    assert _parity(OUTPUTS * 1.01).max_steps == pytest.approx(0.01, rel=1e-4)


def test_the_largest_difference_and_the_agreement_run_over_all_batches():
    flipped = OUTPUTS.flip(1)
    batches = iter([OUTPUTS, flipped])
    parity = compare(_gives(OUTPUTS), lambda _: next(batches), [(OUTPUTS,), (OUTPUTS,)], 1.0)
    assert parity == Parity(4.0, 0.5, 4)


def test_images_and_sequences_have_no_classes_to_agree_on():
    images = torch.randn(2, 3, 4, 4)
    assert _parity(-images, ours=images).argmax_agreement == 1.0


def test_networks_whose_outputs_are_all_zero_agree_only_with_zeros():
    zeros = torch.zeros(2, 3)
    assert _parity(zeros, ours=zeros).max_steps == 0
    with pytest.raises(ParityError):
        require(_parity(zeros + 1e-9, ours=zeros), quantized=False)


@pytest.mark.parametrize(
    ("parity", "settings"),
    [
        (Parity(9e-4, 1.0, 8), {"quantized": False}),
        (Parity(1.9e-2, 0.5, 8), {"quantized": False, "half": True}),
        (Parity(4.0, 0.98, 500), {"quantized": True, "step": 0.1}),
        (Parity(0.05, 0.98, 500), {"quantized": True}),
        (Parity(1.0, 0.875, 8), {"quantized": True, "step": 0.1}),
    ],
)
def test_rounding_passes(parity, settings):
    require(parity, **settings)


@pytest.mark.parametrize(
    ("parity", "settings", "named"),
    [
        (Parity(2e-3, 1.0, 8), {"quantized": False}, "written wrongly"),
        (Parity(3e-2, 1.0, 8), {"quantized": False, "half": True}, "65504"),
        (Parity(61.0, 1.0, 8), {"quantized": True, "step": 0.1}, "VNNI.*weight_bits=7.*written wrongly"),
        (Parity(2.0, 0.9, 100), {"quantized": True, "step": 0.1}, r"90\.0%"),
        (Parity(0.05, 0.9, 100), {"quantized": True}, r"90\.0%"),
        (Parity(0.1, 1.0, 100), {"quantized": True}, r"allowed 0\.08"),
        (Parity(float("nan"), 1.0, 100), {"quantized": True}, "nan"),
    ],
)
def test_a_fault_is_refused_with_its_figures_and_causes(parity, settings, named):
    with pytest.raises(ParityError, match=f"(?s){named}"):
        require(parity, **settings)


def test_outputs_that_cannot_be_compared_are_refused():
    with pytest.raises(ParityError, match=r"shape \(2, 2\), the network's \(2, 3\)"):
        _parity(OUTPUTS[:, :2])
    with pytest.raises(ParityError, match="file's outputs hold NaN"):
        _parity(OUTPUTS / 0)
    with pytest.raises(ParityError, match="network's outputs hold NaN"):
        _parity(OUTPUTS, ours=OUTPUTS * float("inf"))
    with pytest.raises(ParityError, match="no samples"):
        compare(_gives(OUTPUTS), _gives(OUTPUTS), [])
    with pytest.raises(ParityError, match="step"):
        _parity(OUTPUTS, 0.0)
