"""What codecs do to predictions: divergence from `full` at several contexts, and the embedded model's tool calls.

Must not: let a codec off because its text still reads well; perplexity is no measure here (it can fall with damage).
Invariant: every codec reads the same tokens; what differs is the cache alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engine.bench.kv.contexts import tokens
from engine.bench.report import Table
from engine.bench.workloads import Prompt, conversations
from engine.codecs.spec import FULL, SPECS
from engine.engine import Engine
from engine.model import Model
from engine.turn import TurnOptions

COMPARED = 256
"""Last positions of a context whose predictions are compared."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """kl: mean nats; worst: largest; top1: share of positions with the same most likely token."""

    model: str
    codec: str
    context: int
    kl: float
    worst: float
    top1: float


@dataclass(frozen=True, slots=True)
class Calls:
    """valid: replies that hold a complete call of a declared tool; same: replies equal to those of `full`."""

    codec: str
    replies: int
    valid: int
    same: int


def measure_divergence(model: Model, name: str, ids: Sequence[int]) -> list[Divergence]:
    """Reads `ids` with every codec, as a prompt is read."""
    exact = _predictions(model, FULL, ids)
    found = []
    for codec in SPECS:
        other = _predictions(model, codec, ids)
        kl = (exact.exp() * (exact - other)).sum(-1)
        top1 = (exact.argmax(-1) == other.argmax(-1)).float().mean()
        found.append(Divergence(name, codec, len(ids), float(kl.mean()), float(kl.max()), float(top1)))
    return found


def random_text(model: Model, context: int) -> list[int]:
    return tokens(context, model.config.vocab_size, seed=2)


def measure_calls(engine: Engine, prompts: Sequence[Prompt]) -> list[Calls]:
    """Generates the agent's replies greedily, without drafts. Replies in which `full` makes no call are left out."""
    tools = {tool["function"]["name"]: tool["function"] for tool in conversations()["tools"]}
    expected = {prompt.name: _reply(engine, prompt, FULL) for prompt in prompts}
    calling = [prompt for prompt in prompts if is_valid_call(expected[prompt.name], tools)]
    found = [Calls(FULL, len(calling), len(calling), len(calling))]
    for codec in SPECS:
        replies = {prompt.name: _reply(engine, prompt, codec) for prompt in calling}
        valid = sum(is_valid_call(reply, tools) for reply in replies.values())
        same = sum(reply == expected[name] for name, reply in replies.items())
        found.append(Calls(codec, len(calling), valid, same))
    return found


def is_valid_call(reply: str, tools: Mapping[str, Mapping[str, Any]]) -> bool:
    """One complete call in Qwen's layout of a declared tool, with its required parameters and no unknown ones."""
    calls = re.findall(r"<tool_call>\s*<function=([^>\n]+)>\s*(.*?)</function>\s*</tool_call>", reply, re.DOTALL)
    if len(calls) != 1 or reply.count("<tool_call>") != 1:
        return False
    name, body = calls[0]
    parameters = re.findall(r"<parameter=([^>\n]+)>\n.*?\n</parameter>", body, re.DOTALL)
    schema = tools.get(name, {}).get("parameters", {})
    known, required = set(schema.get("properties", {})), set(schema.get("required", ()))
    return name in tools and required <= set(parameters) <= known and len(set(parameters)) == len(parameters)


def divergence_table(found: Sequence[Divergence]) -> Table:
    rows = tuple((d.model, d.context, d.codec, d.kl, d.worst, d.top1) for d in found)
    note = f"the last {COMPARED} positions of each context; full = 0, 0, 1"
    return Table("Divergence from full", ("model", "context", "codec", "mean KL", "worst KL", "same top-1"), rows, note)


def calls_table(found: Sequence[Calls]) -> Table:
    rows = tuple((c.codec, c.replies, c.valid, c.same) for c in found)
    return Table("Tool calls of the embedded model", ("codec", "calls of full", "valid", "same reply"), rows)


def _predictions(model: Model, codec: str, ids: Sequence[int]) -> torch.Tensor:
    """fp64 log-probabilities [COMPARED, V] of the last positions."""
    state = model.new_state(codec)
    hidden = model.prefill(state, ids)[-COMPARED:]
    return model.head(hidden).double().log_softmax(-1)


def _reply(engine: Engine, prompt: Prompt, codec: str) -> str:
    engine.prefixes.clear()
    options = TurnOptions(prompt.sampling, max_tokens=prompt.limit, audit_every=0, codec=codec)
    turn = engine.open(prompt.tokens, options)
    for _ in turn.sequence.prefill():
        pass
    text = ""
    while not turn.ended:
        report = turn.step()
        text += "".join(token.text for token in report.tokens) + report.tail
    engine.close(turn)
    return text
