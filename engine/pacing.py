"""How many tokens to draft: running acceptance against measured costs; pauses, probes and the verdict `dead`.

Must not: read a clock, know tokens, or use torch. It can cost or save time; it cannot change what is generated.
Invariant: a decision is a function of the costs given once and of the calls so far, so the same turn on the same
engine drafts the same lengths.

The model. A decode step computes a fixed number of padded rows, so verifying drafts is nearly free: `row_ms` for each
(sampling, folding into the state) beside `step_ms`. A drafter adds what drafting costs, nothing for n-grams. If draft
i is right with probability p_i given that those before it were, a step with k drafts yields 1 + p_1 + p_1 p_2 + ... +
p_1..p_k tokens, in step_ms + k row_ms + draft_ms(k). The pacer takes the k with the most tokens per millisecond
(Leviathan, Kalman, Matias, arXiv 2211.17192, section 3.5, with measured costs and one p per position).
- p_i comes from counts that fade by `FADE` per verified proposal. A position of which little is known is believed to
  be like the one before it; as knowledge fades, deeper positions are tried again by themselves.
- Expected gain = tokens per millisecond over those of a step without drafts. At 1 or less the drafter is paused. Every
  so many tokens it may probe: `FIRST_PROBE`, twice that after each failure, at most `LAST_PROBE`; after a success at
  once. A paused drafter's past weighs little, so a few right probes bring it back.
- `DEAD_AFTER` drafted tokens in a row without one accepted, in at least `DEAD_PROPOSALS` proposals (the tokens of one
  stand and fall together): the drafter is dead (a broken head, a lost cache), which is announced once, and it rests
  until `begin`. A drafter that has never had a token accepted is not paused before that is known.
"""

from __future__ import annotations

from dataclasses import dataclass, field

FADE = 0.98
"""A memory of some 50 proposals: text changes its nature every few hundred tokens."""
BELIEF = 1.0
"""Proposals that the estimate of the position before is worth, and `FIRST_GUESS` for the first one."""
FIRST_GUESS = 0.7
"""Of p_1 before anything is known: heads reach .65 (mixed) to .80 in public reports of vLLM and llama.cpp."""
FIRST_PROBE, LAST_PROBE = 16, 256
PAUSED_WEIGHT = 8.0
"""Proposals that the past of a paused drafter is worth at most."""
DEAD_AFTER, DEAD_PROPOSALS = 50, 16


@dataclass(frozen=True, slots=True)
class Costs:
    """Milliseconds on the device at hand, medians. step_ms: a decode step of one row, sampled and committed; row_ms:
    what each further row adds to it; mtp_first_ms, mtp_next_ms: the head's first draft (with its cache filled up) and
    each chained one, None without a head. Other drafters count as free.
    """

    step_ms: float
    row_ms: float = 0.0
    mtp_first_ms: float | None = None
    mtp_next_ms: float | None = None

    def step_with(self, source: str, drafted: int) -> float:
        """Milliseconds of a step that verifies `drafted` tokens from `source`, drafting included."""
        total = self.step_ms + drafted * self.row_ms
        if source == "mtp" and drafted:
            total += (self.mtp_first_ms or 0.0) + (drafted - 1) * (self.mtp_next_ms or 0.0)
        return total


TYPICAL = Costs(step_ms=1.0, row_ms=0.02, mtp_first_ms=0.15, mtp_next_ms=0.12)
"""Ratios to assume until the device was measured."""


@dataclass(slots=True)
class _Track:
    """What is known of one drafter. since: where its pause, or the wait for its next probe, began; None = drafting."""

    hits: list[float] = field(default_factory=list)
    tries: list[float] = field(default_factory=list)
    proven: bool = False
    fruitless: int = 0
    failures: int = 0
    since: int | None = None
    wait: int = FIRST_PROBE

    @property
    def dead(self) -> bool:
        return self.fruitless >= DEAD_AFTER and self.failures >= DEAD_PROPOSALS

    def chances(self, depth: int) -> list[float]:
        """p_1 .. p_depth."""
        chances: list[float] = []
        chance = FIRST_GUESS
        for i in range(depth):
            hits, tries = (self.hits[i], self.tries[i]) if i < len(self.tries) else (0.0, 0.0)
            chance = (hits + BELIEF * chance) / (tries + BELIEF)
            chances.append(chance)
        return chances

    def count(self, drafted: int, accepted: int) -> None:
        self.hits = [FADE * n for n in self.hits] + [0.0] * (drafted - len(self.hits))
        self.tries = [FADE * n for n in self.tries] + [0.0] * (drafted - len(self.tries))
        for i in range(min(accepted + 1, drafted)):
            self.tries[i] += 1.0
            self.hits[i] += i < accepted
        self.proven = self.proven or accepted > 0
        self.fruitless, self.failures = (0, 0) if accepted else (self.fruitless + drafted, self.failures + 1)

    def pause(self, at: int) -> None:
        self.since, self.wait = at, FIRST_PROBE
        scale = PAUSED_WEIGHT / max(self.tries[0], PAUSED_WEIGHT)
        self.hits, self.tries = [scale * n for n in self.hits], [scale * n for n in self.tries]


class Pacer:
    """Draft lengths for one sequence; each drafter is judged by itself. depth: longest draft that a step can verify."""

    def __init__(self, costs: Costs = TYPICAL, depth: int = 7) -> None:
        self.costs, self.depth = costs, depth
        self._tracks: dict[str, _Track] = {}
        self._at = 0

    @property
    def dead(self) -> tuple[str, ...]:
        """Drafters that are switched off for the rest of this history."""
        return tuple(name for name, track in self._tracks.items() if track.dead)

    def begin(self) -> None:
        """A new history: nothing is known of anybody, nobody is dead."""
        self._tracks = {}

    def length(self, source: str, limit: int, at: int) -> int:
        """Tokens that `source` should draft now, 0..limit; 0 while it is paused or dead.

        at: known tokens of the sequence, the clock of the probes; it may go back with a rewind.
        """
        track = self._tracks.setdefault(source, _Track())
        self._at = at
        if limit <= 0 or track.dead:
            return 0
        if track.since is not None:
            track.since = min(track.since, at)
            if at - track.since < track.wait:
                return 0
        elif track.proven and self._best(source, self.depth)[1] <= 1.0:
            track.pause(at)
            return 0
        return self._best(source, limit)[0]

    def feedback(self, source: str, drafted: int, accepted: int) -> bool:
        """The first `accepted` of `drafted` tokens were right. True if this was the end: `source` is now dead."""
        track = self._tracks.setdefault(source, _Track())
        if drafted <= 0 or track.dead:
            return False
        track.count(drafted, accepted)
        if track.since is not None:
            if self._best(source, self.depth)[1] > 1.0:
                track.since = None
            else:
                track.since = self._at
                track.wait = 0 if accepted else min(max(2 * track.wait, FIRST_PROBE), LAST_PROBE)
        return track.dead

    def gain(self, source: str, drafted: int) -> float:
        """Expected tokens per millisecond with `drafted` tokens from `source`, over those of a plain step."""
        expected, survival = 1.0, 1.0
        for chance in self._tracks.get(source, _Track()).chances(drafted):
            survival *= chance
            expected += survival
        return expected * self.costs.step_ms / self.costs.step_with(source, drafted)

    def _best(self, source: str, limit: int) -> tuple[int, float]:
        """The length 1..limit with the highest expected gain, and that gain."""
        costs, plain = self.costs, self.costs.step_ms
        expected, survival, best, highest = 1.0, 1.0, 1, 0.0
        for length, chance in enumerate(self._tracks[source].chances(limit), 1):
            survival *= chance
            expected += survival
            gain = expected * plain / costs.step_with(source, length)
            if gain > highest:
                best, highest = length, gain
        return best, highest
