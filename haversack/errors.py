"""Every error a user can cause, and how to mend it.

The command line prints the message and exits with 2; nobody sees a traceback.
"""

from __future__ import annotations

from collections.abc import Mapping


class HaversackError(Exception):
    """What is wrong, where, and how to mend it."""

    def __init__(self, what: str, *, mend: str = "", where: str = "") -> None:
        self.what, self.mend, self.where = what, mend, where
        place = f"{where}: " if where else ""
        super().__init__(f"{place}{what}" + (f"\n  How to mend it: {mend}" if mend else ""))


class QuantityError(HaversackError):
    """A size, time or share that cannot be read."""


class TaskError(HaversackError):
    """The user's file, network, data or score does not do what a task must."""


class DeviceError(HaversackError):
    """An unknown device, or a device file that cannot be read."""


class BudgetError(HaversackError):
    """A limit that makes no sense."""


class InfeasibleError(HaversackError):
    """No candidate meets the budget; names the limit, the nearest candidate and what it misses.

    `relaxations` are the least values of single limits, by their field of a budget, with which the others can be kept.
    """

    def __init__(self, what: str, *, mend: str = "", relaxations: Mapping[str, float] | None = None) -> None:
        self.relaxations = dict(relaxations or {})
        super().__init__(what, mend=mend)


class RecipeError(HaversackError):
    """Settings out of range, an unknown step, or an order of steps that makes no sense."""


class NothingChangedError(HaversackError):
    """A step ran and left the network as it was."""


class SameFilesError(NothingChangedError):
    """A recipe gave, byte for byte, the files of another one."""


class TraceError(HaversackError):
    """torch.export cannot read the network; names the layer."""


class SurgeryError(HaversackError):
    """Edits that do not fit the network."""


class TrainingError(HaversackError):
    """Training went wrong: a loss that is not finite, or no data."""


class ExportError(HaversackError):
    """A writer met an operation that its runtime cannot express."""


class ParityError(HaversackError):
    """The exported file and the network it came from disagree."""


class MeasureError(HaversackError):
    """A file could not be run or timed."""


class CrashError(MeasureError):
    """A runtime crashed, or did not come back, over a file."""


class WorkspaceError(HaversackError):
    """Results could not be written or read back."""


class UntrustedError(HaversackError):
    """A file of unknown origin is damaged, too large, or not what it should be."""


class CodedError(HaversackError):
    """A file of coded weights is damaged, foreign or too large, or something that it has no form for."""


class UpdateError(HaversackError):
    """An update that a device must not install: not its own, too old, altered, or of an unknown key."""


class StoppedError(HaversackError):
    """Somebody stopped the run; what was finished is kept."""
