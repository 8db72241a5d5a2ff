"""A benchmark's figures keep where they are from, row by row."""

import json
import subprocess
import sys
from pathlib import Path

import figures
import pytest
import rows

from haversack.errors import HaversackError

RESULTS = sorted((Path(figures.__file__).parent / "results").glob("*.json"))


def run(monkeypatch, file, given, *words, summed=lambda _: {}):
    """The file after a run of rows that find what is `given` for them."""
    found = {name: lambda _, __, row=row: row for name, row in given.items()}
    monkeypatch.setattr(sys, "argv", ["x", "--data", str(file.parent), "--json", str(file), *words])
    rows.main("x: made up", found, rows.Asked(at_least={"a.score": 0.5}), summed)
    return figures.read(file)


def test_each_row_has_its_own_machine_commit_versions_day_and_whether_it_was_quick(tmp_path, monkeypatch):
    file = tmp_path / "x.json"
    run(monkeypatch, file, {"a": {"a.score": 0.25}})
    old = {"a": figures.Measured({"a.score": 0.25}, False, "2020-01-01", "abc", "a Z80", {"torch": "1"})}
    figures.write(file, old)
    found = run(monkeypatch, file, {"b": {"b.score": 1, "minutes": 2}}, "--quick")
    assert found["a"] == old["a"]
    assert found["b"].quick
    assert found["b"].machine != "a Z80"
    assert {"torch", "haversack"} <= found["b"].versions.keys()
    assert json.loads(file.read_text())["b.score"] == 1


def test_a_row_that_is_measured_again_leaves_none_of_its_old_figures(tmp_path, monkeypatch):
    file = tmp_path / "x.json"
    run(monkeypatch, file, {"a": {"a.old": 1, "minutes": 3}, "ab": {"ab.score": 2}})
    found = run(monkeypatch, file, {"a": {"a.new": 1}}, "--only", "a")
    assert {name: list(row.figures) for name, row in found.items()} == {"a": ["a.new"], "ab": ["ab.score"]}
    assert json.loads(file.read_text()).keys() == {"a.new", "ab.score", "rows"}


def test_a_row_is_chosen_by_its_name_and_several_by_their_beginning(tmp_path, monkeypatch):
    given = {"a_one": {"a.one": 1}, "a_one_more": {"a.more": 2}, "b": {"b.score": 3}}
    assert run(monkeypatch, tmp_path / "x.json", given, "--only", "a_one").keys() == {"a_one"}
    assert run(monkeypatch, tmp_path / "y.json", given, "--only", "a_").keys() == {"a_one", "a_one_more"}


def test_a_quick_row_does_not_replace_a_whole_one(tmp_path, monkeypatch, capsys):
    file = tmp_path / "x.json"
    run(monkeypatch, file, {"a": {"a.score": 0.9}})
    before = file.read_text()
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, file, {"a": {"a.score": 0.1}}, "--quick")
    assert ended.value.code == 2
    assert "a was measured whole" in capsys.readouterr().err
    assert file.read_text() == before


def test_a_row_that_follows_from_others_is_renewed_with_each_of_them(tmp_path, monkeypatch):
    def mean(found):
        scores = [value for name, value in found.items() if name in ("a.score", "b.score")]
        return {"mean": {"mean.score": sum(scores) / len(scores)}} if scores else {}

    file = tmp_path / "x.json"
    one = run(monkeypatch, file, {"a": {"a.score": 0.5}}, summed=mean)
    two = run(monkeypatch, file, {"b": {"b.score": 1.0}}, summed=mean)
    assert (one["mean"].figures, two["mean"].figures) == ({"mean.score": 0.5}, {"mean.score": 0.75})
    quick = run(monkeypatch, file, {"c": {"c.score": 0.0}}, "--quick", summed=mean)
    assert quick["mean"] == two["mean"]


def test_a_quick_row_is_never_shown_as_met(tmp_path, monkeypatch, capsys):
    run(monkeypatch, tmp_path / "x.json", {"a": {"a.score": 0.9}}, "--quick")
    assert "met" not in capsys.readouterr().out
    run(monkeypatch, tmp_path / "x.json", {"a": {"a.score": 0.9}})
    assert "met" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"a.score": 1}', '{"rows": {"a": {"figures": ["a.score"]}}}', '{"rows": {"a": 1}}', '{"rows": []}'],
)
def test_a_file_in_which_a_figure_is_of_no_row_is_refused(tmp_path, text):
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(HaversackError):
        figures.read(file)


def test_two_rows_do_not_give_one_figure(tmp_path):
    row = figures.Measured({"minutes": 1}, False, "", "", "", {})
    with pytest.raises(HaversackError, match="minutes"):
        figures.write(tmp_path / "x.json", {"a": row, "b": row})


def test_changes_that_are_not_committed_are_named(tmp_path):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    assert figures.commit(tmp_path) == "unknown"
    (tmp_path / "results").mkdir()
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "results" / "x.json").write_text("{}")
    clean = figures.commit(tmp_path)
    assert len(clean) >= 7
    (tmp_path / "code.py").write_text("")
    assert figures.commit(tmp_path) == f"{clean}+changes"


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_the_figures_in_the_repository_are_of_whole_rows_that_say_where_they_are_from(file):
    found = figures.read(file)
    assert found
    for name, row in found.items():
        assert not row.quick, name
        assert all((row.machine, row.commit, row.date, row.versions)), name
