"""Channel groups: what may be removed together, and what must stay, with the reason."""

from __future__ import annotations

from dataclasses import dataclass


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

    `name` is the path of the layer that makes them; `least` of them must stay.
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
