"""Why a search ended with nothing that can be shipped."""

from __future__ import annotations

from haversack.device import Budget
from haversack.errors import InfeasibleError, NothingChangedError
from haversack.plan.found import Found


def failure(found: Found, budget: Budget) -> BaseException | None:
    """What to raise where a search ended, or was stopped, with nothing to ship; None where there is an answer."""
    if found.met and found.best.recipe.steps:
        return None
    if found.stopped:
        return KeyboardInterrupt()
    return nothing_pays(found, budget) if found.met else infeasible(found)


def infeasible(found: Found) -> InfeasibleError:
    """The limits that no candidate meets, with what the nearest one misses."""
    score = found.best.measurement.score
    short = [f"misses {miss}" for miss in found.misses]
    short += [f"cannot be judged in its {limit}" for limit in found.unjudged]
    known = f", scores {score.value:.4f}" if score and all(miss.limit != "score" for miss in found.misses) else ""
    return InfeasibleError(
        f"no candidate meets the budget. The nearest ({found.best.recipe}) {'; '.join(short)}{known}.",
        mend=("limit what can be judged (the report's notes say what would make it so), " if found.unjudged else "")
        + "raise that limit, allow a larger score drop, or start from a smaller network.",
    )


def nothing_pays(found: Found, budget: Budget) -> NothingChangedError:
    """All that was tried, and why none of it is worth doing."""
    if found.verdicts or found.refusals:
        tried = "; ".join(
            [f"{each.candidate.recipe}: {each.why}" for each in found.verdicts]
            + [f"{each.recipe}: {each.why}" for each in found.refusals]
        )
        return NothingChangedError(
            f"nothing that was tried pays: {tried}.", mend="set a tighter limit, or ship the network as it is."
        )
    return NothingChangedError("there is nothing to try.", mend=f"the device states no format that pays ({budget}).")
