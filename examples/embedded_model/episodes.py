"""Turns a repair task into a conversation, and conversations into weighted token sequences for training.

Must not: touch the disk (except to read the template) or call a model.
Invariant: texts come from `examples.agent.protocol` and the shipped chat template, so a served conversation looks
exactly like a training one. Loss weight 1 on what the assistant writes, more where a repair departs from the copied
text, little elsewhere, 0 on deliberate mistakes.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox
import numpy as np
from tokenizers import Tokenizer

from examples.agent import protocol
from examples.embedded_model.bugs import candidates
from examples.embedded_model.tasks import Task, function_source, run

TEMPLATE_FILE = Path(__file__).with_name("chat_template.jinja")
CONTEXT_WEIGHT = 0.05
FIX_WEIGHT = 8.0
"""Of the few tokens of an edit that differ from the old text; the rest is copying, which soon has no loss left."""
Message = dict[str, Any]


@dataclass(slots=True)
class Episode:
    """mistakes: indices of assistant turns that are wrong on purpose and must not be learnt."""

    messages: list[Message]
    mistakes: set[int] = field(default_factory=set)


@cache
def template() -> jinja2.Template:
    """The chat template, set up as inference engines do."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    return environment.from_string(TEMPLATE_FILE.read_text(encoding="utf-8"))


def _tojson(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def render(messages: list[Message], *, generation_prompt: bool = False) -> str:
    return template().render(messages=messages, tools=protocol.TOOLS, add_generation_prompt=generation_prompt)


def opening(task: Task) -> list[Message]:
    """System prompt and first user message, as the agent sends them."""
    return [
        {"role": "system", "content": protocol.SYSTEM_PROMPT},
        {"role": "user", "content": protocol.first_message(sorted(task.files), task.test_output)},
    ]


def call(name: str, text: str = "", **arguments: str) -> Message:
    return {
        "role": "assistant",
        "content": text,
        "tool_calls": [{"function": {"name": name, "arguments": arguments}}],
    }


def result(text: str) -> Message:
    return {"role": "tool", "content": text}


def make_episode(task: Task, rng: random.Random) -> Episode:
    """The reference repair; in three of ten episodes a call fails first and is mended.

    The edit replaces the whole faulty function: a small model copies it token by token, twice, and departs from the
    copy where the bug is. Naming the faulty line alone means finding its start before its fault, which it never learnt.
    """
    episode = Episode(opening(task))
    say = episode.messages.append
    path, source = task.module, task.files[task.module]
    old, new = function_source(source, task.function), function_source(task.fixed, task.function)
    detour = rng.choice(("path", "old", "old", "fix", "fix")) if rng.random() < 0.3 else ""
    if detour == "path":
        wrong = rng.choice((f"src/{path}", path.replace(".py", ""), f"test_{path}s"))
        episode.mistakes.add(len(episode.messages))
        say(call("read_file", path=wrong))
        say(result(protocol.not_found(wrong, sorted(task.files))))
    say(call("read_file", path=path))
    say(result(protocol.file_text(source)))
    thought = f"The fault is in {task.function}."
    if detour == "old":
        episode.mistakes.add(len(episode.messages))
        say(call("edit_file", thought, path=path, old_string=_wrong_old(task, old, rng), new_string=new))
        say(result(protocol.old_string_missing(path)))
        thought = ""
    if detour == "fix" and (second := _wrong_fix(task, rng)) is not None:
        wrong, output = second
        episode.mistakes.add(len(episode.messages))
        say(call("edit_file", thought, path=path, old_string=old, new_string=wrong))
        say(result(protocol.edited(path)))
        say(call("run_tests"))
        say(result(output))
        old, thought = wrong, ""
    say(call("edit_file", thought, path=path, old_string=old, new_string=new))
    say(result(protocol.edited(path)))
    say(call("run_tests"))
    say(result(protocol.summary([], run(task.fixed, task.files[f"test_{path}"], path[:-3])[1])))
    say({"role": "assistant", "content": f"Fixed {task.function} in {path}. All tests pass."})
    return episode


def _wrong_old(task: Task, old: str, rng: random.Random) -> str:
    """Text that is not in the file: the function as it should be, or with a slip in its faulty line."""
    slip = task.old.replace(" ", "  ", 1) if " " in task.old else task.old + ":"
    lines = [text for text in (task.new, slip, task.old + ";", task.old[:-1] + "_")]
    picks = [text for line in lines if (text := old.replace(task.old, line)) not in task.files[task.module]]
    return rng.choice(picks) if picks else old + "#"


def _wrong_fix(task: Task, rng: random.Random) -> tuple[str, str] | None:
    """The faulty function with another fault in place of the bug, that leaves tests red; and their output."""
    names = [w for w in task.new.replace("(", " ").replace(")", " ").split() if w.isidentifier()]
    source = task.files[task.module]
    for bug in rng.sample(found := candidates([task.new], names, rng), len(found)):
        line = bug.wrong.strip()
        if line in (task.old, task.new):
            continue
        changed = source.replace(task.old, line)
        if changed.count(line) != 1:
            continue
        try:
            failures, passed = run(changed, task.files[f"test_{task.module}"], task.module[:-3])
        except SyntaxError:
            continue
        output = protocol.summary([protocol.failure(*f) for f in failures], passed)
        if failures and len(output) < 400:
            return function_source(changed, task.function), output
    return None


def encode(episode: Episode, tokenizer: Tokenizer, *, bare: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Token ids [n] and loss weights [n] (of predicting each token); `bare` leaves the constant system turn out."""
    text = render(episode.messages)
    if bare:
        text = text[text.index("<|im_end|>\n") + len("<|im_end|>\n") :]
    encoded = tokenizer.encode(text)
    ids = np.array(encoded.ids, dtype=np.int32)
    weights = np.full(len(ids), CONTEXT_WEIGHT, dtype=np.float32)
    start, end = tokenizer.token_to_id("<|im_start|>"), tokenizer.token_to_id("<|im_end|>")
    turns = iter([i for i, m in enumerate(episode.messages) if m["role"] == "assistant"])
    header = tokenizer.encode("<|im_start|>assistant\n").ids
    for at in np.flatnonzero(ids == start):
        if list(ids[at : at + len(header)]) != header:
            continue
        stop = at + int(np.flatnonzero(ids[at:] == end)[0]) + 1
        turn = next(turns)
        weights[at + len(header) : stop] = 0.0 if turn in episode.mistakes else 1.0
        if turn not in episode.mistakes and (change := changed_part(episode.messages[turn])) is not None:
            # offsets are in characters of the whole text
            begin = text.index(change.parameter, encoded.offsets[at][0]) + change.start
            length = max(change.stop - change.start, 1)
            for i in range(at, stop):
                a, b = encoded.offsets[i]
                if a < begin + length and b > begin:
                    weights[i] = FIX_WEIGHT
    return ids, weights


@dataclass(frozen=True, slots=True)
class Change:
    """Characters start:stop of `parameter` (the rendered new_string) that the old text does not have there."""

    parameter: str
    start: int
    stop: int


def changed_part(message: Message) -> Change | None:
    """Where an edit's new text departs from its old text; None if the turn holds no edit."""
    for item in message.get("tool_calls", ()):
        arguments = item["function"]["arguments"]
        if item["function"]["name"] == "edit_file":
            old, new = arguments["old_string"], arguments["new_string"]
            head = len(os.path.commonprefix([old, new]))
            tail = len(os.path.commonprefix([old[head:][::-1], new[head:][::-1]]))
            opening = "<parameter=new_string>\n"
            return Change(opening + new, len(opening) + head, len(opening) + len(new) - tail)
    return None
