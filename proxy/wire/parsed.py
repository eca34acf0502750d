"""What parsing a request gives: the canonical request and what of the body had no effect.

Must not: hold wire types. Invariant: `ignored` lists every key that was accepted but not honoured.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.conversation import ChatRequest


@dataclass(frozen=True, slots=True)
class Parsed:
    """ignored: keys for the `x-specguard-ignored` response header. thinking: whether the client wants to see it."""

    request: ChatRequest
    ignored: tuple[str, ...]
    thinking: bool = True
