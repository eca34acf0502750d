"""What a client of each API is told by a stream, in one form for all of them.

Must not: forgive a stream anything; its order is checked by the encoders' own tests.
Invariant: `error` is set, or the stream came to the end that its API knows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tests.proxy.live import (
    ANTHROPIC_TOOLS,
    CHAT,
    MESSAGES,
    OPENAI_TOOLS,
    RESPONSES,
    RESPONSES_TOOLS,
    payloads,
)

APIS = (CHAT, RESPONSES, MESSAGES)
TOOLS: dict[str, list[Any]] = {CHAT: OPENAI_TOOLS, RESPONSES: RESPONSES_TOOLS, MESSAGES: ANTHROPIC_TOOLS}


@dataclass(slots=True)
class Told:
    """end: the API's word for how it ended, "" = it did not. output_tokens: by the usage at the end."""

    text: str = ""
    thinking: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    end: str = ""
    error: str = ""
    output_tokens: int | None = None


def body(api: str, **fields: Any) -> dict[str, Any]:
    user = [{"role": "user", "content": "go"}]
    base: dict[str, Any] = {"model": "fast", "stream": True, "tools": TOOLS[api], "temperature": 0}
    match api:
        case "/v1/responses":
            base["input"] = user
        case "/v1/messages":
            base |= {"messages": user, "max_tokens": 4000, "thinking": {"type": "enabled", "budget_tokens": 1024}}
        case _:
            base |= {"messages": user, "stream_options": {"include_usage": True}}
    return base | fields


def told(api: str, status: int, answer: bytes) -> Told:
    if status != 200:
        return Told(error=str(json.loads(answer)["error"]["message"]))
    return {CHAT: _chat, RESPONSES: _responses, MESSAGES: _messages}[api](answer)


def _chat(answer: bytes) -> Told:
    found = Told()
    for chunk in payloads(answer):
        if chunk == "[DONE]":
            continue
        if "error" in chunk:
            found.error = str(chunk["error"]["message"])
            continue
        if chunk.get("usage"):
            found.output_tokens = chunk["usage"]["completion_tokens"]
        for choice in chunk["choices"]:
            delta = choice["delta"]
            found.text += delta.get("content") or ""
            found.thinking += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls") or ():
                found.calls.append((call["function"]["name"], json.loads(call["function"]["arguments"])))
            found.end = choice["finish_reason"] or found.end
    return found


def _responses(answer: bytes) -> Told:
    found = Told()
    for event in payloads(answer):
        match event["type"]:
            case "response.output_text.delta":
                found.text += event["delta"]
            case "response.reasoning_text.delta":
                found.thinking += event["delta"]
            case "response.output_item.done" if event["item"]["type"] == "function_call":
                found.calls.append((event["item"]["name"], json.loads(event["item"]["arguments"])))
            case "response.completed" | "response.incomplete":
                found.end = event["response"]["status"]
                found.output_tokens = event["response"]["usage"]["output_tokens"]
            case "response.failed":
                found.error = str(event["response"]["error"]["message"])
    return found


def _messages(answer: bytes) -> Told:
    found = Told()
    open_call: list[str] = []
    name = ""
    for event in payloads(answer):
        match event["type"]:
            case "content_block_start" if event["content_block"]["type"] == "tool_use":
                name, open_call = event["content_block"]["name"], [""]
            case "content_block_delta":
                delta = event["delta"]
                found.text += delta.get("text", "")
                found.thinking += delta.get("thinking", "")
                if delta["type"] == "input_json_delta":
                    open_call.append(delta["partial_json"])
            case "content_block_stop" if open_call:
                found.calls.append((name, json.loads("".join(open_call) or "{}")))
                open_call = []
            case "message_delta":
                found.end = event["delta"]["stop_reason"]
                found.output_tokens = event["usage"]["output_tokens"]
            case "error":
                found.error = str(event["error"]["message"])
    return found
