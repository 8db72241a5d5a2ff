"""What is fuzzed: each subject makes the files of a case in a folder, and the command line that is run there."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import haversack
from haversack.disk import LISTING, digest_of, listed, write_listing
from haversack.errors import HaversackError
from tests.fuzz.mutations import CANARY, NAMES, NUMBERS, damaged, damaged_json, damaged_text, with_checksum

TASK = Path(__file__).parent / "task.py"
DEVICES = Path(haversack.__file__).parent / "devices"
APPLIED = ["recipe.toml", str(TASK), "--device", "raspberry-pi-4", "--seconds", "0.1"]
RECIPES = {
    "onnx": 'technique = "quantize_static"\nweight_bits = 4\nactivations = "int8"\n',
    "litert": 'technique = "quantize_static"\nactivations = "int8"\n',
    "structure": 'technique = "prune_channels"\nkeep = 0.5\nof = "parameters"\nepochs = 0\n',
}


@dataclass(frozen=True)
class Case:
    """A command line, and what it may write in the folder that it is run in; or words for something else to `run`."""

    words: list[str]
    writes: tuple[str, ...] = ()
    run: Callable[[list[str]], None] | None = None


Make = Callable[[random.Random, Path, Path], Case]
"""(random numbers, folder of the case, folder of `grown` seeds) -> the case."""


def grow(folder: Path) -> None:
    """Results of `apply` to damage, with their workspaces, and the recipe of every technique."""
    from haversack.cli import main
    from haversack.recipe import Recipe
    from haversack.techniques import catalogue

    for name, step in RECIPES.items():
        place = folder / name
        place.mkdir(parents=True)
        (place / "recipe.toml").write_text(f"[[step]]\n{step}")
        os.chdir(place)
        with contextlib.suppress(SystemExit):
            main(["apply", *APPLIED, *(["--runtime", "litert"] if name == "litert" else [])])
        assert (place / "out" / "network").is_dir()
    (folder / "recipes").mkdir()
    for name, kind in catalogue().items():
        (folder / "recipes" / f"{name}.toml").write_text(Recipe((kind(),)).to_toml())


def device(rng: random.Random, folder: Path, _: Path) -> Case:
    """A device file."""
    text = rng.choice(sorted(DEVICES.glob("*.toml"))).read_text("utf-8")
    (folder / "board.toml").write_bytes(damaged_text(text, rng))
    limits = rng.choice(([], ["--flash", "3kB", "--latency", "1ms"], ["--ram", "1kB", "--energy", "1uJ"]))
    commands = (["devices", "show", "./board.toml"], ["weigh", str(TASK)], ["advise", str(TASK), "--quick"])
    words = list(rng.choice(commands))
    words += [] if words[0] == "devices" else ["--device", "board.toml", *limits]
    return Case(words + ["--json"] * (rng.random() < 0.3))


def recipe(rng: random.Random, folder: Path, seeds: Path) -> Case:
    """A recipe; no task is there, so that what is legal ends as well."""
    text = "\n".join(
        rng.choice(sorted((seeds / "recipes").iterdir())).read_text() for _ in range(rng.choice((1, 1, 2)))
    )
    (folder / "recipe.toml").write_bytes(damaged_text(text, rng))
    return Case(["apply", "recipe.toml", "absent.py"])


def applied(rng: random.Random, folder: Path, _: Path) -> Case:
    """A recipe that is applied where it is legal; none of these steps trains."""
    text = f"[[step]]\n{rng.choice(sorted(RECIPES.values()))}"
    spoilt = damaged_text(text, rng)
    # A million epochs are a user's right, and take their time.
    (folder / "recipe.toml").write_bytes(re.sub(rb"epochs *= *[^\n]*", b"epochs = 0", spoilt))
    return Case(["apply", *APPLIED], ("out",))


def network(rng: random.Random, folder: Path, seeds: Path) -> Case:
    """The reloadable network of a result."""
    place = _copied(rng, seeds, folder, rng.choice(("onnx", "structure", "structure"))) / "network"
    described, weights = place / "network.json", place / "weights.safetensors"
    if rng.random() < 0.7:
        described.write_bytes(damaged_json(described.read_text(), rng))
    else:
        weights.write_bytes(damaged(weights.read_bytes(), rng))
    _reseal(rng, place.parent)
    return Case(["encode", "out", str(TASK), "--out", "written.hsk"], ("written.hsk",))


def result(rng: random.Random, folder: Path, seeds: Path) -> Case:
    """Any file of a result, read by `prove` or `blame`."""
    place = _copied(rng, seeds, folder, rng.choice(sorted(RECIPES)))
    _spoil(rng, rng.choice(sorted(each for each in place.rglob("*") if each.is_file())))
    _reseal(rng, place)
    return Case(
        rng.choice((["prove", "out", str(TASK), "--samples", "4"], ["blame", "out", str(TASK), "--suspects", "1"]))
    )


def reading(rng: random.Random, folder: Path, seeds: Path) -> Case:
    """A result as updates and servers read it, with files damaged, elsewhere, or of any size; no command does so."""
    place = _copied(rng, seeds, folder, rng.choice(sorted(RECIPES)))
    files = sorted(each for each in place.rglob("*") if each.is_file() and "workspace" not in each.parts)
    spoilt, moved = rng.sample(files, 2)
    _spoil(rng, spoilt)
    _reseal(rng, place)
    if rng.random() < 0.3:
        _move(rng, moved, folder.parent / CANARY)
    return Case(["out"], run=_read_result)


def _move(rng: random.Random, file: Path, elsewhere: Path) -> None:
    """Puts a link, nothing, or a size that no disk has in the place of a file."""
    kind = rng.randrange(3)
    if kind == 0:
        os.truncate(file, 1 << rng.choice((28, 42)))
        return
    file.rename(file.with_name(f"{file.name}.{rng.choice(('old', 'ä'))}"))
    if kind == 1:
        file.symlink_to(elsewhere)


def _read_result(words: list[str]) -> None:
    """Ends as a command does, however many parts are read."""
    from haversack.result import Result

    result, refused = Result(Path(words[0])), 0
    for part in ("files", "recipe", "techniques", "measured", "report", "weights", "network"):
        try:
            getattr(result, part)
        except HaversackError as error:
            print(error, file=sys.stderr)
            refused = 2
    sys.exit(refused)


def runtime_file(name: str, result: str) -> Make:
    """A file that `bench` is given, or that `prove` finds in a result."""

    def make(rng: random.Random, folder: Path, seeds: Path) -> Case:
        file = _copied(rng, seeds, folder, result) / name
        file.write_bytes(damaged(file.read_bytes(), rng))
        if rng.random() < 0.5:
            return Case(["prove", "out", str(TASK), "--samples", "4"])
        return Case(["bench", f"out/{name}", "--seconds", "0.1"])

    return make


def graph(rng: random.Random, folder: Path, seeds: Path) -> Case:
    """Anybody's .tflite file, read as a graph; no command reads one yet."""
    content = (seeds / "litert" / "out" / "model.tflite").read_bytes()
    (folder / "model.tflite").write_bytes(damaged(content, rng))
    return Case(["model.tflite"], run=_read_graph)


def _read_graph(words: list[str]) -> None:
    """Ends as a command does."""
    from haversack.runtimes.tflite.read import read

    try:
        read(Path(words[0]).read_bytes())
    except HaversackError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def workspace(rng: random.Random, folder: Path, seeds: Path) -> Case:
    """What an earlier run left, or seems to have left, read and replaced by the same command."""
    name = rng.choice(sorted(set(RECIPES) - {"litert"}))
    place = _copied(rng, seeds, folder, name)
    kept = sorted(each for each in (place / "workspace").rglob("*") if each.is_file())
    for each in rng.sample(kept, rng.choice((1, 1, 2))):
        _spoil(rng, each)
    _reseal(rng, place)
    if rng.random() < 0.3:
        link = rng.choice((place, *{each.parent for each in kept})) / rng.choice(
            (".unfinished-model.onnx", "model.onnx")
        )
        link.unlink(missing_ok=True)
        link.symlink_to(folder.parent / CANARY)
    return Case(["apply", *APPLIED], ("out",))


def coded(rng: random.Random, folder: Path, seeds: Path) -> Case:
    """A coded file; its checksum fits in most cases, so that more than the checksum is tried."""
    content = damaged((seeds / rng.choice(sorted(RECIPES)) / "out" / "model.hsk").read_bytes(), rng)
    (folder / "model.hsk").write_bytes(with_checksum(content) if rng.random() < 0.8 else content)
    out = rng.choice(([], [], ["--out", "written.npz"]))
    return Case(["decode", "model.hsk", *out, *(["--json"] * (rng.random() < 0.3))], ("written.npz",))


def line(rng: random.Random, folder: Path, seeds: Path) -> Case:
    """A command line of known words with strange values. `pack` finds a task that stops it before it works."""
    task = folder / "task.py"
    task.write_text("def network():\n    raise ValueError('no')\n\ndef task():\n    raise ValueError('no')\n")
    shutil.copy(seeds / "onnx" / "out" / "model.hsk", folder)
    (folder / "recipe.toml").write_text(f"[[step]]\n{RECIPES['onnx']}")
    commands: dict[str, list[str]] = {
        "weigh": [str(TASK)],
        "advise": [str(TASK), "--quick"],
        "pack": [str(task)],
        "apply": ["recipe.toml", str(task)],
        "decode": ["model.hsk"],
        "prove": ["out", str(task)],
        "blame": ["out", str(task)],
        "encode": ["out", str(task)],
        "bench": ["model.hsk"],
        "devices": [rng.choice(("list", "show"))],
    }
    name = rng.choice(sorted(commands))
    words = [_value(rng) if rng.random() < 0.15 else each for each in commands[name]]
    for _ in range(rng.choice((1, 1, 2, 4))):
        words += [rng.choice(_OPTIONS), *([_value(rng)] if rng.random() < 0.9 else [])]
    return Case([name, *words], (".",))


_OPTIONS = (
    *(
        "--device",
        "--runtime",
        "--flash",
        "--ram",
        "--latency",
        "--energy",
        "--update",
        "--max-drop",
        "--score",
        "--try",
    ),
    *("--epochs", "--student", "--student-epochs", "--seed", "--threads", "--seconds", "--out", "--json", "--samples"),
    *("--patience", "--suspects", "--against", "--help", "--version", "--no-such"),
)
_UNITS = ("kB", "KiB", "MB", "GB", "B", "ms", "us", "s", "x", "%", "mJ", "J", "parsecs", "", " kB")
_WORDS = (
    "host",
    "rp2040",
    "raspberry-pi-4",
    "onnx",
    "litert",
    "tflite-micro",
    "executorch",
    "auto",
    "ds_cnn",
    "distill",
)


def _value(rng: random.Random) -> str:
    kind = rng.randrange(4)
    if kind == 0:
        # The system hands over no zero bytes, and whoever names a file with --out may write there.
        return rng.choice([each for each in NAMES if "\0" not in each and CANARY not in each])
    return rng.choice(_WORDS) if kind == 1 else rng.choice(NUMBERS) + rng.choice(_UNITS)


def _copied(rng: random.Random, seeds: Path, folder: Path, name: str) -> Path:
    shutil.copytree(seeds / name, folder, dirs_exist_ok=True)
    return folder / "out"


def _spoil(rng: random.Random, file: Path) -> None:
    """Damages a file in the way that its kind invites, or takes it away."""
    content = file.read_bytes()
    if rng.random() < 0.1:
        file.unlink()
        if rng.random() < 0.5:
            file.mkdir()
    elif file.suffix == ".json":
        file.write_bytes(damaged_json(content.decode(), rng))
    elif file.suffix in (".toml", ".txt"):
        file.write_bytes(damaged_text(content.decode(), rng))
    else:
        spoilt = damaged(content, rng)
        file.write_bytes(with_checksum(spoilt) if file.suffix == ".hsk" and rng.random() < 0.8 else spoilt)


SUBJECTS: dict[str, Make] = {
    "device": device,
    "recipe": recipe,
    "applied": applied,
    "network": network,
    "result": result,
    "reading": reading,
    "onnx": runtime_file("model.onnx", "onnx"),
    "tflite": runtime_file("model.tflite", "litert"),
    "graph": graph,
    "workspace": workspace,
    "coded": coded,
    "line": line,
}


if __name__ == "__main__":
    grow(Path(sys.argv[1]))


def _reseal(rng: random.Random, place: Path) -> None:
    """Digests fit the damaged files in most cases, so that more than the digests is tried."""
    for folder in sorted(each.parent for each in place.rglob(LISTING)):
        if rng.random() < 0.8:
            with contextlib.suppress(HaversackError, OSError):
                write_listing(folder, {name: digest_of(folder / name) for name in listed(folder)})
