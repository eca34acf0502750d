"""Loop detector: the end of a token sequence repeats one unit exactly, often enough and long enough.

Must not: look at text, or flag on copies alone (a short unit) or on coverage alone (two long copies).
Invariant: a grade is given at the first token after which some period p <= MAX_PERIOD has at least the
grade's copies and covered tokens, and at no earlier one; the smallest such p is reported, so it is primitive.

Method: for a period p in (K/2, K] the last K tokens occurred before, and by Fine and Wilf's theorem their
latest occurrence is exactly p tokens back. So one rolling hash per K = 32, 64 ... 1024 proposes the only
candidate of that range, the proposal is verified, and from then on one comparison per token keeps it alive.
That is exact as long as K + p tokens are covered before a threshold can be reached, hence a threshold needs
at least 3 copies and 64 covered tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from detectors.finding import Finding, Grade

MAX_PERIOD = 1024
SCALES = (32, 64, 128, 256, 512, 1024)
EVIDENCE_TOKENS = 64

_RING = 4 * MAX_PERIOD  # a proposal is verified over at most 3 * MAX_PERIOD tokens
_MODULUS = (1 << 61) - 1
_BASE = 0x0F3B5C7D91E24681


@dataclass(frozen=True, slots=True)
class Threshold:
    """A grade is reached with at least `copies` copies of the unit and `covered` tokens inside them."""

    grade: Grade
    copies: int
    covered: int

    def __post_init__(self) -> None:
        if self.copies < 3 or self.covered < 64:
            raise ValueError("a loop needs at least 3 copies and 64 covered tokens")


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Ordered from the mildest to the gravest."""

    suspect: Threshold
    fallback: Threshold
    abort: Threshold

    def reached(self, period: int, covered: int) -> Grade | None:
        """The gravest grade that `covered` tokens of one period reach."""
        copies = covered // period
        for threshold in (self.abort, self.fallback, self.suspect):
            if copies >= threshold.copies and covered >= threshold.covered:
                return threshold.grade
        return None


PROSE = Thresholds(Threshold(Grade.SUSPECT, 3, 96), Threshold(Grade.FALLBACK, 4, 256), Threshold(Grade.ABORT, 6, 1024))
"""Text and thinking: 0 of 887 prose documents reach FALLBACK."""
ARGUMENTS = Thresholds(
    Threshold(Grade.SUSPECT, 4, 256), Threshold(Grade.FALLBACK, 4, 512), Threshold(Grade.ABORT, 6, 2048)
)
"""Tool arguments carry data (tables, matrices, base64) that repeats by right."""


class _Scale:
    """The latest position of every gram of K tokens, for at least the last K positions and at most 2K."""

    __slots__ = ("_new", "_old", "_power", "length")

    def __init__(self, length: int) -> None:
        self.length = length
        self._power = pow(_BASE, length, _MODULUS)
        self._new: dict[int, int] = {}
        self._old: dict[int, int] = {}

    def lag(self, index: int, head: int, tail: int) -> int:
        """How long ago the gram that ends at `index` occurred last (0 = unknown), from two prefix hashes."""
        gram = (head - tail * self._power) % _MODULUS
        new = self._new
        seen = new.get(gram, -1)
        if seen < 0:
            seen = self._old.get(gram, -1)
        if len(new) >= self.length:
            self._old, self._new = new, {gram: index}
        else:
            new[gram] = index
        return index - seen if seen >= 0 else 0

    def clear(self) -> None:
        self._new, self._old = {}, {}


class PeriodDetector:
    """Feeds on the tokens of one channel; positions rise by one between resets. About 4 us per token."""

    def __init__(self, thresholds: Thresholds = PROSE, detector: str = "loop.period", channel: str = "text") -> None:
        self._thresholds = thresholds
        self._detector = detector
        self.channel = channel
        self._tokens = [0] * _RING
        self._hashes = [0] * _RING
        self._scales = tuple(_Scale(length) for length in SCALES)
        self._count = 0
        self._hash = 0
        self._runs: dict[int, int] = {}
        self._grade: Grade | None = None

    @property
    def grade(self) -> Grade | None:
        return self._grade

    def reset(self) -> None:
        for scale in self._scales:
            scale.clear()
        self._count = self._hash = 0
        self._runs.clear()
        self._grade = None

    def feed(self, position: int, token: int) -> Finding | None:
        """Takes one token; answers once per loop and grade, when the grade is reached."""
        self._push(token)
        if self._runs:
            self._follow(token)
        self._propose()
        if not self._runs:
            self._grade = None
            return None
        return self._judge(position)

    def _push(self, token: int) -> None:
        slot = self._count % _RING
        self._tokens[slot] = token
        self._hash = (self._hash * _BASE + token + 1) % _MODULUS
        self._hashes[slot] = self._hash
        self._count += 1

    def _follow(self, token: int) -> None:
        """Keeps the candidates that predicted this token; the value counts matches at that lag."""
        newest = self._count - 1
        broken = []
        for period in self._runs:
            if self._tokens[(newest - period) % _RING] == token:
                self._runs[period] += 1
            else:
                broken.append(period)
        for period in broken:
            del self._runs[period]

    def _propose(self) -> None:
        count, head = self._count, self._hash
        for scale in self._scales:
            length = scale.length
            if count < length:
                break
            tail = self._hashes[(count - 1 - length) % _RING] if count > length else 0
            lag = scale.lag(count, head, tail)
            if 0 < lag <= length and lag not in self._runs and (lag > length // 2 or length == SCALES[0]):
                self._verify(lag, length)

    def _verify(self, period: int, length: int) -> None:
        """Counts matches at this lag, as far back as they go; fewer than `length` = the hashes collided."""
        newest, tokens = self._count - 1, self._tokens
        limit = min(self._count - period, 2 * length)
        matches = 0
        while matches < limit and tokens[(newest - matches) % _RING] == tokens[(newest - matches - period) % _RING]:
            matches += 1
        if matches >= length:
            self._runs[period] = matches

    def _judge(self, position: int) -> Finding | None:
        worst: Grade | None = None
        period = 0
        for candidate in sorted(self._runs):
            grade = self._thresholds.reached(candidate, self._runs[candidate] + candidate)
            if grade is not None and (worst is None or grade > worst):
                worst, period = grade, candidate
        before, self._grade = self._grade, worst
        if worst is None or (before is not None and worst <= before):
            return None
        covered = self._runs[period] + period
        unit_start = self._count - covered % period - period
        unit = [self._tokens[(unit_start + i) % _RING] for i in range(min(period, EVIDENCE_TOKENS))]
        return Finding(
            detector=self._detector,
            grade=worst,
            channel=self.channel,
            position=position,
            began=position - covered + 1 + period,
            reason=f"{worst.name.lower()}: a unit repeats",
            evidence={"period": period, "copies": covered // period, "covered": covered, "unit": unit},
        )
