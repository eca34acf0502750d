"""Shadow checks: does a compressed cache predict what a full one would? Top-1 agreement and KL by context length.

Where prompts are prefilled in full precision both caches exist for a moment, at the prompt's end; there one row is
decoded with each. That is two steps, so a check is made only when it stays within a share of all decode time.

Must not: change a state, or decide anything but when to look.
Invariant: a check is begun only if all checks, it included at the price of the dearest so far, stay within the share.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SHARE = 0.03


@dataclass(frozen=True, slots=True)
class CacheCheck:
    """context: committed tokens; top1: whether both say the same next token; kl: nats, of the full cache's law from
    the compressed one's; doubt: 1 - sum p^2 of the clean law."""

    codec: str
    context: int
    top1: bool
    kl: float
    doubt: float
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """All checks of one codec at contexts of below `below` tokens (a power of two)."""

    codec: str
    below: int
    checks: int
    top1: float
    kl: float


class CacheChecks:
    """Of one engine. Not thread safe."""

    def __init__(self, share: float = SHARE) -> None:
        self.share = share
        self.spent_ms = self.decoded_ms = 0.0
        self._dearest_ms, self._forwards = 0.0, 0
        self._sums: dict[tuple[str, int], tuple[int, int, float]] = defaultdict(lambda: (0, 0, 0.0))

    def decoded(self, milliseconds: float) -> None:
        """Time of one decode forward; the budget is a share of all of it."""
        self.decoded_ms += milliseconds
        self._forwards += 1

    def is_due(self) -> bool:
        """Whether another check fits: the price of the dearest so far, and of three forwards at least."""
        if not self._forwards:
            return False
        price = max(self._dearest_ms, 3 * self.decoded_ms / self._forwards)
        return self.spent_ms + price <= self.share * self.decoded_ms

    def compare(self, codec: str, context: int, full: Callable[[], Tensor], coded: Callable[[], Tensor]) -> CacheCheck:
        """Logits [V] of the same position from either cache."""
        started = time.perf_counter()
        clean = full()
        law, other = clean.double().log_softmax(-1), coded().double().log_softmax(-1)
        kl = float((law.exp() * (law - other)).sum().clamp_min(0.0))
        top1 = bool(torch.equal(law.argmax(-1), other.argmax(-1)))
        check = CacheCheck(codec, context, top1, kl, doubt(clean), (time.perf_counter() - started) * 1e3)
        self.spent_ms += check.milliseconds
        self._dearest_ms = max(self._dearest_ms, check.milliseconds)
        bucket = codec, 1 << context.bit_length()
        count, agreed, total = self._sums[bucket]
        self._sums[bucket] = count + 1, agreed + top1, total + kl
        return check

    def agreements(self) -> list[Agreement]:
        """By codec and context, short ones first."""
        return [
            Agreement(codec, below, count, agreed / count, total / count)
            for (codec, below), (count, agreed, total) in sorted(self._sums.items())
        ]


def doubt(logits: Tensor) -> float:
    """Probability that two draws from these logits [V] differ: 1 - sum p^2. Noise of variance s^2 on every logit costs
    a divergence of about s^2 / 2 times this much (second order of KL), so it makes certain and doubtful text
    comparable. 1 where a number is none."""
    found = 1 - float(logits.double().softmax(0).square().sum())
    return min(max(found, 0.0), 1.0) if found == found else 1.0
