"""The process that measures .json files; it is asked like `onnx/worker.py`."""

import json
import sys
from pathlib import Path

import numpy as np

if __package__:
    from haversack.runtimes import turns
else:
    sys.path.append(str(Path(__file__).parents[1]))
    import turns

    sys.path.pop()


def read(file):
    layers = json.loads(file if isinstance(file, bytes) else Path(file).read_bytes())["plain"]
    return [
        tuple(np.array(layer[name], np.float32) for name in ("weight", "bias")) if layer else () for layer in layers
    ]


def compute(layers, x):
    for layer in layers:
        x = x @ layer[0].T + layer[1] if layer else np.maximum(x, 0)
    return x


def main():
    turns.answer({"time": lambda request: turns.in_turns(request, lambda file: bound(file, request)), "memory": memory})


def memory(request):
    return turns.grown_bytes(lambda: bound(request["files"][0], request))


def bound(file, request):
    layers = read(file)
    wanted = ((1, layers[0][0].shape[1]), np.float32)
    (x,) = turns.given_arrays(request, [np.float32]) or turns.random_arrays([wanted], request["seed"])
    return lambda: compute(layers, x)


if __name__ == "__main__":
    main()
