"""Exactness audit: recompute a verify step one row at a time and compare bit for bit what it gave and what it left.

Must not: change the outcome of the step; it observes, and whoever owns the policy decides. Where the device has no room
for a second state there is no audit.
Invariant: an audit leaves the state exactly as it was. A mismatch proves a fault of speculation on this device: with
fixed-width rows both ways must give the same bits.

What is compared, in this order:
- `rows`: logits and hidden states of the committed rows;
- `choice`: the committed tokens are those that the recomputed rows choose. That a token is its own row's choice costs
  nothing to see, so it is seen at every step;
- `prefix`, once, before a turn's first step: of the rows that it has taken over from an earlier turn, those since the
  last checkpoint before their end, and the recurrent states behind them;
- `state`: what the commit left behind, the recurrent states and the new rows of the caches. Where drafts were
  rejected, also the first row of the next step, computed on the reference: whatever the rejected rows have left
  anywhere shows there.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Tokens
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.bits import equal
from engine.deltanet import INNER
from engine.errors import RewindError
from engine.kv import KVCache
from engine.model import Model, Rows
from engine.pacing import TYPICAL, Costs
from engine.reports import AuditReport
from engine.state import SequenceState

PATIENCE = 4
"""An audit that is due waits up to a fourth of its period for a step with rejected drafts: it costs fewer rows, and
taking rejected rows back is what goes wrong most (vLLM #39273, #40738)."""
SAVED_AUDITS = 8
"""Rows for which there may be credit."""
ASIDE = 0.25
"""Steps that an audit costs besides the rows: a clone of the state, and comparing. 0.15 on the embedded model."""
SUSPICIOUS = 64
"""Occasions after a mismatch that are all looked at."""


class Cadence:
    """Occasions of one kind: the first few are looked at, then one in so many; after a mismatch all for a while."""

    def __init__(self, first: int, every: int) -> None:
        self._until, self._every, self._seen = first, every, 0

    def is_due(self) -> bool:
        """An occasion: whether to look at it."""
        at = self._seen
        self._seen += 1
        return at < self._until or at % self._every == 0

    @property
    def close(self) -> bool:
        """Whether all occasions are looked at now."""
        return self._seen < self._until

    def suspect(self) -> None:
        """What was looked at was wrong."""
        self._until = self._seen + SUSPICIOUS


class AuditPlan:
    """How closely an engine looks, over all of its turns.

    thorough: turns whose first rejection and first acceptance are audited besides the sampled steps; prefixes: those
    taken over that are recomputed in part. exact: False where the device does not give the same bits for the same
    work: then a difference proves nothing, and nothing is audited. costs: of the device, by which audits keep to their
    share of the time; no clock is read, so the same turns are audited in the same steps. What is new is audited
    whatever it costs: the first turns, the first step of each drafter at about each length.
    """

    def __init__(self) -> None:
        self.exact = True
        self.costs: Costs = TYPICAL
        self.thorough, self.prefixes = Cadence(4, 8), Cadence(4, 4)
        self._credit_ms = 0.0
        self._known: set[tuple[int, str]] = set()

    def is_new(self, context: int, source: str) -> bool:
        """Whether no step with drafts from there was looked at in a context of about this length (a factor of two):
        some faults need a length (vLLM #52475) or a drafter (#39273)."""
        kind = (context.bit_length(), source)
        if kind in self._known:
            return False
        self._known.add(kind)
        return True

    @property
    def affordable(self) -> bool:
        """Whether audits have taken less than their share."""
        return self._credit_ms > 0

    def earn(self, source: str, drafted: int, share: float) -> None:
        """A step was made, of which so much may go into audits; what is not used is kept for a few of them."""
        most = SAVED_AUDITS * self.costs.step_ms
        self._credit_ms = min(self._credit_ms + share * self.costs.step_with(source, drafted), most)

    def spend(self, rows: int) -> None:
        """So many rows were recomputed."""
        self._credit_ms -= (rows + ASIDE) * self.costs.step_ms

    def convict(self) -> None:
        """Something differed: what follows is looked at closely."""
        self.thorough.suspect()
        self.prefixes.suspect()


@dataclass(frozen=True, slots=True)
class Reference:
    """A step recomputed: state holds the committed rows; logits: [n, V] fp32; report: of the rows alone."""

    state: SequenceState
    logits: Tensor
    report: AuditReport


@dataclass(frozen=True, slots=True)
class Step:
    """About to be committed. tokens: the pending one and all that follows it but the last new one, n in all; rows: what
    was computed, n or more; new: the tokens that are taken; source, drafted: who drafted, and how many; ids: what the
    rows chose; chosen: the ids that n recomputed rows [n, V] choose, None where something else than the sampler chose.
    """

    tokens: Tokens[int]
    rows: Rows
    new: Tokens[int]
    source: str
    drafted: int
    ids: Tokens[int]
    chosen: Callable[[Tensor], Tokens[int | None]]


class Auditor:
    """Of one turn. every: audit the first verify step and then one in so many, 0 = none. share: most of the time of
    decoding that this may take, over all turns of the plan; an audit that is due waits until it is affordable, except
    while turns are looked at closely; 1 = whatever it takes. written: called after rows of a reference were committed,
    with the state and their number (for faults that are planted where rows are written).

    Use: `before_commit`, the commit, `after_commit`.
    """

    def __init__(
        self,
        model: Model,
        every: int,
        plan: AuditPlan,
        written: Callable[[SequenceState, int], None] | None = None,
        share: float = 1.0,
    ) -> None:
        self._model, self._every, self._plan, self._share = model, every, plan, share
        self._written = written
        self._free = share >= 1
        self._unseen: set[str] = set()
        self._steps = self._due = 0
        self._reference: Reference | None = None
        self._next: SequenceState | None = None
        self._keep = False
        self._report: AuditReport | None = None
        self._prefix: AuditReport | None = None

    def begin(self, state: SequenceState, prompt: Tokens[int]) -> None:
        """The state holds what was taken over for a prompt, nothing else yet; the first step tells if it is wrong."""
        if self._every and self._plan.exact and self._plan.prefixes.is_due():
            with suppress(torch.OutOfMemoryError):
                self._prefix = audit_prefix(self._model, state, prompt)

    def rewound(self) -> None:
        """What was to be compared next will not come."""
        self._next = self._reference = self._prefix = None

    def before_commit(self, state: SequenceState, step: Step, *, asked: bool = False) -> None:
        """Recomputes the step if that is due, or asked for and there are drafts; checks in any case that each token is
        its row's choice."""
        self._reference, self._report = None, self._judge_next(step)
        if self._every and step.drafted:
            report = _judge_choice(AuditReport(len(step.new), None, 0.0), step.new, step.ids[: len(step.new)])
            if report.mismatch is not None:
                self._note(report)
        if self._every:  # whoever is not audited lends the others no time, and takes none of theirs
            self._plan.earn(step.source, step.drafted, self._share)
        rejected = step.drafted + 1 - len(step.new)
        if self._is_due(state.length, step, rejected) or (asked and step.drafted):
            try:
                reference = recompute(self._model, state, step.tokens, step.rows, self._written)
            except torch.OutOfMemoryError:
                return
            self._reference, self._keep = reference, rejected > 0
            self._spend(len(step.tokens))
            report = reference.report
            if report.mismatch is None:
                report = _judge_choice(report, step.new, step.chosen(reference.logits))
            self._note(report)

    @property
    def mismatch(self) -> int | None:
        """Row of the step before its commit of which the logits differ from those of the row alone."""
        report = self._report
        return report.mismatch if report is not None and report.compared in ("rows", "state") else None

    def withdraw(self) -> None:
        """What the step was compared with is what was wrong."""
        self._report = self._reference = None

    def after_commit(self, state: SequenceState) -> AuditReport | None:
        """Compares what the commit left; what the audit of this step has found, None = there was none."""
        reference, self._reference = self._reference, None
        if reference is not None:
            rows = reference.report.rows
            if self._report is not None and self._report.mismatch is None and not same(reference.state, state, rows):
                self._report = AuditReport(rows, rows - 1, 0.0, "state")
            if self._keep:
                self._next = reference.state
        prefix, self._prefix = self._prefix, None
        if prefix is not None and prefix.mismatch is not None:
            self._report = prefix
        if self._report is not None and self._report.mismatch is not None:
            self._plan.convict()
            self._next = None
            # whatever it is, what follows runs the code itself: the reference did, and healing must not go the same way
            if self._model.captures.on:
                self._model.captures.switch_off("an audited step has other bits than the code")
        return self._report

    def _judge_next(self, step: Step) -> AuditReport | None:
        """The first row of this step, computed on what the audit before this one has left."""
        reference, self._next = self._next, None
        if reference is None:
            return None
        try:
            report = recompute(self._model, reference, step.tokens[:1], step.rows, None, own=True).report
        except torch.OutOfMemoryError:
            return None
        self._spend(1)
        return AuditReport(1, report.mismatch, report.max_abs_diff, "state")

    def _spend(self, rows: int) -> None:
        if self._every and not self._free:
            self._plan.spend(rows)

    def _note(self, report: AuditReport) -> None:
        if self._report is None or self._report.mismatch is None:
            self._report = report

    def _is_due(self, context: int, step: Step, rejected: int) -> bool:
        drafted = step.drafted
        if not self._every or not drafted or not self._plan.exact:
            return False
        at = self._steps
        self._steps += 1
        if at == 0:
            self._free = self._free or self._plan.thorough.close
            self._unseen = {"rejection", "acceptance"} if self._plan.thorough.is_due() else set()
        kinds = {kind for kind, seen in (("rejection", rejected), ("acceptance", drafted > rejected)) if seen}
        waited = at - self._due
        sampled = waited >= 0 and (at == 0 or rejected > 0 or waited >= self._every // PATIENCE)
        wanted = sampled or kinds & self._unseen
        if not self._plan.is_new(context, step.source) and not (wanted and (self._free or self._plan.affordable)):
            return False
        self._unseen -= kinds
        if sampled:
            self._due = max(self._due, at - self._every // PATIENCE) + self._every
        return True


def audit_step(model: Model, state: SequenceState, tokens: Tokens[int], rows: Rows) -> AuditReport:
    """Checks the rows of a provisional verify step before it is committed: see `recompute`."""
    return recompute(model, state, tokens, rows).report


@torch.inference_mode()
def recompute(
    model: Model,
    state: SequenceState,
    tokens: Tokens[int],
    rows: Rows,
    written: Callable[[SequenceState, int], None] | None = None,
    *,
    own: bool = False,
) -> Reference:
    """Decodes `tokens`, the pending token and the accepted drafts, one at a time, and compares with `rows`.

    Works on a clone of the state, so a fault in the verify path cannot reach the reference; own: the state is a clone.
    Runs the code itself: a capture that went wrong would spoil both alike.
    """
    reference = state if own else state.clone()
    logits = []
    mismatch: int | None = None
    worst = 0.0
    for index, token in enumerate(tokens):
        with model.captures.paused():
            row = model.decode(reference, [token])
        model.commit(reference, 1)
        if written is not None:
            written(reference, 1)
        ours, theirs = rows.logits[index], row.logits[0]
        logits.append(theirs)
        if equal(ours, theirs) and equal(rows.hidden[index], row.hidden[0]):
            continue
        if mismatch is None:
            mismatch = index
        difference = (ours - theirs).abs().masked_fill(ours.isnan() & theirs.isnan(), 0.0)
        worst = max(worst, float(difference.nan_to_num(nan=float("inf")).max()))
    return Reference(reference, torch.stack(logits), AuditReport(len(tokens), mismatch, worst))


@torch.inference_mode()
def audit_prefix(model: Model, state: SequenceState, tokens: Tokens[int]) -> AuditReport | None:
    """Recomputes the last rows of a state that holds nothing but rows taken over, from the last checkpoint before their
    end; None where that is not restorable.

    tokens: at least those of the state. Cost: a prefill of the rows since then, most often of one inner chunk. What is
    wrong in earlier rows shows, because the recomputed ones attend to them; a recurrent state shows unless the one
    before it is wrong in the same way.
    """
    end = state.length
    before = max((c.position for c in state.checkpoints if c.position < end), default=0)
    if not state.recurrent:
        before = max(before, (end - 1) // INNER * INNER)
    try:
        reference = state.fork(before)
    except RewindError:
        return None
    model.prefill(reference, tokens[before:end])
    return AuditReport(end - before, None if same(reference, state, end - before) else 0, 0.0, "prefix")


@torch.inference_mode()
def same(reference: SequenceState, state: SequenceState, rows: int) -> bool:
    """Whether both hold the same recurrent states and the same newest `rows` rows of full caches, bit for bit."""
    if reference.length != state.length:
        return False
    ours, theirs = reference.linear, state.linear
    if not (equal(ours.memory, theirs.memory) and equal(ours.conv, theirs.conv)):
        return False
    start, end = state.length - rows, state.length
    return all(
        equal(a, b)
        for ours, theirs in zip(reference.kv, state.kv, strict=True)
        if isinstance(ours, KVCache) and isinstance(theirs, KVCache)
        for a, b in zip(ours.rows(start, end), theirs.rows(start, end), strict=True)
    )


def _judge_choice(report: AuditReport, new: Tokens[int], chosen: Tokens[int | None]) -> AuditReport:
    for index, (token, right) in enumerate(zip(new, chosen, strict=True)):
        if right is not None and token != right:
            return AuditReport(report.rows, index, 0.0, "choice")
    return report
