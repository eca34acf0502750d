"""Drift that the engine itself proves: a verify step unlike plain decoding, or numbers that are none.

Must not: estimate anything; both findings rest on a comparison or a flag, so one occurrence convicts.
Invariant: a step without an audit and a token without a flag never give a finding.
"""

from __future__ import annotations

from detectors.finding import Finding, Grade

REASONS = {
    "rows": "verify rows differ from plain decoding",
    "choice": "a token is not what its row chooses",
    "state": "a step has left another state than plain decoding",
    "prefix": "a kept prefix differs from its recomputation",
}


def audit_finding(
    first: int, rows: int, mismatch: int | None, max_abs_diff: float, compared: str = "rows"
) -> Finding | None:
    """Judges an audited verify step. first: its first token; mismatch: first differing row or None; compared: what
    differed there, one of REASONS. A prefix has a name of its own: it accuses another layer than speculation.

    Nothing of the step can be trusted: the rows before the mismatch are equal as far as they were compared.
    """
    if mismatch is None:
        return None
    return Finding(
        detector="drift.prefix" if compared == "prefix" else "drift.audit",
        grade=Grade.FALLBACK,
        channel="engine",
        position=first + mismatch,
        began=first,
        reason=REASONS.get(compared, REASONS["rows"]),
        evidence={"rows": rows, "mismatch": mismatch, "max_abs_diff": max_abs_diff, "compared": compared},
    )


def nonfinite_finding(position: int, finite: bool | None) -> Finding | None:
    """Judges a token's flag: False = its logits held a NaN or an infinity where none belongs."""
    if finite is not False:
        return None
    return Finding(
        detector="drift.nonfinite",
        grade=Grade.FALLBACK,
        channel="engine",
        position=position,
        began=position,
        reason="logits are not finite",
    )
