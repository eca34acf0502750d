"""Reads `POST /v1/messages` (and count_tokens) into the canonical request.

Must not: silently ignore a field: what cannot be honoured is refused, what is a harmless hint is listed as ignored.
Invariant: messages keep their order; billing headers that clients put into the system prompt are dropped, because
they change with every session and would defeat prefix reuse.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from proxy.conversation import ChatRequest, Message, PastCall, Tool
from proxy.wire.body import (
    Loose,
    arguments_of,
    brief,
    check_prefill,
    part_text,
    read_json,
    read_model,
    refuse,
    reminder,
    session_of,
    stops_of,
    text_of,
)
from proxy.wire.decoding import GenerationFields
from proxy.wire.demands import Choice, demanded, text_format
from proxy.wire.extras import inside, listed, of_parts
from proxy.wire.parsed import Parsed

BILLING = re.compile(r"\A\s*x-anthropic-billing-header:[^\n]*\n*")
HOSTED = re.compile(r"(web_search|web_fetch|code_execution|tool_search_tool|mcp_toolset|advisor)(_|$)")
"""Tools that the API's own servers run. Nobody runs them here, so the model is not told of them."""
READ = ("type", "text", "thinking", "signature", "data", "id", "name", "input", "tool_use_id", "content", "tool_name")
"""Keys of content blocks that mean something here, or that merely come back."""
SESSION = re.compile(r"_session_([A-Za-z0-9-]{1,64})\Z")


class ToolModel(Loose):
    name: str = Field(default="", max_length=256)
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class MessageModel(Loose):
    role: Literal["user", "assistant", "system"]
    content: Any


class Body(GenerationFields):
    """The API itself knows temperature, top_p and top_k; the other sampling fields are an extension."""

    model: str
    messages: list[MessageModel] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    system: Any = None
    tools: list[ToolModel] | None = None
    tool_choice: Any = None
    stop_sequences: list[str] | None = None
    top_k: int | None = Field(default=None, ge=0)
    stream: bool | None = None
    thinking: dict[str, Any] | None = None
    mcp_servers: list[Any] | None = None
    output_config: dict[str, Any] | None = None
    output_format: Any = None
    metadata: dict[str, Any] | None = None


def parse(raw: bytes, default_temperature: float = 0.0, *, counting: bool = False) -> Parsed:
    """Raises RequestError. counting: the body of count_tokens, where max_tokens may be absent."""
    body = read_model(Body, read_json(raw))
    if body.max_tokens is None and not counting:
        refuse("max_tokens", "is required; state how many tokens may be generated")
    _check_promises(body)
    if not counting:
        check_prefill(body.messages[-1].role, f"messages[{len(body.messages) - 1}]")
    declared, ignored = _tools(body)
    choice = _choice(body.tool_choice)
    single = bool((body.tool_choice or {}).get("disable_parallel_tool_use"))
    tools, demands = demanded(declared, choice, "tool_choice", single=single, text=_format(body))
    if not tools:
        ignored = []
    thinking = (body.thinking or {}).get("type") != "disabled"
    if body.thinking and thinking:
        ignored.append("thinking")
    ignored += ["metadata"] * bool(body.metadata)
    ignored += [f"output_config.{name}" for name in body.output_config or {} if name != "format"]
    request = ChatRequest(
        api="anthropic.messages",
        model=body.model,
        messages=_messages(body),
        tools=tools,
        sampling=body.sampling(default_temperature),
        max_tokens=body.max_tokens,
        stop=stops_of(body.stop_sequences, "stop_sequences"),
        stream=bool(body.stream),
        include_usage=True,
        session=_session(body.metadata),
        decoding=body.decoding(),
        demands=demands,
    )
    return Parsed(request, listed(sorted([*ignored, *body.unknown]), _unread(body)), thinking)


def _unread(body: Body) -> Iterator[str]:
    yield from of_parts(body.system, READ, "system")
    yield from inside(body.messages, "messages")
    for message in body.messages:
        yield from of_parts(message.content, READ, "messages.content")
    yield from inside([tool for tool in body.tools or () if not HOSTED.match(tool.type or "")], "tools")


def _check_promises(body: Body) -> None:
    """Refuses what a client would rely on and nobody here can keep."""
    for name in ("logprobs", "top_logprobs"):
        if (body.model_extra or {}).get(name):
            refuse(name, "this API has no place for log-probabilities; leave it out, or use /v1/chat/completions")
    if body.mcp_servers:
        refuse("mcp_servers", "this server connects to no other; connect in the client and declare the tools")


def _format(body: Body) -> tuple[Mapping[str, Any] | None, str]:
    """The form of the text; `output_format` is the older name of the field."""
    config = (body.output_config or {}).get("format")
    field, value = ("output_config.format", config) if config else ("output_format", body.output_format)
    if value and (not isinstance(value, dict) or value.get("type") != "json_schema"):
        refuse(field, "must be {'type': 'json_schema', 'schema': {...}}")
    return text_format(value or None, field)


def _choice(choice: Any) -> Choice:
    if choice is not None and not isinstance(choice, dict):
        refuse("tool_choice", f"{brief(choice)} is no object; use {{'type': 'auto'}}, 'any', 'none' or 'tool'")
    kind = (choice or {}).get("type", "auto")
    if choice is not None and kind == "tool":
        name = choice.get("name")
        if not isinstance(name, str) or not name:
            refuse("tool_choice.name", "is missing; name the tool that must be called")
        return Choice("named", name)
    if kind not in ("auto", "none", "any"):
        refuse("tool_choice.type", f"{brief(kind)} is unknown; use 'auto', 'any', 'tool' or 'none'")
    return Choice("required" if kind == "any" else kind)


def _session(metadata: dict[str, Any] | None) -> str:
    """The session in `metadata.user_id`, in the forms that agents put it there. A user alone is no conversation."""
    user = (metadata or {}).get("user_id")
    if not isinstance(user, str):
        return ""
    if found := SESSION.search(user):
        return found[1]
    try:
        value = json.loads(user)
    except (ValueError, RecursionError):
        return ""
    return session_of(value.get("session_id")) if isinstance(value, dict) else ""


def _tools(body: Body) -> tuple[tuple[Tool, ...], list[str]]:
    """The declared tools, and the names of those that are left out because nobody here runs them."""
    tools: list[Tool] = []
    hosted: list[str] = []
    for index, tool in enumerate(body.tools or ()):
        if tool.type is not None and HOSTED.match(tool.type):
            hosted.append(f"tools.{tool.name or tool.type}")
            continue
        if tool.type not in (None, "custom"):
            refuse(f"tools[{index}].type", f"{brief(tool.type)} is unknown here; declare the tool with an input_schema")
        if not tool.name:
            refuse(f"tools[{index}].name", "is missing; every tool needs a name")
        if any(tool.name == other.name for other in tools):
            refuse(f"tools[{index}].name", f"{tool.name!r} is declared twice; names must be unique")
        tools.append(Tool(tool.name, tool.description or "", tool.input_schema or {}, bool(tool.strict)))
    if hosted and not tools:
        refuse("tools", "tools that the API's own servers run are not available here; declare tools of your own")
    return tuple(tools), hosted


def _messages(body: Body) -> tuple[Message, ...]:
    messages: list[Message] = []
    system = _system(body.system)
    if system:
        messages.append(Message("system", system))
    for index, model in enumerate(body.messages):
        where = f"messages[{index}].content"
        if model.role == "system":
            messages.append(Message("user", reminder(text_of(model.content, where))))
        elif model.role == "assistant":
            messages.append(_assistant(model.content, where))
        else:
            messages += _user(model.content, where)
    return tuple(messages)


def _system(system: Any) -> str:
    if isinstance(system, list):
        return text_of([part for part in map(_without_billing, system) if part is not None], "system")
    return text_of(BILLING.sub("", system) if isinstance(system, str) else system, "system")


def _without_billing(part: Any) -> Any:
    """A part without the billing line; None if that was all of it."""
    if not isinstance(part, dict) or not isinstance(part.get("text"), str) or not BILLING.match(part["text"]):
        return part
    rest = BILLING.sub("", part["text"])
    return part | {"text": rest} if rest else None


def _assistant(content: Any, where: str) -> Message:
    if isinstance(content, str):
        return Message("assistant", content)
    texts: list[str] = []
    thinking: list[str] = []
    calls: list[PastCall] = []
    for index, block in enumerate(_blocks(content, where)):
        kind, at = block.get("type"), f"{where}[{index}]"
        if kind == "text":
            texts.append(part_text(block, at))
        elif kind == "thinking":
            if isinstance(block.get("thinking"), str):
                thinking.append(block["thinking"])
        elif kind == "redacted_thinking":
            continue
        elif kind == "tool_use":
            if not isinstance(block.get("name"), str) or not isinstance(block.get("id"), str):
                refuse(at, "a tool_use block needs a string `id` and `name`")
            calls.append(PastCall(block["id"], block["name"], arguments_of(block.get("input"))))
        else:
            refuse(at, f"blocks of type {brief(kind)} are not supported in assistant messages")
    return Message("assistant", "\n".join(texts), "\n".join(thinking), tuple(calls))


def _user(content: Any, where: str) -> list[Message]:
    """Tool results become messages of their own, in order; neighbouring text blocks are joined."""
    if isinstance(content, str):
        return [Message("user", content)]
    messages: list[Message] = []
    texts: list[str] = []
    for index, block in enumerate(_blocks(content, where)):
        if block.get("type") != "tool_result":
            texts.append(part_text(block, f"{where}[{index}]"))
            continue
        if not isinstance(block.get("tool_use_id"), str):
            refuse(f"{where}[{index}].tool_use_id", "is missing; name the call that this result answers")
        if texts:
            messages.append(Message("user", "\n".join(texts)))
            texts = []
        result = text_of(_without_references(block.get("content")), f"{where}[{index}].content")
        messages.append(Message("tool", result, call_id=block["tool_use_id"]))
    if texts:
        messages.append(Message("user", "\n".join(texts)))
    return messages


def _without_references(content: Any) -> Any:
    """A tool search answers with references to tools; the model reads their names."""
    if not isinstance(content, list):
        return content
    return [
        {"type": "text", "text": f"tool {block.get('tool_name')} is available"}
        if isinstance(block, dict) and block.get("type") == "tool_reference"
        else block
        for block in content
    ]


def _blocks(content: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        refuse(where, "must be a string or a list of content blocks")
    return content
