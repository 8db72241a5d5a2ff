"""Progress is silent until someone listens, and plain where the output is no terminal."""

import io
import re

import pytest
from rich.console import Console

from haversack.cli.terminal import Bars
from haversack.progress import note, noted, say, shown_by, track


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
