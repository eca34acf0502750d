"""How chunks are read, in the dialects of vLLM, SGLang, llama.cpp and anybody's chat/completions.

Must not: trust a shape: whatever a server sends is read as what can be used of it, or refused by `Malformed`.
Invariant: never raises anything else, and never returns text with lone surrogates in it (such an event is refused).

Fields by server: `reasoning` (vLLM) or `reasoning_content` (SGLang, llama.cpp, older vLLM); `token_ids` in the choice
and `prompt_token_ids` in the first chunk (vLLM, SGLang); `timings` in a chunk (llama.cpp); `metrics` with the usage
(vLLM, --per-request-spec-decode-metrics); `stop_reason`, `matched_stop` beside the finish reason. An error is an
object `error` in place of a chunk (vLLM, llama.cpp), or one with `object: error` inside it (SGLang).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import orjson

from proxy.lanes.chunks import CallPiece, Chunk, Counts, Scored

DONE = "[DONE]"
MOST_IDS = 4096
MOST_PROMPT_IDS = 1 << 20
MOST_CALLS = 128
MOST_SAID = 1 << 20
"""Characters that one chunk may say: more than any model's whole response, in case a server sends that at once."""
TOLD = 300
"""Characters of what a server says about itself that are told on."""


class Malformed(Exception):
    """An event is no chunk; the message says what it is instead."""


def read_chunk(data: str, secrets: Collection[str] = ()) -> Chunk:
    """The chunk in an event's data, which is not `[DONE]`. secrets: see `error_text`. Raises Malformed."""
    try:
        body = orjson.loads(data)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        raise Malformed("an event is no JSON") from None
    if not isinstance(body, dict):
        raise Malformed("an event is no JSON object")
    told = body.get("error") is not None or ("error" in body and "choices" not in body)  # null beside a chunk is none
    if told or body.get("object") == "error":
        return _error(body, secrets)
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    delta = first.get("delta")
    delta = delta if isinstance(delta, dict) else {}
    finish = first.get("finish_reason")
    stop = first.get("stop_reason") if first.get("stop_reason") is not None else first.get("matched_stop")
    prompt = body.get("prompt_token_ids")
    text = _content(delta.get("content"))
    thinking = _text(delta.get("reasoning_content")) or _text(delta.get("reasoning"))
    calls = _calls(delta.get("tool_calls")) if delta.get("tool_calls") else ()
    said = len(text) + len(thinking)
    for call in calls:
        said += len(call.name) + len(call.arguments)
    if said > MOST_SAID:
        raise Malformed(f"a chunk says more than {MOST_SAID} characters")
    return Chunk(
        text=text,
        thinking=thinking,
        calls=calls,
        token_ids=_ids(first.get("token_ids")),
        scored=_scored(first.get("logprobs")) if first.get("logprobs") else (),
        prompt_tokens=len(prompt) if isinstance(prompt, list) else None,
        prompt_ids=_ids(prompt, MOST_PROMPT_IDS) or (),
        finish=finish[:64] if isinstance(finish, str) else None,
        stop=stop[:256] if isinstance(stop, str) else None,
        counts=_counts(body) if "usage" in body or "timings" in body else None,
    )


def error_text(body: Any, secrets: Collection[str] = ()) -> str:
    """What a server says went wrong, from an error body of any shape. secrets: are not told on; servers like to repeat
    the key that they refuse."""
    found = body
    for _ in range(3):
        if isinstance(found, Mapping):
            found = found.get("message") or found.get("error") or found.get("detail") or ""
    text = hide(found if isinstance(found, str) else "it does not say what", secrets)
    plain = "".join(char if char.isprintable() else " " for char in text[: 8 * TOLD])
    return " ".join(plain.split())[:TOLD] or "it does not say what"


def hide(text: str, secrets: Collection[str]) -> str:
    """Without the secrets."""
    for each in secrets:
        text = text.replace(each, "[hidden]") if each else text
    return text


def _error(body: dict[str, Any], secrets: Collection[str]) -> Chunk:
    inner = body.get("error")
    code = inner.get("code") if isinstance(inner, dict) else body.get("code")
    status = code if isinstance(code, int) and not isinstance(code, bool) and 100 <= code < 600 else None
    return Chunk(error=error_text(body, secrets), error_status=status)


def _content(value: Any) -> str:
    """A text, or a list of parts as in messages."""
    if isinstance(value, list):
        return "".join(_text(part.get("text")) for part in value if isinstance(part, dict))
    return _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _calls(value: Any) -> tuple[CallPiece, ...]:
    if not isinstance(value, list):
        return ()
    if len(value) > MOST_CALLS:
        raise Malformed(f"a chunk has pieces of more than {MOST_CALLS} calls")
    pieces = []
    for place, each in enumerate(value):
        if not isinstance(each, dict):
            continue
        index, function = each.get("index", place), each.get("function")
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < 1 << 16:
            raise Malformed("a tool call has no usable index")
        function = function if isinstance(function, dict) else {}
        pieces.append(CallPiece(index, _text(function.get("name")), _arguments(function.get("arguments"))))
    return tuple(pieces)


def _arguments(value: Any) -> str:
    """JSON text. Some servers send the object itself; what is no object must not pass for a call without arguments."""
    if value is None or isinstance(value, str):
        return value or ""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        raise Malformed("the arguments of a call are nested too deep") from None


def _ids(value: Any, most: int = MOST_IDS) -> tuple[int, ...] | None:
    if not isinstance(value, list):
        return None
    if not value:
        return ()
    if len(value) > most or set(map(type, value)) != {int} or min(value) < 0 or max(value) >= 1 << 31:
        return None
    return tuple(value)


def _scored(value: Any) -> tuple[Scored, ...]:
    content = value.get("content") if isinstance(value, dict) else None
    if not isinstance(content, list):
        return ()
    found = []
    for each in content[:MOST_IDS]:
        if isinstance(each, dict) and isinstance(logprob := each.get("logprob"), int | float):
            text = _text(each.get("token"))
            top = each.get("top_logprobs")
            others = tuple(
                (_data(other), float(other["logprob"]))
                for other in (top if isinstance(top, list) else [])[:20]
                if isinstance(other, dict) and isinstance(other.get("logprob"), int | float)
            )
            found.append(Scored(text, _data(each), float(logprob), others))
    return tuple(found)


def _data(token: dict[str, Any]) -> bytes:
    data = token.get("bytes")
    if isinstance(data, list) and all(type(each) is int and 0 <= each < 256 for each in data):
        return bytes(data)
    return _text(token.get("token")).encode("utf-8", "replace")


def _counts(body: dict[str, Any]) -> Counts | None:
    usage, timings, metrics = (
        value if isinstance(value := body.get(name), dict) else {} for name in ("usage", "timings", "metrics")
    )
    if not usage and not timings:
        return None
    details = usage.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    drafts = metrics.get("speculative_decoding")
    drafts = drafts if isinstance(drafts, dict) else {}
    prompt, cached = _count(usage.get("prompt_tokens")), _count(details.get("cached_tokens"))
    if timings:
        cached = _count(timings.get("cache_n")) if cached is None else cached
        read = _count(timings.get("prompt_n"))
        prompt = read + (cached or 0) if prompt is None and read is not None else prompt
    prompt_ms = timings.get("prompt_ms")
    return Counts(
        prompt,
        _first(_count(usage.get("completion_tokens")), _count(timings.get("predicted_n"))),
        cached,
        _first(_count(timings.get("draft_n")), _count(drafts.get("num_draft_tokens"))),
        _first(_count(timings.get("draft_n_accepted")), _count(drafts.get("num_accepted_draft_tokens"))),
        float(prompt_ms) if isinstance(prompt_ms, int | float) and 0 <= prompt_ms < 1e9 else None,
    )


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 31 else None
