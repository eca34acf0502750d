"""What a response tells beyond its API: `timings` in llama.cpp's names, and the object `specguard`.

Must not: tell a client that did not ask for it anything but `timings`.
Invariant: what is told of decoding was measured in this response; nothing is copied from the request but `n_max`.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from policies.modes import DecodeMode
from proxy.conversation import ChatRequest, Decoding
from proxy.events import Finished, Timings

_TIMINGS = tuple(field.name for field in fields(Timings))


def timings(event: Finished) -> dict[str, Any]:
    """Tokens, milliseconds and drafts; known dashboards read them."""
    told: dict[str, Any] = {name: getattr(event.timings, name) for name in _TIMINGS}
    for name in ("prompt", "predicted"):
        milliseconds = told[f"{name}_ms"]
        told[f"{name}_per_second"] = told[f"{name}_n"] / milliseconds * 1e3 if milliseconds else 0.0
    return told


def extension(event: Finished, request: ChatRequest, transcript: bool) -> dict[str, Any]:
    """`{"timings": ...}`, and `specguard` where the request chose how to decode (`speculative`, `kv`) or a transcript
    was asked for by header."""
    told: dict[str, Any] = {}
    if transcript:
        told |= {
            "token_ids": list(event.token_ids),
            "mode": event.mode,
            "incidents": list(event.incidents),
            "discarded_tokens": event.usage.discarded_tokens,
        }
    if transcript and event.by_position:
        told["drafts_by_position"] = [list(pair) for pair in event.by_position]
    if request.decoding != Decoding():
        told |= _decoding(event, request)
    return {"timings": timings(event)} | ({"specguard": told} if told else {})


def _decoding(event: Finished, request: ChatRequest) -> dict[str, Any]:
    """mode, types, kv: at the end of the response; a fall back makes them safer than what was asked for."""
    mode = DecodeMode.parse(event.mode)
    speculative: dict[str, Any] = {
        "enabled": mode.speculates,
        "types": mode.drafter.split("+") if mode.speculates else [],
        "n_max": request.decoding.max_draft,
        "longest_draft": event.longest_draft,
        "drafts": {name: {"n": drafted, "accepted": kept} for name, (drafted, kept) in event.drafts.items()},
    }
    return {"mode": event.mode, "speculative": speculative, "kv": mode.codec}
