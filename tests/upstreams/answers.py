"""`POST /v1/chat/completions` of a scripted server: what is refused, what is said, and how it gets onto the wire.

Must not: list defects. Invariant: frames are made one at a time, so a stream without an end costs nothing.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.upstreams.dialects import Dialect, Step, Writing
from tests.upstreams.faults import Fault, Frame, Signal, framed
from tests.upstreams.lanes import SEEN, Asked, Lane, Seen
from tests.upstreams.replies import Piece, Reply, ids_of, pieces

if TYPE_CHECKING:
    from tests.upstreams.server import Upstream

PROMPTS: dict[tuple[int, ...], Asked] = {}
"""Prompts by their tokens, of all servers in this process: a plain server can be asked about a response of another."""
DEFAULT_TOKENS = 4096


class Refused(Exception):
    """status, message and type, as the server words them."""

    def __init__(self, status: int, message: str, type_: str | None = None, **more: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.type, self.more = status, message, type_, more


def add_routes(app: web.Application, up: Upstream) -> None:
    async def chat(request: web.Request) -> web.StreamResponse:
        try:
            return await _chat(request, up)
        except Refused as refused:
            return refusal(up.dialect, refused)

    app.router.add_post("/v1/chat/completions", chat)


def refusal(dialect: Dialect, refused: Refused) -> web.Response:
    body = dialect.error(refused.status, refused.message, refused.type)
    body.get("error", body).update(refused.more)
    return web.json_response(body, status=refused.status)


async def _chat(request: web.Request, up: Upstream) -> web.StreamResponse:
    seen: Seen = request[SEEN]
    body = seen.body
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list) or not body["messages"]:
        raise Refused(400, "messages: at least one message is required")
    name = up.lane_of(body.get("model"))
    if name is None:
        raise unknown_model(up.dialect, str(body.get("model")))
    lane = up.lanes[name]
    seen.lane = name
    asked = prompted(up, lane, name, body, len(up.of(name)) - 1)
    faults: Sequence[Fault] = lane.defects if lane.strikes(asked) else ()
    for fault in faults:
        if fault.http is not None:
            return fault.http(asked, up.dialect)
    reply = lane.reply(asked)
    for fault in faults:
        reply = reply if fault.says is None else fault.says(reply, asked)
    counters = up.counters[name]
    reads = body.get("cache_prompt", True) if up.kind == "llamacpp" else True
    cached = up.cached(name, asked.salt, asked.prompt_ids, reads)
    counters.requests += 1
    counters.prompt_tokens += len(asked.prompt_ids)
    counters.cached_tokens += cached
    wanted = body if body.get("stream") else {**body, "stream_options": {"include_usage": True}}
    writing = Writing(
        up.dialect, name, wanted, asked.prompt_ids, cached, lane.speculation is not None, up.reports_drafts, up.new
    )
    said, end = _said(reply, asked, up.dialect, faults)
    steps = _steps(said, lane, counters)
    if not body.get("stream"):
        return web.json_response(whole(list(writing.chunks(steps, end))))
    frames = _frames(writing, steps, end, faults, up.dialect)
    counters.running += 1
    try:
        return await _send(request, frames, up, faults, seen)
    finally:
        counters.running -= 1


def unknown_model(dialect: Dialect, model: str) -> Refused:
    if dialect.kind == "llamacpp":
        return Refused(400, f"model '{model}' not found")
    return Refused(404, f"The model `{model}` does not exist.", None, param="model")


def prompted(up: Upstream, lane: Lane, name: str, body: Mapping[str, Any], number: int) -> Asked:
    """The request as its lane understands it. Raises Refused."""
    messages = body["messages"]
    last = messages[-1]
    prefill, continues = "", False
    if isinstance(last, dict) and last.get("role") == "assistant" and not last.get("tool_calls"):
        continues = _continues(up.dialect, lane, body)
        prefill = _plain(last.get("content")) if continues else ""
    ids: list[int] = list(ids_of(json.dumps(body["tools"]))) if body.get("tools") else []
    for message in messages[:-1] if continues else messages:
        calls = json.dumps(message["tool_calls"]) if message.get("tool_calls") else ""
        ids += ids_of(f"<|im_start|>{message.get('role')}\n{_plain(message.get('content'))}{calls}<|im_end|>\n")
    ids += ids_of("<|im_start|>assistant\n")
    if continues and up.kind == "llamacpp":  # an empty block, where the template knows of thinking
        ids += ids_of("<think>\n\n</think>\n\n")
    ids += ids_of(prefill)
    window = lane.window
    if len(ids) >= window:
        raise _too_long(up.dialect, len(ids), window)
    salt = str(body.get("cache_salt") or body.get("extra_key") or "") if up.kind in ("vllm", "sglang") else ""
    asked = Asked(body, name, number, tuple(ids), prefill, salt)
    PROMPTS[asked.prompt_ids] = asked
    return asked


def _continues(dialect: Dialect, lane: Lane, body: Mapping[str, Any]) -> bool:
    if lane.prefill == "refuses":
        raise Refused(400, "Assistant response prefill is incompatible with enable_thinking.")
    if lane.prefill == "ignores":
        return False
    wants = bool(body.get("continue_final_message"))
    if dialect.kind == "vllm" and wants and body.get("add_generation_prompt", True):
        raise Refused(400, "Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
    if dialect.kind in ("vllm", "sglang"):
        return wants
    if dialect.kind == "llamacpp":
        messages = body["messages"]
        if len(messages) > 1 and messages[-2].get("role") == "assistant":
            raise Refused(400, "Cannot have 2 or more assistant messages at the end of the list.")
        if (body.get("chat_template_kwargs") or {}).get("enable_thinking"):
            raise Refused(400, "Assistant response prefill is incompatible with enable_thinking.")
        return True
    return lane.prefill == "continues"


def _too_long(dialect: Dialect, tokens: int, window: int) -> Refused:
    if dialect.kind == "llamacpp":
        text = f"request ({tokens} tokens) exceeds the available context size ({window} tokens), try increasing it"
        return Refused(400, text, "exceed_context_size_error", n_prompt_tokens=tokens, n_ctx=window)
    text = f"This model's maximum context length is {window} tokens. However, your request has {tokens} input tokens."
    return Refused(400, text, code="context_length_exceeded") if dialect.kind == "openai" else Refused(400, text)


def _plain(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""


def _said(reply: Reply, asked: Asked, dialect: Dialect, faults: Sequence[Fault]) -> tuple[Iterator[Piece], str | None]:
    """The tokens of the response, cut at the limit and at stop strings, and how it ends."""
    stream = pieces(reply.after(asked.prefill), dialect.style)
    if asked.prefill and dialect.kind == "llamacpp":  # which says again what it goes on behind
        stream = chain([Piece(0, "", ("text", asked.prefill))], stream)
    for fault in faults:
        stream = stream if fault.pieces is None else fault.pieces(stream)
    limit = asked.body.get("max_completion_tokens") or asked.body.get("max_tokens") or DEFAULT_TOKENS
    kept = list(islice(stream, limit + 1))
    stops = asked.body.get("stop") or ()
    stops = (stops,) if isinstance(stops, str) else tuple(stops)
    text = ""
    for number, piece in enumerate(kept):
        text += piece.text
        if any(stop in text for stop in stops):
            return iter(kept[:number]), "stop"
    return (iter(kept[:limit]), "length") if len(kept) > limit else (iter(kept), reply.end)


def _steps(said: Iterable[Piece], lane: Lane, counters: Any) -> Iterator[Step]:
    iterator = iter(said)
    speculates = lane.speculation is not None and lane.width > 1
    while group := tuple(islice(iterator, lane.width)):
        drafted = lane.width - 1 if speculates else 0
        accepted = len(group) - 1 if speculates else 0
        if speculates and lane.accepts is not None:
            accepted = round(drafted * lane.accepts)
        counters.generated += len(group)
        counters.drafts += speculates
        counters.drafted += drafted
        counters.accepted += accepted
        yield Step(group, drafted, accepted)


def _frames(
    writing: Writing, steps: Iterable[Step], end: str | None, faults: Sequence[Fault], dialect: Dialect
) -> Iterator[Frame]:
    chunks: Iterator[Any] = writing.chunks(steps, end)
    for fault in faults:
        chunks = chunks if fault.chunks is None else fault.chunks(chunks, dialect)
    frames = framed(chunks)
    for fault in faults:
        frames = frames if fault.frames is None else fault.frames(frames)
    return frames


async def _send(
    request: web.Request, frames: Iterator[Frame], up: Upstream, faults: Sequence[Fault], seen: Seen
) -> web.StreamResponse:
    headers = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
    for fault in faults:
        headers |= fault.headers
    zipped = any(fault.gzip for fault in faults)
    if zipped and "Content-Encoding" not in headers:
        headers["Content-Encoding"] = "gzip"
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    for frame in frames:
        await up.pace()
        if isinstance(frame, Signal):
            await _signalled(request, frame, seen)
            return response
        await response.write(gzip.compress(frame) if zipped else frame)
        seen.frames += 1
    await response.write_eof()
    return response


async def _signalled(request: web.Request, signal: Signal, seen: Seen) -> None:
    transport = request.transport
    if signal is Signal.HANG:
        await asyncio.Event().wait()
    if transport is not None:
        seen.settle("broken")
        transport.abort() if signal is Signal.RESET else transport.close()
    await asyncio.sleep(0)


def whole(chunks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The body of a response that is not streamed, put together from the chunks of one that is."""
    message: dict[str, Any] = {"role": "assistant", "content": None}
    calls: list[dict[str, Any]] = []
    ids: list[int] = []
    logprobs: list[Any] = []
    reason = None
    for chunk in chunks:
        for choice in chunk["choices"]:
            for name, value in choice["delta"].items():
                if name == "tool_calls":
                    _collect(calls, value or ())
                elif name != "role" and value is not None:
                    message[name] = (message.get(name) or "") + value
            reason = choice["finish_reason"] or reason
            ids += choice.get("token_ids") or ()
            logprobs += (choice.get("logprobs") or {}).get("content", ())
    if calls:
        message["tool_calls"] = calls
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": reason,
        "logprobs": {"content": logprobs} if logprobs else None,
    }
    if ids:
        choice["token_ids"] = ids
    head = {name: chunks[0][name] for name in ("id", "created", "model")}
    body = {**head, "object": "chat.completion", "choices": [choice], "usage": chunks[-1]["usage"]}
    if "prompt_token_ids" in chunks[0]:
        body["prompt_token_ids"] = chunks[0]["prompt_token_ids"]
    if "timings" in chunks[-1]:
        body["timings"] = chunks[-1]["timings"]
    return body


def _collect(calls: list[dict[str, Any]], deltas: Sequence[Mapping[str, Any]]) -> None:
    for delta in deltas:
        if delta.get("id"):
            calls.append({"id": delta["id"], "type": "function", "function": {**delta["function"]}})
        else:
            calls[-1]["function"]["arguments"] += delta["function"]["arguments"]
