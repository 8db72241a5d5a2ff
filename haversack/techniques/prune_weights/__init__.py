"""Single weights are set to zero, where they matter least; files that are coded store zeros in next to nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, Self

from torch import Tensor, nn

from haversack.calibration.statistics import with_corrected_statistics
from haversack.calibration.sweep import swept_layers
from haversack.choices import Option, Site, Zeros
from haversack.device import Device
from haversack.errors import NothingChangedError, RecipeError
from haversack.graph.inference import inference
from haversack.graph.write_back import written_back
from haversack.model import Edits, Model
from haversack.progress import note
from haversack.recipe import Stage, Step
from haversack.settings import Count, Fraction, Like, Positive, Share, checked
from haversack.task import Task
from haversack.techniques._choices import LayerChoices, paths_of, spelled, weights_at
from haversack.techniques.prune_weights.masks import kept, masked, prunable, reach
from haversack.techniques.prune_weights.removal import second_order_scores, second_order_weights
from haversack.techniques.prune_weights.schedule import Moving, Pool, Rising
from haversack.training import Masks, Training, finetune

Method = Literal["magnitude", "movement", "second_order"]
Scope = Literal["global", "layer"]
Tensors = Mapping[str, Tensor]

_LADDER = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_OFFERED = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
"""Shares of zeros that a planner chooses from."""
_LEAST = 64
"""Weights of a tensor that is worth a choice: its last share leaves one."""


@dataclass(frozen=True)
class PruneWeights(Step):
    """The network with a share of its weights at exactly zero, which all later steps keep.

    Of what haversack writes, only C is faster by zeros, and smaller where they are many in a layer; they make the coded
    file, and so the update, smaller everywhere.

    `sparsity` is the share of zeros among the weights of the layers that are pruned; `layer_sparsity` ("head=0.5")
    sets it for a layer or a module by its path, 0 leaves it alone. With `shares` ("fc1=0.95") only the layers that it
    names are pruned, each by its own share, and the other two are not looked at. `method` says which go: the smallest
    (`magnitude`, Han et al. 2015), those that training moves towards zero (`movement`, Sanh et al. 2020), or those
    whose removal costs the outputs least while all others make up for it (`second_order`, Frantar and Alistarh 2022,
    see removal.py), for which calibration inputs are enough.

    With `scope` `global` all layers are judged together, with `layer` each loses the same share; each keeps its best
    weight. There are no patterns (N:M, blocks): nothing that is written reads them faster.

    ResNet-20 on CIFAR-10 without training, 70 % of its weights at zero, 500 training images to calibrate: 87.4 % of the
    10,000 test images by `magnitude`, 91.2 % by `second_order`, 91.7 % with all weights.

    Over the first `ramp` of `epochs` the sparsity rises as a cubic (Zhu and Gupta 2017), from what it is; the rest
    trains what is left, with the network as it was for its teacher. `second_order` prunes before the first epoch.
    Without epochs the weights go at once (`movement` knows no more than `magnitude` then), and batch norm's statistics
    are corrected on the calibration inputs.
    """

    sparsity: Fraction = 0.5
    method: Method = "magnitude"
    scope: Scope = "global"
    epochs: Count = 2
    ramp: Annotated[Share, "of the training"] = 0.5
    learning_rate: Positive = 0.02
    layer_sparsity: tuple[Annotated[str, Like("(?s:.+=.+)", "head=0.5")], ...] = ()
    shares: tuple[Annotated[str, Like(r"(?s:.+)=0?\.\d+", "fc1=0.95")], ...] = ()
    seed: int = 0

    stage: ClassVar[Stage] = Stage.SPARSITY
    strength: ClassVar[str] = "sparsity"

    def __post_init__(self) -> None:
        checked(self)
        self._exceptions()
        spelled(self.shares, "shares")

    def apply(self, model: Model, task: Task) -> Model:
        """The sparse model; raises RecipeError, naming the largest sparsity in reach, where `sparsity` lies above."""
        if model.grids:
            raise NothingChangedError("the weights lie on grids already.", mend="prune before numbers are chosen.")
        model = replace(model, teacher=model.teacher or model.module)
        weights = self._weights(model)
        pools = self._pools(weights)
        if not _falls_short(pools, weights, model.sparse):
            raise NothingChangedError("the weights are that sparse already.", mend="write a larger sparsity.")
        if self.method == "second_order":
            sparse = self._compensated(model, task, pools)
        elif not self.epochs:
            return _with_statistics(masked(model, _masks(pools, weights)), model.module, task)
        else:
            names = {name for pool in pools for name in pool.names}
            sparse = replace(model, sparse=model.sparse | names)
        return self._trained(sparse, model, task, pools) if self.epochs else sparse

    @classmethod
    def options(cls, model: Model, device: Device) -> Iterable[Self]:  # noqa: ARG003 - a step's signature
        """Half of the weights, and more up to 95 %, so long as that is more than are zero already.

        What that pays is a smaller coded file on every device, and neither flash of a plain file, RAM nor time.
        """
        weights = {} if model.grids else prunable(model)
        for sparsity in _LADDER if weights else ():
            step = cls(sparsity)
            if step._pays(weights, model.sparse):
                yield step

    @classmethod
    def choices(cls, model: Model, device: Device) -> LayerChoices | None:
        """A site a weight of some size, with shares of zeros; only coded files are smaller by them."""
        del device
        weights = {} if model.grids else _large(prunable(model), model.sparse)
        paths = paths_of(weights)

        def made(chosen: Sequence[int]) -> PruneWeights | None:
            shares = [
                f"{path}={_OFFERED[option - 1]}" for path, option in zip(paths.values(), chosen, strict=True) if option
            ]
            return cls(method="second_order", epochs=0, shares=tuple(shares)) if shares else None

        if not weights:
            return None
        folded = inference(model)
        return LayerChoices(
            model,
            sites=tuple(_site(path) for path in paths.values()),
            weights=tuple(weights),
            tried=lambda index, _: _thinned(list(weights.values())[index], folded.tensor(list(weights)[index])),
            made=made,
        )

    def _pays(self, weights: Tensors, sparse: frozenset[str]) -> bool:
        try:
            return _falls_short(self._pools(weights), weights, sparse)
        except (NothingChangedError, RecipeError):
            return False

    def _weights(self, model: Model) -> Tensors:
        """The weights that the method can choose from; others are told of."""
        weights = prunable(model)
        if self.method != "second_order":
            return weights
        able = {layer.weight for layer in swept_layers(inference(model), weights)}
        unable = [name for name in weights if name not in able]
        if unable:
            note(f"left dense, because their outputs cannot be fitted: {', '.join(unable)}.")
        return {name: weight for name, weight in weights.items() if name in able}

    def _compensated(self, model: Model, task: Task, pools: Sequence[Pool]) -> Model:
        """The model pruned at once, in which what stays makes up for what goes."""
        folded, batches = inference(model), task.calibration()
        names = [name for pool in pools for name in pool.names]
        chosen = swept_layers(folded, names)
        scores = second_order_scores(folded, batches, chosen, self.seed)
        masks = {name: mask for pool in pools for name, mask in pool.kept(scores).items()}
        masks = {name: mask & (folded.tensor(name) != 0) for name, mask in masks.items()}
        pruned = written_back(model, folded, second_order_weights(folded, batches, chosen, masks), exact=False)
        return replace(pruned, sparse=model.sparse | masks.keys())

    def _trained(self, sparse: Model, model: Model, task: Task, pools: Sequence[Pool]) -> Model:
        training = Training(epochs=self.epochs, learning_rate=self.learning_rate, seed=self.seed)
        own = {name: weight.detach() for name, weight in model.module.named_parameters(remove_duplicate=False)}
        masks: Masks | None = None
        if self.method == "magnitude":
            masks = Rising(pools, self.ramp, own, model.sparse)
        elif self.method == "movement":
            masks = Moving(pools, self.ramp, own, model.sparse)
        return sparse.with_module(finetune(sparse, task, training, masks))

    def _pools(self, weights: Tensors) -> list[Pool]:
        """The weights that are judged together."""
        shares = self._shares(weights)
        together: dict[object, list[str]] = {}
        for name in (name for name in weights if shares[name]):
            alone = self.scope == "layer" or bool(self.shares) or shares[name] != self.sparsity
            together.setdefault(name if alone else "all", []).append(name)
        if not together:
            raise NothingChangedError("no layer's weights can be pruned.", mend="see `haversack weigh` for its layers.")
        pools = [Pool(tuple(names), shares[names[0]]) for names in together.values()]
        for pool in pools:
            _check_reach(pool, weights)
        return pools

    def _shares(self, weights: Tensors) -> dict[str, float]:
        """The sparsity that each weight shall have; of exceptions the longest path counts."""
        if self.shares:
            said = spelled(self.shares, "shares")
            own = {name: float(said[path]) for name, path in weights_at(said, weights, "shares").items()}
            return {name: own.get(name, 0.0) for name in weights}
        exceptions, lost = self._exceptions(), set(self._exceptions())
        shares = {}
        for name in weights:
            met = [path for path in exceptions if f"{name}.".startswith(f"{path}.")]
            shares[name] = exceptions[max(met, key=len)] if met else self.sparsity
            lost -= set(met)
        if lost:
            raise RecipeError(
                f"no weights lie at {', '.join(repr(path) for path in sorted(lost))}.",
                where="layer_sparsity",
                mend=f"write the path of a layer or a module around it: {', '.join(weights)}.",
            )
        return shares

    def _exceptions(self) -> dict[str, float]:
        """The sparsity of layers by path."""
        found: dict[str, float] = {}
        for entry in self.layer_sparsity:
            path, _, share = entry.rpartition("=")
            try:
                found[path] = float(share)
            except ValueError:
                found[path] = math.nan
            if not 0 <= found[path] < 1:
                raise RecipeError(
                    f"layer_sparsity holds {entry!r}.",
                    mend='write a list such as ["head=0.5", "stem=0"], shares from 0 to below 1.',
                )
        return found


def _masks(pools: Sequence[Pool], weights: Tensors) -> dict[str, Tensor]:
    magnitudes = {name: weight.abs() for name, weight in weights.items()}
    return {name: mask for pool in pools for name, mask in pool.kept(magnitudes).items()}


def _falls_short(pools: Sequence[Pool], weights: Tensors, sparse: frozenset[str]) -> bool:
    """Whether more weights must go, or zeros that are there must be remembered."""
    if any(name not in sparse for pool in pools for name in pool.names):
        return True
    return any(bool((weights[name][~mask] != 0).any()) for name, mask in _masks(pools, weights).items())


def _check_reach(pool: Pool, weights: Tensors) -> None:
    most = reach({name: weights[name] for name in pool.names})
    if pool.sparsity > most and len(pool.names) > 1:
        raise RecipeError(
            f"a sparsity of {pool.sparsity} is out of reach: each of {len(pool.names)} layers keeps a weight, "
            f"which leaves {most:.4f}.",
            mend="write a smaller sparsity.",
        )


def _with_statistics(sparse: Model, original: nn.Module, task: Task) -> Model:
    """The model whose batch norms expect what the layers before them compute now."""
    if task.calibrate is None:
        return sparse
    return sparse.with_module(with_corrected_statistics(sparse.module, original, Edits(), task.calibration()))


def _large(weights: Tensors, sparse: frozenset[str]) -> Tensors:
    """The weights that a planner may thin out: of some size, and without zeros that are there to stay."""
    return {name: weight for name, weight in weights.items() if weight.numel() >= _LEAST and name not in sparse}


def _site(path: str) -> Site:
    shares = (Option(f"{share:.0%} zeros", Zeros(path, share)) for share in _OFFERED)
    return Site(path, "prune_weights", (Option("no zeros"), *shares))


def _thinned(weight: Tensor, folded: Tensor) -> list[Tensor]:
    """The folded weight without the smallest of its own numbers, for every share that is offered."""
    return [folded * kept({"": weight.abs()}, share)[""] for share in _OFFERED]
