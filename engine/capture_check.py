"""Whether captured steps give the bits of the code that they were captured from, found out before they are used.

Must not: leave captures on where one row differs.
Invariant: both ways go over the same tokens at other positions than those of the capture, so that a value of the host
that was frozen into a capture shows.
"""

from __future__ import annotations

import random

import torch

from engine.bits import equal
from engine.model import Block, Model, Rows
from engine.state import SequenceState

ROUNDS = 4
"""Steps of a shape: the code alone, the capture, and two replays at other places."""
CONTEXT = 40


@torch.inference_mode()
def check_captures(model: Model, blocks: int = 1, *, every: bool = False, seed: int = 0) -> bool:
    """Switches the captures of steps and of the drafting head on, and off again for good if anything differs. Returns
    whether they are on.

    blocks: as many sequences as a step may hold. Some 30 steps of the narrowest shapes, the widest one and one of two
    sequences; every: of all depths. Other shapes are captured when they are met, and compared then.
    """
    rng, captures = random.Random(seed), model.captures
    if captures.why:
        return False
    room = model.config.max_context
    if room < CONTEXT + model.rows * (model.rows + 1) // 2 * ROUNDS:
        return False

    def draw(count: int) -> list[int]:
        return [rng.randrange(model.config.vocab_size) for _ in range(count)]

    context = draw(CONTEXT)
    plain, captured = model.new_state(), model.new_state()
    for state in (plain, captured):
        model.prefill(state, context)
    depths = range(1, model.rows + 1) if every else sorted({1, min(2, model.rows), model.rows})
    shapes = [(1, deep) for deep in depths] + [(2, min(2, model.rows))] * (blocks > 1)
    for count, deep in shapes:
        for _ in range(ROUNDS):
            tokens = [draw(deep - index % deep) for index in range(count)]
            captures.on = False
            wanted = _step(model, plain, tokens)
            captures.on = True
            found = _step(model, captured, tokens)
            if captures.why:
                return False
            if not (_same(wanted, found) and plain.fingerprint() == captured.fingerprint()):
                captures.switch_off(f"steps of {count} x {deep} rows have other bits than the code gives")
                return False
    return _check_head(model, plain, captured, draw(1)[0])


def _step(model: Model, state: SequenceState, tokens: list[list[int]]) -> list[Rows]:
    """The first block is the state's own and is committed; the others are copies of it."""
    blocks = [Block(state if index == 0 else state.clone(), block) for index, block in enumerate(tokens)]
    rows = model.decode_blocks(blocks)
    model.commit(state, len(tokens[0]))
    return rows


def _same(ours: list[Rows], theirs: list[Rows]) -> bool:
    return all(equal(a.hidden, b.hidden) and equal(a.logits, b.logits) for a, b in zip(ours, theirs, strict=True))


def _check_head(model: Model, plain: SequenceState, captured: SequenceState, token: int) -> bool:
    """The drafting head: filling its cache and a chain. Its bits change no output, but a broken head drafts nothing."""
    if model.mtp is None or plain.mtp is None or captured.mtp is None:
        return True
    caches = {False: plain.mtp, True: captured.mtp}
    rows = torch.stack([model.embedding[(token + at) % len(model.embedding)] for at in range(3 * ROUNDS)])
    for at in range(ROUNDS):
        found: dict[bool, list[torch.Tensor]] = {}
        for on, cache in caches.items():
            model.captures.on = on
            state, logits = model.mtp.fill(cache, 3 * at, [token] * 3, rows[3 * at : 3 * at + 3])
            made = [state.clone(), logits.clone()]
            for step in range(2):
                state, logits = model.mtp.step(cache, 3 * at + 3 + step, token, state)
                made += [state.clone(), logits.clone()]
            found[on] = made
        if model.captures.why:
            return False
        if not all(equal(a, b) for a, b in zip(found[False], found[True], strict=True)):
            model.captures.switch_off("the drafting head has other bits than its code gives")
            return False
    return True
