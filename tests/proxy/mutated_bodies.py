"""Request bodies that were valid until something happened to them: what broken clients and gateways send.

Must not: draw from anything but the seed, so that a body that did harm can be made again by its number.
Invariant: body `n` of a path is the same in every run.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

from tests.proxy.live import CHAT, COUNT, LS_SCHEMA, MESSAGES, RESPONSES

WORDS = ["", "x", "user", "tool", "assistant", "function", "object", "auto", "required", "ls", "text", "null", "\x00"]
NASTY = [
    "\ud800",
    "é👋\u2028",
    "</think>",
    "<tool_call>",
    "{{ 7*7 }}",
    "{% raw %}",
    "a" * 5000,
    "../../etc",
    "NaN",
    "$ref",
]
NUMBERS = [0, 1, -1, 2, 0.5, -0.0, 1e308, -1e308, 2**31, 2**63, 2**64, -(2**63), 10**30, 1e-320]
OTHERS = [None, True, False, [], {}, [[]], [None], {"type": "object"}, {"$ref": "#"}, {"$ref": "http://127.0.0.1:1/"}]
SCHEMAS = [
    {"type": "objekt"},
    {"$ref": "#/$defs/none"},
    {"pattern": "^(a+)+$"},
    {"pattern": "("},
    {"enum": []},
    {"type": ["string", "null"], "minLength": -1},
    {"allOf": [{"$ref": "#"}]},
    {"properties": {"path": {"$ref": "#/properties/path"}}},
    {"minimum": "a"},
    False,
]
TEXTS = {"type": "json_schema", "json_schema": {"name": "n", "schema": LS_SCHEMA}}
SHARED: dict[str, Any] = {
    "model": "scripted",
    "stream": False,
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 20,
    "min_p": 0.05,
    "seed": 7,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "repetition_penalty": 1.1,
    "logit_bias": {"7": -1},
    "speculative": {"enabled": True, "types": ["mtp", "ngram"], "n_max": 4},
    "kv": "full",
    "metadata": {"user_id": "u_session_1"},
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "ls", "arguments": '{"path":"src"}'}}
VALID: dict[str, dict[str, Any]] = {
    CHAT: SHARED
    | {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "look"}]},
            {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "a.py"},
            {"role": "user", "content": "go on"},
        ],
        "tools": [{"type": "function", "function": {"name": "ls", "parameters": LS_SCHEMA, "strict": False}}],
        "tool_choice": {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "ls"}}]},
        },
        "parallel_tool_calls": True,
        "max_completion_tokens": 30,
        "stop": ["END"],
        "stream_options": {"include_usage": True},
        "response_format": {"type": "text"},
        "logprobs": True,
        "top_logprobs": 2,
        "prompt_cache_key": "k",
        "user": "u",
    },
    RESPONSES: SHARED
    | {
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "look"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"type": "function_call", "call_id": "c1", "name": "ls", "arguments": '{"path":"src"}'},
            {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "a.py"}]},
            {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "*** Begin"},
            {"type": "custom_tool_call_output", "call_id": "c2", "output": "done"},
            {"type": "message", "role": "developer", "content": "go on"},
        ],
        "instructions": "Be brief.",
        "tools": [
            {"type": "function", "name": "ls", "parameters": LS_SCHEMA, "strict": False},
            {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark", "definition": "s: x"}},
            {"type": "namespace", "name": "fs", "tools": [{"type": "function", "name": "read"}]},
            {"type": "web_search"},
        ],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "ls"}]},
        "max_output_tokens": 30,
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "reasoning": {"effort": "low"},
        "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
        "top_logprobs": 2,
        "store": True,
        "previous_response_id": None,
        "truncation": "disabled",
    },
    MESSAGES: SHARED
    | {
        "max_tokens": 30,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "look"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "toolu_1", "name": "ls", "input": {"path": "src"}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "a.py"}]},
        ],
        "tools": [{"name": "ls", "input_schema": LS_SCHEMA}, {"type": "web_search_20250305", "name": "web_search"}],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "stop_sequences": ["END"],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "output_config": {"effort": "high"},
        "context_management": {"edits": []},
    },
}
VALID[COUNT] = VALID[MESSAGES]
Place = tuple[Any, Any]
"""A container and where in it."""


def mutated(path: str, number: int) -> bytes:
    """The body of that number: one to four accidents in the object, then perhaps one in its bytes."""
    draw = random.Random(f"{path}#{number}")
    body = copy.deepcopy(VALID[path])
    body["stream"] = draw.random() < 0.4
    for _ in range(draw.randint(1, 4)):
        container, at = draw.choice(_places(body))
        draw.choice(ACCIDENTS)(draw, container, at)
    raw = json.dumps(body, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")
    return draw.choice(BYTES)(draw, raw) if draw.random() < 0.1 else raw


def _places(body: dict[str, Any]) -> list[Place]:
    found: list[Place] = []
    containers: list[Any] = [body]
    for container in containers:  # grows as it is read
        for at in container if isinstance(container, dict) else range(len(container)):
            found.append((container, at))
            if isinstance(container[at], dict | list):
                containers.append(container[at])
    return found


def _junk(draw: random.Random) -> Any:
    return copy.deepcopy(draw.choice(draw.choice([WORDS, NASTY, NUMBERS, OTHERS, SCHEMAS])))


def _replaced(draw: random.Random, container: Any, at: Any) -> None:
    container[at] = _junk(draw)


def _removed(_: random.Random, container: Any, at: Any) -> None:
    del container[at]


def _wrapped(draw: random.Random, container: Any, at: Any) -> None:
    container[at] = draw.choice(
        [[container[at]], {"type": container[at]}, {"value": container[at]}, str(container[at])]
    )


def _doubled(_: random.Random, container: Any, at: Any) -> None:
    if isinstance(container, list):
        container.insert(at, copy.deepcopy(container[at]))
    else:
        container[f"{at}2"] = container[at]


def _moved(draw: random.Random, container: Any, at: Any) -> None:
    if isinstance(container, list):
        draw.shuffle(container)
    else:
        container[draw.choice(WORDS + NASTY)] = container.pop(at)


def _added(draw: random.Random, container: Any, at: Any) -> None:
    if isinstance(container, list):
        container.append(_junk(draw))
    else:
        container[draw.choice([*WORDS, "n", "functions", "grammar", "truncation", "mcp_servers"])] = _junk(draw)


def _deepened(draw: random.Random, container: Any, at: Any) -> None:
    for _ in range(draw.choice([3, 150, 210])):
        container[at] = draw.choice([[container[at]], {"a": container[at]}])


def _with_a_schema(draw: random.Random, container: Any, at: Any) -> None:
    schema = copy.deepcopy(draw.choice([*SCHEMAS, TEXTS]))
    if isinstance(container, dict):
        container[draw.choice(["parameters", "input_schema", "schema", "format", "response_format"])] = schema
    else:
        container[at] = schema


def _nudged(draw: random.Random, container: Any, at: Any) -> None:
    """Nearly right: what a check of bounds must see."""
    value = container[at]
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return
    container[at] = value[: len(value) // 2] if isinstance(value, str) else value * draw.choice([-1, 0, 3, 10**4])


ACCIDENTS: list[Callable[[random.Random, Any, Any], None]] = [
    _replaced,
    _replaced,
    _replaced,
    _removed,
    _wrapped,
    _doubled,
    _moved,
    _added,
    _added,
    _deepened,
    _with_a_schema,
    _nudged,
    _nudged,
]
BYTES: list[Callable[[random.Random, bytes], bytes]] = [
    lambda draw, raw: raw[: draw.randrange(len(raw))],
    lambda draw, raw: bytes([*raw[: (at := draw.randrange(len(raw)))], draw.randrange(256), *raw[at + 1 :]]),
    lambda draw, raw: b"\xef\xbb\xbf" + raw,
    lambda draw, raw: raw + draw.choice([b"}", b"\x00", b" ", b"[]"]),
    lambda draw, raw: raw.replace(b'"stream": ', b'"stream": 1, "stream": ', 1),
    lambda draw, raw: raw.decode("utf-8", "replace").encode("utf-16"),
    lambda draw, raw: b"",
]
