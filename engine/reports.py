"""What the engine reports about its work: plain records that cross the thread boundary.

Must not: hold tensors (a report outlives the step and must not keep device memory).
Invariant: records are immutable; times are milliseconds, logarithms are natural.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EndReason = Literal["stop", "stop_sequence", "length"]
Compared = Literal["rows", "choice", "state", "prefix"]
Level = Literal["L0", "L1", "L2", "L3"]
"""How far a fall back goes; see engine.fallback."""


@dataclass(frozen=True, slots=True)
class DrawnReport:
    """The distribution that a token was drawn from: under temperature, penalties, biases and filters.

    logprob: of the token; entropy; variance: of the log-probability. All in nats (variance: squared).
    """

    logprob: float
    entropy: float
    variance: float


@dataclass(frozen=True, slots=True)
class TokenReport:
    """One committed token. text: what it completes; margin: top-1 minus top-2 logit; finite: no NaN or infinity.

    drawn: None = nothing was drawn (greedy), or a constraint may have chosen.
    The other numbers are the model's own, before penalties, biases and filters. top: the likeliest tokens at this
    position as (id, logprob), best first, as many as the turn asked for.
    """

    id: int
    text: str
    logprob: float
    top1_prob: float
    margin: float
    entropy: float
    finite: bool
    top: tuple[tuple[int, float], ...] = ()
    drawn: DrawnReport | None = None


@dataclass(frozen=True, slots=True)
class AuditReport:
    """A verify step recomputed row by row. mismatch: first row that differs in any bit, in what `compared` says.

    compared: `rows` = logits and hidden states; `choice` = the tokens that were taken; `state` = what the rows before
    have left behind; `prefix` = a part of a prefix that was taken over. See engine.audit.
    """

    rows: int
    mismatch: int | None
    max_abs_diff: float
    compared: Compared = "rows"


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """A position computed again from a clean cache. position: index of the generated token that it predicts.

    agrees: same most likely token; identical: same logits in every bit; kl: of the clean distribution from the other
    one, nats (infinite if either holds no number).
    """

    position: int
    agrees: bool
    identical: bool
    kl: float
    milliseconds: float


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step of a turn. position: index of its first token among the turn's generated tokens.

    source: who drafted (`none`, `ngram`, `mtp`); context: committed tokens after the step. `end` is set on the last
    step; the end-of-turn token is not among `tokens`. tail: text that only the end releases, after that of all
    tokens: the beginning of a stop string that did not come, bytes of an unfinished character (as U+FFFD).
    dead_drafter: who was switched off after this step, because of 50 drafted tokens in a row none was accepted; the
    text is not affected. filtered: tokens that the constraint put in place of what would have been taken; dead_end: it
    allowed no token at all, so it was given up. expected: the probability of each judged draft (the accepted ones and
    the first that was not) under the distribution that its row was drawn from; empty where nothing is drawn.
    """

    position: int
    tokens: tuple[TokenReport, ...]
    source: str
    drafted: int
    accepted: int
    milliseconds: float
    context: int
    audit: AuditReport | None = None
    end: EndReason | None = None
    stop_sequence: str | None = None
    tail: str = ""
    dead_drafter: str | None = None
    filtered: int = 0
    dead_end: bool = False
    expected: tuple[float, ...] = ()
    shadow: ShadowReport | None = None


@dataclass(frozen=True, slots=True)
class RewindReport:
    """position: generated tokens kept; discarded: generated tokens thrown away; rebuilt: tokens computed again; level:
    how far the way back went; codec: of the cache from here on."""

    position: int
    discarded: int
    rebuilt: int
    milliseconds: float
    level: Level = "L0"
    codec: str = "full"


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """Bytes of live tensors. sequences: caches, memories and checkpoints of all sequences; kept: how many of them wait
    for reuse."""

    weights: int
    sequences: int
    kept: int
