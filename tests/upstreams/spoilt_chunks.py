"""What is done to the chunks of a sound stream: parts of calls, fields, what comes between and after them.

Must not: change a chunk that somebody else holds. Invariant: chunks are taken one at a time, so that streams without an
end stay possible.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from tests.upstreams.dialects import Chunk, Dialect
from tests.upstreams.faults import Fault, Frame, Signal, data
from tests.upstreams.model_defects import prose

Mixed = Chunk | Frame
MANY = 100_000


def edited(edit: Callable[[Chunk], None]) -> Fault:
    """Every chunk is changed in place."""

    def change(chunks: Iterator[Chunk], dialect: Dialect) -> Iterator[Mixed]:
        for chunk in chunks:
            changed = copy.deepcopy(chunk)
            edit(changed)
            yield changed

    return Fault(chunks=change)


def on_calls(edit: Callable[[dict[str, Any], dict[str, Any]], None]) -> Fault:
    """Every part of a call is changed in place; `edit` gets a dict of its own for each response."""

    def change(chunks: Iterator[Chunk], dialect: Dialect) -> Iterator[Mixed]:
        memory: dict[str, Any] = {}
        for chunk in chunks:
            changed = copy.deepcopy(chunk)
            for choice in changed["choices"]:
                for part in choice["delta"].get("tool_calls") or ():
                    edit(part, memory)
            yield changed

    return Fault(chunks=change)


def has(chunk: Chunk, name: str) -> bool:
    return any(choice["delta"].get(name) for choice in chunk.get("choices", ()))


def finishes(chunk: Chunk) -> bool:
    return any(choice["finish_reason"] for choice in chunk.get("choices", ()))


def after(name: str, *then: Mixed | Callable[[Dialect], Mixed], goes_on: bool = False) -> Fault:
    """After the first chunk with `name`, these frames; then the end, or the rest of the response."""

    def change(chunks: Iterator[Chunk], dialect: Dialect) -> Iterator[Mixed]:
        for chunk in chunks:
            yield chunk
            if has(chunk, name):
                yield from (one(dialect) if callable(one) else one for one in then)
                if not goes_on:
                    return
                yield from chunks

    return Fault(chunks=change)


def at_once(*then: Mixed | Callable[[Dialect], Mixed]) -> Fault:
    def change(chunks: Iterator[Chunk], dialect: Dialect) -> Iterator[Mixed]:
        yield from (one(dialect) if callable(one) else one for one in then)

    return Fault(chunks=change)


def ends_after_error(dialect: Dialect) -> Mixed:
    """vLLM and SGLang write `[DONE]` after an error too; `framed` does so unless the connection closes."""
    return b"" if dialect.done_after_error else Signal.CLOSE


def error(message: str, status: int = 500) -> Callable[[Dialect], Mixed]:
    return lambda dialect: dialect.error_in_stream(message, status)


def lose_first_arguments(part: dict[str, Any], memory: dict[str, Any]) -> None:
    if part["function"].get("arguments") and not memory.get("lost"):
        memory["lost"] = True
        part["function"]["arguments"] = ""


def nameless(part: dict[str, Any], memory: dict[str, Any]) -> None:
    part["function"].pop("name", None)


def without_id(part: dict[str, Any], memory: dict[str, Any]) -> None:
    part.pop("id", None)


def all_index_zero(part: dict[str, Any], memory: dict[str, Any]) -> None:
    part["index"] = 0


def index_of_nobody(part: dict[str, Any], memory: dict[str, Any]) -> None:
    if not part["function"].get("name"):
        part["index"] = 7


def interleaved(chunks: Iterator[Chunk], dialect: Dialect) -> Iterator[Mixed]:
    """Both calls are opened, then their arguments come in turns."""
    kept: list[Chunk] = []
    parts: list[list[dict[str, Any]]] = [[], []]
    for chunk in chunks:
        if has(chunk, "tool_calls"):
            kept = kept or [copy.deepcopy(chunk)]
            for choice in chunk["choices"]:
                for part in choice["delta"]["tool_calls"]:
                    parts[part["index"]].append(part)
            if not finishes(chunk):
                continue
        if kept:
            opened = [part.pop(0) for part in parts]
            longest = max(map(len, parts))
            turns = [part[n] for n in range(longest) for part in parts if n < len(part)]
            for one in [*opened, *turns]:
                made = copy.deepcopy(kept[0])
                made["choices"][0]["delta"]["tool_calls"] = [one]
                made["choices"][0]["finish_reason"] = None
                yield made
            kept = []
        if has(chunk, "tool_calls"):
            chunk = copy.deepcopy(chunk)
            chunk["choices"][0]["delta"] = {}
        yield chunk


def after_the_finish(chunks: Iterator[Chunk], dialect: Dialect) -> Iterator[Mixed]:
    for chunk in chunks:
        yield chunk
        if finishes(chunk):
            late = copy.deepcopy(chunk)
            more = {"index": 0, "function": {"arguments": ', "all": true}'}}
            late["choices"][0] |= {"delta": {"content": "too late", "tool_calls": [more]}, "finish_reason": None}
            yield late


def ids_of_something_else(chunk: Chunk) -> None:
    for choice in chunk["choices"]:
        if "token_ids" in choice:
            choice["token_ids"] = [7919 * (number + 3) for number in choice["token_ids"] for _ in (0, 1)]


def fewer_ids(chunks: Iterator[Chunk], dialect: Dialect) -> Iterator[Mixed]:
    for number, chunk in enumerate(chunks):
        changed = copy.deepcopy(chunk)
        for choice in changed["choices"] if number % 2 else ():
            choice.pop("token_ids", None)
        yield changed


def renamed(name: str) -> Fault:
    def change(chunk: Chunk) -> None:
        for choice in chunk["choices"]:
            for known in ("reasoning", "reasoning_content"):
                if known in choice["delta"]:
                    choice["delta"][name] = choice["delta"].pop(known)

    return edited(change)


def both_names(chunk: Chunk) -> None:
    for choice in chunk["choices"]:
        said = choice["delta"].get("reasoning") or choice["delta"].get("reasoning_content")
        if said:
            choice["delta"] |= {"reasoning": said, "reasoning_content": said}


def role_everywhere(chunk: Chunk) -> None:
    for choice in chunk["choices"]:
        choice["delta"]["role"] = "assistant"


def usage_gone(chunks: Iterator[Chunk], dialect: Dialect) -> Iterator[Mixed]:
    for chunk in chunks:
        if chunk["choices"]:
            yield {name: value for name, value in chunk.items() if name not in ("usage", "timings")}


def without_choices(chunks: Iterator[Chunk], dialect: Dialect) -> Iterator[Mixed]:
    for chunk in chunks:
        yield {name: value for name, value in chunk.items() if name != "choices"}
        yield {**chunk, "choices": []}
        yield chunk


def arguments_as_objects(chunks: Iterator[Chunk], dialect: Dialect) -> Iterator[Mixed]:
    """The whole call in one delta, its arguments an object."""
    made: dict[str, Any] | None = None
    for chunk in chunks:
        for choice in chunk["choices"]:
            for part in choice["delta"].get("tool_calls") or ():
                made = made or {**part, "function": {"name": part["function"]["name"], "arguments": ""}}
                made["function"]["arguments"] += part["function"]["arguments"]
        if not has(chunk, "tool_calls") or finishes(chunk):
            changed = copy.deepcopy(chunk)
            if made is not None and (finishes(chunk) or not has(chunk, "tool_calls")):
                made["function"]["arguments"] = json.loads(made["function"]["arguments"])
                changed["choices"][0]["delta"] = {"tool_calls": [made]}
                made = None
            yield changed


def content_as_parts(chunk: Chunk) -> None:
    for choice in chunk["choices"]:
        if choice["delta"].get("content"):
            choice["delta"]["content"] = [{"type": "text", "text": choice["delta"]["content"]}]


def finish_says_stop(chunk: Chunk) -> None:
    for choice in chunk["choices"]:
        choice["finish_reason"] = choice["finish_reason"] and "stop"


def nan_logprobs(chunk: Chunk) -> None:
    for choice in chunk["choices"]:
        choice["logprobs"] = {"content": [{"token": "a", "logprob": float("nan"), "bytes": [97], "top_logprobs": []}]}


def halves(chunks: Iterator[Chunk], dialect: Dialect) -> Iterator[Mixed]:
    """A smiley's two escapes in two chunks, as servers send that cut by UTF-16 units."""
    for chunk in chunks:
        text = chunk["choices"][0]["delta"].get("content") if chunk["choices"] else None
        if not text or "😀" not in text:
            yield chunk
            continue
        before, _, behind = text.partition("😀")
        for part in (before + "\\ud83d", "\\ude00" + behind):
            made = copy.deepcopy(chunk)
            made["choices"][0]["delta"]["content"] = "@@"
            yield data(made).replace(b"@@", part.encode().replace(b"\n", b"\\n"))


def endless_chunks(chunks: Iterator[Chunk], dialect: Dialect) -> Iterator[Mixed]:
    """Text without an end, whatever the request's limit."""
    sample = None
    for chunk in chunks:
        if has(chunk, "tool_calls"):
            break
        yield chunk
        sample = chunk if has(chunk, "content") else sample
    assert sample is not None
    for number, word in zip(count(), prose(-1), strict=False):
        made = copy.deepcopy(sample)
        made["choices"][0]["delta"]["content"] = word
        if "token_ids" in made["choices"][0]:
            made["choices"][0]["token_ids"] = [1000 + number * 31 % 50021]
        yield made


def many_tiny_chunks(chunks: Iterator[Chunk], dialect: Dialect) -> Iterator[Mixed]:
    for number, chunk in enumerate(endless_chunks(chunks, dialect)):
        yield chunk
        if number == MANY:
            return
