"""The census: 120 architectures of timm and 25 of transformers, each in a process of its own with a time limit.

    python benchmarks/networks_census.py timm/resnet18 transformers/bert     # what becomes of these, in full

One counts that is traced and weighed, and whose float and int8 ONNX files our own writer writes and ONNX Runtime
computes as torch does. Of any other it is said what stands in its way: every operation that the writer does not know,
not only the first, or the step that failed. Weights are random, made general by `networks_random.py`; where the gate
would let the outputs of other inputs pass too, the check says nothing, and the network does not count. A run that was
ended goes on where it was, as long as the code is that of one commit.

    pip install --no-deps --target nets timm==1.0.31 torchvision==0.28.0 transformers tokenizers regex
    PYTHONPATH=nets python benchmarks/networks.py --data DIR --json FILE
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import gettempdir

import torch
from figures import commit
from networks_random import inputs_of, make_general
from torch import Tensor, nn

from haversack.device import find_device
from haversack.errors import HaversackError, ParityError
from haversack.graph.cost import cost
from haversack.graph.inference import inference, lower
from haversack.graph.pairs import output_step, quantized_layers
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.progress import track
from haversack.runtimes import agreement, estimate, host
from haversack.runtimes.onnx.write import unknown, write
from haversack.task import Task
from haversack.techniques.quantize_static import QuantizeStatic

Found = dict[str, object]
SOURCES = {"timm": "networks_timm", "transformers": "networks_transformers"}
LIMIT_S = 240
"""Of the processor's time, so that what else runs on the machine does not count."""
_SLOWEST = 10
_QUICK = 6
"""So many of each source are tried in a quick run."""
_GET = "pip install them into a folder that PYTHONPATH names; see benchmarks/networks_census.py."


@dataclass
class Outcome:
    """What became of one network; `refused` says why it does not count, and is empty where it does."""

    name: str
    refused: str = ""
    unknown: dict[str, int] = field(default_factory=dict)
    """The operations that our writer does not know, and how often they stand in the graph."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Of the processor, a step."""
    macs: int = 0
    layers: int = 0
    """That compute on integers."""
    bytes: int = 0
    float_parity: float = 0.0
    parity: float = 0.0
    """How far the file's outputs are off: relative to the largest, or in steps of their grid."""
    rounding: float = 0.0
    """How far the rounded network's outputs are off the original's, in the units of `parity`."""
    spread: float = 0.0
    """How far the outputs of other inputs are off, in the units of `parity`."""
    float_bytes: int = 0


def run(_: Path, *, quick: bool) -> Found:
    """How many of each source count, and why the others do not."""
    names = list(_names(quick=quick))
    outcomes = _kept(names)
    left = [name for name in names if name not in outcomes]
    command = [sys.executable, __file__, *left]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as worker:
        for line in track(worker.stdout or (), "networks", len(left)):
            outcome = Outcome(**json.loads(line))
            outcomes[outcome.name] = outcome
            _keep(line)
    if len(outcomes) < len(names):
        raise HaversackError(f"the census ended after {len(outcomes)} networks.", mend=f"run {' '.join(command[:3])}.")
    return _figures(list(outcomes.values()))


def _figures(outcomes: list[Outcome]) -> Found:
    counts = {f"census.{source}": sum(_counts(each, source) for each in outcomes) for source in SOURCES}
    missing = Counter(operation for each in outcomes for operation in each.unknown)
    seconds = {each.name: sum(each.seconds.values()) for each in outcomes}
    slowest = sorted(seconds, key=seconds.__getitem__, reverse=True)[:_SLOWEST]
    return {
        **counts,
        "census.refused": {each.name: each.refused for each in outcomes if each.refused},
        "census.missing": dict(missing.most_common()),
        "census.slowest": {name: round(seconds[name], 1) for name in slowest},
        "census.minutes": sum(seconds.values()) / 60,
    }


def _store() -> Path | None:
    """Where outcomes are kept while a run lasts; None where the code is that of no commit."""
    code, versions = commit(), "-".join(version(source) for source in SOURCES)
    of_commit = code != "unknown" and code.isalnum()
    return Path(gettempdir()) / f"haversack-census-{code}-{versions}.jsonl" if of_commit else None


def _kept(names: Collection[str]) -> dict[str, Outcome]:
    """The outcomes of these networks that an earlier run of the same code kept; a line that it did not end is none."""
    store = _store()
    lines = store.read_text("utf-8").splitlines(keepends=True) if store and store.exists() else []
    outcomes = [Outcome(**json.loads(line)) for line in lines if line.endswith("}\n")]
    return {each.name: each for each in outcomes if each.name in names}


def _keep(line: str) -> None:
    store = _store()
    if store:
        with store.open("a", encoding="utf-8") as file:
            file.write(line)


def _names(*, quick: bool) -> Iterator[str]:
    for source, module in SOURCES.items():
        if find_spec(source) is None:
            raise HaversackError(f"{source} is not there.", where="PYTHONPATH", mend=_GET)
        names = import_module(module).NAMES
        yield from (f"{source}/{name}" for name in names[:: len(names) // _QUICK if quick else 1])


def _counts(outcome: Outcome, source: str) -> bool:
    return outcome.name.startswith(f"{source}/") and not outcome.refused


def alone(name: str) -> Outcome:
    """What becomes of a network in a process of its own, which begins with all that is imported here."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        os.dup2(2, 1)  # what networks print goes elsewhere
        resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S))
        with os.fdopen(writer, "w") as told:
            told.write(json.dumps(asdict(examined(name))))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        line = told.read()
    status = os.waitpid(child, 0)[1]
    if line:
        return Outcome(**json.loads(line))
    late = os.WIFSIGNALED(status) and os.WTERMSIG(status) in {signal.SIGXCPU, signal.SIGKILL}
    return Outcome(name, f"it took {LIMIT_S} s of the processor" if late else f"its process ended with {status}")


def examined(name: str) -> Outcome:
    """What becomes of a network, step by step, up to the first that fails."""
    outcome = Outcome(name)
    steps: tuple[Callable[[_Case], None], ...] = (_build, _trace, _write_float, _quantize, _write_integers)
    case = _Case(outcome)
    for step in steps:
        start = time.process_time()
        try:
            step(case)
        except HaversackError as error:
            outcome.refused = f"{step.__name__[1:]}: {error.what} ({error.where})"
        except Exception as error:  # noqa: BLE001 - a mistake of ours is an outcome too
            first = next(iter(str(error).strip().splitlines()), "")
            outcome.refused = f"{step.__name__[1:]}: {type(error).__name__}: {first}"
        outcome.seconds[step.__name__[1:]] = time.process_time() - start
        if outcome.refused:
            break
    return outcome


class _Case:
    """One network on its way."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.model: Model
        self.integer: Model
        self.inputs: Tensor
        self.outputs: list[Tensor]


def _build(case: _Case) -> None:
    source, _, name = case.outcome.name.partition("/")
    torch.manual_seed(0)
    network, shape, words = import_module(SOURCES[source]).built(name)
    case.inputs = inputs_of(shape, words)
    make_general(network.eval(), case.inputs)
    case.model = Model(network, (case.inputs[:1],))
    case.outputs = list(agreement.outputs(agreement.in_torch(network), [(case.inputs,)]))


def _trace(case: _Case) -> None:
    """Traces and weighs it, and asks the writer for all that it does not know."""
    read = trace(case.model.module, case.model.example)
    weight = cost(read)
    estimate.weigh(weight, find_device("raspberry-pi-4"), "int8")
    case.outcome.macs = weight.macs
    refusals = Counter(refusal.what for refusal in unknown(inference(case.model).module))
    case.outcome.unknown = dict(refusals.most_common())
    if refusals:
        case.outcome.refused = " ".join(refusals)


def _write_float(case: _Case) -> None:
    content = write(lower(case.model))
    case.outcome.float_bytes = len(content)
    case.outcome.float_parity = _agreed(case, case.model, content, case.outputs, None)


def _quantize(case: _Case) -> None:
    device = find_device("host")
    step = QuantizeStatic(device.weight_bits, "int8" if device.signed_activations else "uint8")
    task = Task(train=list, calibrate=lambda: [case.inputs], score=lambda _: 0.0)
    case.integer = step.apply(case.model, task)


def _write_integers(case: _Case) -> None:
    lowered = lower(case.integer)
    case.outcome.layers = quantized_layers(lowered)
    content = write(lowered)
    case.outcome.bytes = len(content)
    ours = list(agreement.outputs(agreement.in_torch(lowered), [(case.inputs,)]))
    case.outcome.parity = _agreed(case, case.integer, content, ours, output_step(lowered))


def _agreed(case: _Case, model: Model, content: bytes, ours: list[Tensor], step: float | None) -> float:
    """How far the file is off `ours`; ParityError where that is too far, by the gate that `pack` has.

    And where outputs of other inputs are no farther off, or rounding moves them as far: then the gate says nothing.
    Outputs are compared as numbers: which class of a random head is the largest is often a matter of nothing.
    """

    def compared(theirs: Iterable[Tensor]) -> agreement.Parity:
        return agreement.compare(ours, theirs, step, "regression")

    def of_file(*, optimized: bool = True) -> agreement.Parity:
        return compared(agreement.outputs(host.load(content, threads=1, optimized=optimized), [(case.inputs,)]))

    def again() -> agreement.Parity:
        return compared(agreement.outputs(agreement.in_another_order(lower(model)), [(case.inputs,)]))

    parity, rounding = of_file(), compared(case.outputs)
    spread = compared(each.roll(1, 0) for each in ours).max_steps
    case.outcome.spread, case.outcome.rounding = spread, rounding.max_steps
    gate = agreement.Gate(model.number_format != "float32", step)
    gate.require(parity, lambda: of_file(optimized=False), lambda: rounding, again)
    if spread <= max(gate.limit, rounding.max_steps):
        raise ParityError(f"outputs of other inputs are off by {spread:.3g} alone, and would pass too.")
    return parity.max_steps


def _torchvision() -> torch.library.Library | None:
    """Lets a torchvision be imported whose compiled operators fit another torch, as long as what is returned lives.

    None of these operators is used here.
    """
    try:
        import_module("torchvision")
    except RuntimeError:
        for module in [each for each in sys.modules if each.partition(".")[0] == "torchvision"]:
            del sys.modules[module]
    else:
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def _warm(sources: Collection[str]) -> None:
    """Imports what networks need, so that those which are forked from here begin with it."""
    for source in sources:
        import_module(source)
    if "transformers" in sources:
        import_module("transformers.modeling_utils")
    small = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    write(lower(Model(small, (torch.randn(2, 3, 8, 8),))))


def main(names: list[str]) -> None:
    """Prints what becomes of each network, one JSON object a line."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    library = _torchvision()
    _warm({name.partition("/")[0] for name in names})
    for name in names:
        print(json.dumps(asdict(alone(name))), flush=True)
    del library


if __name__ == "__main__":
    main(sys.argv[1:])
