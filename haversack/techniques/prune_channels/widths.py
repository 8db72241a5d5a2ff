"""Widths: how many channels are left of which group, as a recipe spells it out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from haversack.channels.group import ChannelGroup, Groups
from haversack.errors import RecipeError


def counts_of(widths: Sequence[str]) -> dict[str, int]:
    """The channels that are left of each group that `widths` names; RecipeError where it names one twice."""
    counts: dict[str, int] = {}
    for entry in widths:
        name, _, count = entry.rpartition("=")
        if name in counts:
            raise RecipeError(f"widths names {name} twice.", mend="name each channel group once.")
        counts[name] = int(count)
    return counts


def narrowed(read: Groups, widths: Sequence[str]) -> tuple[list[ChannelGroup], list[int]]:
    """The groups that `widths` names, in the network's order, and what is left of each.

    Raises RecipeError for a name that is no group's and for a count that its group cannot have.
    """
    counts = counts_of(widths)
    known = {group.name: group for group in read.groups}
    for name, count in counts.items():
        if name not in known:
            raise RecipeError(f"widths names {name}, {_unknown(read, name)}.", mend=f"choose from: {_listed(known)}.")
        group = known[name]
        if not group.least <= count <= group.size:
            raise RecipeError(
                f"widths leaves {count} channels of {name}, which has {group.size}.",
                mend=f"write {name}={group.least} to {name}={group.size}.",
            )
    return [known[name] for name in known if name in counts], [counts[name] for name in known if name in counts]


def _unknown(read: Groups, name: str) -> str:
    reason = next((each.reason for each in read.pinned if each.layer == name), "")
    return f"whose channels must stay ({reason})" if reason else "which makes no channel group of this network"


_SHOWN = 6


def _listed(known: Iterable[str]) -> str:
    names = list(known)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}" if names else "nothing; no channels of this network can go"
