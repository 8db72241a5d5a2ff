"""How many components hold a share of the energy."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from haversack.techniques.factorize.ways import energy_rank


@settings(max_examples=50)
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12), st.floats(0.01, 0.999))
def test_energy_takes_the_fewest_components_that_hold_it(values, share):
    squares = np.sort(np.array(values))[::-1]
    rank = energy_rank(squares, share)
    assert squares[:rank].sum() >= share * squares.sum() * (1 - 1e-9)
    assert rank == 1 or squares[: rank - 1].sum() < share * squares.sum()
    assert energy_rank(np.zeros(3), share) == 1
