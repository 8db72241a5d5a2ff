"""Plain: float layers as JSON, computed by NumPy. What a new folder of `haversack/runtimes` needs, and no more."""

from pathlib import Path

from haversack.runtimes.plain import run

from haversack.runtimes import FileFormat, Runtime


def _written(lowered):
    from haversack.runtimes.plain.write import write

    return write(lowered)


PLAIN = Runtime(
    name="plain",
    title="Plain NumPy",
    format=FileFormat(
        *("model.json", ".json", Path(__file__).with_name("worker.py")),
        *(run.empty, run.contents),
        mark=rb'\{"plain"',
    ),
    number_formats=frozenset({"float32"}),
    write=_written,
    open=run.open_file,
    packages=("numpy",),
)
ROWS = (PLAIN,)
