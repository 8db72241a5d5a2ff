"""The gate between the network and the file that was written from it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from haversack.errors import ParityError
from haversack.graph.inference import lower
from haversack.graph.pairs import output_step
from haversack.measurement import Fidelity, Parity
from haversack.model import Model
from haversack.runtimes.agreement import Gate, compare, fidelity, in_another_order, in_torch
from haversack.task import Task
from haversack.techniques.quantize_static import QuantizeStatic

OUTPUTS = torch.tensor([[0.0, 1.0, 3.0], [4.0, 1.0, 0.0]])


def _parity(theirs, step=None, ours=OUTPUTS):
    return compare([ours], [theirs], step)


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
    assert compare([OUTPUTS, OUTPUTS], iter([OUTPUTS, flipped]), 1.0) == Parity(4.0, 0.5, 4)


def test_images_and_sequences_have_no_classes_to_agree_on():
    images = torch.randn(2, 3, 4, 4)
    assert _parity(-images, ours=images).argmax_agreement == 1.0


def test_networks_whose_outputs_are_all_zero_agree_only_with_zeros():
    zeros = torch.zeros(2, 3)
    assert _parity(zeros, ours=zeros).max_steps == 0
    assert Gate(quantized=False).lets(_parity(zeros, ours=zeros))
    assert not Gate(quantized=False).lets(_parity(zeros + 1e-9, ours=zeros))


@pytest.mark.parametrize(
    ("parity", "gate"),
    [
        (Parity(9e-4, 1.0, 8), Gate(quantized=False)),
        (Parity(4.0, 0.98, 500), Gate(quantized=True, step=0.1)),
        (Parity(0.05, 0.98, 500), Gate(quantized=True)),
        (Parity(1.0, 0.875, 8), Gate(quantized=True, step=0.1)),
    ],
)
def test_rounding_passes_without_a_word(parity, gate):
    def unasked():
        raise AssertionError

    assert gate.require(parity, unasked, unasked, unasked) == ""


SAME, NOISE = Parity(0.0, 1.0, 100), Parity(9.0, 0.99, 100)
FAULTS = [
    (Parity(2e-3, 1.0, 8), Gate(quantized=False)),
    (Parity(61.0, 1.0, 8), Gate(quantized=True, step=0.1)),
    (Parity(2.0, 0.9, 100), Gate(quantized=True, step=0.1)),
    (Parity(0.05, 0.9, 100), Gate(quantized=True)),
    (Parity(0.1, 1.0, 100), Gate(quantized=True)),
    (Parity(float("nan"), 1.0, 100), Gate(quantized=True)),
]


@pytest.mark.parametrize(("parity", "gate"), FAULTS)
def test_a_file_that_is_off_however_it_is_run_was_written_wrongly(parity, gate):
    with pytest.raises(ParityError, match=r"(?s)differ by up to.*written wrongly: please report"):
        gate.require(parity, lambda: parity, lambda: NOISE, lambda: SAME)


@pytest.mark.parametrize(("parity", "gate"), FAULTS)
def test_a_file_that_is_exact_as_it_stands_is_not_blamed_for_its_runtimes_kernels(parity, gate):
    quiet = Parity(0.0, 1.0, parity.samples)
    with pytest.raises(
        ParityError, match=r"(?s)the file computes what was written.*kernels change the outputs"
    ) as said:
        gate.require(parity, lambda: SAME, lambda: quiet, lambda: SAME)
    assert "written wrongly" not in str(said.value)


def test_kernels_may_move_outputs_as_far_as_rounding_itself_did_and_no_further():
    gate = Gate(quantized=True, step=0.1)
    rounding = Parity(80.0, 0.7, 100)
    assert "no further than rounding" in gate.require(
        Parity(61.0, 0.8, 100), lambda: SAME, lambda: rounding, lambda: SAME
    )
    for further in (Parity(81.0, 0.8, 100), Parity(61.0, 0.6, 100)):
        with pytest.raises(ParityError, match="VNNI"):
            gate.require(further, lambda: SAME, lambda: rounding, lambda: SAME)


def test_a_file_may_be_off_where_last_digits_move_the_network_about_as_far_and_rounding_did():
    def told(off: float, order: float, rounding: float, step: float | None = 0.1) -> str:
        parity = Parity(off, 1.0, 100)
        return Gate(True, step).require(
            parity, lambda: parity, lambda: Parity(rounding, 1.0, 100), lambda: Parity(order, 1.0, 100)
        )

    assert "by up to 9 when sums are added up in another order" in told(15.0, 9.0, 27.0)
    assert "0.0984 of the largest output" in told(0.0984, 0.093, 0.0938, None)
    for off, order, rounding in ((15.0, 7.0, 27.0), (15.0, 9.0, 7.0), (15.0, 0.0, 27.0), (130.0, 60.0, 60.0)):
        with pytest.raises(ParityError, match="written wrongly"):
            told(off, order, rounding)
    for chaotic in ((70.0, 60.0, 60.0), (0.3, 0.4, 0.5, None)):
        with pytest.raises(
            ParityError, match=r"(?s)sums are added up in another.*cannot be checked.*more bits"
        ) as said:
            told(*chaotic)
        assert "written wrongly" not in str(said.value)


@torch.no_grad()
def test_another_order_of_sums_moves_last_digits_and_the_integers_that_they_tip_over():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3)).eval()
    x = torch.randn(40, 16, 9, 9)
    model = Model(network, (x[:1],))
    real = lower(model)
    once, again = in_torch(real)(x), in_another_order(real)(x)
    assert 0 < float((once - again).abs().max()) < 3e-6 * float(once.abs().max())
    task = Task(train=list, calibrate=lambda: [x], score=lambda _: 0.0)
    rounded = lower(QuantizeStatic(8).apply(model, task))
    off = compare([in_torch(rounded)(x)], [in_another_order(rounded)(x)], output_step(rounded))
    assert off.max_steps == pytest.approx(1) or off.max_steps == 0


def test_a_network_that_its_own_rounding_has_ruined_is_told_so():
    gate, far = Gate(quantized=True, step=0.1), Parity(61.0, 0.8, 100)
    with pytest.raises(ParityError, match=r"(?s)rounding has ruined this network.*70\.0%.*more bits") as said:
        gate.require(far, lambda: far, lambda: Parity(80.0, 0.7, 100), lambda: SAME)
    assert "report" not in str(said.value)


def test_fidelity_counts_what_packing_moved_over_all_batches():
    packed = OUTPUTS.clone()
    packed[0, 2] = 0.5
    found = fidelity(iter([OUTPUTS, OUTPUTS]), [packed, OUTPUTS])
    assert found == Fidelity(0.75, pytest.approx(2.5 / 18), 4)


def test_outputs_that_cannot_be_compared_are_refused():
    with pytest.raises(ParityError, match=r"shape \(2, 2\), the network's \(2, 3\)"):
        _parity(OUTPUTS[:, :2])
    with pytest.raises(ParityError, match="file's outputs hold NaN"):
        _parity(OUTPUTS / 0)
    with pytest.raises(ParityError, match="network's outputs hold NaN"):
        _parity(OUTPUTS, ours=OUTPUTS * float("inf"))
    with pytest.raises(ParityError, match="no samples"):
        compare([], [])
    with pytest.raises(ParityError, match="step"):
        _parity(OUTPUTS, 0.0)
