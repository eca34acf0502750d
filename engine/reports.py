"""What the engine reports about its work: plain records that cross the thread boundary.

Must not: hold tensors (a report outlives the step and must not keep device memory).
Invariant: records are immutable; times are milliseconds, logarithms are natural.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EndReason = Literal["stop", "stop_sequence", "length"]
Side = Literal["keys", "values", "both"]
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
    one, nats (infinite if either holds no number); doubt: 1 - sum p^2 of the clean one, see engine.checks.
    """

    position: int
    agrees: bool
    identical: bool
    kl: float
    doubt: float
    milliseconds: float


@dataclass(frozen=True, slots=True)
class CacheFault:
    """A compressed cache that is not what it should be; nothing here is estimated, so one is proof.

    check: `finite` (a coded vector holds NaN or infinity), `read-back` (codes do not give back what was written),
    `seal` (codes changed after they were written), `reading` (attention is not what the codes say). layer: index among
    the attention layers; side: keys, values or both; row: first position concerned; measured, limit: as engine.health,
    engine.read_back and engine.reading say.
    """

    check: Literal["finite", "read-back", "seal", "reading"]
    layer: int
    side: Side
    row: int
    measured: float
    limit: float


@dataclass(frozen=True, slots=True)
class CodingReport:
    """How well one side of the compressed layers is coded, the worst layer of them; see engine.health.SideHealth."""

    bits: int
    vectors: int
    cosine: float
    entropy: float | None


@dataclass(frozen=True, slots=True)
class CacheReport:
    """What was looked at in a compressed cache since the last report. rows: newly coded, read back; tiles: whose seals
    were compared; probed: attentions read a second time; keys, values: None while no new rows are coded; sigma: largest
    predicted score noise."""

    faults: tuple[CacheFault, ...]
    rows: int
    tiles: int
    probed: int
    keys: CodingReport | None
    values: CodingReport | None
    sigma: float | None
    milliseconds: float

    @property
    def misread(self) -> bool:
        """The step's own attention was not what the codes say."""
        return any(fault.check == "reading" for fault in self.faults)


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step of a turn. position: index of its first token among the turn's generated tokens.

    source: who drafted (`none`, `ngram`, `mtp`); context: committed tokens after the step. `end` is set on the last
    step; the end-of-turn token is not among `tokens`. tail: text that only the end releases, after that of all
    tokens: the beginning of a stop string that did not come, bytes of an unfinished character (as U+FFFD).
    dead_drafter: who was switched off after this step, because of 50 drafted tokens in a row none was accepted; the
    text is not affected. filtered: tokens that the constraint put in place of what would have been taken; dead_end: it
    allowed no token at all, so it was given up. expected: the probability of each judged draft (the accepted ones and
    the first that was not) under the distribution that its row was drawn from; empty where nothing is drawn. cache:
    None where no check of the cache fell into this step, or no part of it is compressed.
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
    cache: CacheReport | None = None


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
    for reuse; steps: static buffers of steps, and results that recordings hold (on a GPU those are CUDA's to count)."""

    weights: int
    sequences: int
    kept: int
    steps: int = 0
