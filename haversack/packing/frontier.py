"""The frontier of the last run, kept in the workspace: a row of it can be asked for later."""

from __future__ import annotations

from dataclasses import dataclass

from haversack.errors import RecipeError
from haversack.limits import Budget
from haversack.packing.workspace import Workspace
from haversack.plan.found import Found
from haversack.plan.frontier import FrontierRow
from haversack.recipe import recipe_from_toml
from haversack.result import KeptRow
from haversack.techniques import catalogue


@dataclass(frozen=True)
class _Frontier:
    """What is kept of a run."""

    rows: tuple[KeptRow, ...]
    limits: Budget


def kept_rows(found: Found) -> tuple[KeptRow, ...]:
    """The frontier as it is written down."""
    return tuple(KeptRow(row.recipe.to_toml(), dict(row.predicted), row.measurement) for row in found.frontier)


def keep_frontier(workspace: Workspace, found: Found, limits: Budget) -> None:
    """Keeps the rows of a run, in the place of those of the run before."""
    workspace.keep_note(_Frontier(kept_rows(found), limits), "frontier")


def kept_frontier(workspace: Workspace, number: int) -> tuple[tuple[FrontierRow, ...], Budget]:
    """The rows of the last run of this network, data and device, and its limits.

    Raises RecipeError where there was no such run, or its frontier has no row of that number, from 1.
    """
    kept = workspace.note(_Frontier, "frontier")
    if kept is None or not kept.rows:
        raise RecipeError(
            "no frontier is kept for this network, task and device.",
            where=str(workspace.folder),
            mend="run `haversack pack` or `haversack explore` first, with the same --out, --device and --threads.",
        )
    if not 1 <= number <= len(kept.rows):
        raise RecipeError(
            f"the frontier has no row {number}.", mend=f"choose one of 1 to {len(kept.rows)}, as the report shows them."
        )
    known = catalogue()
    rows = (FrontierRow(recipe_from_toml(row.recipe, known), row.predicted, row.measurement) for row in kept.rows)
    return tuple(rows), kept.limits
