"""A proof, and what a blamed layer costs, as plain text."""

from __future__ import annotations

import json
from collections.abc import Iterator

from haversack.proof import Blame, CoreProof, Proof, Remedy, Witness
from haversack.quantity import show_bytes, show_score
from haversack.report.blocks import Document, Lines, Paragraph, Rows, document


def proved(proof: Proof) -> Document:
    """Each runtime beside the reference: equal numbers, largest difference, bytes, score and what it promised."""
    unit = "in steps of the output's grid" if proof.on_integers else "relative to the largest output"
    head = ("runtime", "file", "inputs", "equal", "off by", "bytes", "score", "promise")
    rows = [row for witness in proof.witnesses for row in _rows(witness)]
    absent = [Paragraph(reason, f"Not asked: {name}: ", "  ") for name, reason in proof.absent.items()]
    first = max((each.calibration.samples for each in proof.witnesses if each.calibration), default=0)
    note = (
        f"Outputs for {first} calibration inputs and as many random ones, compared with {proof.reference}'s: the share "
        f"of equal numbers, the largest difference {unit}, and how many bytes differ. All start from the same "
        "integers. What is promised to the bit is held on all inputs; what is promised within so much is held to it on "
        "the calibration inputs, and only has to be finite on the random ones."
    )
    files = Rows(("file", "looked at"), [(each.file, each.looked_at) for each in proof.files]) if proof.files else ""
    wrong = [(each.name, each.broken) for each in proof.broken]
    wrong += [(each.file, each.broken) for each in proof.files if each.broken]
    broken = [Paragraph(f"{name} {what}.", "BROKEN: ", "  ") for name, what in wrong]
    verdict = Lines(broken) or "Every promise was kept."
    return document(proof.folder, Rows(head, rows), Paragraph(note), Lines(absent), files, verdict)


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


def proved_on_core(proof: CoreProof) -> Document:
    """What the C takes on its board, and whether all bytes are the reference's."""
    rows = [
        ("flash", show_bytes(proof.flash_bytes), _of(proof.board_flash_bytes)),
        ("RAM", show_bytes(proof.ram_bytes), _of(proof.board_ram_bytes)),
        ("  static", show_bytes(proof.static_bytes), ""),
        ("  stack", show_bytes(proof.stack_bytes), ""),
        ("instructions", f"{proof.instructions:,}", ""),
    ]
    on_host = f" and {proof.host_samples:,} on this host" if proof.host_samples else ""
    note = (
        f"Compiled by {proof.compiler} for {proof.core} and run on an emulated core: {proof.samples:,} samples there"
        f"{on_host}, compared byte by byte with the integer reference. Instructions are counted, not cycles: no "
        "pipeline, cache or flash is emulated, and no time follows from them alone."
    )
    wrong = proof.wrong_bytes
    verdict = f"BROKEN: {wrong:,} bytes differ from the reference's." if wrong else "All bytes are the reference's."
    head, title = ("", "takes", "of"), f"{proof.source} on {proof.board}"
    return document(title, Rows(head, rows, right=head[1:]), Paragraph(note), *_second(proof), verdict)


def _second(proof: CoreProof) -> Iterator[Paragraph]:
    """Who else ran it, on which board, and how many bytes it found wrong."""
    second = proof.second
    if second is not None:
        found = f"{second.mismatching_bytes:,} bytes differ" if second.mismatching_bytes else "no byte differs"
        yield Paragraph(
            f"{second.emulator}, on its {second.machine} ({second.core}) with flash at 0x{second.flash_origin:X} and "
            f"RAM at 0x{second.ram_origin:X}, started as that board starts: {found} in {second.samples:,} samples, and "
            f"the stack takes {show_bytes(second.stack_bytes)}.",
            "Second opinion: ",
        )


def _of(limit: int | None) -> str:
    return "" if limit is None else show_bytes(limit)


_SHOWN = 12


def blamed(blame: Blame) -> Document:
    """The layers by the noise that each alone brings to the outputs, and the remedy with its cost."""
    head = ("layer", "bits", "signal/noise", "alone", "share of MACs", "score if float")
    rows = [
        (
            each.path,
            str(each.bits),
            f"{each.snr_db:.1f} dB",
            f"{each.alone_db:.1f} dB",
            f"{each.macs_share:.1%}",
            "" if each.score is None else show_score(each.score),
        )
        for each in blame.suspects[:_SHOWN]
    ]
    note = (
        f"Score {show_score(blame.score)}, in float {show_score(blame.float_score)}; the outputs' signal to noise is "
        f"{blame.snr_db:.1f} dB. Signal to noise of a layer counts the noise of all before it; `alone` is that of the "
        "network's outputs when this layer alone is quantized."
    )
    worst = blame.suspects[0]
    guilty = f"Most of the noise comes from {worst.path} ({worst.bits} bits)."
    mended = _mended(blame.remedy) if blame.remedy else Paragraph(f"No remedy is proposed: {blame.why_none}.")
    return document(blame.folder, Rows(head, rows, right=head[1:]), Paragraph(note), guilty, mended)


def _mended(remedy: Remedy) -> str:
    """The line to write into a recipe, and what it gives and costs."""
    text = f"{remedy.setting} = {json.dumps(list(remedy.layers))}"
    cost = f"score {show_score(remedy.score)}, {show_bytes(remedy.extra_bytes)} more flash"
    unknown = f"\n  {' and '.join(remedy.unjudged)}: unknown until it is applied" if remedy.unjudged else ""
    return f"Remedy for quantize_static in the recipe:\n  {text}\n  {cost}{unknown}"
