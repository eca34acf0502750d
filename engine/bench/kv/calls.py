"""What codecs do to tool calls: the embedded model's edits of long files, greedy and sampled.

Must not: judge a codec by calls that `full` does not make, or by a reply that was drawn with other random numbers.
Invariant: every codec answers the same prompts with the same seeds; what differs is the cache alone.

A call of this model copies a function letter by letter and writes it again, so a wrong token shows. Prompts become long
by what the file holds before the faulty function: earlier repairs of other files would be repeated instead, whatever
the cache. How far the model itself can still do the task, the lines of `full` tell.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from engine.bench.report import Table
from engine.bench.workloads import EDIT, REPLY, Prompt, conversations, encode
from engine.codecs.spec import FULL, SPECS
from engine.engine import Engine
from engine.sampler import SamplingParams
from engine.turn import TurnOptions

CONTEXTS = (640, 1024, 4096)
PROMPTS, SEEDS = 7, (1,)
"""Files at each context, one for each task, and sampled replies to each besides the greedy one."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt that asks for an edit. content: the file `path`, as the model has just read it."""

    context: int
    prompt: Prompt
    path: str
    content: str


@dataclass(frozen=True, slots=True)
class Calls:
    """Of replies in which `full` makes a valid call. valid: of a declared tool, complete; usable: the edit could be
    made, its old text stands once in the file that was read; same: the reply of `full`; shared: the mean share of the
    reply of `full` before the first letter that differs."""

    context: int
    codec: str
    replies: int
    valid: int
    usable: int
    same: int
    shared: float


def asked_edits(engine: Engine, context: int, count: int = PROMPTS, seed: int = 0) -> list[Asked]:
    """Prompts of at most `context` tokens, less where the model's window needs room for the reply: a task whose file
    has been read, sound functions of other tasks drawn before its own. Every task is asked for in turn."""
    room = min(context, engine.model.config.max_context - REPLY)
    repairs = [entry["messages"] for key in ("agent", "rewrite") for entry in conversations()[key]]
    found = []
    for number in range(count):
        rng = random.Random(f"{seed}/{context}/{number}")
        task = repairs[number % len(repairs)]
        others = [_repaired(other) for other in repairs if other is not task]
        at = _edit_at(task)
        content = task[at - 1]["content"]
        tokens, longer = encode(engine, task[:at]), content
        while True:
            longer = f"{rng.choice(others)}\n\n{longer}"
            messages = [*task[: at - 1], {**task[at - 1], "content": longer}]
            if len(encode(engine, messages)) > room:
                break
            tokens, content = encode(engine, messages), longer
        path = task[at - 2]["tool_calls"][0]["function"]["arguments"]["path"]
        prompt = Prompt(f"{context} tokens, {number}", tokens, SamplingParams(), REPLY)
        found.append(Asked(context, prompt, path, content))
    return found


def measure_calls(engine: Engine, asked: Sequence[Asked], seeds: Sequence[int] = SEEDS) -> list[Calls]:
    """Replies without drafts: greedy, and sampled at temperature 1 with each seed. One line per context and codec."""
    tools = {tool["function"]["name"]: tool["function"] for tool in conversations()["tools"]}
    replies = {codec: [_replies(engine, a.prompt, codec, seeds) for a in asked] for codec in (FULL, *SPECS)}
    found = []
    for context in sorted({a.context for a in asked}):
        # of this context: what was asked, the number of the reply, and the reply of `full`
        expected = [
            (index, number, reply)
            for index, a in enumerate(asked)
            if a.context == context
            for number, reply in enumerate(replies[FULL][index])
            if is_valid_call(reply, tools)
        ]
        for codec in (FULL, *SPECS):
            pairs = [(asked[i], replies[codec][i][number], reply) for i, number, reply in expected]
            valid = [(a, ours) for a, ours, _ in pairs if is_valid_call(ours, tools)]
            found.append(
                Calls(
                    context,
                    codec,
                    len(pairs),
                    len(valid),
                    sum(is_usable_edit(ours, a) for a, ours in valid),
                    sum(ours == theirs for _, ours, theirs in pairs),
                    mean(_shared(ours, theirs) for _, ours, theirs in pairs) if pairs else 0.0,
                )
            )
    return found


def is_valid_call(reply: str, tools: Mapping[str, Mapping[str, Any]]) -> bool:
    """One complete call in Qwen's layout of a declared tool, with its required parameters and no unknown ones."""
    calls = re.findall(r"<tool_call>\s*<function=([^>\n]+)>\s*(.*?)</function>\s*</tool_call>", reply, re.DOTALL)
    if len(calls) != 1 or reply.count("<tool_call>") != 1:
        return False
    name, body = calls[0]
    parameters = [parameter for parameter, _ in _parameters(body)]
    schema = tools.get(name, {}).get("parameters", {})
    known, required = set(schema.get("properties", {})), set(schema.get("required", ()))
    return name in tools and required <= set(parameters) <= known and len(set(parameters)) == len(parameters)


def is_usable_edit(reply: str, asked: Asked) -> bool:
    """Of a valid call: the tool could do it, and it would change the file that was read."""
    given = dict(_parameters(reply))
    old, new = given.get("old_string", ""), given.get("new_string", "")
    return given.get("path") == asked.path and bool(old) and asked.content.count(old) == 1 and new != old


def calls_table(found: Sequence[Calls]) -> Table:
    rows = tuple((c.context, c.codec, c.replies, c.valid, c.usable, c.same, c.shared) for c in found)
    columns = ("context", "codec", "calls of full", "valid", "usable", "same reply", "same until")
    note = (
        "edits of long files, greedy and sampled at temperature 1; usable: the old text stands once in the file "
        "that was read; same until: share of the reply of full before the first difference"
    )
    return Table("Tool calls of the embedded model", columns, rows, note)


def _shared(ours: str, theirs: str) -> float:
    """The share of `theirs` before the first letter that differs."""
    alike = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    return alike / len(theirs)


def _parameters(text: str) -> list[tuple[str, str]]:
    return re.findall(r"<parameter=([^>\n]+)>\n(.*?)\n</parameter>", text, re.DOTALL)


def _edit_at(messages: Sequence[Mapping[str, Any]]) -> int:
    """Of the message that calls for the edit; before it stand the call that read the file, and what it returned."""
    return next(
        i for i, m in enumerate(messages) if any(c["function"]["name"] == EDIT for c in m.get("tool_calls") or ())
    )


def _repaired(messages: Sequence[Mapping[str, Any]]) -> str:
    """The file of a task as the recorded edit left it."""
    at = _edit_at(messages)
    edit = messages[at]["tool_calls"][0]["function"]["arguments"]
    text: str = messages[at - 1]["content"]
    return text.replace(edit["old_string"], edit["new_string"])


def _replies(engine: Engine, prompt: Prompt, codec: str, seeds: Sequence[int]) -> list[str]:
    """The prompt is read once, all replies go on from there."""
    engine.prefixes.clear()
    sampled = [SamplingParams(temperature=1.0, seed=seed) for seed in seeds]
    return [_reply(engine, replace(prompt, sampling=sampling), codec) for sampling in (prompt.sampling, *sampled)]


def _reply(engine: Engine, prompt: Prompt, codec: str) -> str:
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
