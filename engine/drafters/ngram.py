"""ngram-mod: what followed the last time these `n_match` tokens stood here will probably follow again.

Must not: look at hidden states, the model or the text; or share anything between sequences.
Invariant: what it proposes is a function of the sequence's tokens and of the feedback since the last rewind;
so after `truncate` it proposes what a fresh one would that has only seen the shorter history.

Rules and names are those of llama.cpp's `ngram-mod` (`n_match`, `n_min`, `n_max`, newest follower wins, table
emptied beyond 25 % occupancy, five rounds below 25 % acceptance are a bad streak). What differs, and why:
- The table belongs to one sequence and stores where an n-gram last ended instead of what followed it. A hit
  is verified against the history, so a hash collision can hide a match but never invents one.
- The hash really rolls: O(1) per token instead of O(n_match). Every token is learnt at once, not in chunks of
  32.
- What an insertion displaces is remembered, so that a rewind restores the table instead of forgetting.
- `n_match` below 16, against which llama.cpp warns, is allowed: see `AGENT` and `HINT` for what it brings.
- A bad streak does not empty the table: filled again from the same history it would be the same one. It rests
  for some tokens instead, which lets the next drafter (MTP) have the step.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from engine.drafters.base import Drafter

_MULTIPLIER = 6364136223846793005  # of Knuth's MMIX generator
_OCCUPANCY = 4  # empty the table when more than one slot in so many is used
_LOW_ACCEPTANCE = 0.25
_LOW_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class NgramParams:
    """n_match: tokens that must agree; n_min, n_max: fewest and most tokens that a guess must and may have.

    The guess is followed for n_min tokens even where fewer are asked for: n_min says how well known the
    passage must be, not how much is used. slot_bits: the table has 2**slot_bits slots of 4 bytes. rest:
    committed tokens to sit out after a bad streak. Raises ValueError that names the field.
    """

    n_match: int
    n_min: int
    n_max: int
    slot_bits: int = 20
    rest: int = 32

    def __post_init__(self) -> None:
        if self.n_match < 1:
            raise ValueError(f"n_match: must be 1 or more, not {self.n_match}")
        if not 1 <= self.n_min <= self.n_max:
            raise ValueError(f"n_min: must be between 1 and n_max ({self.n_max}), not {self.n_min}")
        if not 1 <= self.slot_bits <= 24:
            raise ValueError(f"slot_bits: must be between 1 and 24, not {self.slot_bits}")
        if self.rest < 0:
            raise ValueError(f"rest: must be 0 or more, not {self.rest}")


PUBLISHED = NgramParams(n_match=24, n_min=48, n_max=64)
"""llama.cpp's defaults: for rewriting whole files. A passage known for fewer than 48 tokens drafts
nothing."""

AGENT = NgramParams(n_match=8, n_min=2, n_max=16)
"""For tool calls. A call's frame, its argument names, a path or a function copied from the last result are runs of 5
to 100 tokens, of which 24/48/64 sees little. Eight tokens are past what all calls have in common and into what tells
them apart, so this match is nearly always right: 4 to 10 % of its drafts are in vain. Sixteen is twice a step's width;
n_min hardly matters, because a passage once known is known on. On 40 held-out conversations, 8,013 tokens
(`python -m examples.embedded_model.ngram_presets`, tokens per step): n_match 2: 2.53, 3: 2.23, 4: 2.06, 6: 1.84,
8: 1.65, 12: 1.48, 24: 1.25; this one with `HINT` after it: 2.72."""

HINT = NgramParams(n_match=2, n_min=2, n_max=16)
"""A guess from the last two tokens, asked after `AGENT`: one in four is wholly wrong, but nothing is cheaper. Beside a
head it drafts only where it promises more (engine.turn). Gain over plain by the command above with `--mtp 0.8`:
8 alone 2.78, 2 alone 2.76, both 2.97; with `--mtp 0.95`: 3.82, 3.22, 3.75. Measured with a vocabulary of 2,048
tokens; with a large one two tokens say more."""

PRESETS = {"agent": AGENT, "hint": HINT, "published": PUBLISHED}


class NgramDrafter:
    """Guesses from the sequence's own past; see the module for the rules. Costs about a microsecond per
    token."""

    name = "ngram"

    def __init__(self, params: NgramParams = AGENT) -> None:
        self.params = params
        # the slot is the hash's low bits, so nothing above them needs to be kept
        self._mask = (1 << params.slot_bits) - 1
        self._multiplier = _MULTIPLIER & self._mask
        self._leaving = pow(_MULTIPLIER, params.n_match, 1 << params.slot_bits)
        self._capacity = (1 << params.slot_bits) // _OCCUPANCY
        self._table = array("i")
        self.begin(())

    def begin(self, tokens: Sequence[int]) -> None:
        """Forgets everything and learns `tokens`."""
        self._tokens: list[int] = []
        self._table = array("i", (-1,)) * (1 << self.params.slot_bits)
        # what token i's insertion used: its slot (-1: none, fewer than n_match before it) and what it
        # displaced
        self._slots = array("i")
        self._displaced = array("i")
        self._hash = 0
        self._used = 0
        self._emptied_at = 0
        self._rested()
        self.extend(tokens, None)

    def extend(self, tokens: Sequence[int], hidden: Tensor | None) -> None:
        """Learns committed tokens; `hidden` is ignored."""
        n_match, history, table, slots = self.params.n_match, self._tokens, self._table, self._slots
        mask, multiplier, leaving, current = self._mask, self._multiplier, self._leaving, self._hash
        for token in tokens:
            at = len(history)
            if at < n_match:
                current = (current * multiplier + token) & mask
                slots.append(-1)
                self._displaced.append(-1)
            else:
                before = table[current]
                table[current] = at
                slots.append(current)
                self._displaced.append(before)
                current = (current * multiplier + token - history[at - n_match] * leaving) & mask
                if before < 0:
                    self._used += 1
                    if self._used > self._capacity:
                        table = self._empty(at + 1)
            history.append(token)
        self._hash = current

    def propose(self, limit: int) -> list[int]:
        """Follows the newest verified matches for at most min(limit, n_max) tokens; empty if fewer than
        n_min."""
        params, history, table = self.params, self._tokens, self._table
        n_match, mask, multiplier = params.n_match, self._mask, self._multiplier
        if limit <= 0 or len(history) < self._rest_until or len(history) < n_match:
            return []
        wanted = min(max(limit, params.n_min), params.n_max)
        window = history[-n_match:]
        current = self._hash
        drafts: list[int] = []
        while len(drafts) < wanted:
            at = table[current]
            if at < 0 or history[at - n_match : at] != window:
                break
            token = history[at]
            drafts.append(token)
            current = (current * multiplier + token - window[0] * self._leaving) & mask
            del window[0]
            window.append(token)
        return drafts[:limit] if len(drafts) >= params.n_min else []

    def feedback(self, drafted: int, accepted: int) -> None:
        """Counts bad rounds; after five in a row it rests for `params.rest` committed tokens."""
        if drafted <= 0:
            return
        if accepted >= _LOW_ACCEPTANCE * drafted:
            self._low_rounds = 0
            return
        self._low_rounds += 1
        if self._low_rounds >= _LOW_ROUNDS:
            self._low_rounds = 0
            self._rest_until = len(self._tokens) + self.params.rest

    def truncate(self, length: int) -> None:
        """Unlearns the tokens from `length` on, newest first; what they had displaced is back. Forgets
        feedback."""
        if length < 0:
            raise ValueError(f"length: must be 0 or more, not {length}")
        history, table, n_match = self._tokens, self._table, self.params.n_match
        if length >= len(history):
            return
        if length < self._emptied_at:
            self.begin(history[:length])
            return
        while len(history) > length:
            history.pop()
            slot, before = self._slots.pop(), self._displaced.pop()
            if slot >= 0:
                table[slot] = before
                self._used -= before < 0
        current = 0
        for token in history[-n_match:]:
            current = (current * self._multiplier + token) & self._mask
        self._hash = current
        self._rested()

    def adopt(self, other: Drafter, tokens: Sequence[int]) -> None:
        """Learns `tokens`: what it would know of them is a function of them alone."""
        self.begin(tokens)

    def _empty(self, at: int) -> array[int]:
        """Starts over with an empty table: nothing before position `at` can be undone from here on."""
        self._table = array("i", (-1,)) * (1 << self.params.slot_bits)
        self._used = 0
        self._emptied_at = at
        return self._table

    def _rested(self) -> None:
        self._low_rounds = 0
        self._rest_until = 0
