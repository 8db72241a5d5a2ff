"""Packages: a network's C as a library of Arduino, a module of Zephyr or a component of ESP-IDF; one folder may be all.

Arduino: https://docs.arduino.cc/arduino-cli/library-specification (rev. 2.2).
Zephyr: https://docs.zephyrproject.org/latest/develop/modules.html.
ESP-IDF: https://docs.espressif.com/projects/esp-idf/en/stable/esp32/api-guides/build-system.html, and for its manifest
https://docs.espressif.com/projects/idf-component-manager/en/latest/reference/manifest_file.html.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from haversack.errors import ExportError
from haversack.runtimes.c_source.write import CModel, Port


@dataclass(frozen=True)
class Packaging:
    """What a package has beside the network, and how it is used."""

    use: str
    templates: Mapping[str, str]
    """By the file's place in the package."""


PACKAGINGS: Mapping[str, Packaging] = {
    "arduino": Packaging(
        "Arduino: put this folder into `libraries` of your sketchbook; the sketch is among the examples.",
        {
            "library.properties": "arduino/library.properties",
            "examples/{name}/{name}.ino": "arduino/example.ino",
        },
    ),
    "zephyr": Packaging(
        "Zephyr: `EXTRA_ZEPHYR_MODULES` of your application names this folder, or your manifest does, and `prj.conf`\n"
        "says `CONFIG_{symbol}=y`, as `samples/{name}` does.",
        {
            "zephyr/module.yml": "zephyr/module.yml",
            "zephyr/CMakeLists.txt": "zephyr/CMakeLists.txt",
            "zephyr/Kconfig": "zephyr/Kconfig",
            "samples/{name}/CMakeLists.txt": "zephyr/sample.txt",
            "samples/{name}/prj.conf": "zephyr/prj.conf",
            "samples/{name}/sample.yaml": "zephyr/sample.yaml",
            "samples/{name}/src/main.c": "zephyr/main.c",
        },
    ),
    "esp-idf": Packaging(
        "ESP-IDF: put this folder into `components` of your project; `examples/esp_idf` is a project that has it.",
        {
            "CMakeLists.txt": "esp-idf/CMakeLists.txt",
            "idf_component.yml": "esp-idf/idf_component.yml",
            "examples/esp_idf/CMakeLists.txt": "esp-idf/example.txt",
            "examples/esp_idf/main/CMakeLists.txt": "esp-idf/main.txt",
            "examples/esp_idf/main/main.c": "esp-idf/main.c",
        },
    ),
}


def require_package(name: str, kinds: Iterable[str]) -> None:
    """Nothing, or an ExportError for a package that there is none of, or a name that not all of them take."""
    unknown = [kind for kind in kinds if kind not in PACKAGINGS]
    if unknown:
        raise ExportError(f"there is no package '{unknown[0]}'.", mend=f"choose {', '.join(PACKAGINGS)}.")
    taken = name.lower() in _TAKEN or name.lower().startswith("arduino")
    if taken or len(name) > _LONGEST or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        why = "is taken" if taken else "is no name that Arduino, Zephyr and ESP-IDF all take"
        raise ExportError(
            f"the package would be called '{name}', which {why}.",
            mend=f"name its folder with --out: a letter, then letters, digits, _ or -, {_LONGEST} at most.",
        )


_LONGEST = 63
_TAKEN = frozenset(
    re.findall(
        r"\w+",
        "assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign stdarg "
        "stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string tgmath threads time uchar unistd wchar wctype "
        "zephyr freertos main current src examples samples",
    )
)
"""Headers of C's own and of the systems, which a package's header must not hide, and their own names."""


def packaged(model: CModel, name: str, kinds: Sequence[str]) -> Mapping[str, bytes]:
    """The files of a package by their places in its folder; the network's own are those that were proved.

    Raises ExportError for an unknown package and for a name that not all take.
    """
    require_package(name, kinds)
    symbol = f"HAVERSACK_{re.sub('[^A-Z0-9]', '_', name.upper())}"
    words = {
        "name": name,
        "symbol": symbol,
        "arena": str(model.arena_bytes),
        "constants": str(model.constant_bytes),
        "example": _example(model),
    }
    words["uses"] = "\n\n".join(PACKAGINGS[kind].use.format(**words) for kind in dict.fromkeys(kinds))
    templates = {"README.md": "README.md", "src/{name}.h": "header.h"}
    for kind in kinds:
        templates |= PACKAGINGS[kind].templates
    texts = {place.format(**words): _text(template).format(**words).encode() for place, template in templates.items()}
    return {**{f"src/{name}/{file}": content for file, content in model.files.items()}, **texts}


def _example(model: CModel) -> str:
    """What an example does in any system: inputs are filled, the network runs, and its outputs are told of."""
    real = [_is_real(port) for port in model.inputs]
    sources = [*(["real.c"] if any(real) else []), *(["whole.c"] if not all(real) else [])]
    return _text("example.c").format(
        sources="\n".join(map(_text, sources)),
        quantize=f"{_text('quantize.c')}\n" if any(real) else "",
        fills="\n".join(_each(model.inputs, "fill.c")),
        arguments=", ".join(f"haversack_model_{port.name}()" for port in model.ports),
        reports="\n".join(_each(model.outputs, "report.c")),
    )


def _each(ports: Sequence[Port], template: str) -> Iterator[str]:
    """What is done with each of these inputs or outputs."""
    for port in ports:
        limits = f"{port.kind[:-2].upper()}_MIN, {port.kind[:-2].upper()}_MAX"
        real = f"quantized(next_number(), {port.macro}_SCALE, {port.macro}_ZERO_POINT, {limits})"
        number = f"({port.kind}){real if _is_real(port) else 'next_whole_number()'}"
        words = {"port": port.name, "kind": port.kind, "macro": port.macro}
        yield _text(template).format(**words, number=number).rstrip()


def _is_real(port: Port) -> bool:
    """Whether its integers stand for real numbers."""
    return port.value.grid is not None and port.kind != "int32_t"


def _text(name: str) -> str:
    return (files(__package__) / "templates" / "packages" / name).read_text("utf-8")
