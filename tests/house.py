"""The house in figures: `python -m tests.house` prints its rooms, and fails where an import runs up or in a circle.

Imports are read off the source, so that one under TYPE_CHECKING or in a function counts too.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "haversack"
FLOORS = (
    "allocate choices errors",
    "batches interrupt lengths progress quantity settings untrusted",
    "disk filling positions preparing",
    "wiring",
    "task",
    "coded zoo",
    "grid device",
    "limits",
    "model",
    "recipe",
    "measurement proof",
    "artifact",
    "result",
    "update",
    "graph",
    "surgery",
    "channels",
    "integer",
    "training",
    "calibration",
    "techniques",
    "runtimes",
    "placing",
    "plan",
    "report",
    "packing",
    "proving",
    "cli",
    "__init__",
    "__main__",
)
"""Folders and files from the ground up: each imports only what stands on a lower line."""
RANK = {name: rank for rank, names in enumerate(FLOORS) for name in names.split()}
LONG, THIN = 60, 60
"""Lines from which a function is long, and below which a file is thin."""
WALKS = {"pack": "packing", "prune_channels": "techniques.prune_channels", "a training step": "training.learner"}
Graph = Mapping[str, set[str]]


@cache
def files() -> Mapping[str, Path]:
    """Each file by its name in the package, such as `graph.trace`; a folder's own file has the folder's name."""
    paths = {path.relative_to(PACKAGE).with_suffix("").parts: path for path in sorted(PACKAGE.rglob("*.py"))}
    return {".".join(parts[:-1] if parts[-1] == "__init__" and parts[:-1] else parts): paths[parts] for parts in paths}


@cache
def source(name: str) -> ast.Module:
    return ast.parse(files()[name].read_text(encoding="utf-8"))


@cache
def imported(path: Path) -> frozenset[str]:
    """The modules that a file imports, however deep inside it; of our own those that names are taken from."""
    return frozenset(_imported(path))


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            for each in node.names:
                inner = f"{node.module}.{each.name}"
                yield inner if inner.removeprefix("haversack.") in files() else str(node.module)


@cache
def imports() -> Graph:
    """Which of our files each of them imports."""
    named = {name: {each.removeprefix("haversack.") for each in imported(path)} for name, path in files().items()}
    return {name: (modules & files().keys()) - {name} for name, modules in named.items()}


def upward() -> list[str]:
    """Imports of a room on the same floor or a higher one."""
    homes = [(name, other) for name, others in imports().items() for other in others]
    return sorted(
        f"{name} imports {other}"
        for name, other in homes
        if _room(name) != _room(other) and RANK[_room(other)] >= RANK[_room(name)] and name != "__init__"
    )


def circles() -> list[str]:
    """Files that import each other, and folders of one room that do."""
    depths = range(1, max(name.count(".") for name in files()) + 1)
    found = [_circles(imports()), *(_circles(_in_folders(depth)) for depth in depths)]
    return sorted({each for some in found for each in some})


def reached(start: str) -> set[str]:
    """All files that a file needs, itself and the folders' own files among them."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += [*imports()[name], *_inside(name)]
    return seen


def _room(name: str) -> str:
    return name.partition(".")[0]


def _inside(name: str) -> list[str]:
    """The folders that are entered on the way to a file."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts)) if ".".join(parts[:count]) in files()]


def _in_folders(depth: int) -> Graph:
    """Imports between folders and files at this depth of one and the same folder."""
    graph: dict[str, set[str]] = defaultdict(set)
    for name, others in imports().items():
        for other in others:
            here, there = (each.split(".")[: depth + 1] for each in (name, other))
            if here[:depth] == there[:depth] and here != there and min(len(here), len(there)) > depth:
                graph[".".join(here)].add(".".join(there))
    return graph


def _circles(graph: Graph) -> Iterator[str]:
    """The strongly connected parts of more than one file (Tarjan 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    open_ones: list[str] = []

    def visit(name: str) -> Iterator[str]:
        order[name] = lowest[name] = len(order)
        open_ones.append(name)
        for other in sorted(graph.get(name, ())):
            if other not in order:
                yield from visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in open_ones:
                lowest[name] = min(lowest[name], order[other])
        if lowest[name] == order[name]:
            circle = open_ones[open_ones.index(name) :]
            del open_ones[-len(circle) :]
            if len(circle) > 1:
                yield " <-> ".join(sorted(circle))

    for name in sorted(graph):
        if name not in order:
            yield from visit(name)


def _lines(name: str) -> int:
    return len(files()[name].read_text(encoding="utf-8").splitlines())


def _defined(kind: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    return ((name, node) for name in files() for node in ast.walk(source(name)) if isinstance(node, kind))


def repeated_classes() -> list[str]:
    """Class names that stand in more than one file."""
    homes: dict[str, list[str]] = defaultdict(list)
    for name, node in _defined(ast.ClassDef):
        homes[node.name].append(name)  # type: ignore[attr-defined]
    return [f"{each}: {', '.join(some)}" for each, some in sorted(homes.items()) if len(some) > 1]


def long_functions() -> list[str]:
    """Functions of more lines than fit a screen, with their docstrings."""
    spans = (
        (node.end_lineno - node.lineno + 1, f"{name}.{node.name}")  # type: ignore[attr-defined]
        for kind in (ast.FunctionDef, ast.AsyncFunctionDef)
        for name, node in _defined(kind)
    )
    return [f"{name}: {lines}" for lines, name in sorted(spans, reverse=True) if lines > LONG]


def thin_files() -> list[str]:
    """Short files that one file alone imports."""
    importers = Counter(other for others in imports().values() for other in others)
    return [
        f"{name}: {_lines(name)}"
        for name, path in files().items()
        if importers[name] == 1 and _lines(name) < THIN and path.stem != "__init__" and _room(name) != "zoo"
    ]


def rooms() -> Iterator[tuple[str, int, int]]:
    """(room, files, lines) from the roof down; what stands alone is a noun."""
    found: dict[str, list[int]] = defaultdict(list)
    for name in files():
        found[_room(name) if (PACKAGE / _room(name)).is_dir() else "nouns"].append(_lines(name))
    for room, lines in sorted(found.items(), key=lambda each: -RANK.get(each[0], -1)):
        yield room, len(lines), sum(lines)


def _show(title: str, list_of: Callable[[], list[str]]) -> None:
    found = list_of()
    print(f"\n{title}: {len(found)}", *(f"  {each}" for each in found), sep="\n")


def main() -> None:
    argparse.ArgumentParser("python -m tests.house", description=__doc__).parse_args()
    for room, count, lines in rooms():
        print(f"{room:<14}{count:>5} files {lines:>7,} lines")
    print(f"{'the house':<14}{len(files()):>5} files {sum(map(_lines, files())):>7,} lines")
    _show("Imports that run up", upward)
    _show("Circles", circles)
    _show("Class names that stand twice", repeated_classes)
    _show(f"Functions above {LONG} lines", long_functions)
    _show(f"Files below {THIN} lines with one importer", thin_files)
    _show("Files reached", lambda: [f"{walk}: {len(reached(name))}" for walk, name in WALKS.items()])
    sys.exit(bool(upward() or circles()))


if __name__ == "__main__":
    main()
