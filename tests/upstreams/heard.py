"""What a client hears of a response, by each of the three APIs, told alike; streamed or not.

Must not: forgive; what an API does not allow is for the order checkers, what is missing stays missing here.
Invariant: text and calls are those that a client would show and run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.proxy.live import Answer, payloads

Api = Literal["chat", "responses", "messages"]
APIS: tuple[Api, ...] = ("chat", "responses", "messages")
LIMITS = frozenset({"length", "max_tokens", "incomplete"})


@dataclass(slots=True)
class Heard:
    """calls: names and arguments as text. end: as the API calls it, None = there was none. error: of the stream or of
    the answer."""

    text: str = ""
    thinking: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    end: str | None = None
    error: str | None = None
    status: int = 200

    @property
    def parsed(self) -> list[tuple[str, Any]]:
        """Raises ValueError for arguments that are no JSON."""
        return [(name, json.loads(arguments)) for name, arguments in self.calls]

    @property
    def is_cut(self) -> bool:
        return self.end in LIMITS


def hear(api: Api, answer: Answer) -> Heard:
    heard = Heard(status=answer.status)
    if answer.status != 200:
        body = answer.json
        heard.error = body["error"]["message"]
        return heard
    for event in payloads(answer.body):
        if event != "[DONE]":
            READERS[api](heard, event)
    return heard


def hear_whole(api: Api, answer: Answer) -> Heard:
    """Of a response that is not streamed."""
    body, heard = answer.json, Heard(status=answer.status)
    if answer.status != 200:
        heard.error = body["error"]["message"]
        return heard
    if api == "chat":
        (choice,) = body["choices"]
        message, heard.end = choice["message"], choice["finish_reason"]
        heard.text, heard.thinking = message["content"] or "", message.get("reasoning_content") or ""
        calls = [part["function"] for part in message.get("tool_calls") or ()]
        heard.calls = [(call["name"], call["arguments"]) for call in calls]
        return heard
    heard.end = body["status" if api == "responses" else "stop_reason"]
    for item in body["output" if api == "responses" else "content"]:
        match item["type"]:
            case "text":
                heard.text += item["text"]
            case "message":
                heard.text += "".join(part["text"] for part in item["content"])
            case "thinking":
                heard.thinking += item["thinking"]
            case "reasoning":
                heard.thinking += "".join(part["text"] for part in item["content"])
            case "tool_use":
                heard.calls.append((item["name"], json.dumps(item["input"])))
            case "function_call":
                heard.calls.append((item["name"], item["arguments"]))
    return heard


def _chat(heard: Heard, event: Mapping[str, Any]) -> None:
    if "error" in event:
        heard.error = event["error"]["message"]
        return
    for choice in event["choices"]:
        delta = choice["delta"]
        heard.text += delta.get("content") or ""
        heard.thinking += delta.get("reasoning_content") or ""
        for part in delta.get("tool_calls") or ():
            function = part["function"]
            while len(heard.calls) <= part["index"]:
                heard.calls.append(("", ""))
            name, arguments = heard.calls[part["index"]]
            new = (name + (function.get("name") or ""), arguments + (function.get("arguments") or ""))
            heard.calls[part["index"]] = new
        heard.end = choice["finish_reason"] or heard.end


def _responses(heard: Heard, event: Mapping[str, Any]) -> None:
    match event["type"]:
        case "response.output_text.delta":
            heard.text += event["delta"]
        case "response.reasoning_text.delta" | "response.reasoning_summary_text.delta":
            heard.thinking += event["delta"]
        case "response.output_item.done" if event["item"]["type"] == "function_call":
            heard.calls.append((event["item"]["name"], event["item"]["arguments"]))
        case "response.completed" | "response.incomplete":
            heard.end = event["response"]["status"]
        case "response.failed":
            heard.error = event["response"]["error"]["message"]
        case "error":
            heard.error = event["message"]


def _messages(heard: Heard, event: Mapping[str, Any]) -> None:
    match event["type"]:
        case "content_block_start" if event["content_block"]["type"] == "tool_use":
            heard.calls.append((event["content_block"]["name"], ""))
        case "content_block_delta":
            delta = event["delta"]
            heard.text += delta.get("text", "")
            heard.thinking += delta.get("thinking", "")
            if "partial_json" in delta:
                name, arguments = heard.calls[-1]
                heard.calls[-1] = (name, arguments + delta["partial_json"])
        case "message_delta":
            heard.end = event["delta"]["stop_reason"]
        case "error":
            heard.error = event["error"]["message"]


READERS = {"chat": _chat, "responses": _responses, "messages": _messages}
