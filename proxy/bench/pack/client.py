"""Asks any OpenAI-compatible server, streaming, and measures what comes back.

Must not: know which server it is; what only some servers tell (`timings`, `specguard`, vLLM's numbers) is read where it
is there. Nor follow a redirect: prompts hold the user's code, and go where the user has said.
Invariant: an answer is always returned; a server that fails, or sends what is no answer, is one with `failed`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from detectors.byte_loops import ByteLoops
from detectors.finding import Grade
from detectors.tool_schema import ToolSchemas
from proxy.sse import EventReader

REQUEST_S = 600.0
MOST_BYTES = 16 << 20
"""Of one response, whatever it is."""
MOST_COUNT = 1e9
"""Tokens, or seconds: more than that is told by nobody who counts."""
NONSENSE = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)
"""What reading data of any shape raises."""


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call. problem: why it is not valid, empty if it is."""

    id: str
    name: str
    arguments: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Drafts:
    """Drafted and accepted tokens, and the same of each position of a draft."""

    drafted: int = 0
    accepted: int = 0
    by_position: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """seconds: until its end, first_s: until its first text or call. computed: prompt tokens that were prefilled in
    prompt_s; tokens: of the response, written in decode_s. told: whether a server has told these times itself, else
    they are as seen from here. ids: of the tokens, empty where they are not told. loop: what repeats in what was
    received, empty if nothing does. failed: why there is no answer."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    finish: str = ""
    seconds: float = 0.0
    first_s: float | None = None
    prompt: int = 0
    computed: int = 0
    prompt_s: float = 0.0
    tokens: int = 0
    decode_s: float = 0.0
    told: bool = False
    drafts: Drafts | None = None
    mode: str = ""
    began_in: str = ""
    incidents: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()
    loop: str = ""
    failed: str = ""

    @property
    def fell_back(self) -> bool:
        return bool(self.mode and self.began_in) and self.mode != self.began_in

    def same(self, other: Answer) -> bool:
        """Is it the same to a client?"""
        mine, theirs = ([(c.name, c.arguments) for c in a.calls] for a in (self, other))
        ids = not (self.ids and other.ids) or self.ids == other.ids
        return (self.text, mine, self.failed) == (other.text, theirs, other.failed) and ids


@dataclass(slots=True)
class _Parts:
    """What a stream has brought so far."""

    text: list[str] = field(default_factory=list)
    calls: dict[int, dict[str, str]] = field(default_factory=dict)
    finish: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, Any] = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)
    failed: str = ""
    done: bool = False
    first: float | None = None


class ChatClient:
    """base: up to and without `/v1`. model: empty = the first that the server lists."""

    def __init__(self, http: aiohttp.ClientSession, base: str, key: str = "", model: str = "") -> None:
        self._http, self._base, self._model = http, base.rstrip("/").removesuffix("/v1"), model
        self._headers = {"x-specguard-transcript": "1"} | ({"authorization": f"Bearer {key}"} if key else {})

    async def models(self) -> list[str]:
        """Those whose names can be printed. Raises aiohttp.ClientError, TimeoutError and what is in NONSENSE."""
        url, limit = f"{self._base}/v1/models", aiohttp.ClientTimeout(total=20)
        async with self._http.get(url, headers=self._headers, timeout=limit, allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"status {response.status}")
            body = json.loads(await _body(response))
            return [name for each in body["data"] if (name := str(each["id"])).isprintable()]

    async def metrics(self) -> str:
        """The text of `/metrics`; empty where there is none."""
        try:
            url, limit = f"{self._base}/metrics", aiohttp.ClientTimeout(total=20)
            async with self._http.get(url, headers=self._headers, timeout=limit, allow_redirects=False) as response:
                return await _body(response) if response.status == 200 else ""
        except (aiohttp.ClientError, TimeoutError):
            return ""

    async def ask(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], **fields: Any
    ) -> Answer:
        """fields: further ones of the request."""
        body = {"model": self._model, "messages": list(messages), "stream": True, **fields}
        body["stream_options"] = {"include_usage": True}
        if tools:
            body["tools"] = list(tools)
        parts, reader, began_in = _Parts(), EventReader(), ""
        started = time.perf_counter()
        try:
            async with self._http.post(
                f"{self._base}/v1/chat/completions",
                json=body,
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=REQUEST_S),
                allow_redirects=False,
            ) as response:
                began_in = response.headers.get("x-specguard-mode", "")
                if response.status != 200:
                    parts.failed = f"status {response.status}: {_message(await _body(response))}"
                elif response.content_type == "application/json":
                    parts.failed = "it does not stream: the content type is application/json"
                else:
                    await _stream(response, reader, parts, started)
        except TimeoutError:
            parts.failed = f"no end after {REQUEST_S:.0f} s"
        except aiohttp.ClientError as error:
            parts.failed = _printable(f"{type(error).__name__}: {error}")
        except NONSENSE as error:
            parts.failed = _nonsense(error)
        seconds = time.perf_counter() - started
        try:
            return _answer(parts, seconds, tools, began_in)
        except NONSENSE as error:
            return Answer(seconds=seconds, failed=parts.failed or _nonsense(error))


def _nonsense(error: Exception) -> str:
    return _printable(f"what it sends is no chat completion ({type(error).__name__}: {error})")


async def _stream(response: aiohttp.ClientResponse, reader: EventReader, parts: _Parts, started: float) -> None:
    """Raises what is in NONSENSE."""
    read = 0
    async for chunk in response.content.iter_any():
        read += len(chunk)
        if read > MOST_BYTES:
            parts.failed = f"the response is longer than {MOST_BYTES >> 20} MiB"
            return
        for event in reader.feed(chunk):
            _take(parts, event.data, time.perf_counter() - started)
    if not parts.done and not parts.failed:
        parts.failed = "the stream ended before the response did"


async def _body(response: aiohttp.ClientResponse) -> str:
    """Its beginning, if it is longer than anything that is asked for here."""
    found = bytearray()
    async for chunk in response.content.iter_any():
        found += chunk
        if len(found) > MOST_BYTES:
            break
    return bytes(found[:MOST_BYTES]).decode("utf-8", "replace")


def _take(parts: _Parts, data: str, now: float) -> None:
    if data == "[DONE]":
        parts.done = True
        return
    try:
        chunk = json.loads(data)
    except (ValueError, RecursionError):
        parts.failed = "a frame of the stream is no JSON"
        return
    if chunk.get("error") is not None:
        parts.failed = _message(data) or "an error without a text"
        return
    parts.usage = chunk.get("usage") or parts.usage
    parts.timings = chunk.get("timings") or parts.timings
    parts.own = chunk.get("specguard") or parts.own
    if (told := (chunk.get("metrics") or {}).get("speculative_decoding")) is not None:
        parts.own = parts.own | {"vllm": told}
    for choice in chunk.get("choices") or ():
        delta = choice.get("delta") or {}
        parts.finish = _text(choice.get("finish_reason") or parts.finish)
        if delta.get("content"):
            parts.text.append(_text(delta["content"]))
        for piece in delta.get("tool_calls") or ():
            call = parts.calls.setdefault(int(piece.get("index") or 0), {"id": "", "name": "", "arguments": ""})
            call["id"] = _text(piece.get("id") or call["id"])
            function = piece.get("function") or {}
            call["name"] += _text(function.get("name") or "")
            call["arguments"] += _text(function.get("arguments") or "")
        if parts.first is None and (delta.get("content") or delta.get("tool_calls")):
            parts.first = now


def _answer(parts: _Parts, seconds: float, tools: Sequence[Mapping[str, Any]], began_in: str) -> Answer:
    usage, timings, own = parts.usage, parts.timings, parts.own
    prompt, tokens = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    cached = _count((usage.get("prompt_tokens_details") or {}).get("cached_tokens"))
    told = bool(timings.get("predicted_n"))
    first = parts.first if parts.first is not None else seconds
    text = "".join(parts.text)
    return Answer(
        text=text,
        calls=_judged(parts.calls, tools),
        finish=parts.finish,
        seconds=seconds,
        first_s=parts.first,
        prompt=prompt,
        computed=_count(timings["prompt_n"]) if told else prompt - cached,
        prompt_s=_number(timings["prompt_ms"]) / 1e3 if told else first,
        tokens=_count(timings["predicted_n"]) if told else tokens,
        decode_s=_number(timings["predicted_ms"]) / 1e3 if told else seconds - first,
        told=told,
        drafts=_drafts(timings, own),
        mode=str(own.get("mode", "")),
        began_in=began_in,
        incidents=tuple(_text(each) for each in own.get("incidents") or ()),
        ids=tuple(_count(each) for each in own.get("token_ids") or ()),
        loop=loop_in(text) or next(filter(None, (loop_in(c["arguments"], True) for c in parts.calls.values())), ""),
        failed=parts.failed,
    )


def _drafts(timings: Mapping[str, Any], own: Mapping[str, Any]) -> Drafts | None:
    """From llama.cpp's names, or vLLM's of a request; None where a server tells nothing of drafts."""
    if (told := own.get("vllm")) is not None:
        return _made(told.get("num_draft_tokens"), told.get("num_accepted_draft_tokens"))
    if "draft_n" not in timings:
        return None
    placed = tuple((_count(n), _count(kept)) for n, kept in own.get("drafts_by_position") or ())
    return _made(timings["draft_n"], timings.get("draft_n_accepted"), placed)


def _made(drafted: Any, accepted: Any, placed: tuple[tuple[int, int], ...] = ()) -> Drafts:
    """Raises ValueError where more was accepted than drafted."""
    made = Drafts(_count(drafted), _count(accepted), placed)
    if any(kept > of for of, kept in ((made.drafted, made.accepted), *placed)):
        raise ValueError("more drafts were accepted than made")
    return made


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text is {type(value).__name__}")
    return value


def _number(value: Any) -> float:
    """0 where nothing is told."""
    found = float(value or 0)
    if not 0 <= found <= MOST_COUNT:  # nor is it NaN then
        raise ValueError("a number is out of range")
    return found


def _count(value: Any) -> int:
    return int(_number(value))


def _judged(calls: Mapping[int, Mapping[str, str]], tools: Sequence[Mapping[str, Any]]) -> tuple[Call, ...]:
    declared = [(tool["function"]["name"], tool["function"].get("parameters") or {}) for tool in tools]
    schemas = ToolSchemas.compile(declared)
    found = []
    for index in sorted(calls):
        call = calls[index]
        try:
            violation = schemas.check(call["name"], json.loads(call["arguments"] or "{}"))
            problem = "" if violation is None else f"{violation.detector}: {violation.reason}"
        except (ValueError, RecursionError):
            problem = "tool.json: the arguments are no JSON"
        found.append(Call(call["id"] or f"call_{index}", call["name"], call["arguments"], problem))
    return tuple(found)


def loop_in(text: str, in_call: bool = False) -> str:
    """What the shipped detector of byte loops says of a text that was received, which has no tokens here."""
    found = ByteLoops(channel="tool:0" if in_call else "text").feed(0, text.encode("utf-8", "replace"))
    return next((finding.detector for finding in found if finding.grade >= Grade.FALLBACK), "")


def _message(body: str) -> str:
    try:
        error = json.loads(body)["error"]
        return _printable(str(error["message"] if isinstance(error, dict) else error))
    except NONSENSE:
        return _printable(body)


def _printable(text: str) -> str:
    """What a server says is shown in terminals and reports: no control characters, no halves of characters."""
    return "".join(each if each.isprintable() else " " for each in text[:300])
