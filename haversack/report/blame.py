"""Blame as plain text."""

from __future__ import annotations

import json

from haversack.proof import Blame, Remedy
from haversack.quantity import show_bytes
from haversack.report.tables import document, paragraph, show_score, table

_SHOWN = 12


def blamed(blame: Blame) -> str:
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
    mended = _mended(blame.remedy) if blame.remedy else paragraph(f"No remedy is proposed: {blame.why_none}.")
    return document(blame.folder, table(head, rows, right=head[1:]), paragraph(note), guilty, mended)


def _mended(remedy: Remedy) -> str:
    """The line to write into a recipe, and what it gives and costs."""
    text = f"{remedy.setting} = {json.dumps(list(remedy.layers))}"
    cost = f"score {show_score(remedy.score)}, {show_bytes(remedy.extra_bytes)} more flash"
    unknown = f"\n  {' and '.join(remedy.unjudged)}: unknown until it is applied" if remedy.unjudged else ""
    return f"Remedy for quantize_static in the recipe:\n  {text}\n  {cost}{unknown}"
