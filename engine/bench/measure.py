"""One reply generated with one drafter: how long its prefill, its steps and its drafting took, and what it said.

Must not: reuse a prefix of an earlier measurement.
Invariant: decoding time is the sum of the steps' wall time, prefill excluded; drafting time is all time spent inside
the drafters, learning committed tokens included; the rest of a step counts as verification.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.bench.workloads import Prompt
from engine.drafters.base import Drafter
from engine.engine import Engine
from engine.turn import TurnOptions


@dataclass(frozen=True, slots=True)
class Sample:
    """tokens: what was generated; runs: (drafted, accepted) of every step that verified drafts. Times in seconds."""

    tokens: tuple[int, ...]
    prefill_s: float
    decode_s: float
    draft_s: float
    steps: int
    runs: tuple[tuple[int, int], ...]


class TimedDrafter:
    """A drafter that adds up how long it takes, and is otherwise the one it wraps."""

    def __init__(self, inner: Drafter, synchronize: bool = False) -> None:
        self.inner, self.name, self.seconds = inner, inner.name, 0.0
        self._synchronize = synchronize

    def begin(self, tokens: Sequence[int]) -> None:
        self.inner.begin(tokens)

    def truncate(self, length: int) -> None:
        self.inner.truncate(length)

    def adopt(self, other: Drafter, tokens: Sequence[int]) -> None:
        self.inner.adopt(other, tokens)

    def feedback(self, drafted: int, accepted: int) -> None:
        self.inner.feedback(drafted, accepted)

    def extend(self, tokens: Sequence[int], hidden: Tensor | None) -> None:
        started = self._now()
        self.inner.extend(tokens, hidden)
        self.seconds += self._now() - started

    def propose(self, limit: int) -> list[int]:
        started = self._now()
        drafts = self.inner.propose(limit)
        self.seconds += self._now() - started
        return drafts

    def _now(self) -> float:
        if self._synchronize:
            torch.cuda.synchronize()
        return time.perf_counter()


def measure(engine: Engine, prompt: Prompt, drafter: str) -> Sample:
    """Generates one reply from a cold start; audits are off, as they would be for a client that wants speed alone."""
    engine.prefixes.clear()
    on_gpu = engine.model.device.type == "cuda"
    options = TurnOptions(prompt.sampling, drafter, max_tokens=prompt.limit, audit_every=0)
    started = time.perf_counter()
    turn = engine.open(prompt.tokens, options)
    for _ in turn.sequence.prefill():
        pass
    if on_gpu:
        torch.cuda.synchronize()
    prefill_s = time.perf_counter() - started
    own = turn.sequence.drafters
    timed = {name: TimedDrafter(inner, on_gpu) for name, inner in own.items()}
    turn.sequence.drafters = dict(timed)
    steps, runs = 0, []
    started = time.perf_counter()
    while not turn.ended:
        report = turn.step()
        steps += 1
        if report.drafted:
            runs.append((report.drafted, report.accepted))
    decode_s = time.perf_counter() - started
    turn.sequence.drafters = own
    engine.close(turn)
    engine.prefixes.clear()
    draft_s = sum(drafter.seconds for drafter in timed.values())
    return Sample(tuple(turn.generated), prefill_s, decode_s, draft_s, steps, tuple(runs))


def acceptance(samples: Sequence[Sample], positions: int) -> list[float | None]:
    """Share of drafts at each position (first = index 0) that were accepted, of those made there; None = none made.

    A draft counts as accepted only together with all before it in its run.
    """
    runs = [run for sample in samples for run in sample.runs]
    shares: list[float | None] = []
    for position in range(positions):
        made = [accepted > position for drafted, accepted in runs if drafted > position]
        shares.append(sum(made) / len(made) if made else None)
    return shares
