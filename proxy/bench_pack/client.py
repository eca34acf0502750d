"""Asks any OpenAI-compatible server, streaming, and measures what comes back.

Must not: know which server it is; what only some servers tell (`timings`, `specguard`, vLLM's numbers) is read where it
is there. Invariant: an answer is always returned; a server that fails is an answer with `failed`.
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
        """Raises aiohttp.ClientError, TimeoutError, ValueError."""
        url = f"{self._base}/v1/models"
        async with self._http.get(url, headers=self._headers, timeout=aiohttp.ClientTimeout(total=20)) as response:
            response.raise_for_status()
            body = await response.json(content_type=None)
            return [str(each["id"]) for each in body["data"]]

    async def metrics(self) -> str:
        """The text of `/metrics`; empty where there is none."""
        try:
            url, limit = f"{self._base}/metrics", aiohttp.ClientTimeout(total=20)
            async with self._http.get(url, headers=self._headers, timeout=limit) as response:
                return await response.text() if response.status == 200 else ""
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
            ) as response:
                began_in = response.headers.get("x-specguard-mode", "")
                if response.status != 200:
                    parts.failed = f"status {response.status}: {_message(await response.text())}"
                else:
                    async for chunk in response.content.iter_any():
                        for event in reader.feed(chunk):
                            _take(parts, event.data, time.perf_counter() - started)
                    if not parts.done and not parts.failed:
                        parts.failed = "the stream ended before the response did"
        except TimeoutError:
            parts.failed = f"no end after {REQUEST_S:.0f} s"
        except aiohttp.ClientError as error:
            parts.failed = f"{type(error).__name__}: {error}"[:300]
        return _answer(parts, time.perf_counter() - started, tools, began_in)


def _take(parts: _Parts, data: str, now: float) -> None:
    if data == "[DONE]":
        parts.done = True
        return
    try:
        chunk = json.loads(data)
    except ValueError:
        parts.failed = "a frame of the stream is no JSON"
        return
    if "error" in chunk:
        parts.failed = _message(data)
        return
    parts.usage = chunk.get("usage") or parts.usage
    parts.timings = chunk.get("timings") or parts.timings
    parts.own = chunk.get("specguard") or parts.own
    if (told := (chunk.get("metrics") or {}).get("speculative_decoding")) is not None:
        parts.own = parts.own | {"vllm": told}
    for choice in chunk.get("choices") or ():
        delta = choice.get("delta") or {}
        parts.finish = choice.get("finish_reason") or parts.finish
        if delta.get("content"):
            parts.text.append(delta["content"])
        for piece in delta.get("tool_calls") or ():
            call = parts.calls.setdefault(piece.get("index", 0), {"id": "", "name": "", "arguments": ""})
            call["id"] = piece.get("id") or call["id"]
            function = piece.get("function") or {}
            call["name"] += function.get("name") or ""
            call["arguments"] += function.get("arguments") or ""
        if parts.first is None and (delta.get("content") or delta.get("tool_calls")):
            parts.first = now


def _answer(parts: _Parts, seconds: float, tools: Sequence[Mapping[str, Any]], began_in: str) -> Answer:
    usage, timings, own = parts.usage, parts.timings, parts.own
    prompt, tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    cached = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
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
        computed=int(timings["prompt_n"]) if told else prompt - cached,
        prompt_s=float(timings["prompt_ms"]) / 1e3 if told else first,
        tokens=int(timings["predicted_n"]) if told else tokens,
        decode_s=float(timings["predicted_ms"]) / 1e3 if told else seconds - first,
        told=told,
        drafts=_drafts(timings, own),
        mode=str(own.get("mode", "")),
        began_in=began_in,
        incidents=tuple(own.get("incidents") or ()),
        ids=tuple(own.get("token_ids") or ()),
        loop=loop_in(text) or next(filter(None, (loop_in(c["arguments"], True) for c in parts.calls.values())), ""),
        failed=parts.failed,
    )


def _drafts(timings: Mapping[str, Any], own: Mapping[str, Any]) -> Drafts | None:
    """From llama.cpp's names, or vLLM's of a request; None where a server tells nothing of drafts."""
    if (told := own.get("vllm")) is not None:
        return Drafts(int(told.get("num_draft_tokens") or 0), int(told.get("num_accepted_draft_tokens") or 0))
    if "draft_n" not in timings:
        return None
    placed = tuple((int(n), int(kept)) for n, kept in own.get("drafts_by_position") or ())
    return Drafts(int(timings["draft_n"]), int(timings.get("draft_n_accepted") or 0), placed)


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
        return str(error["message"] if isinstance(error, dict) else error)[:300]
    except (ValueError, LookupError, TypeError):
        return body[:300]
