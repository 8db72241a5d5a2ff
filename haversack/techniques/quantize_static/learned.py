"""Learned rounding: the integers of a block are trained until its outputs are what they were in float."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from haversack.calibration.blocks import Block, Sizes, blocks, run, sizes_of
from haversack.calibration.ranges import Rounded
from haversack.errors import TaskError
from haversack.graph.folded import Folded
from haversack.graph.run import Batches, joined, named_tensors
from haversack.grid import Grid
from haversack.progress import track
from haversack.training.machine import mixed_precision

_SAMPLES = 32
_WEIGHT_RATE = 0.01  # steps of the weight's grid
_REST_RATE = 1e-3
# bfloat16 counts exactly to 256: with more bits than these its own rounding would be felt beside the grid's.
_MOST_BITS_IN_BFLOAT16 = 6
_SHARES = [share / 100 for share in range(30, 121)]

Chunk = tuple[Tensor, ...]


def round_learned(  # noqa: PLR0913 - what all roundings take, and for how long
    folded: Folded,
    grids: Mapping[str, Grid],
    bits: Mapping[str, int],
    batches: Batches,
    sparse: Collection[str] = (),
    *,
    iterations: int = 500,
    seed: int = 0,
) -> Rounded:
    """Weights of `bits` bits each on symmetric grids with one step an output channel, and the biases that suit them.

    Block by block (BRECQ, Li et al. 2021): a block reads what the already rounded network computes and aims at the
    float block's outputs in mean square. Weights, steps and biases learn together through the rounding, whose gradient
    is taken for 1 (AdaQuant, Hubara et al. 2021; steps as in LSQ, Esser et al. 2020), `iterations` times a block on 32
    samples each. A block never ends further from float than with every weight rounded to nearest.

    AdaRound's rectified sigmoid (Nagel et al. 2020) in its place came out 1.7 to 2.8 dB further from float after as
    many iterations (ResNet-20 and ResNet-8, 4 bits); weights confined to their two neighbours on the grid, 1.6 dB.

    `grids` are its activations' grids (none: they stay float). What is not
    writable keeps its values; such a weight gets a grid only. Zeros of the weights in `sparse` stay zero.
    Raises TaskError where samples differ in shape.
    """
    lowered = folded.lowered({name: grid for name, grid in grids.items() if name not in bits})
    tensors = named_tensors(lowered)
    weights = _weights(folded, grids, bits)
    for name in weights.keys() & set(sparse):
        weights[name].free = weights[name].real != 0
    chunks = _chunks(batches)
    sizes = sizes_of(lowered.graph, chunks[0], tensors)
    generator = torch.Generator().manual_seed(seed)
    real, rounded = list(chunks), chunks
    chosen: dict[str, Tensor] = {}
    pieces = blocks(lowered.graph, weights)
    for piece in track(pieces, "rounding", len(pieces)):
        _advance(real, piece, tensors, sizes, rounded=False)
        here = tuple(weights[name] for name in sorted(piece.weights) if name not in chosen)
        task = _Reconstruction(piece, rounded, real, {**tensors, **chosen}, here, sizes)
        chosen |= task.solve(iterations, generator)
        _advance(rounded, piece, {**tensors, **chosen}, sizes, rounded=True)
    kept = {name: tensor for name, tensor in chosen.items() if name in folded.writable}
    return Rounded(kept, {name: weight.grid() for name, weight in weights.items()})


@dataclass
class _Weight:
    """A weight that learns where its integers, steps and bias go; `real` is counted in steps.

    `growth` is the logarithm of what each step became, as a multiple of the first one. `free` is False for the zeros of
    a pruned weight, which stay zero.
    """

    name: str
    bits: int
    first_steps: Tensor
    least_steps: Tensor
    real: Tensor
    growth: Tensor
    biases: dict[str, Tensor]
    writable: bool
    free: Tensor | None = None

    @property
    def top(self) -> int:
        """The largest integer."""
        return (1 << self.bits - 1) - 1

    @property
    def steps(self) -> Tensor:
        """The steps as they are now, one an output channel."""
        return torch.maximum(self.first_steps * self.growth.exp(), self.least_steps)

    def tensors(self) -> dict[str, Tensor]:
        """The weight on its grid and its biases; gradients pass through the rounding, and stop at the ends."""
        within = self.real.clamp(-self.top, self.top)
        integers = within + (within.round() - within).detach()
        if self.free is not None:
            integers = integers * self.free
        return {self.name: integers * self.steps.view(-1, *[1] * (self.real.dim() - 1)), **self.biases}

    def parts(self) -> list[Tensor]:
        """All that learns."""
        return [self.real, self.growth, *self.biases.values()] if self.writable else [*self.biases.values()]

    def grid(self) -> Grid:
        """The grid that the weight lies on."""
        steps = tuple(self.steps.tolist())
        return Grid(self.bits, True, steps, (0,) * len(steps), 0, -self.top, self.top)


@dataclass(frozen=True)
class _Reconstruction:
    """One block with what it reads in the rounded network, what it wrote in float, and the weights that learn."""

    piece: Block
    inputs: Sequence[Chunk]
    wanted: Sequence[Chunk]
    tensors: dict[str, Tensor]
    weights: tuple[_Weight, ...]
    sizes: Sizes

    def solve(self, iterations: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The weights on their grids and the biases; the block errs no more with them than before they learned."""
        parts = [part.requires_grad_() for weight in self.weights for part in weight.parts()]
        first = [part.detach().clone() for part in parts]
        before = self._error() if parts else 0.0
        if before > 0:
            self._learn(_order(len(self.inputs), iterations, generator), iterations, before)
            if not self._error() <= before:
                for part, value in zip(parts, first, strict=True):
                    part.detach().copy_(value)
        return {name: tensor.detach() for name, tensor in self._learned().items()}

    def _learn(self, order: Iterable[int], iterations: int, scale: float) -> None:
        optimizer = _optimizer(self.weights)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(iterations, 1))
        narrow = all(weight.bits <= _MOST_BITS_IN_BFLOAT16 for weight in self.weights)
        for index in order:
            with mixed_precision("cpu") if narrow else nullcontext():
                loss = self._loss(index) / scale
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()

    def _loss(self, index: int) -> Tensor:
        """The mean squared difference on one chunk, summed over what the block writes."""
        outputs = run(self.piece, self.inputs[index], self.tensors | self._learned(), self.sizes, rounded=True)
        pairs = zip(outputs, self.wanted[index], strict=True)
        return torch.stack([(output.float() - wanted).square().mean() for output, wanted in pairs]).sum()

    def _error(self) -> float:
        with torch.no_grad():
            return sum(self._loss(index).item() for index in range(len(self.inputs))) / len(self.inputs)

    def _learned(self) -> dict[str, Tensor]:
        return {name: tensor for weight in self.weights for name, tensor in weight.tensors().items()}


def _advance(chunks: list[Chunk], piece: Block, tensors: dict[str, Tensor], sizes: Sizes, *, rounded: bool) -> None:
    """Puts what the block makes of each chunk in its place."""
    with torch.no_grad():
        for index, chunk in enumerate(chunks):
            chunks[index] = run(piece, chunk, tensors, sizes, rounded=rounded)


def _order(chunks: int, iterations: int, generator: torch.Generator) -> Iterator[int]:
    """One chunk an iteration, all of them before one comes again."""
    epochs = range(-(-iterations // chunks))
    shuffled = (torch.randperm(chunks, generator=generator).tolist() for _ in epochs)
    return itertools.islice(itertools.chain.from_iterable(shuffled), iterations)


def _weights(folded: Folded, grids: Mapping[str, Grid], bits: Mapping[str, int]) -> dict[str, _Weight]:
    """The weights that `bits` names, in their first state: nearest on the grid that suits them best."""
    found: dict[str, _Weight] = {}
    writable = folded.writable
    for layer in folded.layers():
        name, bias = layer.weight, layer.bias
        if name not in bits:
            continue
        weight = folded.tensor(name).detach()
        least, biases = torch.zeros(len(weight)), dict[str, Tensor]()
        if bias:
            tensor = folded.tensor(bias).detach()
            least = _least_steps(tensor, grids.get(layer.reads))
            biases = {bias: tensor.clone()} if bias in writable else {}
        if name in found:
            least = torch.maximum(least, found[name].least_steps)
            biases |= found[name].biases
        steps = torch.maximum(_best_steps(weight.flatten(1), (1 << bits[name] - 1) - 1), least)
        real = weight / steps.view(-1, *[1] * (weight.dim() - 1))
        found[name] = _Weight(name, bits[name], steps, least, real, torch.zeros_like(steps), biases, name in writable)
    return found


def _least_steps(bias: Tensor, inputs: Grid | None) -> Tensor:
    """The weight steps with which the bias, in steps of input step x weight step, leaves 32 bits half free."""
    return bias.abs() / (inputs.scale[0] * 2**30) if inputs else torch.zeros_like(bias)


def _best_steps(rows: Tensor, top: int) -> Tensor:
    """The step of each row that brings its nearest grid points closest to it.

    Closest in the mean of |error|^2.4, which spares large weights more than squares do (Frantar et al. 2022, GPTQ).
    """
    limits = (rows.abs().amax(1) / top).clamp_min(1e-8)
    best, least = limits, torch.full_like(limits, math.inf)
    for share in _SHARES:
        steps = (limits * share).clamp_min(1e-8)
        points = (rows / steps[:, None]).round().clamp(-top, top) * steps[:, None]
        error = (points - rows).abs().pow(2.4).sum(1)
        best = torch.where(error < least, steps, best)
        least = torch.minimum(error, least)
    return best


def _optimizer(weights: Sequence[_Weight]) -> torch.optim.Adam:
    kernels = [weight.real for weight in weights if weight.writable]
    rest = [part for weight in weights for part in weight.parts() if part is not weight.real]
    groups = [{"params": kernels, "lr": _WEIGHT_RATE}, {"params": rest, "lr": _REST_RATE}]
    return torch.optim.Adam([group for group in groups if group["params"]])


def _chunks(batches: Batches) -> list[Chunk]:
    """The samples in chunks of equal size; what is left over at the end is dropped.

    Where lengths differ, they are those of the commonest. Raises TaskError when there are none.
    """
    if not batches:
        raise TaskError("there are no inputs.", where="calibrate()", mend="let it yield batches of typical inputs.")
    values = joined(batches)
    size = min(_SAMPLES, len(values[0]))
    return [chunk for chunk in zip(*(value.split(size) for value in values), strict=True) if len(chunk[0]) == size]
