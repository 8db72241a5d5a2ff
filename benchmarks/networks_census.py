"""The census: 120 architectures of timm and 25 of transformers, each in a process of its own with a time limit.

    python benchmarks/networks_census.py timm/resnet18 transformers/bert     # what becomes of these, in full

One counts that is traced and weighed, and whose float and int8 ONNX files our own writer writes and ONNX Runtime
computes as torch does. Of any other it is said what stands in its way: every operation that the writer does not know,
not only the first, or the step that failed. Weights are random. What would hide mistakes is made general: constant
parameters (scales of one, biases of zero) get noise, and norms and tokens a scale that fits what is around them.

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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from haversack.device import find_device
from haversack.errors import HaversackError
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
_INPUTS = 4
_TINY = 0.1
_CLASSES = 10
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
    macs: int = 0
    layers: int = 0
    """That compute on integers."""
    bytes: int = 0
    float_parity: float = 0.0
    parity: float = 0.0
    """How far the file's outputs are off: relative to the largest, or in steps of their grid."""


def run(_: Path, *, quick: bool) -> Found:
    """How many of each source count, and why the others do not."""
    names = list(_names(quick=quick))
    command = [sys.executable, __file__, *names]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as worker:
        lines = track(worker.stdout or (), "networks", len(names))
        outcomes = [Outcome(**json.loads(line)) for line in lines]
    if len(outcomes) < len(names):
        raise HaversackError(f"the census ended after {len(outcomes)} networks.", mend=f"run {' '.join(command[:3])}.")
    counts = {f"census.{source}": sum(_counts(each, source) for each in outcomes) for source in SOURCES}
    missing = Counter(operation for each in outcomes for operation in each.unknown)
    return {
        **counts,
        "census.refused": {each.name: each.refused for each in outcomes if each.refused},
        "census.missing": dict(missing.most_common()),
        "census.minutes": sum(sum(each.seconds.values()) for each in outcomes) / 60,
    }


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
        start = time.monotonic()
        try:
            step(case)
        except HaversackError as error:
            outcome.refused = f"{step.__name__[1:]}: {error.what} ({error.where})"
        except Exception as error:  # noqa: BLE001 - a mistake of ours is an outcome too
            first = next(iter(str(error).strip().splitlines()), "")
            outcome.refused = f"{step.__name__[1:]}: {type(error).__name__}: {first}"
        outcome.seconds[step.__name__[1:]] = time.monotonic() - start
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
    if words:
        # The first few stand for padding and the like.
        case.inputs = torch.randint(5, words, (_INPUTS, *shape))
    else:
        case.inputs = torch.randn(_INPUTS, *shape)
    make_general(network.eval(), case.inputs)
    case.model = Model(network, (case.inputs[:1],))
    case.outputs = list(agreement.outputs(agreement.in_torch(network), [(case.inputs,)]))


def make_general(network: nn.Module, inputs: Tensor) -> None:
    """Makes random weights show what trained ones would, and hide what they would hide.

    Constant parameters get noise. Tokens, positions and tables of biases, which begin next to zero, become as large as
    what they are added to: on one grid with that, they would be lost. Batch norms divide by the root mean square of
    what they read, and subtract nothing: random layers make nearly the same of all inputs, and a norm that takes that
    away leaves rounding, which the next norm raises. Classes lie as far apart as those that a head has learned.
    """

    def measure(norm: nn.Module, read: tuple[Tensor, ...]) -> None:
        norm.running_var.copy_(read[0].movedim(1, -1).flatten(0, -2).square().mean(0))

    norms = [each for each in network.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]  # noqa: SLF001
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    with torch.no_grad():
        for module in network.modules():
            layer = type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.ParameterList)
            for parameter in module.parameters(recurse=False):
                _make_general(parameter, free=not layer)
        outputs = network(inputs)
        for hook in hooks:
            hook.remove()
        for module in network.modules():
            # Classes of random heads are so near each other that any rounding changes the first.
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None and len(module.bias) == _CLASSES:
                module.bias.add_(outputs.std() * torch.arange(_CLASSES))


def _make_general(parameter: Tensor, *, free: bool) -> None:
    if not parameter.is_floating_point() or parameter.numel() < 2:
        return
    constant = bool((parameter == parameter.flatten()[0]).all())
    if free and parameter.dim() > 1 and parameter.std() < _TINY and not (constant and parameter.any()):
        parameter.copy_(torch.randn_like(parameter))
    elif constant:
        parameter.add_(0.1 * torch.randn_like(parameter))


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
    lowered = lower(case.model)
    case.outcome.float_parity = _agreed(case, case.model, write(lowered), case.outputs, None)


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
    """How far the file is off `ours`; ParityError where that is too far, by the gate that `pack` has."""

    def compared(*, optimized: bool = True) -> agreement.Parity:
        theirs = agreement.outputs(host.load(content, threads=1, optimized=optimized), [(case.inputs,)])
        return agreement.compare(ours, theirs, step)

    parity = compared()
    gate = agreement.Gate(model.number_format != "float32", step)
    gate.require(parity, lambda: compared(optimized=False), lambda: agreement.compare(case.outputs, ours, step))
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


def main(names: list[str]) -> None:
    """Prints what becomes of each network, one JSON object a line."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    library = _torchvision()
    for source in {name.partition("/")[0] for name in names}:
        import_module(source)
    for name in names:
        print(json.dumps(asdict(alone(name))), flush=True)
    del library


if __name__ == "__main__":
    main(sys.argv[1:])
