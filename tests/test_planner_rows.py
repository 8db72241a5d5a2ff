"""The planner's benchmark asks for figures of its own rows, relaxes one limit at a time, and forgets what it timed."""

import math
import os
from pathlib import Path

import planner
import planner_job
import pytest
from planner_impossible import GOALS, Refused

from haversack.limits import Budget


def test_every_figure_that_is_asked_for_is_of_a_row():
    asked = {*planner.ASKED.at_least, *planner.ASKED.at_most}
    assert {name.partition(".")[0] for name in asked} == planner.ROWS.keys()


@pytest.mark.parametrize(
    ("relaxations", "relaxed"),
    [
        ({}, []),
        ({"flash_bytes": math.inf, "max_drop": 0.3}, [Budget(flash_bytes=10_000, max_drop=0.3)]),
        ({"flash_bytes": 70_000.2}, [Budget(flash_bytes=70_001, max_drop=0.001)]),
    ],
)
def test_one_limit_is_relaxed_at_a_time_and_none_that_is_not_enough_alone(relaxations, relaxed):
    assert Refused(1.0, relaxations).relaxed(GOALS["flash"]) == relaxed


@pytest.mark.parametrize("before", [None, "/kept"])
def test_tables_of_a_row_are_its_own_and_those_of_the_user_come_back(before, monkeypatch):
    if before is None:
        monkeypatch.delenv(planner_job.TABLES, raising=False)
    else:
        monkeypatch.setenv(planner_job.TABLES, before)
    with planner_job.fresh_tables():
        inside = os.environ[planner_job.TABLES]
        assert Path(inside).is_dir()
    assert not Path(inside).exists()
    assert os.environ.get(planner_job.TABLES) == before
