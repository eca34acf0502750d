"""Reads the `input` items of OpenAI's Responses API into canonical messages, with the calls that belong to one turn.

Must not: know the rest of that API's body, or fail on broken arguments of a past call.
Invariant: items keep their order; a call and its output keep their `call_id`; neighbouring items of the assistant
(reasoning, text, calls) are one message, since the API sends each call of one response as an item of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from proxy.conversation import Message, PastCall
from proxy.wire.body import arguments_of, brief, refuse, reminder

_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
_OUTPUTS = ("function_call_output", "custom_tool_call_output")
_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


def messages_of(items: str | Sequence[Any]) -> tuple[Message, ...]:
    """Raises RequestError for an item that is none. Reasoning that is encrypted is left out: it has no text here."""
    if isinstance(items, str):
        return (Message("user", items),)
    messages: list[Message] = []
    turn = _Turn()
    for index, item in enumerate(items):
        where = f"input[{index}]"
        if not isinstance(item, dict):
            refuse(where, "must be an object")
        kind = item.get("type", "message")
        if kind == "reasoning":
            thoughts = [_text(item.get(field), f"{where}.{field}") for field in ("content", "summary")]
            turn.thinking += filter(None, thoughts)
        elif kind in _CALLS:
            turn.calls.append(_call(item, _CALLS[kind], where))
        elif kind == "message" and item.get("role") == "assistant":
            turn.texts.append(_text(item.get("content"), f"{where}.content"))
        else:
            turn.close(messages)
            messages.append(_other(item, kind, where, not messages))
    turn.close(messages)
    return tuple(messages)


class _Turn:
    """Items of the assistant that follow each other."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.thinking: list[str] = []
        self.calls: list[PastCall] = []

    def close(self, messages: list[Message]) -> None:
        if self.texts or self.thinking or self.calls:
            thinking = "\n".join(self.thinking)
            messages.append(Message("assistant", "\n".join(self.texts), thinking, tuple(self.calls)))
        self.texts, self.thinking, self.calls = [], [], []


def _call(item: dict[str, Any], field: str, where: str) -> PastCall:
    name, call_id = item.get("name"), item.get("call_id")
    if not isinstance(name, str) or not isinstance(call_id, str):
        refuse(where, "a call needs a string `name` and `call_id`")
    if isinstance(item.get("namespace"), str):
        name = f"{item['namespace']}__{name}"
    raw = item.get(field)
    return PastCall(call_id, name, arguments_of(raw) if field == "arguments" else {"input": str(raw or "")})


def _other(item: dict[str, Any], kind: Any, where: str, is_first: bool) -> Message:
    if kind in _OUTPUTS:
        if not isinstance(item.get("call_id"), str):
            refuse(f"{where}.call_id", "is missing; name the call that this output answers")
        return Message("tool", _text(item.get("output"), f"{where}.output"), call_id=item["call_id"])
    if kind != "message":
        refuse(f"{where}.type", f"items of type {brief(kind)} are not supported")
    text = _text(item.get("content"), f"{where}.content")
    match item.get("role"):
        case "user":
            return Message("user", text)
        case "system" | "developer":
            return Message("system", text) if is_first else Message("user", reminder(text))
        case role:
            refuse(f"{where}.role", f"{brief(role)} is unknown; use user, assistant, system or developer")


def _text(content: Any, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        refuse(where, "must be a string or a list of parts")
    texts: list[str] = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "refusal":
            texts.append(str(part.get("refusal") or ""))
        elif kind in _TEXTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            refuse(f"{where}[{index}]", f"parts of type {brief(kind)} are not supported; this model reads text only")
    return "\n".join(texts)
