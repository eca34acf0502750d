"""Compares two transcripts of the same task, token for token.

Must not: forgive anything: another token, call, result or finish reason is a difference.
Invariant: `same` without token ids on both sides is never reported as token for token.
"""

from __future__ import annotations

from dataclasses import dataclass

from examples.agent.transcript import Transcript, Turn


@dataclass(frozen=True, slots=True)
class Comparison:
    """tokens: how many were equal from the start; by_tokens: both sides had ids for every turn."""

    same: bool
    by_tokens: bool
    turns: int
    tokens: int
    difference: str = ""

    def __str__(self) -> str:
        if not self.same:
            return f"different: {self.difference}"
        if not self.by_tokens:
            return f"same text in {self.turns} turns (the server sent no token ids)"
        return f"identical: {self.tokens} tokens in {self.turns} turns"


def compare(reference: Transcript, other: Transcript) -> Comparison:
    """Looks for the first difference, turn by turn."""
    pairs = list(zip(reference.turns, other.turns, strict=False))
    by_tokens = bool(pairs) and all(a.token_ids and b.token_ids for a, b in pairs)
    tokens = 0
    for number, (a, b) in enumerate(pairs, 1):
        equal = equal_tokens(a, b)
        tokens += equal
        if equal < max(len(a.token_ids), len(b.token_ids)) and by_tokens:
            return Comparison(False, True, number - 1, tokens, f"token {equal} of turn {number}")
        if (part := first_unequal_part(a, b)) is not None:
            return Comparison(False, by_tokens, number - 1, tokens, f"{part} of turn {number}")
    if len(reference.turns) != len(other.turns):
        counts = f"{len(reference.turns)} turns against {len(other.turns)}"
        return Comparison(False, by_tokens, len(pairs), tokens, counts)
    return Comparison(True, by_tokens, len(pairs), tokens)


def equal_tokens(a: Turn, b: Turn) -> int:
    """How many token ids are equal from the start."""
    ids = zip(a.token_ids, b.token_ids, strict=False)
    return next((i for i, (x, y) in enumerate(ids) if x != y), min(len(a.token_ids), len(b.token_ids)))


def first_unequal_part(a: Turn, b: Turn) -> str | None:
    """Names the first visible part of a turn that differs; call ids are random and do not count."""
    parts = {
        "text": (a.text, b.text),
        "thinking": (a.thinking, b.thinking),
        "calls": ([(c.name, c.arguments) for c in a.calls], [(c.name, c.arguments) for c in b.calls]),
        "results": (a.results, b.results),
        "finish reason": (a.finish_reason, b.finish_reason),
    }
    return next((name for name, (x, y) in parts.items() if x != y), None)
