"""Progress is silent until someone listens, and plain where the output is no terminal."""

import io
import re

import pytest
from rich.console import Console

from haversack.cli.terminal import Bars
from haversack.progress import Status, logged_to, note, noted, phase, say, shown_by, tell, track


class Notes:
    """A listener that writes down what it hears."""

    def __init__(self):
        self.heard = []

    def track(self, items, label, total):
        for item in items:
            self.heard.append((label, total, item))
            yield item

    def say(self, line):
        self.heard.append(line)


def test_without_a_listener_items_pass_and_nothing_is_shown(capsys):
    say("hello")
    assert list(track(iter("abc"), "letters")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_a_listener_hears_each_item_and_line_within_its_block_only():
    notes = Notes()
    with shown_by(notes):
        say("begin")
        assert list(track([1, 2], "numbers", 2)) == [1, 2]
    say("after")
    assert notes.heard == ["begin", ("numbers", 2, 1), ("numbers", 2, 2)]


def test_a_note_is_said_and_belongs_to_the_innermost_block_once():
    heard = Notes()
    with shown_by(heard), noted() as outer:
        note("first")
        with noted() as inner:
            note("second")
            note("second")
            say("only said")
        note("third")
    note("nobody listens")
    assert (outer, inner) == (["first", "third"], ["second"])
    assert len(heard.heard) == 5


def test_an_inner_listener_gives_way_to_the_outer_one_also_after_an_error():
    outer, inner = Notes(), Notes()
    with shown_by(outer):
        with pytest.raises(KeyError), shown_by(inner):
            raise KeyError
        say("back")
    assert (outer.heard, inner.heard) == (["back"], [])


def test_where_the_output_is_no_terminal_a_line_stays_one_line_as_it_is(capsys):
    line = "kept prune_channels(keep=0.5) [0-15 18] [bold] :warning: see https://example.org " + "x" * 200
    with Bars() as bars, shown_by(bars):
        say(line)
        assert list(track(range(3), "steps", 3)) == [0, 1, 2]
    out, err = capsys.readouterr()
    assert (out, err) == ("", line + "\n")


def in_terminal() -> tuple[Bars, io.StringIO]:
    screen = io.StringIO()
    return Bars(Console(file=screen, force_terminal=True, width=100)), screen


def test_in_a_terminal_a_bar_counts_and_the_line_stands_above_it():
    bars, screen = in_terminal()
    with bars, shown_by(bars):
        for step in track(range(4), "fine-tuning", 4):
            if step == 2:
                bars._progress.refresh()
                say("half way")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "fine-tuning" in shown
    assert "2/4" in shown
    assert "half way" in shown


def test_a_bar_goes_when_the_loop_ends_early_or_fails():
    bars, _ = in_terminal()
    with bars:
        for _ in bars.track(range(4), "left early", 4):
            break
        items = bars.track((1 // each for each in (1, 0)), "fails", None)
        with pytest.raises(ZeroDivisionError):
            list(items)
        assert not bars._progress.tasks


def test_a_job_with_a_log_says_line_by_line_there_and_tells_the_listener_only_what_must_be_known(tmp_path):
    heard = Notes()
    with shown_by(heard), logged_to(tmp_path / "work" / "pack.log"):
        say("layer 1")
        tell("mind this")
        note("noted")
        phase(Status("training", 2))
        assert (tmp_path / "work" / "pack.log").read_text() == "layer 1\nmind this\nnoted\n# training: 2 built\n"
    with shown_by(heard):
        say("after")
    assert heard.heard == ["mind this", "training", "after"]


def test_a_log_that_cannot_be_written_leaves_the_lines_to_the_listener(tmp_path):
    (tmp_path / "file").write_text("")
    heard = Notes()
    with shown_by(heard), logged_to(tmp_path / "file" / "pack.log"):
        say("layer 1")
    assert heard.heard == ["layer 1"]


STANDING = (
    Status("looking", 0, 8),
    Status("looking", 0, 8),
    Status("building", 2, 8, "flash 18.2 kB of 20.0 kB"),
    Status("training", 3, 8, "flash 18.2 kB of 20.0 kB"),
)


def test_where_the_output_is_no_terminal_each_change_of_phase_is_a_line_and_each_better_best(capsys):
    with Bars() as bars, shown_by(bars):
        for status in STANDING:
            phase(status)
    lines = capsys.readouterr().err.splitlines()
    assert [re.sub(r"about \d+ s left", "about n s left", line) for line in lines] == [
        "looking (0 of about 8 built)",
        "best so far: flash 18.2 kB of 20.0 kB",
        "building (2 of about 8 built), about n s left",
        "training (3 of about 8 built), about n s left",
    ]


def test_in_a_terminal_the_standing_is_one_line_in_its_place():
    bars, screen = in_terminal()
    with bars, shown_by(bars):
        for status in STANDING:
            phase(status)
        bars._progress.refresh()
        assert len(bars._progress.tasks) == 1
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "training (3 of about 8 built)" in shown
    assert shown.count("best so far: flash") == 1
