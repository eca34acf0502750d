"""The decode mode that a request asks for, on this server.

Must not: trust or distrust a mode (`proxy.trust.keeper` does, and may only make it safer).
Invariant: what the request does not name stays the server's; what it names is what is decoded in, or it is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from policies.modes import DecodeMode
from proxy.conversation import Decoding
from proxy.errors import RequestError

BY_PREFERENCE = ("mtp+ngram", "mtp", "ngram")
"""Where a request wants drafts and does not say whose."""


def asked_mode(
    asked: Decoding,
    server: DecodeMode,
    modes: Collection[str],
    allowed: bool = True,
    ladder: Sequence[str] = (),
) -> DecodeMode:
    """modes: of the backend, empty = unknown. allowed: whether requests may choose. ladder: of a pool of lanes, where
    drafts are switched off by taking the last one. Raises RequestError."""
    if asked == Decoding():
        return server
    if not allowed:
        field = "kv" if asked.codec is not None else "speculative"
        raise RequestError(
            "forbidden", f"{field}: this server does not let requests choose (decode.per_request); leave it out", field
        )
    if ladder and asked.drafter == "none" and asked.codec is None:
        return DecodeMode.parse(ladder[-1])
    codec = server.codec if asked.codec is None else asked.codec
    mode = DecodeMode(_drafter(asked.drafter, server.drafter, codec, modes), codec)
    if modes and str(mode) not in modes:
        known = [DecodeMode.parse(each) for each in modes]
        codecs = sorted({each.codec for each in known})
        if codec not in codecs:
            _impossible("kv", f"{codec!r} is not available with this model", codecs)
        drafters = sorted({each.drafter for each in known if each.codec == codec})
        _impossible("speculative.types", f"{mode.drafter!r} is not available with this model", drafters)
    return mode


def _drafter(asked: str | None, server: str, codec: str, modes: Collection[str]) -> str:
    if asked is None:
        return server
    if asked != "any":
        return asked
    if server != "none":
        return server
    return next((each for each in BY_PREFERENCE if str(replace(DecodeMode(each), codec=codec)) in modes), "ngram")


def _impossible(field: str, problem: str, known: Collection[str]) -> None:
    raise RequestError("invalid_request", f"{field}: {problem}; use one of {', '.join(map(repr, known))}", field)
