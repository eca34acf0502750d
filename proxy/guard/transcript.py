"""The tokens that stand in a response, and what its steps cost: the numbers behind usage, timings and
incidents.

Must not: hold tokens that were discarded, or know what was delivered.
Invariant: `ids` are the kept tokens from index 0 on, without a gap.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from statistics import fmean
from typing import Any

from policies.modes import DecodeMode
from proxy.backends.base import Delta, Generation, RewindReport, StepStats, Token
from proxy.backends.counted import Counted
from proxy.events import Timings, Usage
from proxy.guard.spelling import Spelling

RING = 16
"""Steps whose numbers are kept for an incident."""
MOST_UNCOUNTED = 64


@dataclass(frozen=True, slots=True)
class Step:
    """One engine step in numbers. position: of its first token. audited, mismatch: what an audit of it said (index of
    the first row that differs). min_margin, mean_entropy: over its tokens, None where the backend cannot tell.

    shadow_kl: of a position that was computed again from a clean cache, in nats. cache_faults, key_cosine,
    value_cosine: of a compressed cache; the cosine between vectors and their codes, in the worst layer.
    """

    position: int
    tokens: int
    mode: str
    source: str
    drafted: int
    accepted: int
    milliseconds: float
    context: int
    filtered: int
    audited: bool
    mismatch: int | None
    min_margin: float | None
    mean_entropy: float | None
    finite: bool
    shadow_kl: float | None
    cache_faults: int | None
    key_cosine: float | None
    value_cosine: float | None


class StepTotals:
    """What steps cost, all together."""

    __slots__ = ("_drafts", "audits", "decode_ms", "filtered", "mismatches")

    def __init__(self) -> None:
        self.audits = self.mismatches = self.filtered = 0
        self.decode_ms = 0.0
        self._drafts: Counter[tuple[str, int, int]] = Counter()  # steps by (source, drafted, accepted)

    def add(self, step: StepStats) -> None:
        """Takes one more."""
        self.filtered += step.filtered
        self.decode_ms += step.milliseconds
        if step.audit is not None:
            self.audits += 1
            self.mismatches += step.audit.mismatch is not None
        if step.drafted:
            self._drafts[step.source, step.drafted, step.accepted] += 1

    @property
    def drafted(self) -> int:
        return sum(steps * drafted for (_, drafted, _), steps in self._drafts.items())

    @property
    def accepted(self) -> int:
        return sum(steps * accepted for (_, _, accepted), steps in self._drafts.items())

    @property
    def longest_draft(self) -> int:
        return max((drafted for _, drafted, _ in self._drafts), default=0)

    @property
    def by_source(self) -> dict[str, tuple[int, int]]:
        """(drafted, accepted) by who drafted."""
        found: dict[str, tuple[int, int]] = {}
        for (source, drafted, accepted), steps in self._drafts.items():
            before = found.get(source, (0, 0))
            found[source] = before[0] + steps * drafted, before[1] + steps * accepted
        return found

    @property
    def by_position(self) -> tuple[tuple[int, int], ...]:
        """(drafted, accepted) of every first draft of a step, every second one, and so on."""
        judged = [[0, 0] for _ in range(self.longest_draft)]
        for (_, drafted, accepted), steps in self._drafts.items():
            for place in judged[:drafted]:
                place[0] += steps
            for place in judged[:accepted]:
                place[1] += steps
        return tuple((drafted, accepted) for drafted, accepted in judged)


class Transcript:
    """Of one generation. All counts include what was discarded, except those over kept tokens."""

    def __init__(self) -> None:
        self._tokens: list[Token] = []
        self.discarded = 0
        self._steps: deque[Delta] = deque(maxlen=RING)
        self._coming: list[Delta] = []  # of which tokens may not stand yet, and what stood when they came
        self._modes: list[tuple[int, DecodeMode]] = []
        self._totals = StepTotals()
        self._uncounted: list[StepStats] = []

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

    @property
    def modes(self) -> tuple[tuple[int, DecodeMode], ...]:
        """(index of the first token, decode mode) of each stretch of what was decoded and not rewound."""
        return tuple(self._modes)

    @property
    def steps(self) -> tuple[dict[str, Any], ...]:
        """The last steps, oldest first; made when asked for, since few ask."""
        return tuple(asdict(_step(delta)) for delta in self._steps)

    @property
    def text(self) -> str:
        """What the tokens say that stand, and those that came and do not yet."""
        return "".join(token.text for token in (*self._tokens, *self._arriving()))

    @property
    def coming(self) -> tuple[int, ...]:
        """Ids of the tokens that came and do not stand yet."""
        return tuple(token.id for token in self._arriving())

    @property
    def reach(self) -> int:
        """Index of the token that comes next."""
        last = self._coming[-1] if self._coming else None
        return len(self) if last is None else max(len(self), last.position + len(last.tokens))

    @property
    def context(self) -> int:
        """Tokens of prompt and response at the last step's end."""
        return self._steps[-1].step.context if self._steps else 0

    @property
    def totals(self) -> StepTotals:
        """Counted when asked for, or when many steps wait for it: a step at a time would cost twice as much."""
        for step in self._uncounted:
            self._totals.add(step)
        self._uncounted.clear()
        return self._totals

    def count(self, delta: Delta) -> None:
        """Takes a step as it comes, whatever becomes of its tokens."""
        self._steps.append(delta)
        if self._coming and self._coming[-1].position + len(self._coming[-1].tokens) <= len(self._tokens):
            self._coming.clear()
        self._coming.append(delta)
        step = delta.step
        mode = self._modes[-1][1] if self._modes else None
        if mode is not step.mode and mode != step.mode:
            self._modes.append((delta.position, step.mode))
        self._uncounted.append(step)
        if len(self._uncounted) >= MOST_UNCOUNTED:
            _ = self.totals

    def _arriving(self) -> Iterator[Token]:
        for delta in self._coming:
            yield from delta.tokens[max(0, len(self) - delta.position) :]

    def append(self, token: Token) -> None:
        self._tokens.append(token)

    def spelt(self, start: int) -> tuple[int, ...]:
        """What the tokens from `start` on say, and those that do not stand yet."""
        spelling = Spelling()
        return tuple(letter for token in (*self._tokens[start:], *self._arriving()) for letter in spelling.spell(token))

    def extend(self, tokens: Sequence[Token]) -> None:
        self._tokens += tokens

    def rewound(self, report: RewindReport) -> None:
        """Drops what the backend has discarded."""
        del self._tokens[report.position :]
        self._coming.clear()
        self._modes = [(at, mode) for at, mode in self._modes if at < report.position]
        self.discarded += report.tokens
        self.totals.decode_ms += report.milliseconds

    def usage(self, generation: Generation, reasoning: int, untold: int = 0) -> Usage:
        """reasoning: tokens that stand and are thoughts. untold: those that the client got another version of."""
        counted = _counted(generation)
        standing = len(self) if counted is None or counted.completion is None else counted.completion
        return Usage(
            prompt_tokens=generation.prompt_tokens,
            cached_tokens=generation.cached_tokens,
            completion_tokens=max(0, standing - untold),
            reasoning_tokens=max(0, reasoning - untold),
            discarded_tokens=self.discarded + untold,
            filtered_tokens=self.totals.filtered,
        )

    def timings(self, generation: Generation) -> Timings:
        counted = _counted(generation) or Counted()
        return Timings(
            prompt_n=generation.prompt_tokens - generation.cached_tokens,
            prompt_ms=generation.prompt_ms,
            predicted_n=len(self) if counted.completion is None else counted.completion,
            predicted_ms=self.totals.decode_ms,
            draft_n=self.totals.drafted if counted.drafted is None else counted.drafted,
            draft_n_accepted=self.totals.accepted if counted.accepted is None else counted.accepted,
            cache_n=generation.cached_tokens,
        )


def _counted(generation: Generation) -> Counted | None:
    found: Counted | None = getattr(generation, "counted", None)
    return found


def _step(delta: Delta) -> Step:
    step, audit, cache = delta.step, delta.step.audit, delta.step.cache
    return Step(
        position=delta.position,
        tokens=len(delta.tokens),
        mode=str(step.mode),
        source=step.source,
        drafted=step.drafted,
        accepted=step.accepted,
        milliseconds=step.milliseconds,
        context=step.context,
        filtered=step.filtered,
        audited=audit is not None,
        mismatch=None if audit is None else audit.mismatch,
        min_margin=min(_known(token.margin for token in delta.tokens), default=None),
        mean_entropy=_mean(_known(token.entropy for token in delta.tokens)),
        finite=all(token.finite is not False for token in delta.tokens),
        shadow_kl=None if step.shadow is None else step.shadow.kl,
        cache_faults=None if cache is None else len(cache.faults),
        key_cosine=None if cache is None or cache.keys is None else cache.keys.cosine,
        value_cosine=None if cache is None or cache.values is None else cache.values.cosine,
    )


def _known(values: Iterable[float | None]) -> list[float]:
    """Without what is unknown or no number, which JSON cannot tell."""
    return [value for value in values if value is not None and isfinite(value)]


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
