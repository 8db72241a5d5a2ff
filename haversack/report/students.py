"""The students that were compared, as plain text."""

from __future__ import annotations

from collections.abc import Sequence

from haversack.plan.students import Student
from haversack.report.tables import document, paragraph, table

_HEAD = ("family", "width", "depth", "downsampling", "shrink", "parameters", "MACs", "distance", "epochs")


def ranked(students: Sequence[Student]) -> str:
    """The students, best first, with their sizes and how far from the original they were after so many epochs."""
    if not students:
        return ""
    note = (
        "Each is as wide as its family may be to fit. Distance: the divergence of its outputs from the original's on "
        "the calibration inputs, after a short training. The better half of each round learned anew for twice as long."
    )
    return document(
        f"Students, best first:\n{table(_HEAD, [_row(each) for each in students], right=_HEAD[1:])}", paragraph(note)
    )


def _row(student: Student) -> tuple[str, ...]:
    member, counts = student.member, student.counts
    sizes = (f"{member.width:.4g}", f"{member.depth:.4g}", str(member.downsampling), str(member.shrink))
    judged = ("", "") if student.distance is None else (f"{student.distance:.4g}", str(student.epochs))
    return (member.family, *sizes, f"{counts.parameters:,}", f"{counts.macs:,}", *judged)
