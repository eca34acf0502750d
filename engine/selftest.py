"""Exactness self-test: do speculative rows have the same bits as plain ones on this very device?

Must not: use a planted fault, or claim more than it has compared.
Invariant: `bitwise` is reported only if every compared logit row and the final state are equal in every bit.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from engine.codecs.spec import FLUSH, FULL
from engine.errors import ConfigError
from engine.kv import TILE
from engine.model import Block, Model
from engine.state import SequenceState

HALTED = 3
"""So many rows before an edge of the compressed cache the test stops, to cross it with rejected drafts."""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """rows: logit rows compared; mismatches: rows that differ in any bit; state_equal: fingerprints after all.

    blocks: up to so many sequences have, in one forward, the bits that each has alone.
    """

    exactness: Literal["bitwise", "distribution"]
    rows: int
    mismatches: int
    state_equal: bool
    blocks: int
    milliseconds: float

    def and_also(self, other: SelfTest) -> SelfTest:
        """Both tests as one, which has passed only if both have."""
        exact = self.exactness == other.exactness == "bitwise"
        return SelfTest(
            exactness="bitwise" if exact else "distribution",
            rows=self.rows + other.rows,
            mismatches=self.mismatches + other.mismatches,
            state_equal=self.state_equal and other.state_equal,
            blocks=self.blocks,
            milliseconds=self.milliseconds + other.milliseconds,
        )


def self_test(model: Model, tokens: int = 24, seed: int = 0, max_blocks: int = 8, codec: str = FULL) -> SelfTest:
    """Decodes random tokens one at a time, then again in blocks with rejected drafts behind them, then several
    sequences together.

    The context ends shortly before a KV tile boundary, so that the compared rows cross it, and with it the edge from
    which on a compressed cache shows rows as computed.
    """
    started = time.perf_counter()
    rng = random.Random(seed)
    context = min(TILE - tokens // 2, model.config.max_context - tokens - model.rows)
    if context < 1:
        raise ConfigError(
            f"max_position_embeddings: {model.config.max_context} is too small; {tokens + model.rows + 1} at least"
        )

    def draw(count: int) -> list[int]:
        return [rng.randrange(model.config.vocab_size) for _ in range(count)]

    forced = draw(tokens)
    plain = model.new_state(codec)
    model.prefill(plain, draw(context))
    blocks = plain.clone()
    expected = []
    for token in forced:
        expected.append(model.decode(plain, [token]).logits[0])
        model.commit(plain, 1)
    mismatches, at = 0, 0
    while at < tokens:
        accepted = min(rng.randint(1, model.rows), tokens - at)
        rejected = draw(rng.randint(0, model.rows - accepted))
        before_edge = FLUSH - (context + at) % FLUSH
        if before_edge == HALTED:
            # rows on both sides of the edge, those behind it and one before it rejected
            accepted, rejected = min(HALTED - 1, tokens - at, model.rows), draw(max(model.rows - HALTED + 1, 0))
        elif before_edge > HALTED:
            accepted = min(accepted, before_edge - HALTED)
        logits = model.decode(blocks, [*forced[at : at + accepted], *rejected]).logits
        for index in range(accepted):
            mismatches += not torch.equal(logits[index], expected[at + index])
        model.commit(blocks, accepted)
        at += accepted
    blocks_equal = _blocks(model, [blocks, plain, model.new_state()], draw, max_blocks)
    equal = plain.fingerprint() == blocks.fingerprint()
    return SelfTest(
        exactness="bitwise" if equal and not mismatches else "distribution",
        rows=tokens,
        mismatches=mismatches,
        state_equal=equal,
        blocks=blocks_equal,
        milliseconds=(time.perf_counter() - started) * 1e3,
    )


def _blocks(model: Model, states: Sequence[SequenceState], draw: Callable[[int], list[int]], most: int) -> int:
    """The largest number of blocks up to which every smaller number gives each of them the bits it has alone."""
    for count in range(2, most + 1):
        blocks = [Block(states[i % len(states)].clone(), draw(1 + (3 * i + count) % model.rows)) for i in range(count)]
        alone = [model.decode(block.state.clone(), block.tokens) for block in blocks]
        together = model.decode_blocks(blocks)
        for one, other in zip(alone, together, strict=True):
            if not (torch.equal(one.logits, other.logits) and torch.equal(one.hidden, other.hidden)):
                return count - 1
    return most
