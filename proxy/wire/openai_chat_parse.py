"""Reads `POST /v1/chat/completions` into the canonical request.

Must not: silently ignore a field: what cannot be honoured is refused, what is a harmless hint is listed as ignored.
Invariant: messages keep their order; a system message that is not the first is folded in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from proxy.conversation import ChatRequest, Message, PastCall, Tool
from proxy.wire.body import (
    Loose,
    arguments_of,
    as_json,
    brief,
    check_prefill,
    read_json,
    read_model,
    refuse,
    reminder,
    session_of,
    stops_of,
    text_of,
)
from proxy.wire.decoding import GenerationFields
from proxy.wire.demands import Choice, allowed_tools, demanded, text_format
from proxy.wire.extras import inside, listed, of_parts
from proxy.wire.parsed import Parsed

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "functions": (None, []),
    "function_call": (None, "auto", "none"),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
}
"""Fields that are not supported yet, with the values that ask for nothing."""

CONSTRAINTS = (
    "grammar json_schema regex ebnf structured_outputs guided_json guided_regex guided_choice guided_grammar"
).split()
"""What other servers take to constrain the output."""

CONTINUATIONS: dict[str, tuple[Any, ...]] = {
    "continue_final_message": (None, False),
    "add_generation_prompt": (None, True),
}
"""Fields of other servers that ask for prefill, with the values that do not."""


class Function(Loose):
    name: str = Field(min_length=1, max_length=256)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolModel(Loose):
    type: str = "function"
    function: Function | None = None


class CallFunction(Loose):
    name: str
    arguments: Any = None


class CallModel(Loose):
    id: str = ""
    type: str = "function"
    function: CallFunction


class MessageModel(Loose):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Any = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[CallModel] | None = None
    tool_call_id: str | None = None


class StreamOptions(Loose):
    include_usage: bool | None = None


class Body(GenerationFields):
    model: str
    messages: list[MessageModel] = Field(min_length=1)
    tools: list[ToolModel] | None = None
    tool_choice: Any = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    stop: str | list[str] | None = None
    response_format: dict[str, Any] | None = None
    prompt_cache_key: str | None = None


def parse(raw: bytes, default_temperature: float = 0.0) -> Parsed:
    """Raises RequestError. `request_id` is filled in by the server, and `session` where the body names none."""
    body = read_model(Body, read_json(raw))
    ignored = _check_extras(body)
    check_prefill(body.messages[-1].role, f"messages[{len(body.messages) - 1}]")
    single = (body.model_extra or {}).get("parallel_tool_calls") is False
    text = text_format(body.response_format, "response_format", "json_schema")
    tools, demands = demanded(_tools(body), _choice(body.tool_choice), "tool_choice", single=single, text=text)
    request = ChatRequest(
        api="openai.chat",
        model=body.model,
        messages=_messages(body.messages),
        tools=tools,
        sampling=body.sampling(default_temperature),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        stop=stops_of(body.stop, "stop"),
        stream=bool(body.stream),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        session=session_of(body.prompt_cache_key),
        decoding=body.decoding(),
        demands=demands,
        logprobs=_logprobs(body),
    )
    return Parsed(request, listed(ignored, _unread(body)))


def _check_extras(body: Body) -> list[str]:
    extras = body.model_extra
    if not extras:
        return []
    for name, neutral in NEUTRAL.items():
        if name in extras and extras[name] not in neutral:
            refuse(name, f"is not supported yet; leave it out or use {as_json(neutral[-1])}")
    for name in CONSTRAINTS:
        if extras.get(name):
            refuse(name, "is not understood here; use `response_format` with a schema, or a strict tool")
    for name, neutral in CONTINUATIONS.items():
        if name in extras and extras[name] not in neutral:
            refuse(name, "continuing a message (prefill) is not supported; leave it out")
    if extras.get("parallel_tool_calls") not in (None, True, False):
        refuse("parallel_tool_calls", "must be true or false")
    return [n for n in body.unknown if n not in (*NEUTRAL, *CONSTRAINTS, *CONTINUATIONS, "parallel_tool_calls")]


def _unread(body: Body) -> Iterator[str]:
    yield from inside(body.messages, "messages")
    for message in body.messages:
        if isinstance(message.content, list):
            yield from of_parts(message.content, ("type", "text", "refusal"), "messages.content")
    yield from inside(body.tools, "tools")
    yield from inside(body.stream_options, "stream_options")


def _logprobs(body: Body) -> int | None:
    """How many alternatives are asked for, None if no log-probabilities are."""
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs:
        refuse("top_logprobs", "needs `logprobs` to be true; set it, or leave this out")
    return None


def _choice(choice: Any) -> Choice:
    kind = choice.get("type") if isinstance(choice, dict) else choice
    if kind in (None, "auto", "none", "required"):
        return Choice(kind or "auto")
    if kind == "function" and isinstance(choice, dict):
        return Choice("named", _function_name(choice, "tool_choice.function.name"))
    if kind == "allowed_tools" and isinstance(choice, dict):
        inner = choice.get("allowed_tools")
        inner = inner if isinstance(inner, dict) else {}
        listed = inner.get("tools")
        names = None
        if isinstance(listed, list):
            names = [_function_name(t, f"tool_choice.allowed_tools.tools[{i}]") for i, t in enumerate(listed)]
        return allowed_tools(inner, "tool_choice.allowed_tools", names)
    refuse("tool_choice", f"{brief(kind)} is not supported; use 'auto', 'none', 'required' or a function")


def _function_name(tool: Any, where: str) -> str:
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        refuse(where, "must name a function: {'type': 'function', 'function': {'name': ...}}")
    return name


def _tools(body: Body) -> tuple[Tool, ...]:
    tools: list[Tool] = []
    for index, tool in enumerate(body.tools or ()):
        if tool.type != "function" or tool.function is None:
            refuse(f"tools[{index}].type", f"{brief(tool.type)} is not supported; use 'function'")
        function = tool.function
        if any(function.name == other.name for other in tools):
            field = f"tools[{index}].function.name"
            refuse(field, f"{function.name!r} is declared twice; names must be unique")
        tools.append(Tool(function.name, function.description or "", function.parameters or {}, bool(function.strict)))
    return tuple(tools)


def _messages(models: list[MessageModel]) -> tuple[Message, ...]:
    messages: list[Message] = []
    for index, model in enumerate(models):
        content = _with_refusals(model) if model.role == "assistant" else model.content
        text = content if isinstance(content, str) else text_of(content, f"messages[{index}].content")
        if model.role in ("system", "developer"):
            if not messages:
                messages.append(Message("system", text))
            elif len(messages) == 1 and messages[0].role == "system":
                messages[0] = Message("system", f"{messages[0].text}\n\n{text}")
            else:
                messages.append(Message("user", reminder(text)))
        elif model.role == "tool":
            if not model.tool_call_id:
                refuse(f"messages[{index}].tool_call_id", "is missing; name the call that this result answers")
            messages.append(Message("tool", text, call_id=model.tool_call_id))
        elif model.role == "assistant":
            calls = tuple(
                [
                    PastCall(call.id, call.function.name, arguments_of(call.function.arguments))
                    for call in model.tool_calls or ()
                ]
            )
            thinking = model.reasoning_content or model.reasoning or ""
            messages.append(Message("assistant", text, thinking, calls))
        else:
            messages.append(Message("user", text))
    return tuple(messages)


def _with_refusals(model: MessageModel) -> Any:
    """What a model once said instead of an answer is text like any other."""
    if model.content is None:
        return model.refusal
    if not isinstance(model.content, list):
        return model.content
    return [
        {"type": "text", "text": part.get("refusal")}
        if isinstance(part, dict) and part.get("type") == "refusal"
        else part
        for part in model.content
    ]
