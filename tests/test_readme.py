"""README claims nothing that the results do not hold."""

import re
from importlib import import_module
from math import inf

import figures
import pytest
import readme

from haversack.errors import HaversackError

TEXT = readme.README.read_text("utf-8")
ASIDE = re.compile(r"<!-- figures: \w+ -->.*?<!-- end -->|```.*?```|`[^`]*`|\]\([^)]*\)", re.DOTALL)
FOUND = re.compile(r"\d[\d.,]*\s?(%|points\b|kB\b|x\b|seconds\b|minutes\b|ms\b|s\b|epochs\b)")
SAID = {"0.45x", "200 kB"}
"""What is asked for, not found."""


def test_every_figure_of_readme_stands_in_the_results():
    assert readme.filled(TEXT) == TEXT, "run python benchmarks/readme.py"


def test_no_figure_of_readme_stands_outside_of_the_blocks_that_are_written():
    loose = {each[0] for each in FOUND.finditer(ASIDE.sub(" ", TEXT))}
    assert loose <= SAID


@pytest.mark.parametrize("file", sorted(readme.RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_a_figure_that_is_not_what_was_asked_is_listed(file):
    asked = import_module(file.stem).ASKED
    found = {name: value for row in figures.read(file).values() for name, value in row.figures.items()}
    for name in found.keys() & {*asked.at_least, *asked.at_most}:
        met = asked.at_least.get(name, -inf) <= found[name] <= asked.at_most.get(name, inf)
        listed = any(f"| {file.stem}: `{name}` {sign} " in TEXT for sign in (">=", "<="))
        assert listed == (not met), name


def test_a_figure_is_shown_with_its_unit_and_a_spread_with_both_ends():
    assert readme.figure("structure", "factorize.vgg_latency_ratio_spread", "x2", "") == "0.04 to 0.65x"
    assert readme.figure("distillation", "mobilenetv2.gain_20_epochs", "points", "") == "-1.65"
    assert readme.figure("structure", "latency", "cpu", "") == "Intel Xeon"


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Results of one row, which is quick."""
    row = figures.Measured({"a.score": 0.9}, True, "today", "abc", "here", {"torch": "1"})
    figures.write(tmp_path / "made_up.json", {"a": row})
    monkeypatch.setattr(readme, "RESULTS", tmp_path)


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize(
    ("name", "form", "said"), [("a.score", "%", "quick"), ("a.none", "%", "no figure"), ("a", "kg", "no form")]
)
def test_figures_that_are_quick_or_unknown_are_refused(name, form, said):
    with pytest.raises(HaversackError, match=said):
        readme.figure("made_up", name, form, "")


@pytest.mark.usefixtures("results")
def test_a_figure_may_be_missing_only_where_the_words_allow_it():
    assert readme.figure("made_up", "a.none", "%", "?") == "not measured"


@pytest.mark.parametrize("text", ["", "<!-- figures: nonsense -->\n<!-- end -->\n"])
def test_a_block_without_words_or_place_is_named(text):
    with pytest.raises(HaversackError):
        readme.filled(text)
