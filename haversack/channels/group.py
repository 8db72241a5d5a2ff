"""Channel groups: what may be removed together, and what must stay, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from haversack.errors import SurgeryError
from haversack.graph.run import named_tensors
from haversack.model import Edits, Slices
from haversack.surgery.described import ranges


@dataclass(frozen=True)
class Member:
    """A dimension of a tensor that shrinks with a group: `indices[i]` are the slices that channel i takes with it.

    `reads` tells columns, which take the channel in, from rows, which make it.
    """

    tensor: str
    dim: int
    indices: tuple[tuple[int, ...], ...]
    reads: bool = False


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of equal build: each may go, but only with its slices of all members.

    `name` is the path of the layer that makes them, with a number where it makes several groups ("conv#2"); `least` of
    them must stay.
    """

    name: str
    members: tuple[Member, ...]
    least: int = 1

    @property
    def size(self) -> int:
        """How many channels there are to choose from."""
        return len(self.members[0].indices)


@dataclass(frozen=True)
class Pinned:
    """Channels that must stay, and why."""

    layer: str
    reason: str
    channels: int


@dataclass(frozen=True)
class Groups:
    """All channels of a network: those that can go, and those that must stay."""

    groups: tuple[ChannelGroup, ...]
    pinned: tuple[Pinned, ...]


def edits_for(module: nn.Module, groups: Sequence[ChannelGroup], kept: Sequence[Sequence[int]]) -> Edits:
    """The edits that leave of each group the channels `kept` at its place; tensors that stay whole are not named."""
    tensors = named_tensors(module)
    gone: dict[tuple[str, int], set[int]] = {}
    for group, stay in zip(groups, kept, strict=True):
        _check_kept(group, stay)
        for member in group.members:
            lost = (slices for channel, slices in enumerate(member.indices) if channel not in set(stay))
            gone.setdefault((member.tensor, member.dim), set()).update(*lost)
    edits: dict[str, dict[int, tuple[int, ...]]] = {}
    for (name, dim), lost_slices in gone.items():
        if lost_slices:
            whole = range(tensors[name].shape[dim])
            edits.setdefault(name, {})[dim] = tuple(index for index in whole if index not in lost_slices)
    return Edits((Slices(edits),)) if edits else Edits()


def _check_kept(group: ChannelGroup, stay: Sequence[int]) -> None:
    if len(stay) < group.least or not set(stay) <= set(range(group.size)):
        raise SurgeryError(
            f"channels [{ranges(sorted(stay))}] cannot be what is left of {group.size}.",
            where=f"channels of layer {group.name}",
            mend=f"keep {group.least} or more of 0..{group.size - 1}.",
        )
