"""Reads `POST /v1/responses` into the canonical request.

Must not: silently ignore a field: what cannot be honoured is refused, what is a harmless hint is listed as ignored.
Invariant: instructions come first and are the request's own; a conversation taken up from before inherits none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from proxy.conversation import ChatRequest, Message
from proxy.errors import RequestError
from proxy.wire.body import as_json, brief, check_prefill, read_json, read_model, refuse, session_of, stops_of
from proxy.wire.decoding import GenerationFields
from proxy.wire.demands import Choice, allowed_tools, demanded, text_format
from proxy.wire.extras import listed, of_parts
from proxy.wire.openai_chat_parse import CONSTRAINTS
from proxy.wire.parsed import Parsed
from proxy.wire.responses_input import add_system, read_input
from proxy.wire.responses_tools import ToolNames, flat_name, read_tools

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "background": (None, False),
    "conversation": (None,),
    "prompt": (None,),
    "context_management": (None, []),
}
"""Fields that are not supported, with the values that ask for nothing."""

ECHOED = (
    "instructions",
    "max_output_tokens",
    "metadata",
    "parallel_tool_calls",
    "previous_response_id",
    "reasoning",
    "safety_identifier",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_p",
    "user",
)
WITH_LOGPROBS, WITH_REASONING = "message.output_text.logprobs", "reasoning.encrypted_content"
INCLUDABLE = (WITH_LOGPROBS, WITH_REASONING)

READ = (
    "type id status role content text refusal annotations logprobs summary encrypted_content call_id name namespace "
    "arguments input output"
).split()
TOOL_READ = ("type", "name", "description", "parameters", "strict", "format", "tools")
"""Keys of items and tools that mean something here, or that merely come back."""

Earlier = Callable[[str], tuple[Message, ...] | None]
"""The conversation up to and including a kept response; None = there is none of that id."""


class Body(GenerationFields):
    model: str
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    include: list[str] | None = None
    stop: str | list[str] | None = None
    text: dict[str, Any] | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    prompt_cache_key: str | None = None


@dataclass(frozen=True, slots=True)
class ParsedResponse(Parsed):
    """names: how tools were declared. echo: what the response repeats of the request. history: the conversation without
    the instructions; a later request may take it up if `store`. sealed: reasoning comes in a form to be sent back."""

    names: ToolNames = field(default_factory=ToolNames)
    echo: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Message, ...] = ()
    store: bool = True
    sealed: bool = False


def parse(raw: bytes, default_temperature: float = 0.0, earlier: Earlier = lambda _: None) -> ParsedResponse:
    """Raises RequestError. `request_id` is filled in by the server, and `session` where the body names none."""
    value = read_json(raw)
    body = read_model(Body, value)
    ignored = _check_extras(body)
    declared, names, left_out = read_tools(body.tools or ())
    text = text_format((body.text or {}).get("format"), "text.format")
    single = body.parallel_tool_calls is False
    tools, demands = demanded(declared, _choice(body.tool_choice), "tool_choice", single=single, text=text)
    history = read_input(body.input, _earlier(body, earlier))
    messages = _with_instructions(body.instructions, history)
    if not messages:
        refuse("input", "is empty; send at least one item")
    check_prefill(messages[-1].role, "input")
    request = ChatRequest(
        api="openai.responses",
        model=body.model,
        messages=messages,
        tools=tools,
        sampling=body.sampling(default_temperature),
        max_tokens=body.max_output_tokens,
        stop=stops_of(body.stop, "stop"),
        stream=bool(body.stream),
        include_usage=True,
        session=session_of(body.prompt_cache_key),
        decoding=body.decoding(),
        demands=demands,
        logprobs=_logprobs(body),
    )
    return ParsedResponse(
        request,
        listed(ignored, left_out, _unread(body)),
        names=names,
        echo={name: value[name] for name in ECHOED if value.get(name) is not None},
        history=history,
        store=body.store is not False,
        sealed=WITH_REASONING in (body.include or ()),
    )


def _with_instructions(instructions: str | None, history: tuple[Message, ...]) -> tuple[Message, ...]:
    if not instructions:
        return history
    messages: list[Message] = []
    add_system(messages, instructions)
    if history and history[0].role == "system":
        add_system(messages, history[0].text)
        history = history[1:]
    return (*messages, *history)


def _earlier(body: Body, earlier: Earlier) -> tuple[Message, ...]:
    if not body.previous_response_id:
        return ()
    found = earlier(body.previous_response_id)
    if found is None:
        raise RequestError(
            "previous_response_not_found",
            f"previous_response_id: there is no response {brief(body.previous_response_id)} here; the latest ones are "
            "kept in memory, but not with `store: false`. Send the whole conversation as `input`",
            "previous_response_id",
        )
    return found


def _check_extras(body: Body) -> list[str]:
    extras = body.model_extra or {}
    for name, neutral in NEUTRAL.items():
        if name in extras and extras[name] not in neutral:
            refuse(name, f"is not supported; leave it out or use {as_json(neutral[-1])}")
    for name in CONSTRAINTS:
        if extras.get(name):
            refuse(name, "is not understood here; use `text.format` or a tool with a schema")
    if extras.get("truncation") not in (None, "disabled"):
        refuse("truncation", "input is never cut; use 'disabled', and make the input shorter where it does not fit")
    if not isinstance((body.text or {}).get("format") or {}, dict):
        refuse("text.format", "must be an object, such as {'type': 'text'}")
    handled = (*NEUTRAL, *CONSTRAINTS, "truncation", "metadata", "user", "safety_identifier")
    unasked = [f"include.{name}" for name in body.include or () if name not in INCLUDABLE]
    verbosity = ["text.verbosity"] if (body.text or {}).get("verbosity") else []
    return [name for name in body.unknown if name not in handled] + unasked + verbosity


def _unread(body: Body) -> Iterator[str]:
    """Items come back as they were sent, so what belongs to an item of ours is not told."""
    for item in body.input if isinstance(body.input, list) else ():
        yield from of_parts([item], READ, "input")
    for tool in body.tools or ():
        if tool.get("type") in ("function", "custom", "namespace"):
            yield from of_parts([tool], TOOL_READ, "tools")


def _logprobs(body: Body) -> int | None:
    """How many alternatives are asked for, None if no log-probabilities are."""
    if WITH_LOGPROBS in (body.include or ()):
        return body.top_logprobs or 0
    if body.top_logprobs:
        refuse("top_logprobs", f"needs {WITH_LOGPROBS!r} in `include`; add it, or leave this out")
    return None


def _choice(choice: Any) -> Choice:
    kind = choice.get("type") if isinstance(choice, dict) else choice
    if kind in (None, "auto", "none", "required"):
        return Choice(kind or "auto")
    if kind in ("function", "custom") and isinstance(choice, dict):
        return Choice("named", _name(choice, "tool_choice.name"))
    if kind == "allowed_tools" and isinstance(choice, dict):
        listed = choice.get("tools")
        names = None
        if isinstance(listed, list):
            names = [_name(each, f"tool_choice.tools[{index}]") for index, each in enumerate(listed)]
        return allowed_tools(choice, "tool_choice", names)
    refuse("tool_choice", f"{brief(kind)} is not supported; use 'auto', 'none', 'required' or a function")


def _name(tool: Any, where: str) -> str:
    name = tool.get("name") if isinstance(tool, dict) else None
    if not isinstance(name, str) or not name:
        refuse(where, "must name a tool: {'type': 'function', 'name': ...}")
    namespace = tool.get("namespace")
    return flat_name(name, namespace if isinstance(namespace, str) else "")
