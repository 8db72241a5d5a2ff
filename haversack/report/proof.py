"""A proof as plain text."""

from __future__ import annotations

from haversack.proof import Proof, Witness
from haversack.report.tables import document, paragraph, show_score, table


def proved(proof: Proof) -> str:
    """Each runtime beside the reference: equal numbers, largest difference, bytes, score and what it promised."""
    unit = "in steps of the output's grid" if proof.on_integers else "relative to the largest output"
    head = ("runtime", "file", "inputs", "equal", "off by", "bytes", "score", "promise")
    rows = [row for witness in proof.witnesses for row in _rows(witness)]
    absent = [paragraph(reason, f"Not asked: {name}: ", "  ") for name, reason in proof.absent.items()]
    first = max((each.calibration.samples for each in proof.witnesses if each.calibration), default=0)
    note = (
        f"Outputs for {first} calibration inputs and as many random ones, compared with {proof.reference}'s: the share "
        f"of equal numbers, the largest difference {unit}, and how many bytes differ. All start from the same "
        "integers. What is promised to the bit is held on all inputs; what is promised within so much is held to it on "
        "the calibration inputs, and only has to be finite on the random ones."
    )
    files = table(("file", "looked at"), [(each.file, each.looked_at) for each in proof.files]) if proof.files else ""
    wrong = [(each.name, each.broken) for each in proof.broken]
    wrong += [(each.file, each.broken) for each in proof.files if each.broken]
    broken = [paragraph(f"{name} {what}.", "BROKEN: ", "  ") for name, what in wrong]
    verdict = "\n".join(broken) or "Every promise was kept."
    return document(proof.folder, table(head, rows), paragraph(note), "\n".join(absent), files, verdict)


def _rows(witness: Witness) -> list[tuple[str, ...]]:
    score = "not taken" if witness.score is None else show_score(witness.score)
    rows: list[tuple[str, ...]] = []
    for kind, found in (("calibration", witness.calibration), ("random", witness.random)):
        figures = (kind, "not compared", "", "")
        if found is not None:
            figures = (kind, f"{found.equal:.2%}", f"{found.max_steps:.3g}", f"{found.mismatching_bytes:,}")
        ends = (score, witness.promise) if not rows else ("", "")
        rows.append((*((witness.name, witness.file) if not rows else ("", "")), *figures, *ends))
    return rows
