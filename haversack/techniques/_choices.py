"""Choices of layers that each may have another weight: what they lose is tried, one layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from haversack.calibration.replay import Replay
from haversack.choices import Option, Site
from haversack.errors import RecipeError
from haversack.graph.cost import cost
from haversack.graph.inference import inference
from haversack.graph.run import Batches
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.progress import track
from haversack.recipe import Step
from haversack.task import Kinds


@dataclass(frozen=True)
class LayerChoices:
    """Sites that each are one layer, whose weight in the folded network has one of the names `weights`.

    `tried` gives, for the number of a site and the calibration inputs, the folded weight with each option but the
    first; `made` the step for one option number of each site.
    """

    model: Model
    sites: tuple[Site, ...]
    weights: tuple[str, ...]
    tried: Callable[[int, Batches], Sequence[Tensor]]
    made: Callable[[Sequence[int]], Step | None]
    normed: bool | None = True
    """Whether batch norm's statistics are corrected afterwards, or biases alone; None where nothing is."""

    def losses(self, batches: Sequence[tuple[Tensor, ...]], kind: Kinds = "classification") -> list[tuple[float, ...]]:
        """For each site, what each option alone moves the outputs, in nats; 0 for the first."""
        if not self.sites:
            return []
        count = sum(len(site.options) - 1 for site in self.sites)
        # A layer in the middle is half the network to run again.
        work = cost(trace(self.model.module, self.model.example)).macs * count / 2
        folded = inference(self.model)
        replay = Replay(folded, batches, work, normed=self.normed, kind=kind)
        numbered = track(list(enumerate(self.weights)), f"trying {self.sites[0].technique}", len(self.weights))
        return [(0.0, *replay.losses(weight, self.tried(index, batches))) for index, weight in numbered]

    def keeping(self, wanted: Callable[[Option], bool]) -> LayerChoices:
        """The same without the options that are not wanted, which are not tried then; every site's first one stays."""
        kept = [[at for at, option in enumerate(site.options) if at == 0 or wanted(option)] for site in self.sites]
        sites = tuple(
            replace(site, options=tuple(site.options[at] for at in numbers))
            for site, numbers in zip(self.sites, kept, strict=True)
        )

        def tried(index: int, batches: Batches) -> list[Tensor]:
            weights = self.tried(index, batches)
            return [weights[at - 1] for at in kept[index][1:]]

        def made(chosen: Sequence[int]) -> Step | None:
            return self.made([numbers[option] for numbers, option in zip(kept, chosen, strict=True)])

        return replace(self, sites=sites, tried=tried, made=made)

    def step(self, chosen: Sequence[int]) -> Step | None:
        """The step that does what the options `chosen` say, without training; None if nothing."""
        return self.made(chosen)


def paths_of(weights: Iterable[str]) -> dict[str, str]:
    """The path by which a setting names the layer of each weight, and no other of them."""
    names = list(weights)
    short = {name: name.removesuffix(".weight") for name in names}
    return {
        name: name if any(other != name and f"{other}.".startswith(f"{path}.") for other in names) else path
        for name, path in short.items()
    }


def spelled(entries: Sequence[str], setting: str) -> dict[str, str]:
    """What a setting such as ("conv=8",) says of each path; raises RecipeError for a path that it names twice."""
    said: dict[str, str] = {}
    for entry in entries:
        path, _, value = entry.rpartition("=")
        if path in said:
            raise RecipeError(f"{setting} names {path} twice.", mend="name each layer once.")
        said[path] = value
    return said


def weights_at(paths: Iterable[str], weights: Iterable[str], setting: str) -> dict[str, str]:
    """For each weight that a path names, itself, by its layer or by a module around it, the longest such path.

    Raises RecipeError for a path that names none.
    """
    said, names = list(paths), list(weights)
    met = {name: [path for path in said if f"{name}.".startswith(f"{path}.")] for name in names}
    lost = [path for path in said if not any(path in inside for inside in met.values())]
    if lost:
        raise RecipeError(
            f"no such layer: {', '.join(lost)}.",
            where=setting,
            mend=f"write the path of a layer: {', '.join(paths_of(names).values())}.",
        )
    return {name: max(inside, key=len) for name, inside in met.items() if inside}
