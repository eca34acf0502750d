"""What a request demands of the response, as a constraint on token ids for the engine's filtered decoding.

Must not: import the engine (it knows the shape of a constraint, not this class), or read the text itself.
Invariant: its state is a function of the tokens it was given; a token that was not allowed ends all constraint.
"""

from __future__ import annotations

import codecs
from collections.abc import Set
from copy import copy
from typing import Protocol

import jsonschema_rs

from detectors.channels import CALL_CLOSE, CALL_OPEN, THINK_CLOSE, THINK_OPEN
from detectors.constraint.response import Demand, ResponseConstraint
from detectors.json_stream.compiled import CompiledSchema, compile_schema
from detectors.tool_schema import ToolSchemas
from proxy.backends.errors import BadPrompt
from proxy.conversation import ChatRequest, Demands

_BAD_SCHEMA = (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError, TypeError, RecursionError)
_TAGS = (CALL_CLOSE, CALL_OPEN, THINK_CLOSE, THINK_OPEN)


class Tokenizer(Protocol):
    """What is needed of the engine's."""

    @property
    def eos_ids(self) -> Set[int]: ...

    @property
    def special_ids(self) -> Set[int]: ...

    def token_bytes(self, token: int) -> bytes: ...


class TokenConstraint:
    """A constraint of text as one of tokens; those that the tokenizer calls special are no text, tags apart."""

    def __init__(self, response: ResponseConstraint, tokenizer: Tokenizer) -> None:
        tags = {tag.encode() for tag in _TAGS}
        self._response, self._bytes_of, self._ends = response, tokenizer.token_bytes, tokenizer.eos_ids
        self._special = {token for token in tokenizer.special_ids if self._bytes_of(token) not in tags}
        self._pending = b""
        self._given_up = False
        self._tried: tuple[int, ResponseConstraint, bytes] | None = None
        self._firsts: dict[int, bool] | None = None  # which bytes a token may begin with here; made by a refusal

    def allows(self, token: int) -> bool:
        if self._given_up:
            return True
        response = self._response
        if token in self._ends:
            return response.may_end and (response.is_loose or not self._pending)
        data = self._bytes_of(token)
        if response.is_free and b"<" not in data:
            return True
        if not response.is_loose and (token in self._special or not data):
            return False
        if self._firsts is not None and data and not self._may_begin(data[0], self._firsts):
            return False
        tried = response.clone()
        try:
            text, used = codecs.utf_8_decode(self._pending + data, "replace" if response.is_loose else "strict", False)
        except UnicodeDecodeError:
            return False
        pending = (self._pending + data)[used:]
        if not tried.feed(text, pending):
            self._firsts = self._firsts or {}
            return False
        self._tried = (token, tried, pending)
        return True

    def _may_begin(self, first: int, known: dict[int, bool]) -> bool:
        """Keeps a search through a large vocabulary short: most tokens fail by their first byte."""
        if first not in known:
            byte = bytes((first,))
            whole = first < 0x80 and not self._pending
            state = self._response.clone()
            known[first] = state.feed(byte.decode() if whole else "", b"" if whole else self._pending + byte)
        return known[first]

    def advance(self, token: int) -> None:
        tried, self._tried, self._firsts = self._tried, None, None
        if self._given_up or token in self._ends:
            return
        if tried is not None and tried[0] == token:
            _, self._response, self._pending = tried
            return
        data = self._pending + self._bytes_of(token)
        text, used = codecs.utf_8_decode(data, "replace", False)
        self._pending = data[used:]
        if not (self._response.is_free and "<" not in text):
            self._given_up = not self._response.feed(text, self._pending)

    def clone(self) -> TokenConstraint:
        other = copy(self)
        other._response, other._tried = self._response.clone(), None
        return other


def constraint_for(request: ChatRequest, tokenizer: Tokenizer, starts_thinking: bool) -> TokenConstraint | None:
    """None = nothing has to be enforced. Raises BadPrompt for a schema that is none."""
    demand = demand_of(request)
    return None if demand is None else TokenConstraint(ResponseConstraint(demand, starts_thinking), tokenizer)


def demand_of(request: ChatRequest) -> Demand | None:
    """What has to be enforced, None = nothing. Raises BadPrompt for a schema that is none."""
    demands, tools = request.demands, request.tools
    strict = frozenset(tool.name for tool in tools if tool.strict or demands.must_call)
    if not strict and demands.text_schema is None and not (tools and demands.most_calls is not None):
        return None
    return Demand(
        ToolSchemas.compile([(tool.name, tool.parameters) for tool in tools]),
        (demands.only_tool,) if demands.only_tool else tuple(tool.name for tool in tools),
        strict,
        demands.must_call,
        demands.most_calls,
        _text_schema(demands),
    )


def _text_schema(demands: Demands) -> CompiledSchema | None:
    if demands.text_schema is None:
        return None
    try:
        return compile_schema(demands.text_schema)
    except _BAD_SCHEMA as error:
        problem = str(getattr(error, "message", error)).partition("\n")[0][:300]
        raise BadPrompt(
            f"{demands.text_schema_at}: is no valid JSON Schema: {problem}", demands.text_schema_at
        ) from error
