"""Reads the `input` of a Responses request: items of a conversation, as messages.

Must not: fetch an item that is only referred to, or fail for ever on a broken call that stays in a client's history.
Invariant: items keep their order. Reasoning, text and calls that follow each other were one turn of the model and
become one message; a system message that is not among the first is folded in place.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from proxy.conversation import Message, PastCall
from proxy.wire.body import arguments_of, brief, refuse, reminder, text_of
from proxy.wire.responses_tools import CUSTOM_INPUT, flat_name

SEALED = "sg1."
"""Marks reasoning of ours in `encrypted_content`: base64 of its text. It hides nothing; it comes back unchanged."""


def seal(text: str) -> str:
    return SEALED + base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()


def unseal(sealed: Any) -> str:
    """ "" for what is not ours or was changed."""
    if not isinstance(sealed, str) or not sealed.startswith(SEALED):
        return ""
    try:
        return base64.b64decode(sealed[len(SEALED) :], validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


def read_input(items: str | Sequence[Mapping[str, Any]], before: Sequence[Message] = ()) -> tuple[Message, ...]:
    """before: what the conversation already holds. Raises RequestError."""
    if isinstance(items, str):
        return (*before, Message("user", items))
    messages = list(before)
    for index, item in enumerate(items):
        _read_item(item, f"input[{index}]", messages)
    return tuple(messages)


def _read_item(item: Mapping[str, Any], where: str, messages: list[Message]) -> None:
    match item.get("type", "message"):
        case "message":
            _read_message(item, where, messages)
        case "reasoning":
            _extend(messages, Message("assistant", "", _reasoning(item, where)))
        case "function_call":
            call = PastCall(_call_id(item, where), _name(item, where), arguments_of(item.get("arguments")))
            _extend(messages, Message("assistant", "", calls=(call,)))
        case "custom_tool_call":
            text = text_of(item.get("input"), f"{where}.input")
            call = PastCall(_call_id(item, where), _name(item, where), {CUSTOM_INPUT: text})
            _extend(messages, Message("assistant", "", calls=(call,)))
        case "function_call_output" | "custom_tool_call_output":
            text = _text(item.get("output"), f"{where}.output")
            messages.append(Message("tool", text, call_id=_call_id(item, where)))
        case "item_reference":
            refuse(where, "an item of an earlier response cannot be referred to; send the item itself")
        case other:
            refuse(f"{where}.type", f"{brief(other)} is not supported; leave the item out")


def _read_message(item: Mapping[str, Any], where: str, messages: list[Message]) -> None:
    role, text = item.get("role"), _text(item.get("content"), f"{where}.content")
    if role in ("system", "developer"):
        add_system(messages, text)
    elif role == "user":
        messages.append(Message("user", text))
    elif role == "assistant":
        _extend(messages, Message("assistant", text))
    else:
        refuse(f"{where}.role", f"{brief(role)} is unknown; use 'user', 'assistant', 'system' or 'developer'")


def add_system(messages: list[Message], text: str) -> None:
    """Joins the first system message while nothing else was said, and is folded in place later."""
    if not messages:
        messages.append(Message("system", text))
    elif len(messages) == 1 and messages[0].role == "system":
        messages[0] = Message("system", f"{messages[0].text}\n\n{text}")
    else:
        messages.append(Message("user", reminder(text)))


def _extend(messages: list[Message], said: Message) -> None:
    """Adds to the assistant's turn if it is not over: calls end its text, text ends its reasoning."""
    last = messages[-1] if messages else None
    new_turn = last is None or last.role != "assistant" or (last.calls and not said.calls)
    if new_turn or last is None or (said.thinking and last.text):
        messages.append(said)
        return
    messages[-1] = replace(
        last,
        text="\n".join(text for text in (last.text, said.text) if text),
        thinking="\n".join(text for text in (last.thinking, said.thinking) if text),
        calls=last.calls + said.calls,
    )


def _text(content: Any, where: str) -> str:
    """Parts are named `input_text` and `output_text` here; a refusal is text like any other."""
    if not isinstance(content, list):
        return text_of(content, where)
    return text_of([_plain(part) for part in content], where)


def _plain(part: Any) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("input_text", "output_text", "summary_text", "reasoning_text"):
        return {"type": "text", "text": part.get("text")}
    return {"type": "text", "text": part.get("refusal")} if kind == "refusal" else part


def _reasoning(item: Mapping[str, Any], where: str) -> str:
    """The whole text if it is there, openly or in our seal, else its summary; somebody else's ciphertext is nothing."""
    return (
        _text(item.get("content"), f"{where}.content")
        or unseal(item.get("encrypted_content"))
        or _text(item.get("summary"), f"{where}.summary")
    )


def _call_id(item: Mapping[str, Any], where: str) -> str:
    found = item.get("call_id")
    if not isinstance(found, str) or not found:
        refuse(f"{where}.call_id", "is missing; a call and its output are joined by it")
    return found


def _name(item: Mapping[str, Any], where: str) -> str:
    name, namespace = item.get("name"), item.get("namespace") or ""
    if not isinstance(name, str) or not name or not isinstance(namespace, str):
        refuse(f"{where}.name", "is missing; name the tool that was called")
    return flat_name(name, namespace)
