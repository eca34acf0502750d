"""How each server writes a response of chat/completions: chunks as vLLM 0.33, SGLang 0.5.23 and llama.cpp 0.5.0 send
them, and those of a server that follows OpenAI's documentation and no more.

Must not: know defects; what is wrong is put on top of sound chunks.
Invariant: the shapes are those of the servers' own sources, field by field, where a client could notice.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tests.upstreams.replies import END_OF_TURN, ArgumentStyle, CallPart, Piece

Kind = Literal["vllm", "sglang", "llamacpp", "openai"]
KINDS: tuple[Kind, ...] = ("vllm", "sglang", "llamacpp", "openai")
Chunk = dict[str, Any]
Prefill = Literal["continues", "ignores", "refuses"]
BUILD = "b1-0c1e570"


@dataclass(frozen=True, slots=True)
class Dialect:
    """thinking: the field that carries it. merges: a chunk is a step of the engine, whatever it holds; otherwise every
    change of channel begins another chunk. ends_apart: the finish reason comes in a chunk of its own.
    nulls: fields that are not set are written as null. done_after_error: `[DONE]` follows an error object too.
    """

    kind: Kind
    thinking: str
    style: ArgumentStyle
    merges: bool
    ends_apart: bool
    nulls: bool
    token_ids: bool
    done_after_error: bool
    call_id: str

    def new_call_id(self) -> str:
        return self.call_id + secrets.token_hex(12 if self.call_id else 16)

    def error(self, status: int, message: str, type_: str | None = None) -> dict[str, Any]:
        """The body of a refusal."""
        match self.kind:
            case "vllm":
                name = type_ or {400: "BadRequestError", 404: "NotFoundError"}.get(status, "InternalServerError")
                return {"error": {"message": message, "type": name, "param": None, "code": status}}
            case "sglang":
                name = type_ or {400: "BadRequestError", 404: "NotFoundError"}.get(status, "InternalServerError")
                return {"object": "error", "message": message, "type": name, "param": None, "code": status}
            case "llamacpp":
                name = type_ or {400: "invalid_request_error", 404: "not_found_error"}.get(status, "server_error")
                return {"error": {"code": status, "message": message, "type": name}}
            case "openai":
                name = type_ or ("invalid_request_error" if status < 500 else "server_error")
                return {"error": {"message": message, "type": name, "param": None, "code": None}}

    def error_in_stream(self, message: str, status: int = 500, type_: str | None = None) -> dict[str, Any]:
        """What `data:` holds when a stream fails in its middle."""
        body = self.error(status, message, type_)
        return {"error": body} if self.kind == "sglang" else body


DIALECTS: Mapping[Kind, Dialect] = {
    "vllm": Dialect("vllm", "reasoning", "values", True, False, False, True, True, "chatcmpl-tool-"),
    "sglang": Dialect("sglang", "reasoning_content", "parameters", False, True, True, True, True, "call_"),
    "llamacpp": Dialect("llamacpp", "reasoning_content", "values", False, True, False, False, False, ""),
    "openai": Dialect("openai", "reasoning_content", "whole", False, True, False, False, False, "call_"),
}


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of the engine adds. drafted, accepted: tokens that were guessed, and how many of them stood."""

    pieces: tuple[Piece, ...]
    drafted: int = 0
    accepted: int = 0


@dataclass(slots=True)
class Count:
    """Tokens of one response so far."""

    generated: int = 0
    steps: int = 0
    drafted: int = 0
    accepted: int = 0

    def add(self, step: Step, tokens: int) -> None:
        self.generated += tokens
        self.drafted += step.drafted
        self.accepted += step.accepted
        self.steps += step.drafted > 0

    def drafts(self) -> dict[str, Any]:
        """As vLLM's `--per-request-spec-decode-metrics summary` names them."""
        return {
            "mean_acceptance_length": 1 + self.accepted / max(1, self.steps),
            "draft_acceptance_rate": self.accepted / max(1, self.drafted),
            "num_spec_steps": self.steps,
            "num_accepted_draft_tokens": self.accepted,
            "num_draft_tokens": self.drafted,
        }


@dataclass(frozen=True, slots=True)
class Writing:
    """One response in the making. asked: the request's body. cached: prompt tokens from the prefix cache.

    speculates: log-probabilities are then 0.0 after the first, where llama.cpp reports them. reports_drafts: vLLM's
    statistics of a request. gives_ids: the server is new enough to know `return_token_ids`.
    """

    dialect: Dialect
    model: str
    asked: Mapping[str, Any]
    prompt_ids: tuple[int, ...]
    cached: int = 0
    speculates: bool = False
    reports_drafts: bool = False
    gives_ids: bool = True

    def chunks(self, steps: Iterable[Step], end: str | None) -> Iterator[Chunk]:
        """All chunks of a sound response, the one with the usage last."""
        d = self.dialect
        base: Chunk = {
            "id": f"chatcmpl-{secrets.token_hex(16)}",
            "object": "chat.completion.chunk",
            "created": 1_764_000_000,
            "model": self.model,
        }
        if d.kind == "llamacpp":
            base["system_fingerprint"] = BUILD
        options = self.asked.get("stream_options") or {}
        yield self._first(base)
        calls: dict[int, str] = {}
        count = Count()
        last_reason = end
        for step, last in _with_last(steps):
            ids = [piece.id for piece in step.pieces]
            if last and end == "stop":
                ids.append(END_OF_TURN)
            begun = count.generated > 0
            count.add(step, len(ids))
            if last and end == "stop" and (calls or _opens(step.pieces)):
                last_reason = "tool_calls"
            for chunk in self._of_step(base, step.pieces, ids, calls, begun, last_reason if last else None, last):
                if d.kind == "llamacpp" and self.asked.get("timings_per_token"):
                    chunk["timings"] = self._timings(count)
                if d.kind in ("vllm", "sglang") and options.get("continuous_usage_stats"):
                    chunk["usage"] = self.usage(count.generated)
                yield chunk
        if d.ends_apart:
            chunk = self._end(base, last_reason)
            if d.kind == "llamacpp" and not options.get("include_usage"):
                chunk["timings"] = self._timings(count)
            yield chunk
        if options.get("include_usage"):
            usage: Chunk = {**base, "choices": [], "usage": self.usage(count.generated)}
            if d.kind == "llamacpp":
                usage["timings"] = self._timings(count)
            if d.kind == "vllm" and self.reports_drafts and self.speculates:
                usage["metrics"] = {"speculative_decoding": count.drafts()}
            yield usage

    def usage(self, generated: int) -> dict[str, Any]:
        prompt = len(self.prompt_ids)
        usage: dict[str, Any] = {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
        }
        if self.dialect.kind in ("vllm", "llamacpp", "sglang"):
            usage["prompt_tokens_details"] = {"cached_tokens": self.cached}
        return usage

    def _timings(self, count: Count) -> dict[str, Any]:
        prompt, generated = len(self.prompt_ids) - self.cached, count.generated
        timings = {
            "cache_n": self.cached,
            "prompt_n": prompt,
            "prompt_ms": 1.0 + prompt,
            "prompt_per_token_ms": 1.0,
            "prompt_per_second": 1000.0,
            "predicted_n": generated,
            "predicted_ms": 1.0 + generated,
            "predicted_per_token_ms": 1.0,
            "predicted_per_second": 1000.0,
        }
        if count.drafted:
            timings |= {"draft_n": count.drafted, "draft_n_accepted": count.accepted}
        return timings

    def _first(self, base: Chunk) -> Chunk:
        content = None if self.dialect.kind == "llamacpp" else ""
        chunk = {**base, "choices": [self._choice({"role": "assistant", "content": content}, None)]}
        if self.dialect.kind == "vllm" and self.asked.get("return_token_ids") and self.gives_ids:
            chunk["prompt_token_ids"] = list(self.prompt_ids)
        return chunk

    def _end(self, base: Chunk, reason: str | None) -> Chunk:
        chunk = {**base, "choices": [self._choice({}, reason)]}
        if self.dialect.kind == "sglang" and reason in ("stop", "tool_calls"):
            chunk["choices"][0]["matched_stop"] = END_OF_TURN
        return chunk

    def _choice(self, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        if self.dialect.nulls:
            delta = {"role": None, "content": None, self.dialect.thinking: None, "tool_calls": None} | delta
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        if self.dialect.kind != "llamacpp":
            choice["logprobs"] = None
        if self.dialect.kind == "vllm" and reason is not None:
            choice["stop_reason"] = "repetition_detected" if reason == "repetition" else None
        if self.dialect.nulls:
            choice["matched_stop"] = None
        return choice

    def _of_step(
        self,
        base: Chunk,
        group: Sequence[Piece],
        ids: list[int],
        calls: dict[int, str],
        begun: bool,
        reason: str | None,
        last: bool,
    ) -> Iterator[Chunk]:
        d = self.dialect
        deltas = list(self._deltas(group, calls))
        if d.merges:
            deltas = [_merged(deltas)] if deltas else []
        tells_ids = bool(d.token_ids and self.asked.get("return_token_ids") and self.gives_ids)
        logprobs = self._logprobs(group, begun) if self.asked.get("logprobs") else None
        ends_here = last and not d.ends_apart
        if not deltas and (tells_ids or logprobs or ends_here):
            deltas = [{}]
        for number, delta in enumerate(deltas):
            final = number == len(deltas) - 1
            choice = self._choice(delta, reason if final and ends_here else None)
            if final and tells_ids:
                choice["token_ids"] = ids
            if final and logprobs:
                choice["logprobs"] = {"content": logprobs}
            yield {**base, "choices": [choice]}

    def _deltas(self, group: Sequence[Piece], calls: dict[int, str]) -> Iterator[dict[str, Any]]:
        """One for each run of pieces of the same channel."""
        kind: str | None = None
        text = ""
        for piece in group:
            if piece.shown is None:
                continue
            channel, value = piece.shown
            if isinstance(value, CallPart):
                if kind:
                    yield {kind: text}
                kind, text = None, ""
                yield {"tool_calls": [self._call_delta(value, calls)]}
                continue
            name = self.dialect.thinking if channel == "thinking" else "content"
            if kind not in (None, name):
                yield {kind or name: text}
                text = ""
            kind, text = name, text + value
        if kind:
            yield {kind: text}

    def _call_delta(self, part: CallPart, calls: dict[int, str]) -> dict[str, Any]:
        if not part.opens:
            more: dict[str, Any] = {"index": part.index, "function": {"arguments": part.arguments}}
            if self.dialect.nulls:
                more |= {"id": None, "type": "function", "function": {"name": None, "arguments": part.arguments}}
            return more
        calls[part.index] = self.dialect.new_call_id()
        function = {"name": part.name, "arguments": part.arguments}
        return {"index": part.index, "id": calls[part.index], "type": "function", "function": function}

    def _logprobs(self, group: Sequence[Piece], begun: bool) -> list[dict[str, Any]]:
        entries = []
        count = int(self.asked.get("top_logprobs") or 0)
        for number, piece in enumerate(group):
            lies = self.dialect.kind == "llamacpp" and self.speculates and (begun or number > 0)
            value = 0.0 if lies else -0.25
            top = [{"token": piece.text, "logprob": value, "bytes": list(piece.text.encode())}]
            top += [{"token": f"~{n}", "logprob": -3.0 - n, "bytes": list(b"~%d" % n)} for n in range(count - 1)]
            entry = {"token": piece.text, "logprob": value, "bytes": list(piece.text.encode())}
            if self.dialect.kind == "llamacpp":
                entry["id"] = piece.id
            entries.append(entry | {"top_logprobs": [] if lies else top[:count]})
        return entries


def _opens(group: Sequence[Piece]) -> bool:
    return any(piece.shown is not None and piece.shown[0] == "call" for piece in group)


def _with_last(steps: Iterable[Step]) -> Iterator[tuple[Step, bool]]:
    """Tells of each step whether it is the last; an empty one where there is none."""
    iterator = iter(steps)
    now = next(iterator, Step(()))
    for following in iterator:
        yield now, False
        now = following
    yield now, True


def _merged(deltas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for delta in deltas:
        for name, value in delta.items():
            if name != "tool_calls":
                whole[name] = whole.get(name, "") + value
                continue
            listed = whole.setdefault("tool_calls", [])
            for call in value:
                same = listed and listed[-1]["index"] == call["index"]
                if same:
                    listed[-1]["function"]["arguments"] += call["function"]["arguments"]
                else:
                    listed.append({**call, "function": dict(call["function"])})
    return whole
