"""The example of several processes runs as it says, and all of them end with the same network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_processes_of_the_example_end_with_one_network_that_is_about_as_good():
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [sys.executable, *launch, str(ROOT / "examples" / "many_processes.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = re.findall(r"process (\d) of 2: score (\S+) before and (\S+) after, weights (\w{8})", done.stdout)
    assert {each[0] for each in said} == {"0", "1"}
    assert len({each[1:] for each in said}) == 1
    _, before, after, _ = said[0]
    assert float(after) > float(before) - 0.05
