"""Codebooks: a tensor's numbers replaced by few, so that an index an element stands for it (Han et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_ROUNDS, _BINS = 60, 2048
_HALF_PRECISION = 2.0**-10


@dataclass(frozen=True)
class Clustering:
    """`centroids` in rising order, and which of them each element is."""

    centroids: Tensor
    indices: Tensor

    @property
    def values(self) -> Tensor:
        """The tensor that the codebook stands for."""
        return self.centroids[self.indices]


def k_means(weight: Tensor, count: int, *, keep_zero: bool) -> Clustering:
    """The `count` centroids nearest to the elements of `weight` in the mean square, by Lloyd's algorithm.

    In one dimension each cluster is an interval, so that sorting once makes every round cheap. The better of two starts
    counts: spread evenly over the range, which keeps the few large weights (Han 2016, section 3.2), and as dense as
    the cube root of the weights' own density (Panter and Dite 1951). With `keep_zero` one centroid is 0.0 and stays it.
    """
    flat = weight.flatten().double().sort().values
    starts = (torch.linspace(float(flat[0]), float(flat[-1]), count, dtype=torch.float64), _companded(flat, count))
    books = [_codebook(weight, _settled(flat, start, keep_zero=keep_zero)) for start in starts]
    return min(books, key=lambda book: float((book.values - weight).double().square().sum()))


def entropy_constrained(weight: Tensor, start: Clustering, entropy_weight: float) -> Clustering:
    """The codebook that makes error + `entropy_weight` * bits small, found from `start` (Chou et al. 1989).

    The error is the mean square one as a share of the mean square of what is not zero; the bits are the entropy of an
    index. An element takes the centroid whose distance and code length together cost it least, centroids move to the
    means of their elements, and those that nobody takes are gone (Choi et al. 2017, without their Hessian). A centroid
    of 0.0 stays 0.0, and elements that were zero stay zero where there is one.
    """
    flat = weight.flatten().double()
    price = entropy_weight * float(flat.square().sum() / (flat != 0).sum().clamp_min(1))
    centroids, indices = start.centroids.double(), start.indices.flatten()
    for _ in range(_ROUNDS):
        counts = torch.bincount(indices, minlength=len(centroids))
        lengths = torch.where(counts > 0, -(counts / len(flat)).log2() * price, torch.inf)
        found = _cheapest(flat, centroids, lengths)
        if torch.equal(found, indices):
            break
        indices, centroids = found, _moved(flat, found, centroids)
    used, indices = indices.unique(return_inverse=True)
    return Clustering(centroids[used].float(), indices.view(weight.shape))


def halved(tensor: Tensor) -> Tensor:
    """`tensor` rounded to numbers that float16 holds; as it is where that loses more than a 1,000th of an element."""
    half = tensor.half().to(tensor.dtype)
    return half if torch.allclose(half, tensor, rtol=_HALF_PRECISION, atol=0) else tensor


def _cheapest(flat: Tensor, centroids: Tensor, rates: Tensor) -> Tensor:
    """For each element the centroid with the least sum of squared distance and rate; zeros stay at zero."""
    best, indices = torch.full_like(flat, torch.inf), torch.zeros_like(flat, dtype=torch.long)
    for index, (centroid, rate) in enumerate(zip(centroids, rates, strict=True)):
        cost = (flat - centroid).square() + rate
        if centroid == 0:
            cost[flat == 0] = 0
        indices[cost < best] = index
        best = torch.minimum(best, cost)
    return indices


def _moved(flat: Tensor, indices: Tensor, centroids: Tensor) -> Tensor:
    """Each centroid at the mean of its elements; zero, and one that has none, stay where they are."""
    counts = torch.bincount(indices, minlength=len(centroids))
    means = torch.zeros_like(centroids).index_add(0, indices, flat) / counts.clamp_min(1)
    return torch.where((counts > 0) & (centroids != 0), means, centroids)


def _settled(flat: Tensor, centroids: Tensor, *, keep_zero: bool) -> Tensor:
    """The centroids at which Lloyd's rounds end."""
    sums = torch.cat([flat.new_zeros(1), flat.cumsum(0)])
    for _ in range(_ROUNDS):
        moved = _means(flat, sums, _with_zero(centroids) if keep_zero else centroids)
        if torch.equal(moved, centroids):
            break
        centroids = moved
    return _with_zero(centroids) if keep_zero else centroids


def _codebook(weight: Tensor, centroids: Tensor) -> Clustering:
    kept = centroids.float().unique()
    return Clustering(kept, torch.bucketize(weight, _borders(kept)))


def _companded(flat: Tensor, count: int) -> Tensor:
    """Points that cut the cube root of the density of `flat` into equal parts."""
    low, high = float(flat[0]), float(flat[-1])
    density = torch.histc(flat, _BINS, low, high).double() ** (1 / 3)
    wanted = (torch.arange(count, dtype=torch.float64) + 0.5) / count * density.sum()
    bins = torch.searchsorted(density.cumsum(0), wanted).clamp_max(_BINS - 1)
    return low + (high - low) * (bins + 0.5) / _BINS


def _means(flat: Tensor, sums: Tensor, centroids: Tensor) -> Tensor:
    """The mean of the elements nearest to each centroid; one that has none stays where it is."""
    ends = torch.searchsorted(flat, _borders(centroids))
    ends = torch.cat([ends.new_zeros(1), ends, ends.new_full((1,), len(flat))])
    counts = ends.diff()
    means = (sums[ends[1:]] - sums[ends[:-1]]) / counts.clamp_min(1)
    return torch.where(counts > 0, means, centroids).sort().values


def _borders(centroids: Tensor) -> Tensor:
    return (centroids[1:] + centroids[:-1]) / 2


def _with_zero(centroids: Tensor) -> Tensor:
    """The centroid nearest to zero becomes zero."""
    kept = centroids.clone()
    kept[centroids.abs().argmin()] = 0
    return kept
