"""From a canonical conversation to a prompt: what the chat template gets, and where the prompt may branch.

Must not: know an engine; rendering and tokenising are given to it.
Invariant: tool arguments and schemas reach the template as plain dicts and lists, whatever a wire module parsed into.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from proxy.conversation import Message, Tool

Render = Callable[[Sequence[dict[str, Any]], Sequence[dict[str, Any]]], str]
Encode = Callable[[str], list[int]]

MAX_HEADS = 32


@dataclass(slots=True)
class Prompter:
    """render: the model's chat template; encode: its tokenizer. Both may raise what they like."""

    render: Render
    encode: Encode
    _heads: OrderedDict[str, int] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)  # prompts are made on several threads

    def tokens(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[int]:
        """The prompt."""
        return self.encode(self.render([as_template(m) for m in messages], [as_function(t) for t in tools]))

    def branch(self, messages: Sequence[Message], tools: Sequence[Tool], prompt: Sequence[int]) -> int:
        """How many tokens of the prompt are system prompt and tools: what an agent's conversations have in common.

        0 if there is nothing of the kind. Found by rendering the same head with another question behind it; remembered
        for the last few heads, because an agent sends the same one with every request.
        """
        system = []
        for message in messages:
            if message.role != "system":
                break
            system.append(message)
        if not system and not tools:
            return 0
        head = json.dumps([[m.text for m in system], [as_function(t) for t in tools]])
        with self._lock:
            if head in self._heads:
                self._heads.move_to_end(head)
                return min(self._heads[head], len(prompt))
        other = self.tokens([*system, Message("user", "\N{BULLET}")], tools)
        differ = (i for i, (a, b) in enumerate(zip(prompt, other, strict=False)) if a != b)
        shared = next(differ, min(len(prompt), len(other)))
        with self._lock:
            self._heads[head] = shared
            while len(self._heads) > MAX_HEADS:
                self._heads.popitem(last=False)
        return shared


def as_template(message: Message) -> dict[str, Any]:
    """A message as chat templates expect it; tool arguments stay objects."""
    fields: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.thinking:
        fields["reasoning_content"] = message.thinking
    if message.calls:
        fields["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": dict(c.arguments)}}
            for c in message.calls
        ]
    if message.role == "tool":
        fields["tool_call_id"] = message.call_id
    return fields


def as_function(tool: Tool) -> dict[str, Any]:
    """A tool in the form that chat templates expect."""
    # through JSON, so that the template sees plain dicts and lists
    try:
        parameters = orjson.loads(orjson.dumps(dict(tool.parameters)))
    except orjson.JSONEncodeError:  # nested more deeply than a client's body may be, or a number of hundreds of digits
        parameters = json.loads(json.dumps(dict(tool.parameters)))
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }
