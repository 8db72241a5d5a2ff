"""What touches every weight takes at most three networks of memory, the network itself among them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from memory import READERS, STEPS, Cost

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
BESIDE = 16_000_000
"""What a graph and a stack of Python objects take, however large the network is."""
CODE = """
import json, sys
from dataclasses import asdict
from memory import SMALL, Shape, cost
cost("lower", SMALL, integer=True), cost("pt2", SMALL)
print(json.dumps({name: asdict(cost(name, Shape(448, 2560, 800), integer=name == "lower")) for name in sys.argv[1:]}))
"""


@pytest.fixture(scope="module")
def costs():
    """20 million parameters in a process whose memory goes back when it is freed, so that each peak is its own."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux forgets a process's peak when asked")
    paths = os.pathsep.join([str(BENCHMARKS), *sys.path])
    settings = {"PYTHONPATH": paths, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-W", "ignore", "-c", CODE, *STEPS, *READERS]
    done = subprocess.run(words, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name: Cost(**found) for name, found in json.loads(done.stdout).items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*STEPS, *READERS])
def test_an_operation_takes_at_most_three_networks_of_memory(costs, name):
    found = costs[name]
    assert found.peak_bytes <= 3 * found.network_bytes + BESIDE, f"{found.peak:.2f} networks"


@pytest.mark.slow
def test_weights_are_quantized_at_thirty_megabytes_a_second_of_one_core(costs):
    found = costs["quantize_weights"]
    assert found.network_bytes / 1e6 / found.cpu_seconds >= 30
