"""The prompts of the benchmark, rendered with the model's own template.

Must not: depend on chance, or on what any drafter does with them.
Invariant: the same folder gives the same prompts. The conversations are the example agent's on held-out tasks, as
examples/embedded_model/bench_conversations.py wrote them; what the assistant says next is up to the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from engine.engine import Engine
from engine.errors import ConfigError
from engine.sampler import SamplingParams

CONVERSATIONS = Path(__file__).with_name("conversations.json")
TITLES = {"agent": "agent tool calls", "rewrite": "file rewrite", "fresh": "fresh text"}
REPLY, QUICK_REPLY = 320, 40
"""Most tokens of a reply; the longest of these rewrites has about 200."""
FRESH_TOKENS = 96
EDIT = "edit_file"


@dataclass(frozen=True, slots=True)
class Prompt:
    """tokens: the prompt; the model writes at most `limit` tokens after it."""

    name: str
    tokens: tuple[int, ...]
    sampling: SamplingParams
    limit: int


def prompts(engine: Engine, workload: str, quick: bool) -> list[Prompt]:
    """agent: every turn of whole repairs; rewrite: the turns that copy a function twice and change it; fresh: sampled
    at temperature 1. quick: the turns of one conversation, and short replies."""
    make: Callable[[Engine, Mapping[str, Any], int], list[Prompt]] = _fresh if workload == "fresh" else _turns
    data = conversations()
    found: list[Prompt] = []
    for entry in data[workload][: 1 if quick else None]:
        found += make(engine, entry, QUICK_REPLY if quick else REPLY)
    if workload == "rewrite":
        found = [prompt for prompt in found if prompt.name.endswith(EDIT)]
    return found


@cache
def conversations() -> dict[str, Any]:
    """The file's content."""
    data: dict[str, Any] = json.loads(CONVERSATIONS.read_text(encoding="utf-8"))
    return data


def encode(engine: Engine, messages: list[dict[str, Any]], cut: str | None = None) -> tuple[int, ...]:
    """Token ids of a conversation up to where the assistant speaks, or up to `cut` in its text."""
    text = engine.render(messages, conversations()["tools"])
    return tuple(engine.tokenizer.encode(text.split(cut)[0] if cut else text))


def long_conversation(engine: Engine, room: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Prompts of two successive turns; the second one is as long as `room` tokens allow.

    It strings the repairs together as one user would ask for them, again from the first one if they do not suffice.
    Raises ConfigError if not even one fits.
    """
    data = conversations()
    repairs = [*data["agent"], *data["rewrite"]]
    messages = list(repairs[0]["messages"][:1])
    best: tuple[list[dict[str, Any]], list[dict[str, Any]]] | None = None
    while True:
        for entry in repairs:
            said = entry["messages"][1:]
            for at, message in enumerate(said):
                if message["role"] == "tool":
                    first, second = messages + said[: at - 1], messages + said[: at + 1]
                    if len(encode(engine, second)) > room:
                        if best is None:
                            raise ConfigError(
                                f"max_position_embeddings: {room} tokens hold no conversation of two turns"
                            )
                        return encode(engine, best[0]), encode(engine, best[1])
                    best = (first, second)
            messages = messages + said


def _turns(engine: Engine, entry: Mapping[str, Any], limit: int) -> list[Prompt]:
    messages = entry["messages"]
    found = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            calls = message.get("tool_calls")
            what = calls[0]["function"]["name"] if calls else "answer"
            name = f"{entry['name']}: {what}"
            found.append(Prompt(name, encode(engine, messages[:index]), SamplingParams(), limit))
    return found


def _fresh(engine: Engine, entry: Mapping[str, Any], limit: int) -> list[Prompt]:
    tokens = encode(engine, entry["messages"], conversations()["cut"])
    sampling = SamplingParams(temperature=1.0, seed=entry["seed"])
    return [Prompt(entry["name"], tokens, sampling, min(limit, FRESH_TOKENS))]
