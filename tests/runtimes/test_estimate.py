"""Estimates are held against boards that other people measured."""

import math
from dataclasses import replace

import pytest

from haversack.device import Device, device_names, find_device
from haversack.errors import BudgetError, DeviceError
from haversack.graph.cost import Cost, Stored
from haversack.graph.memory import Buffer, plan
from haversack.limits import Budget
from haversack.measurement import Figure
from haversack.progress import shown_by
from haversack.runtimes.estimate import (
    check_judgeable,
    check_possible,
    energy_mj,
    instructions_mj,
    instructions_ms,
    latency_ms,
    ram_bytes,
    weigh,
)

BOARD = Device(
    "stm32l4r5",
    "STM32L4R5",
    "firmware",
    ram_bytes=640 * 1024,
    clock_hz=120e6,
    macs_per_cycle_int8=2,
    active_power_w=0.03,
)
PI = Device("pi", "a Pi", "onnx", ram_bytes=2**30, clock_hz=1e9, macs_per_cycle_float32=4, macs_per_cycle_int8=8)


def network(macs: int, parameters: int = 0, activation_bytes: int = 400) -> Cost:
    memory = plan([Buffer("x", activation_bytes, 0, 1), Buffer("y", activation_bytes, 1, 2)])
    return Cost((), parameters, macs, memory, bytes_per_element=4, stored=Stored(parameters, 0))


# Multiply-accumulates, then cycles in millions on the board: MLPerf Tiny v1.1 results, 120e6 / inferences a second.
MLPERF_TINY = {
    "keyword spotting": (2_656_768, {"X-CUBE-AI": 7.55, "microTVM+CMSIS-NN": 12.0, "microTVM": 17.3, "Plumerai": 5.73}),
    "ResNet-8": (12_501_632, {"X-CUBE-AI": 25.7, "microTVM+CMSIS-NN": 46.7, "microTVM": 46.7, "Plumerai": 20.1}),
    "wake words": (7_489_664, {"X-CUBE-AI": 14.2, "microTVM+CMSIS-NN": 36.1, "microTVM": 40.7, "Plumerai": 11.9}),
    "autoencoder": (264_192, {"X-CUBE-AI": 0.82, "microTVM+CMSIS-NN": 1.03, "microTVM": 1.41, "Plumerai": 0.49}),
}


@pytest.mark.parametrize("name", MLPERF_TINY)
def test_the_times_published_for_a_real_board_lie_within_the_estimate(name: str) -> None:
    macs, cycles = MLPERF_TINY[name]
    found = latency_ms(network(macs), BOARD, "int8")
    for engine, millions in cycles.items():
        assert found.low < millions * 1e6 / 120e6 * 1e3 < found.high, engine
    assert found.high / found.low < 8


MOBILENETS = {"v1": 569, "v2": 300, "v3 large": 219, "v3 small": 56.5}
"""Multiply-accumulates in millions."""
A53, A72 = find_device("raspberry-pi-zero-2w"), find_device("raspberry-pi-4")
# XNNPACK's README: processor and its clock, cores that were used, then the slowest and the fastest published time in ms
# (February 2020 and 2022; the Raspberry Pi 4 in 32 and in 64 bits).
XNNPACK = {
    ("Raspberry Pi 3+", "float32"): (
        replace(A53, clock_hz=1.4e9),
        4,
        {"v1": (115, 114), "v2": (79, 79), "v3 large": (67, 67), "v3 small": (23, 22)},
    ),
    ("Raspberry Pi 3+", "int8"): (replace(A53, clock_hz=1.4e9), 4, {"v1": (46, 46), "v2": (30, 30)}),
    ("Raspberry Pi 4", "float32"): (
        A72,
        4,
        {"v1": (77, 72), "v2": (46, 41), "v3 large": (41, 38), "v3 small": (15, 13)},
    ),
    ("Raspberry Pi 4", "int8"): (A72, 4, {"v1": (29, 24), "v2": (20, 17)}),
    ("Pixel 3a", "float32"): (
        replace(PI, clock_hz=2e9, macs_per_cycle_float32=8),
        1,
        {"v1": (88, 88), "v2": (55, 55), "v3 large": (44, 44), "v3 small": (14, 14)},
    ),
}


@pytest.mark.parametrize("where", XNNPACK, ids=" ".join)
def test_mobilenets_published_for_arm_processors_lie_within_the_estimate(where: tuple[str, str]) -> None:
    device, cores, published = XNNPACK[where]
    for name, (slowest, fastest) in published.items():
        found = latency_ms(network(int(MOBILENETS[name] * 1e6)), device, where[1])
        assert found.low / cores < fastest <= slowest < found.high / cores, name


def test_int8_on_armv8_cores_counts_the_sums_that_are_widened_where_they_cost_a_turn() -> None:
    assert A53.macs_per_cycle_int8 == pytest.approx(16 / 3, rel=0.01)
    assert A72.macs_per_cycle_int8 == 8


def test_boards_state_their_power_on_one_basis() -> None:
    stated = [device for device in map(find_device, device_names()) if device.active_power_w is not None]
    assert {"raspberry-pi-zero-2w", "raspberry-pi-4", "raspberry-pi-5"} == {device.name for device in stated}
    assert all("typical bare-board active current" in device.sources["active_power_w"] for device in stated)
    assert find_device("raspberry-pi-4").active_power_w == pytest.approx(0.6 * 5.1)


@pytest.mark.parametrize(("name", "loads"), [("raspberry-pi-4", True), ("pixel-8", True), ("stm32h743", False)])
def test_weights_take_ram_only_where_an_operating_system_loads_them(name: str, loads: bool) -> None:  # noqa: FBT001
    device = find_device(name)
    assert device.loads_weights is loads
    assert weigh(network(10**6), device, "int8").ram_bytes.part is loads


def test_the_value_is_the_geometric_mean_of_the_range_and_its_origin_is_stated() -> None:
    found = latency_ms(network(10**6), PI, "float32")
    assert found.origin == "estimated"
    assert found.value == pytest.approx(math.sqrt(found.low * found.high))
    assert found.worst == found.high


def test_float16_takes_as_long_as_float32_and_int8_half_at_twice_the_rate() -> None:
    whole = latency_ms(network(10**6), PI, "float32")
    assert latency_ms(network(10**6), PI, "float16") == whole
    assert latency_ms(network(10**6), PI, "int8").value == pytest.approx(whole.value / 2)


def test_a_slow_memory_sets_the_time_where_the_device_states_it() -> None:
    slow = replace(PI, memory_bandwidth=1e6)
    found = latency_ms(network(1000, parameters=10_000), slow, "float32")
    assert found.low == found.high == pytest.approx((40_000 + 800) / 1e6 * 1e3)
    assert latency_ms(network(1000, parameters=10_000), slow, "int8").value == pytest.approx(found.value / 4)


def test_the_range_is_wider_where_nobody_states_what_kind_of_device_it_is() -> None:
    unknown = latency_ms(network(10**6), replace(PI, ram_bytes=None), "int8")
    for known in (PI, replace(PI, ram_bytes=2**16)):
        found = latency_ms(network(10**6), known, "int8")
        assert unknown.low <= found.low
        assert unknown.high >= found.high


@pytest.mark.parametrize("fact", ["clock_hz", "macs_per_cycle_int8"])
def test_a_device_without_a_stated_rate_is_refused_by_the_name_of_the_fact(fact: str) -> None:
    with pytest.raises(DeviceError, match=f"device file with {fact}"):
        latency_ms(network(10), replace(BOARD, **{fact: None}), "int8")


def test_an_unknown_number_format_is_refused() -> None:
    with pytest.raises(DeviceError, match="unknown number format 'int7'"):
        ram_bytes(network(10), "int7")


def test_activations_in_int8_take_a_quarter_of_float32() -> None:
    assert [ram_bytes(network(1), name).value for name in ("float32", "float16", "int8")] == [800, 400, 200]


def test_energy_keeps_the_range_and_is_unknown_without_a_stated_power() -> None:
    found = energy_mj(Figure(20, "estimated", 10, 40), BOARD)
    assert found == Figure(pytest.approx(0.6), "estimated", pytest.approx(0.3), pytest.approx(1.2))
    assert energy_mj(Figure(20, "board"), BOARD) == Figure(pytest.approx(0.6), "estimated")
    assert energy_mj(Figure(20, "estimated"), PI) is None


def test_weighing_holds_every_estimate_that_the_device_allows() -> None:
    needs = network(10**6, parameters=1001)
    found = weigh(needs, BOARD, "int8")
    assert found.latency_ms == latency_ms(needs, BOARD, "int8")
    assert found.energy_mj == energy_mj(found.latency_ms, BOARD)
    assert (found.flash_bytes.value, found.ram_bytes.value) == (1001, 200)
    assert {found.flash_bytes.origin, found.ram_bytes.origin} == {"estimated"}


def test_weighing_leaves_unknown_what_the_device_does_not_state() -> None:
    found = weigh(network(10**6, parameters=1000), BOARD, "float32")
    assert (found.latency_ms, found.energy_mj, found.flash_bytes.value) == (None, None, 4000)


BOTH = ("float32", "int8")
IN_TIME, BY_RATIO, BY_ENERGY = Budget(latency_ms=3), Budget(latency_ratio=0.5, flash_bytes=9), Budget(energy_mj=3)
IN_MEMORY = Budget(ram_bytes=10**6)


@pytest.mark.parametrize(
    ("device", "budget", "formats", "said"),
    [
        (replace(BOARD, active_power_w=None), BY_ENERGY, BOTH, r"power of stm32l4r5.*\n.*active_power_w"),
        (replace(BOARD, clock_hz=None), BY_ENERGY, BOTH, r"how fast stm32l4r5.*\n.*clock_hz"),
        (replace(BOARD, clock_hz=None), IN_TIME, BOTH, r"computes float32 or int8.*\n.*--latency 0.5x"),
        (BOARD, IN_TIME, ("float32",), r"computes float32,.*\n.*macs_per_cycle_float32.*In int8 its time is known"),
        (find_device("host"), BY_ENERGY, BOTH, "power of host"),
        (find_device("raspberry-pi-4"), IN_MEMORY, BOTH, r"RAM.*raspberry-pi-4 a part alone is known.*\n.*--flash"),
    ],
)
def test_a_limit_that_no_figure_could_judge_is_refused_with_what_would_make_it_judgeable(device, budget, formats, said):
    with pytest.raises(BudgetError, match=said):
        check_judgeable(budget, device, formats)


@pytest.mark.parametrize(
    ("device", "budget", "formats"),
    [
        (BOARD, IN_TIME, BOTH),
        (BOARD, BY_ENERGY, ("int8",)),
        (replace(BOARD, clock_hz=None, active_power_w=None), BY_RATIO, BOTH),
        (find_device("host"), IN_TIME, BOTH),
        (find_device("host"), IN_MEMORY, BOTH),
        (BOARD, IN_MEMORY, BOTH),
    ],
)
def test_a_limit_that_some_figure_can_judge_is_accepted(device, budget, formats):
    check_judgeable(budget, device, formats)


@pytest.mark.parametrize(("formats", "least"), [(BOTH, 64), (("float32",), 256)])
def test_memory_that_the_inputs_alone_fill_is_refused_where_it_is_planned_and_not_where_it_is_measured(formats, least):
    check_possible(Budget(ram_bytes=least), BOARD, 64, formats)
    with pytest.raises(BudgetError, match=f"inputs alone take {least} B of RAM, and {least - 1} B are allowed"):
        check_possible(Budget(ram_bytes=least - 1), BOARD, 64, formats)
    check_possible(Budget(ram_bytes=1), find_device("host"), 64, formats)


def test_a_limit_beyond_what_the_device_has_gives_way_to_that_and_this_is_told():
    heard = []

    class Ear:
        def say(self, line):
            heard.append(line)

    with shown_by(Ear()):
        check_possible(Budget(flash_bytes=10**10), replace(BOARD, flash_bytes=64_000), 64, BOTH)
        check_possible(Budget(flash_bytes=64_000), replace(BOARD, flash_bytes=64_000), 64, BOTH)
    assert heard == ["stm32l4r5 has 64.0 kB of flash: that is the limit, not 10.0 GB"]
    assert Budget(flash_bytes=10**10).within(replace(BOARD, flash_bytes=64_000)).flash_bytes == 64_000


def test_instructions_are_times_and_energies_by_stated_ranges():
    board = replace(BOARD, cycles_per_instruction=(1.2, 1.8), nanojoules_per_cycle=(0.3, 0.6))
    time, energy = instructions_ms(6_000_000, board), instructions_mj(6_000_000, board)
    assert time == Figure(pytest.approx(math.sqrt(60 * 90)), "estimated", pytest.approx(60), pytest.approx(90))
    assert energy == Figure(
        pytest.approx(math.sqrt(2.16 * 6.48)), "estimated", pytest.approx(2.16), pytest.approx(6.48)
    )
    assert instructions_mj(6_000_000, replace(board, nanojoules_per_cycle=None)) == energy_mj(time, board)
    assert instructions_ms(1, BOARD) is None
    assert instructions_mj(1, BOARD) is None


def test_energy_by_cycles_is_of_programs_alone():
    board = replace(find_device("stm32l4r5"), runtime="c")
    check_judgeable(BY_ENERGY, board, ("int8",))
    with pytest.raises(BudgetError, match="power of stm32l4r5"):
        check_judgeable(BY_ENERGY, replace(board, runtime="tflite-micro"), ("int8",))
