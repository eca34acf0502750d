"""What a step of the built-in engine reports, in the terms of the backend interface.

Must not: be imported by anybody but `proxy.backends.builtin`, whose part this is; judge or leave out anything.
Invariant: no tensor crosses, and one step is one delta.
"""

from __future__ import annotations

from collections.abc import Callable

from engine import reports
from policies.modes import DecodeMode
from proxy.backends.base import (
    Alternative,
    Audit,
    CacheFault,
    CacheHealth,
    Coding,
    Delta,
    Drawn,
    Shadow,
    StepStats,
    Token,
)


def _as_token(token: reports.TokenReport, to_bytes: Callable[[int], bytes] | None) -> Token:
    numbers = (token.logprob, token.top1_prob, token.margin, token.entropy, token.finite)
    drawn = Drawn(token.drawn.logprob, token.drawn.entropy, token.drawn.variance) if token.drawn else None
    if to_bytes is None:
        return Token(token.id, token.text, *numbers, drawn=drawn)
    top = tuple(Alternative(id, to_bytes(id), logprob) for id, logprob in token.top)
    return Token(token.id, token.text, *numbers, to_bytes(token.id), top, drawn)


def _as_shadow(shadow: reports.ShadowReport) -> Shadow:
    return Shadow(shadow.position, shadow.agrees, shadow.identical, shadow.kl, shadow.doubt)


def _as_health(cache: reports.CacheReport) -> CacheHealth:
    def coding(side: reports.CodingReport | None) -> Coding | None:
        return Coding(side.bits, side.vectors, side.cosine, side.entropy) if side else None

    faults = tuple(CacheFault(f.check, f.layer, f.side, f.row, f.measured, f.limit) for f in cache.faults)
    return CacheHealth(faults, cache.rows, coding(cache.keys), coding(cache.values), cache.sigma)


def as_delta(step: reports.StepReport, mode: DecodeMode, to_bytes: Callable[[int], bytes] | None) -> Delta:
    """to_bytes: of a token, where they were asked for."""
    audit, shadow = step.audit, step.shadow
    return Delta(
        position=step.position,
        tokens=tuple(_as_token(token, to_bytes) for token in step.tokens),
        step=StepStats(
            mode=mode,
            source=step.source,
            drafted=step.drafted,
            accepted=step.accepted,
            milliseconds=step.milliseconds,
            context=step.context,
            audit=Audit(audit.rows, audit.mismatch, audit.max_abs_diff, audit.compared) if audit else None,
            dead_drafter=step.dead_drafter,
            filtered=step.filtered,
            expected=step.expected,
            shadow=_as_shadow(shadow) if shadow else None,
            cache=_as_health(step.cache) if step.cache else None,
        ),
        end=step.end,
        stop_sequence=step.stop_sequence,
        tail=step.tail,
    )
