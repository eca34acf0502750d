"""What leaving a compressed cache costs: L0 to L3 at several contexts, in milliseconds and tokens computed again.

Must not: measure L2 and L3 on different sequences.
Invariant: after L2 and after L3 the same sequence has the same bits; if not, that is a missed bar.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Many
from dataclasses import dataclass

import torch

from engine.bench.kv.contexts import tokens
from engine.bench.report import Bar, Table
from engine.codecs.spec import DEFAULT, FULL
from engine.fallback import fall_back
from engine.model import Model
from engine.reports import Level
from engine.sequence import Sequence
from engine.shadow import ShadowBudget

RESPONSE = 32
"""Tokens that were generated when the switch comes."""
CHEAPER = 5.0


@dataclass(frozen=True, slots=True)
class Switch:
    """rebuilt: tokens computed again."""

    level: Level
    context: int
    milliseconds: float
    rebuilt: int


@dataclass(frozen=True, slots=True)
class Switches:
    """equal: whether L2 and L3 leave the same bits."""

    found: tuple[Switch, ...]
    equal: bool


def measure_switches(model: Model, context: int) -> Switches:
    """A prompt of `context` tokens with a shadow, a short response, then every level in turn."""
    sequence = Sequence(model, codec=DEFAULT)
    sequence.shadows = ShadowBudget(1 << 62)
    sequence.begin(tokens(context, model.config.vocab_size))
    for _ in sequence.prefill():
        pass
    for token in tokens(RESPONSE, model.config.vocab_size, seed=1):
        rows = sequence.decode()
        sequence.commit([token], rows.hidden, speculative=False)
    length = sequence.length
    found = [_timed(sequence, "L0", lambda: sequence.rewind(length - 4, trusted=False), context)]
    frozen = Sequence(model, codec=DEFAULT)
    frozen.state = sequence.state.clone()
    found.append(_timed(frozen, "L1", frozen.stop_quantising, context))
    del frozen
    hashes = []
    for level in ("L2", "L3"):
        sequence.codec = DEFAULT  # the third level from where the second has led: it starts from nothing anyway
        found.append(_timed(sequence, level, lambda: _back(sequence, level), context))  # noqa: B023
        hashes.append(sequence.state.fingerprint())
    return Switches(tuple(found), hashes[0] == hashes[1])


def switch_table(found: Many[Switches]) -> Table:
    rows = tuple((s.context, s.level, s.milliseconds, s.rebuilt) for switches in found for s in switches.found)
    note = f"{DEFAULT} to {FULL} after {RESPONSE} generated tokens; L2 decodes them again, L3 the prompt too"
    return Table("The way back", ("context", "level", "ms", "tokens computed again"), rows, note)


def switch_bars(found: Many[Switches]) -> list[Bar]:
    """At the longest context; and equality at every one."""
    last = {switch.level: switch for switch in found[-1].found}
    name = f"way back at {last['L3'].context} tokens: L3 / L2"
    return [
        Bar.at_least(name, CHEAPER, last["L3"].milliseconds / last["L2"].milliseconds, "x"),
        Bar.at_least("contexts at which L2 and L3 leave equal bits", len(found), sum(s.equal for s in found)),
    ]


def _back(sequence: Sequence, level: str) -> int:
    back = fall_back(sequence, sequence.length, FULL, trusted=False)
    if back.level != level:
        raise RuntimeError(f"the benchmark wanted {level} and got {back.level}")
    return back.rebuilt


def _timed(sequence: Sequence, level: Level, call: object, context: int) -> Switch:
    assert callable(call)
    device = sequence.model.device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    rebuilt = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Switch(level, context, (time.perf_counter() - started) * 1e3, rebuilt or 0)
