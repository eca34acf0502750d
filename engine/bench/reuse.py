"""Prefix reuse: how soon the second turn of a long conversation reaches its first token, cold and warm.

Must not: count the first turn, which both have to pay.
Invariant: both ways end with the same number of tokens in the state, in the same mode; cold and warm alternate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from engine.bench.report import Bar, Table
from engine.bench.workloads import long_conversation
from engine.engine import Engine
from engine.turn import Turn, TurnOptions

NAME = "prefix reuse: second turn's time to first token, of the cold time"
MOST_TOKENS = 4096
"""The promise is about a conversation of 4k tokens; the embedded model's window is just that."""
REPLY = 32
"""Tokens that the first turn generates, and room that the second one leaves in the window."""


@dataclass(frozen=True, slots=True)
class Reuse:
    """Seconds to the first token, one per round; prompt, cached: tokens of the second turn's prompt."""

    cold: tuple[float, ...]
    warm: tuple[float, ...]
    prompt: int
    cached: int

    @property
    def share(self) -> float:
        """Median over rounds of warm / cold."""
        return median(w / c for w, c in zip(self.warm, self.cold, strict=True))


def reuse(engine: Engine, rounds: int, progress: Callable[[str], None]) -> Reuse:
    """Alternates cold and warm second turns in the best mode that the model has. Raises ConfigError (no room)."""
    room = min(engine.model.config.max_context, MOST_TOKENS) - REPLY
    first, second = long_conversation(engine, room)
    cold, warm, cached = [], [], 0
    for number in range(rounds + 1):
        engine.prefixes.clear()
        seconds, turn = _first_token(engine, second)
        engine.close(turn)
        engine.prefixes.clear()
        _, turn = _first_token(engine, first)
        while not turn.ended:
            turn.step()
        engine.close(turn)
        again, turn = _first_token(engine, second)
        engine.close(turn)
        if number:  # round 0 warms kernels and allocator
            cold.append(seconds)
            warm.append(again)
            cached = turn.cached_tokens
            progress(
                f"prefix reuse, round {number} of {rounds}: cold {seconds * 1e3:.0f} ms, warm {again * 1e3:.0f} ms"
            )
    engine.prefixes.clear()
    return Reuse(tuple(cold), tuple(warm), len(second), cached)


def report(result: Reuse) -> tuple[Table, Bar]:
    rows = (
        ("cold", median(result.cold) * 1e3, 0),
        ("warm", median(result.warm) * 1e3, result.cached),
    )
    title = f"Second turn of a conversation, prompt of {result.prompt} tokens"
    return (
        Table(title, ("", "first token ms", "tokens reused"), rows),
        Bar.at_most(NAME, 10, result.share * 100, "%"),
    )


def _first_token(engine: Engine, prompt: Sequence[int]) -> tuple[float, Turn]:
    """Seconds from the tokens of a prompt to the first token of its reply."""
    options = TurnOptions(drafter=engine.drafters[-1], max_tokens=REPLY, audit_every=0)
    started = time.perf_counter()
    turn = engine.open(prompt, options)
    for _ in turn.sequence.prefill():
        pass
    turn.step()
    if engine.model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started, turn
