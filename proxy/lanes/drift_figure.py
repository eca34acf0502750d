"""How far a lane's tokens are from what plain decoding says, as a figure: counts by context bucket, no I/O.

Must not: call any single token wrong. Invariant: greedy and sampled turns are counted apart, because for a drawn token
not to be the likeliest is no sign of anything.

A token of a greedy turn is inside if plain decoding finds it likeliest, or less likely than the likeliest by no more
than a near-tie. Near-ties are decided by rounding: two logits between 16 and 32 in bfloat16 lie on a grid of 2^-3
(8 bits of significand), and if each is off by one step their difference is by 0.25 nats. What batch shapes alone do to
healthy servers is of that size: vLLM holds its own MTP to 80 % of prompts with equal first 10 tokens
(tests/v1/e2e/spec_decode/mtp/_correctness.py in 0.33), llama.cpp found drafts lost to ties 0.03 apart
(ggml-org/llama.cpp#25819).

A token of a sampled turn is inside if plain decoding gives it a probability of at least 10^-4: at the temperatures in
use no nucleus (top-p 0.95) reaches that far down, and a healthy draw is below it less than once in thousands of tokens.
That is a weaker test, so the two figures are not to be compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from policies.breaker import bucket_name, bucket_of
from proxy.lanes.teacher import Score

NEAR_TIE = 0.25
SUPPORT = math.log(1e-4)
Drawn = Literal["greedy", "sampled"]


@dataclass(frozen=True, slots=True)
class Tally:
    """turns and tokens that were looked at; inside: tokens within the tolerance. equal: greedy tokens that are the
    likeliest outright. widest: largest gap in nats that was seen."""

    turns: int = 0
    tokens: int = 0
    inside: int = 0
    equal: int = 0
    widest: float = 0.0

    @property
    def drift(self) -> float | None:
        """Share of tokens outside; None before there are any."""
        return None if not self.tokens else 1.0 - self.inside / self.tokens

    def plain(self) -> dict[str, Any]:
        """As JSON data."""
        inside = None if not self.tokens else round(self.inside / self.tokens, 6)
        return {"turns": self.turns, "tokens": self.tokens, "inside": inside, "widest_gap": round(self.widest, 3)}


def tally(scores: Sequence[Score], drawn: Drawn) -> Tally:
    """Of one turn. scores: of its tokens, under plain decoding."""
    gaps = [max(0.0, each.best_logprob - each.logprob) for each in scores]
    if drawn == "greedy":
        inside = sum(gap <= NEAR_TIE for gap in gaps)
    else:
        inside = sum(each.logprob >= SUPPORT for each in scores)
    equal = sum(each.id == each.best for each in scores)
    return Tally(1, len(scores), inside, equal, max(gaps, default=0.0))


@dataclass(slots=True)
class DriftFigure:
    """Of one lane, since the start."""

    _tallies: dict[tuple[int, Drawn], Tally] = field(default_factory=dict)

    def add(self, context: int, drawn: Drawn, turn: Tally) -> None:
        """context: tokens at the end of the turn."""
        key = (bucket_of(context), drawn)
        old = self._tallies.get(key, Tally())
        self._tallies[key] = Tally(
            old.turns + turn.turns,
            old.tokens + turn.tokens,
            old.inside + turn.inside,
            old.equal + turn.equal,
            max(old.widest, turn.widest),
        )

    @property
    def tallies(self) -> Mapping[tuple[int, Drawn], Tally]:
        return dict(self._tallies)

    def plain(self) -> list[dict[str, Any]]:
        """By context, shortest first."""
        return [
            {"bucket": bucket_name(bucket), "drawn": drawn, **each.plain()}
            for (bucket, drawn), each in sorted(self._tallies.items())
        ]
