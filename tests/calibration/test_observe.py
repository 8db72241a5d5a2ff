import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn
from torch.nn import functional as F

from haversack.calibration.histogram import Histogram
from haversack.calibration.ranges import Observed, observe
from haversack.errors import TaskError
from haversack.graph.fold import fold
from haversack.graph.folded import Folded
from haversack.graph.run import spacing
from haversack.graph.trace import trace
from haversack.grid import affine


def graph_of(network: nn.Module, x):
    return fold(trace(network.eval(), (x[:1],)))


def histogram(values) -> Observed:
    low, high = float(values.min()), float(values.max())
    return Observed(low, high, torch.histc(values, 2048, low, high).double())


class Squared(nn.Module):
    def forward(self, x):
        return F.relu(x * x - 1)


@pytest.fixture
def x():
    return torch.randn(40, 3, 5, generator=torch.Generator().manual_seed(0))


def off(seen: Observed, values) -> float:
    """The share of the values that is not where it is counted, or in the bin beside it."""
    edges = torch.linspace(seen.low, seen.high, 2049, dtype=torch.float64)[1:-1]
    places = values.flatten().double().sort().values
    below = torch.searchsorted(places, edges).double()
    width = edges[1] - edges[0]
    least, most = (torch.searchsorted(places, edges + each).double() for each in (-width, width))
    assert (least <= below).all()
    told = seen.counts.cumsum(0)[:-1]
    return float(((least - told).clamp(min=0) + (told - most).clamp(min=0)).amax() / len(places))


def test_the_limits_and_the_histogram_are_those_of_all_batches(x):
    graph = graph_of(Squared(), x)
    seen = observe(graph, ("x", "relu"), [(part,) for part in x.split(16)])
    for name, values in (("x", x), ("relu", F.relu(x * x - 1))):
        assert (seen[name].low, seen[name].high) == (float(values.min()), float(values.max()))
        assert seen[name].counts.sum() == values.numel()
        assert off(seen[name], values) == 0


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1000),
    size=st.sampled_from([1e-30, 1e-3, 1.0, 7.3, 1e30]),
    shift=st.floats(-30, 30),
    growth=st.floats(0.1, 50),
    parts=st.integers(1, 9),
)
def test_a_histogram_that_grows_tells_what_one_over_all_would(seed, size, shift, growth, parts):
    values = torch.randn(600, generator=torch.Generator().manual_seed(seed)) + shift
    values *= torch.linspace(1, growth, 600) * size
    tally = Histogram()
    for part in values.chunk(parts):
        tally.add(part, float(part.min()), float(part.max()))
    seen = Observed(tally.low, tally.high, tally.told())
    assert (seen.low, seen.high) == (float(values.min()), float(values.max()))
    assert seen.counts.sum() == len(values)
    assert off(seen, values) == 0


def test_in_which_parts_and_order_values_come_makes_no_difference():
    values = torch.randn(5000, generator=torch.Generator().manual_seed(3)) ** 3
    told = []
    for parts in (values.split(5000), values.split(7), values.sort().values.split(999)):
        tally = Histogram()
        for part in parts:
            tally.add(part, float(part.min()), float(part.max()))
        told.append(tally.told())
    assert torch.equal(told[0], told[1])
    assert torch.equal(told[0], told[2])


def test_of_very_many_numbers_some_are_counted_whatever_the_parts_and_the_ends_are_those_of_all(monkeypatch):
    monkeypatch.setattr("haversack.calibration.ranges._COUNTED", 20_000)
    x = torch.randn(60, 8, 5, 50, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 9).view(-1, 1, 1)
    told = []
    for size in (60, 7):
        seen = observe(noting(x, []), ("noted",), [(part,) for part in x.split(size)])["noted"]
        assert (seen.low, seen.high) == (float(x.min()), float(x.max()))
        assert 0.7 * 20_000 <= seen.counts.sum() <= 20_000
        told.append(seen.counts)
    assert torch.equal(*told)
    # As a random choice of 20,000 would be: five standard deviations of the distribution's largest distance.
    shares, ends = told[0].cumsum(0) / told[0].sum(), torch.linspace(seen.low, seen.high, 2049)[1:]
    places = torch.searchsorted(x.flatten().sort().values, ends, right=True) / x.numel()
    assert float((shares - places).abs().max()) < 5 * 0.5 / 20_000**0.5


@pytest.mark.parametrize(
    ("total", "most", "size"), [(1 << 20, 1000, 16), (120_000, 20_000, 2000), (10, 20, 6), (99, 1, 1)]
)
def test_what_is_picked_is_no_more_than_asked_and_comes_to_every_place(total, most, size):
    every = spacing(total, most, size)
    assert len(range(0, total, every)) <= most
    assert {place % size for place in range(0, size * every, every)} == set(range(size))


def test_half_precision_is_counted_as_finely():
    values = (torch.randn(3000, generator=torch.Generator().manual_seed(5)) * 1e-3).half()
    low, high = float(values.min()), float(values.max())
    tally = Histogram()
    tally.add(values, low, high)
    assert off(Observed(low, high, tally.told()), values) == 0


@pytest.mark.parametrize("number", [0.0, -7.5, 1e-42, 3e38])
def test_one_number_alone_is_counted(number):
    tally = Histogram()
    tally.add(torch.full((9,), number), number, number)
    assert tally.told().sum() == 9


def noting(x, sizes) -> Folded:
    """A graph of one value, which notes how many samples it is run on."""

    def note(values):
        sizes.append(len(values))
        return values * 1.0

    graph = fx.Graph()
    start = graph.placeholder("x")
    start.meta["val"] = x.to("meta")
    noted = graph.create_node("call_function", note, (start,), name="noted")
    noted.meta["val"] = start.meta["val"]
    graph.output(noted)
    return Folded(fx.GraphModule({}, graph), {})


@pytest.mark.parametrize("counted", [False, True])
def test_the_network_runs_once(x, counted):
    sizes = []
    seen = observe(noting(x, sizes), ("noted",), [(x,)], counted=counted)
    assert sizes == [len(x)]
    assert (seen["noted"].counts is not None) == counted


def test_large_batches_run_in_parts_and_are_observed_whole():
    sizes, x = [], torch.randn(9, 1 << 20, generator=torch.Generator().manual_seed(0))
    seen = observe(noting(x, sizes), ("noted",), [(x[:7],), (x[7:],)])["noted"]
    assert sizes == [4, 3, 2]
    assert (seen.low, seen.high) == (float(x.min()), float(x.max()))
    assert seen.counts.sum() == len(range(0, x.numel(), 3))


def test_percentile_and_mse_cut_a_heavy_tail():
    bulk = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    seen = histogram(torch.cat([bulk, torch.tensor([40.0])]))
    assert seen.grid("min_max").high == pytest.approx(40, rel=0.01)
    assert seen.grid("percentile").high < 8
    assert seen.grid("mse").high < 36
    assert seen.grid("percentile").low == pytest.approx(float(bulk.min()), abs=1)


def test_a_range_without_tails_stays_whole():
    seen = histogram(torch.linspace(-1, 3, 100_000))
    whole = seen.grid("min_max")
    for ranges in ("percentile", "mse"):
        assert seen.grid(ranges).high == pytest.approx(whole.high, rel=0.02)
        assert seen.grid(ranges).low == pytest.approx(whole.low, rel=0.05)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1000),
    shape=st.floats(0.3, 4),
    shift=st.floats(-3, 3),
    signed=st.booleans(),
)
def test_mse_never_rounds_worse_than_min_max_and_no_grid_reaches_beyond_what_was_seen(seed, shape, shift, signed):
    values = torch.randn(2000, generator=torch.Generator().manual_seed(seed))
    seen = histogram(values.sign() * values.abs() ** shape + shift)
    whole, best = seen.grid("min_max", signed=signed), seen.grid("mse", signed=signed)
    errors = seen.squared_error([whole, best])
    assert errors[1] <= errors[0] * (1 + 1e-9)
    for ranges in ("percentile", "mse"):
        grid = seen.grid(ranges, signed=signed)
        assert grid.high <= max(seen.high, 0) + grid.scale[0]
        assert grid.low >= min(seen.low, 0) - grid.scale[0]


@pytest.mark.parametrize("ranges", ["min_max", "percentile", "mse"])
def test_relu6_stays_within_six_and_begins_at_the_lowest_integer(ranges):
    seen = histogram(F.relu6(torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * 5))
    unsigned, signed = seen.grid(ranges), seen.grid(ranges, signed=True)
    assert unsigned.high <= 6 * (1 + 1e-6)
    assert unsigned.zero_point == (0,)
    assert signed.zero_point == (-128,)


@pytest.mark.parametrize("ranges", ["min_max", "percentile", "mse"])
@pytest.mark.parametrize("number", [0.0, 3.7, -2.0])
def test_a_constant_gets_a_grid_that_holds_it(ranges, number):
    grid = Observed(number, number, torch.zeros(2048, dtype=torch.float64)).grid(ranges)
    assert float(grid.round(torch.tensor(number))) == pytest.approx(number, rel=1e-5)
    assert grid == affine(number, number)


def test_inputs_that_never_vary_are_refused(x):
    graph = graph_of(Squared(), x)
    with pytest.raises(TaskError, match=r"calibrate\(\): every number of the calibration inputs is 0.5") as caught:
        observe(graph, ("x",), [(torch.full_like(x, 0.5),)] * 3)
    assert caught.value.mend


def test_a_value_that_is_not_a_number_is_refused_by_name_even_in_a_later_batch(x):
    class Root(nn.Module):
        def forward(self, x):
            return x.sqrt()

    graph = graph_of(Root(), x)
    with pytest.raises(TaskError, match="value sqrt: the network computes NaN or infinity"):
        observe(graph, ("sqrt",), [(x.abs(),), (x,), (x.abs(),)])


@pytest.mark.parametrize("ranges", ["min_max", "percentile", "mse"])
def test_sixteen_bits_take_in_all_that_was_seen_around_zero(ranges):
    seen = histogram(torch.cat([torch.randn(1000), torch.tensor([30.0])]))
    grid = seen.grid(ranges, bits=16, signed=True)
    assert (grid.zero_point, grid.qmin, grid.qmax) == ((0,), -32768, 32767)
    assert grid.high == pytest.approx(30)
