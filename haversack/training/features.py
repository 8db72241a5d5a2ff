"""Features: what a student learns from the maps within its teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.errors import RecipeError, TrainingError
from haversack.progress import say
from haversack.training.pairs import Feature, Pair, paired
from haversack.training.settings import Features, Training


def feature_lesson(
    student: nn.Module, teacher: nn.Module | None, example: tuple[Tensor, ...], training: Training
) -> FeatureLesson | None:
    """The lesson that `training` asks for, its pairs said once; None where it asks for none.

    Both networks are in evaluation mode. Raises RecipeError where there is no teacher, or no pair of layers.
    """
    if not training.features:
        return None
    if teacher is None:
        raise RecipeError("features are to be compared, but there is no teacher.", mend="leave features out.")
    pairs = paired(student, teacher, example, training.pairs)
    say(f"{training.features} features of student and teacher are compared at {', '.join(map(str, pairs))}.")
    return FeatureLesson(pairs, training.features)


class FeatureLesson(nn.Module):
    """How far a student's maps are from its teacher's, as the mean over pairs of layers.

    For `fitnet` the student's channels are mapped to the teacher's by a regressor, a convolution of one pixel, that
    learns beside the student and is thrown away (Romero et al. 2015). A regressor starts at zero, so that it learns to
    read the student before it pulls it anywhere. Maps of two sizes are averaged to the smaller one, save where only
    the relations between samples are compared.
    """

    def __init__(self, pairs: Sequence[Pair], way: Features) -> None:
        super().__init__()
        self.pairs, self.way = tuple(pairs), way
        regressed = self.pairs if way == "fitnet" else ()
        self.regressors = nn.ModuleList(_regressor(pair) for pair in regressed)
        for pair in self.pairs if way == "attention" else ():
            if any(each.is_point or not each.extent for each in (pair.student, pair.teacher)):
                raise RecipeError(
                    f"{pair}: one vector a sample is strong nowhere in particular.",
                    mend='compare larger maps, or write features = "fitnet" or "similarity".',
                )

    @property
    def paths(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The layers of the student, and those of its teacher."""
        return tuple(each.student.path for each in self.pairs), tuple(each.teacher.path for each in self.pairs)

    def forward(self, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Tensor:
        """The distance of the student's results from the teacher's, both by path; a scalar."""
        far = [self._far(place, *_met(pair, ours, theirs)) for place, pair in enumerate(self.pairs)]
        return torch.stack(far).mean()

    def _far(self, place: int, ours: Tensor, theirs: Tensor) -> Tensor:
        if self.way == "similarity":
            return similarity(ours, theirs)
        ours, theirs = of_one_size(ours, theirs)
        if self.way == "attention":
            return attention(ours, theirs)
        return hint(self.regressors[place](ours.flatten(2)), theirs.flatten(2))


def hint(ours: Tensor, theirs: Tensor) -> Tensor:
    """The mean squared difference of two maps of one shape, the teacher's brought to a mean square of 1.

    That of Romero et al. (2015) but for the scale: it is 1 for a student that knows nothing, and a regressor learns as
    fast whatever the teacher's scale.
    """
    return F.mse_loss(ours, theirs / theirs.square().mean().sqrt().clamp(min=1e-6))


def attention(ours: Tensor, theirs: Tensor) -> Tensor:
    """The squared distance of two maps (samples, channels, ...) of where channels are strong.

    A position's strength is its sum of squares over the channels; each sample's map of them has the length 1, and the
    distance is the mean over the samples, from 0 to 2 (Zagoruyko and Komodakis 2017, squared as in their code).
    """
    return (_strength(ours) - _strength(theirs)).square().sum(1).mean()


def similarity(ours: Tensor, theirs: Tensor) -> Tensor:
    """The squared distance of two results (samples, ...) in which samples are like which.

    A sample's products with all samples have the length 1, and the distance is the mean over the samples, from 0 to 2:
    the loss of Tung and Mori (2019), times the number of samples so that it does not depend on it.
    """
    return (_relations(ours) - _relations(theirs)).square().sum(1).mean()


def of_one_size(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps (samples, channels, ...) averaged to the smaller size of each dimension."""
    size = [min(both) for both in zip(ours.shape[2:], theirs.shape[2:], strict=True)]
    return _averaged(ours, size), _averaged(theirs, size)


def _averaged(maps: Tensor, size: Sequence[int]) -> Tensor:
    if list(maps.shape[2:]) == size:
        return maps
    pool: Callable[..., Tensor] = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[len(size) - 1]
    return pool(maps, size)


def _strength(maps: Tensor) -> Tensor:
    return F.normalize(maps.square().sum(1).flatten(1), dim=1)


def _relations(results: Tensor) -> Tensor:
    rows = results.flatten(1)
    return F.normalize(rows @ rows.T, dim=1)


def _regressor(pair: Pair) -> nn.Conv1d:
    layer: nn.Conv1d = nn.utils.skip_init(nn.Conv1d, pair.student.width, pair.teacher.width, 1)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _met(pair: Pair, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Both results of a pair, of as many samples, in full precision, with their channels behind the samples."""
    known = ours.get(pair.student.path), theirs.get(pair.teacher.path)
    if known[0] is None or known[1] is None or len(known[0]) != len(known[1]):
        raise TrainingError(
            f"{pair}: a layer did not run on the whole batch.",
            mend="pair layers that always run; the teacher has to compute each batch, not to remember its outputs.",
        )
    return _channels_second(known[0], pair.student), _channels_second(known[1], pair.teacher)


def _channels_second(result: Tensor, feature: Feature) -> Tensor:
    maps = result.float().movedim(feature.channel, 1)
    return maps if feature.extent else maps.unsqueeze(2)
