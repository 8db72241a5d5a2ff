""".json files, opened in this process, and what stands in them."""

import json

from haversack.runtimes import Contents, Opened


def open_file(file, threads, orders=None, *, optimized=True):
    from haversack.runtimes.plain import worker

    layers = worker.read(file)
    return Opened(1, None, list, lambda arrays: [worker.compute(layers, *arrays)])


def empty():
    return json.dumps({"plain": [{"weight": [[1.0]], "bias": [0.0]}]}).encode()


def contents(path, threads):
    layers = json.loads(path.read_bytes())["plain"]
    counts = {"linear": sum(map(bool, layers)), "relu": sum(not layer for layer in layers)}
    return Contents(counts, counts, 0, 0, path.stat().st_size, ())
