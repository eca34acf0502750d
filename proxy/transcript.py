"""The tokens that stand in a response, and what its steps cost: the numbers behind usage, timings and
incidents.

Must not: hold tokens that were discarded, or know what was delivered.
Invariant: `ids` are the kept tokens from index 0 on, without a gap.
"""

from __future__ import annotations

from proxy.backends.base import Delta, Generation, RewindReport, StepStats, Token
from proxy.events import Timings, Usage


class Transcript:
    """Of one generation. All counts include what was discarded, except those over kept tokens."""

    def __init__(self) -> None:
        self._tokens: list[Token] = []
        self.discarded = 0
        self.drafted = 0
        self.accepted = 0
        self.audits = 0
        self.mismatches = 0
        self.context = 0
        self.decode_ms = 0.0
        self.filtered = 0
        self.drafts: dict[str, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(token.id for token in self._tokens)

    def __getitem__(self, position: int) -> Token:
        return self._tokens[position]

    @property
    def tokens(self) -> tuple[Token, ...]:
        return tuple(self._tokens)

    def count(self, step: StepStats) -> None:
        """Takes what a step cost, whatever becomes of its tokens."""
        self.drafted += step.drafted
        self.accepted += step.accepted
        self.context = step.context
        self.filtered += step.filtered
        self.decode_ms += step.milliseconds
        if step.drafted:
            drafted, accepted = self.drafts.get(step.source, (0, 0))
            self.drafts[step.source] = drafted + step.drafted, accepted + step.accepted
        if step.audit is not None:
            self.audits += 1
            self.mismatches += step.audit.mismatch is not None

    def append(self, token: Token) -> None:
        self._tokens.append(token)

    def end_of(self, delta: Delta) -> tuple[int, ...]:
        """Ids of the tokens of a delta that were not appended yet."""
        return tuple(token.id for token in delta.tokens[max(0, len(self) - delta.position) :])

    def rewound(self, report: RewindReport) -> None:
        """Drops what the backend has discarded."""
        del self._tokens[report.position :]
        self.discarded += report.tokens
        self.decode_ms += report.milliseconds

    def usage(self, generation: Generation, reasoning: int) -> Usage:
        return Usage(
            prompt_tokens=generation.prompt_tokens,
            cached_tokens=generation.cached_tokens,
            completion_tokens=len(self),
            reasoning_tokens=reasoning,
            discarded_tokens=self.discarded,
            filtered_tokens=self.filtered,
        )

    def timings(self, generation: Generation) -> Timings:
        return Timings(
            prompt_n=generation.prompt_tokens - generation.cached_tokens,
            prompt_ms=generation.prompt_ms,
            predicted_n=len(self),
            predicted_ms=self.decode_ms,
            draft_n=self.drafted,
            draft_n_accepted=self.accepted,
        )
