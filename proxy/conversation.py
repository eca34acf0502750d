"""The canonical request: what all client APIs are parsed into and all backends are asked with.

Must not: know any wire format, or hold anything that a backend cannot honour (the wire modules refuse it first).
Invariant: values are plain, validated and immutable; tool arguments are parsed objects, never JSON text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class PastCall:
    """A call of an earlier assistant turn. `arguments` is the parsed object (`{"__raw": text}` if it was broken)."""

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `tool` messages answer the call named by `call_id`; `thinking` belongs to assistant turns."""

    role: Role
    text: str
    thinking: str = ""
    calls: tuple[PastCall, ...] = ()
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class Tool:
    """A declared tool. `parameters` is its JSON Schema as the client sent it (an absent one is `{}`)."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Sampling:
    """temperature 0 is greedy. `seed` None lets the server choose one (it is then reported in the incident).

    repetition_penalty multiplies (1 = off) and counts prompt and response; presence and frequency subtract (0 = off)
    and count the response. logit_bias: (token id, -100..100), by id.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Demands:
    """What must be enforced while decoding, beside the arguments of `strict` tools.

    must_call: the response begins with a call (thinking apart), and the arguments of every call are valid.
    only_tool: the only one that may be called, "" = any. most_calls: None = no limit.
    text_schema: JSON Schema of a text that is no call, None = any text; text_schema_at: the field it came in.
    """

    must_call: bool = False
    only_tool: str = ""
    most_calls: int | None = None
    text_schema: Mapping[str, Any] | None = None
    text_schema_at: str = ""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a client wants the response to be computed; None = as the server does.

    drafter: one of `policies.modes.DRAFTERS`, or `any`: drafts, whoever makes them. codec: of the KV cache, one of
    `CODECS`; only this can change what is said. max_draft: most draft tokens per step, at least 1.
    """

    drafter: str | None = None
    codec: str | None = None
    max_draft: int | None = None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One request of a client, in the terms of no particular API.

    api: `openai.chat` or `anthropic.messages`; only for logs, metrics and incidents.
    max_tokens: None = up to the context window. stop: stop strings, at most 16, never empty.
    session: key under which prefix reuse and budgets are kept (client header, else hash of the first turns).
    decoding: what the client asks for of it; `proxy.server.asked_mode` says what that is on this server.
    demands: what the response must be.
    logprobs: None = not asked for, else how many alternatives to report with each token of the text, 0..20.
    passed: headers of the client that go on to another server, and nowhere else.
    """

    api: str
    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    session: str = ""
    request_id: str = ""
    decoding: Decoding = Decoding()
    demands: Demands = Demands()
    logprobs: int | None = None
    passed: tuple[tuple[str, str], ...] = field(default=(), repr=False)
