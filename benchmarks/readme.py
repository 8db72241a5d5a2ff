"""README's figures: what stands between `<!-- figures: NAME -->` and `<!-- end -->` is written from the results.

    python benchmarks/readme.py [--check]

The words are in readme_blocks.md, under the same marks; `{FILE FIGURE FORM}` there becomes the figure of that name in
results/FILE.json; one that is not there yet has a `?` behind its form. A figure of a quick row is refused. `missed` is
made here: all that was asked for and not met.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path

from figures import Measured, read
from rows import Asked

from haversack.errors import HaversackError

HERE = Path(__file__).parent
README, BLOCKS, RESULTS = HERE.parent / "README.md", HERE / "readme_blocks.md", HERE / "results"
_MARKED = re.compile(r"(<!-- figures: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_FIGURE = re.compile(r"\{(\w+) ([\w.]+) ([\w%]+)(\??)\}")


def main() -> None:
    """Writes README.md anew; to check, says whether it would change."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a figure has changed")
    asked, old = words.parse_args(), README.read_text("utf-8")
    new = filled(old)
    if not asked.check:
        README.write_text(new, encoding="utf-8")
    elif new != old:
        sys.exit(f"{README.name} is not what the results say: run python benchmarks/readme.py")


def filled(readme: str) -> str:
    """The README with today's figures in its blocks. Raises HaversackError where a block or a figure is missing."""
    words = {name: text for _, name, text, _ in _MARKED.findall(BLOCKS.read_text("utf-8"))} | {"missed": missed()}
    unused = words.keys() - {name for _, name, _, _ in _MARKED.findall(readme)}
    if unused:
        raise HaversackError(f"it has no place for {', '.join(sorted(unused))}.", where=README.name)

    def block(found: re.Match[str]) -> str:
        if found[2] not in words:
            raise HaversackError(f"no words are there for {found[2]}.", where=BLOCKS.name)
        return found[1] + _FIGURE.sub(lambda each: figure(*each.groups()), words[found[2]]) + found[4]

    return _MARKED.sub(block, readme)


def figure(file: str, name: str, form: str, absent: str) -> str:
    """The figure in the form that is asked for; of a row, its `cpu` or `date`."""
    rows = results(file)
    if form in _ROW_FORMS and name in rows:
        return _ROW_FORMS[form](rows[name])
    row = next((row for row in rows.values() if name in row.figures), None)
    if row is None and absent:
        return "not measured"
    if row is None or form not in _FORMS:
        raise HaversackError(f"no figure {name}, or no form {form}.", where=f"{file}.json", mend="measure its row.")
    if row.quick:
        raise HaversackError(f"{name} is of a quick run.", where=f"{file}.json", mend="measure its row whole.")
    return _FORMS[form](row.figures[name])


@cache
def results(file: str) -> dict[str, Measured]:
    """The rows in a file of results; none where it is not there."""
    path = RESULTS / f"{file}.json"
    return read(path) if path.exists() else {}


def missed() -> str:
    """A table of all figures that are not what was asked for, and of what was asked for and not measured."""
    benchmarks = [file.stem for file in sorted(HERE.glob("*.py")) if "\nASKED = " in file.read_text("utf-8")]
    lines = [line for name in benchmarks for line in _missed(name)]
    return "\n".join(["| asked | found | CPU |", "| --- | --- | --- |", *lines, ""])


def _missed(name: str) -> Iterator[str]:
    asked: Asked = import_module(name).ASKED
    if not results(name):
        yield f"| {name}: all {len({**asked.at_least, **asked.at_most})} figures | not measured | |"
        return
    for sign, limits in ((">=", asked.at_least), ("<=", asked.at_most)):
        for figure_name, limit in limits.items():
            row = next((row for row in results(name).values() if figure_name in row.figures), None)
            words = f"| {name}: `{figure_name}` {sign} {limit:g} |"
            if row is None:
                yield f"{words} not measured | |"
            elif not asked.met(figure_name, value := float(str(row.figures[figure_name]))):
                yield f"{words} {value:.4g} | {_cpu(row)} |"


def _cpu(row: Measured) -> str:
    return row.machine.partition(",")[0].replace("(R)", "").removesuffix(" Processor")


def _numbers(value: object) -> Sequence[float]:
    return [float(each) for each in value] if isinstance(value, list | tuple) else [float(str(value))]


def _each(form: str, scale: float = 1.0, unit: str = "", between: str = " to ") -> Callable[[object], str]:
    """One number, or the first and the last of a spread."""

    def shown(value: object) -> str:
        return between.join(format(scale * each, form) for each in _numbers(value)) + unit

    return shown


def _points(digits: int) -> Callable[[object], str]:
    """Points, one after the other."""
    return lambda value: ", ".join(f"{100 * each:.{digits}f}" for each in _numbers(value))


_FORMS: dict[str, Callable[[object], str]] = {
    "text": lambda value: str(value).rstrip(),
    "number": _each("g"),
    "count": _each(",.0f"),
    "exponent": _each(".0e"),
    "%": _each(".2f", 100, " %"),
    "%1": _each(".1f", 100, " %"),
    "points": _each(".2f", 100),
    "each_points": _points(1),
    "each_points2": _points(2),
    "mean%": lambda value: f"{100 * statistics.mean(_numbers(value)):.2f} %",
    "x2": _each(".2f", unit="x"),
    "x3": _each(".3f", unit="x"),
    "x4": _each(".4f", unit="x"),
    "x0": _each(".0f", unit="x"),
    "kB": _each(",.1f", 1e-3, " kB"),
    "kB0": _each(",.0f", 1e-3, " kB"),
    "M": _each(".1f", 1e-6, " M"),
    "M2": _each(".2f", 1e-6, " M"),
    "s": _each(".0f", unit=" s"),
    "s2": _each(".2f", unit=" s"),
    "minutes": _each(".0f"),
    "minutes1": _each(".1f"),
    "minutes_of_s": _each(".0f", 1 / 60, " min"),
    "s_of_minutes": _each(".0f", 60, " s"),
}
_ROW_FORMS: dict[str, Callable[[Measured], str]] = {"cpu": _cpu, "date": lambda row: row.date}


if __name__ == "__main__":
    main()
