"""Mends the end of a complete call that is no JSON: a code fence around it, a comma too many, closers that are missing.

Must not: touch a value, guess a missing one, or be used on a call that was cut off (it would make a different call).
Invariant: what is returned was validated like any other value; both texts belong into the incident.

Off unless asked for: a client acts on arguments that the model did not write.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from detectors.json_stream.automaton import Final, JsonStream
from detectors.json_stream.compiled import CompiledSchema
from detectors.json_stream.trip import Rules

_FENCE = re.compile(r"\A\s*```[A-Za-z0-9_-]*[ \t]*\n(.*?)\n?[ \t]*```\s*\Z", re.DOTALL)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Repaired:
    """before, after: the texts. mended: what was done, in order. final: the verdict on `after`, always valid."""

    before: str
    after: str
    mended: tuple[str, ...]
    final: Final


def repair(text: str, compiled: CompiledSchema, rules: Rules = Rules()) -> Repaired | None:  # noqa: B008 (frozen)
    """None: nothing to mend, or not by these means. `text`: everything of a call that its model ended itself."""
    mended: list[str] = []
    after = text
    if (inside := without_fence(after)) is not None:
        after = inside
        mended.append("code fence")
    without = _without_trailing_commas(after)
    if without != after:
        after = without
        mended.append("trailing comma")
    if closers := _missing_closers(after):
        after = after.rstrip().removesuffix(",") + closers
        mended.append("missing closers")
    if not mended:
        return None
    stream = JsonStream(compiled, rules)
    stream.feed(after.encode("utf-8", "surrogatepass"))
    final = stream.finish()
    return Repaired(text, after, tuple(mended), final) if final.trip is None else None


def without_fence(text: str) -> str | None:
    """What stands in a code fence that holds all of `text`; None = it is in none."""
    fence = _FENCE.match(text)
    return None if fence is None else fence[1]


def _without_trailing_commas(text: str) -> str:
    """Commas directly before a closer (white space apart), outside of strings, are left out."""
    kept: list[str] = []
    at = comma = 0
    pending = False
    for token in _TOKEN.finditer(text):
        if pending and text[comma + 1 : token.start()].strip():
            pending = False
        if pending and token[0] in "]}":
            kept.append(text[at:comma])
            at = comma + 1
        pending = token[0] == ","
        comma = token.start()
    return "".join(kept) + text[at:]


def _missing_closers(text: str) -> str:
    """The closers of what is still open, innermost first; empty where a string is open or brackets do not match."""
    waiting: list[str] = []
    end = 0
    for token in _TOKEN.finditer(text):
        end = token.end()
        if token[0] in "[{":
            waiting.append("]" if token[0] == "[" else "}")
        elif token[0] in "]}" and (not waiting or waiting.pop() != token[0]):
            return ""
    return "" if '"' in text[end:] else "".join(reversed(waiting))
