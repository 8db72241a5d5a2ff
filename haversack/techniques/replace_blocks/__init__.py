"""Convolutions give way to depthwise separable, grouped and shuffled blocks where those pay, and stay elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, Self

from torch import Tensor, nn

from haversack.calibration.imitate import block_by_block
from haversack.calibration.least_squares import Problem
from haversack.calibration.patches import Geometry
from haversack.calibration.statistics import with_corrected_statistics
from haversack.channels.cost import Measure
from haversack.choices import Option, Site, Swapped
from haversack.device import Device
from haversack.errors import RecipeError
from haversack.model import Edits, Model
from haversack.recipe import Stage, Step
from haversack.settings import Count, Fraction, Like, Positive, checked
from haversack.task import Task
from haversack.techniques._choices import LayerChoices, spelled
from haversack.techniques._exchange import Choice, Exchange, Ways
from haversack.techniques._exchange.choices import Exchangeable, FoldedWeights, exchangeable, layer_choices
from haversack.techniques._exchange.sites import ExchangeSite, Replacement
from haversack.techniques.replace_blocks.grouped import Shape, fitted, ladder
from haversack.techniques.replace_blocks.merged import merged, unmerged
from haversack.training import trained

Kind = Literal["separable", "grouped", "shuffle"]
Block = Literal["best", Kind]


@dataclass(frozen=True)
class ReplaceBlocks(Step):
    """The network with cheaper blocks in the place of some convolutions, then taught by the original.

    `keep` is the fraction that is left of the network's latency, multiply-accumulates or parameters (`of`). A kernel
    gives way to one kernel a channel and a 1 x 1 that mixes (`separable`, Howard et al. 2017), to one among few
    channels instead (`grouped`, Peng et al. 2018), or to one whose mixture is grouped too, after a shuffle (`shuffle`,
    Zhang et al. 2018); `best` tries them all. Blocks are timed on the model's target (without one, multiply-accumulates
    count for latency): a convolution that no block makes cheaper stays, and of the others those change that lose least.
    With `layers` ("conv=depthwise", "conv=grouped:4") only those that it names give way, to a kernel in so many groups
    that gives as many channels as it reads, and a 1 x 1; nothing is timed.

    Blocks start from the convolution's own kernel, fitted to its outputs on the calibration inputs. In `passes` over
    these they then learn to give what the convolution gave, and in `epochs` the whole network learns from the data and
    from the original.
    """

    keep: Fraction = 0.6
    of: Measure = "latency"
    block: Block = "best"
    layers: tuple[Annotated[str, Like(r"(?s:.+)=(depthwise|grouped:\d{1,6})", "conv=depthwise")], ...] = ()
    passes: Count = 10
    epochs: Count = 4
    learning_rate: Positive = 0.03
    seed: int = 0

    stage: ClassVar[Stage] = Stage.DESIGN
    strength: ClassVar[str] = "keep"

    def __post_init__(self) -> None:
        checked(self)
        spelled(self.layers, "layers")

    def apply(self, model: Model, task: Task) -> Model:
        """The network with blocks, trained for `epochs`; edits and teacher follow.

        Raises TaskError without calibration inputs, RecipeError, naming the smallest fraction in reach, when `keep`
        lies below it, and NothingChangedError where there is no ordinary convolution, or no block pays.
        """
        exchange = Exchange(model, self.of, self._ways, task.calibration())
        if self.layers:
            small, paths = exchange.told("layers", spelled(self.layers, "layers"), _read)
        else:
            small, paths = exchange.done(self.keep)
        return small.with_module(unmerged(small.module, self._taught(small, model.module, task, paths)))

    def skeleton(self) -> Self:
        """The same blocks, with the numbers they start from."""
        return replace(self, passes=0)

    @classmethod
    def options(cls, model: Model, device: Device) -> Iterable[Self]:
        """Fractions of the latency, then of the parameters, that are in reach by counting; each mildest first."""
        del device
        for of in ("latency", "parameters") if not model.grids else ():
            step = cls(of=of)
            keeps = Exchange(model, of, step._ways).in_reach((0.75, 0.6, 0.5, 0.4))
            yield from (replace(step, keep=keep) for keep in keeps)

    @classmethod
    def choices(cls, model: Model, device: Device) -> LayerChoices | None:
        """A site an ordinary convolution, which may be depthwise or in groups; None where there is none."""
        del device

        def step(told: Mapping[str, Choice]) -> ReplaceBlocks:
            return cls(layers=tuple(f"{path}={_spelling(each)}" for path, each in told.items()), epochs=0)

        layers = [] if model.grids else exchangeable(model, _offered, _dense)
        return layer_choices(FoldedWeights(model, layers, _dense), _site, step)

    @property
    def _ways(self) -> Ways:
        return Ways(
            one="block",
            many="blocks",
            nothing="there is no ordinary convolution to replace",
            lacking="none has a kernel of its own",
            suits=_suits,
            tried=lambda site, _: (each for each in blocks(site.geometry) if self.block in ("best", each.method)),
            loss=_loss,
            replacement=_replacement,
        )

    def _taught(self, small: Model, original: nn.Module, task: Task, paths: Sequence[str]) -> nn.Module:
        """The network with its blocks merged, after all training."""
        batches, wide = task.calibration(), replace(small, module=merged(small.module, paths))
        wide = block_by_block(wide, original, paths, batches, passes=self.passes, seed=self.seed)
        # Blocks take no channel from any batch norm; what earlier steps took is gone from both networks.
        wide = wide.with_module(with_corrected_statistics(wide.module, original, Edits(), batches))
        return trained(wide, task, self.epochs, learning_rate=self.learning_rate, seed=self.seed).module


def _suits(geometry: Geometry) -> bool:
    """Whether the layer is an ordinary convolution: one whose kernel reads more than one pixel."""
    return geometry.pixels > 1


def blocks(geometry: Geometry) -> Iterator[Choice]:
    """Blocks of every kind, of ever smaller cost."""
    for shape in ladder(geometry):
        yield Choice(_kind(geometry, shape), (shape.inputs, shape.outputs, shape.rank), shape.layers(geometry))


def _offered(site: ExchangeSite) -> Iterator[Choice]:
    """Kernels in groups of 8, 4, 2 and 1 channels, each with as many channels as the layer reads."""
    inputs = site.geometry.inputs if _suits(site.geometry) else 0
    for size in (8, 4, 2, 1):
        if inputs % size == 0 and size < inputs and size <= site.geometry.outputs:
            yield _in_groups(site, inputs // size)


def _in_groups(site: ExchangeSite, groups: int) -> Choice:
    shape = Shape(groups, 1, site.geometry.inputs // groups)
    return Choice(_kind(site.geometry, shape), (shape.inputs, shape.outputs, shape.rank), shape.layers(site.geometry))


def _read(site: ExchangeSite, text: str) -> Choice:
    """What a setting such as grouped:4 says; raises RecipeError for groups that the layer cannot have."""
    inputs = site.geometry.inputs
    groups = inputs if text == "depthwise" else int(text.partition(":")[2])
    if groups < 2 or inputs % groups or inputs // groups > site.geometry.outputs:
        raise RecipeError(
            f"{site.path} reads {inputs} channels, which cannot be in {groups} groups.",
            where="layers",
            mend=f"write depthwise, or a number of groups from 2 up that divides {inputs}.",
        )
    return _in_groups(site, groups)


def _spelling(choice: Choice) -> str:
    return "depthwise" if choice.method == "separable" else f"grouped:{choice.ranks[0]}"


def _site(layer: Exchangeable) -> Site:
    path = layer.site.path
    options = (
        Option(_spelling(each).replace(":", " "), Swapped(path, _spelling(each).partition(":")[0], each.ranks[0]))
        for each in layer.choices
    )
    return Site(path, "replace_blocks", (Option("one layer"), *options))


def _dense(problem: Problem, choice: Choice) -> Tensor:
    """The weight that a block amounts to."""
    return fitted(problem, Shape(*choice.ranks)).weight(problem)


def _loss(problem: Problem, choice: Choice) -> float:
    """The share of the layer's output power that the block loses at first."""
    return problem.error(fitted(problem, Shape(*choice.ranks)).weight(problem))


def _replacement(problem: Problem, choice: Choice) -> Replacement:
    """The block with its first numbers."""
    fit = fitted(problem, Shape(*choice.ranks))
    state = {name: tensor.float() for name, tensor in fit.state(problem).items()}
    return Replacement(choice.layers, state)


def _kind(geometry: Geometry, shape: Shape) -> Kind:
    if shape.outputs > 1:
        return "shuffle"
    return "separable" if shape.inputs == geometry.inputs else "grouped"
