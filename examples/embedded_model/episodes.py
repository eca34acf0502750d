"""Turns a repair task into a conversation, and conversations into weighted token sequences for training.

Must not: touch the disk (except to read the template) or call a model.
Invariant: texts come from `examples.agent.protocol` and the shipped chat template, so a served conversation looks
exactly like a training one. Loss weights: 1 on what the assistant writes, more where a repair departs from the copied
text, little on sound code that is shown, less elsewhere, 0 on deliberate mistakes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
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
from examples.embedded_model.tasks import Task, function_source, is_held_out_combination, run

TEMPLATE_FILE = Path(__file__).with_name("chat_template.jinja")
CONTEXT_WEIGHT = 0.05
BODY_WEIGHT = 0.2
"""Of shown lines of code other than the faulty one: predicting them teaches what a docstring demands of a body."""
FIX_WEIGHT = 6.0
"""Of the few tokens in which the texts of an edit differ; the rest is copying, which soon has no loss left. In the old
text too: else the model hedges there, and writes the repair where the fault should be quoted."""
EDIT = "<function=edit_file>"
ASSISTANT, TURN_END = "<|im_start|>assistant\n", "<|im_end|>"
Message = dict[str, Any]


@dataclass(slots=True)
class Episode:
    """mistakes: indices of assistant turns that are wrong on purpose and must not be learnt; fault: the faulty line."""

    messages: list[Message]
    fault: str
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
    """The reference repair; in two of ten episodes a call fails first and is mended.

    The edit replaces the whole faulty function: a small model copies it token by token, twice, and departs from the
    copy where the bug is. Naming the faulty line alone means finding its start before its fault, which it never learnt.
    """
    episode = Episode(opening(task), task.old)
    say = episode.messages.append
    path, source = task.module, task.files[task.module]
    old, new = function_source(source, task.function), function_source(task.fixed, task.function)
    detour = rng.choice(("path", "old", "old", "fix", "fix")) if rng.random() < 0.2 else ""
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
    """The faulty function with another fault in place of the bug, that leaves tests red; and their output.

    The next edit mends that fault, so it must be of the task's own split too.
    """
    kind, _, number = task.combination.split("/")
    held_out = is_held_out_combination(task.combination)
    names = [w for w in task.new.replace("(", " ").replace(")", " ").split() if w.isidentifier()]
    source = task.files[task.module]
    for bug in rng.sample(found := candidates([task.new], names, rng), len(found)):
        line = bug.wrong.strip()
        split = is_held_out_combination(f"{kind}/{bug.kind}/{number}")
        if split != held_out or line in (task.old, task.new):
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
    starts, stops = np.array(encoded.offsets).T  # in characters of `text`
    weights = np.full(len(ids), CONTEXT_WEIGHT, dtype=np.float32)

    def weigh(begin: int, end: int, weight: float) -> None:
        weights[(starts < max(end, begin + 1)) & (stops > begin)] = weight

    def tokens_between(begin: int, end: int) -> slice:
        """From the text's begin to the end of its parameter."""
        stop = text.index("\n</parameter>", begin, end)
        first = text.index("\n", begin) + 1
        inside = np.flatnonzero((starts >= first) & (starts < stop + 1))
        return slice(int(inside[0]), int(inside[-1]) + 1)

    at = 0
    for index, message in enumerate(episode.messages):
        if message["role"] == "tool":
            at = text.index(message["content"], at)
            for begin, end in _sound_lines(message["content"], episode.fault):
                weigh(at + begin, at + end, BODY_WEIGHT)
        if message["role"] != "assistant":
            continue
        at = text.index(ASSISTANT, at) + len(ASSISTANT)
        end = text.index(TURN_END, at) + len(TURN_END)
        wrong = index in episode.mistakes
        weigh(at, end, 0.0 if wrong else 1.0)
        if not wrong and EDIT in text[at:end]:
            old, new = (tokens_between(text.index(f"{name}_string>\n", at), end) for name in ("old", "new"))
            for i in differing(ids[old], old.start, ids[new], new.start):
                weights[i] = FIX_WEIGHT
        at = end
    return ids, weights


def _sound_lines(content: str, fault: str) -> Iterator[tuple[int, int]]:
    """Begin and end of each indented line of code that is not the faulty one nor a docstring."""
    at = 0
    for line in content.splitlines(keepends=True):
        code = line.strip()
        if line.startswith("    ") and code != fault and not code.startswith('"""'):
            yield at, at + len(line)
        at += len(line)


def differing(old: np.ndarray, old_start: int, new: np.ndarray, new_start: int) -> list[int]:
    """Positions of the tokens in which two texts differ, at least one of each: the first after a text that goes on."""
    head = equal_from_start(old, new)
    tail = equal_from_start(old[head:][::-1], new[head:][::-1])
    return [
        start + i
        for ids, start in ((old, old_start), (new, new_start))
        for i in range(head, max(len(ids) - tail, head + 1))
    ]


def equal_from_start(a: np.ndarray, b: np.ndarray) -> int:
    pairs = zip(a.tolist(), b.tolist(), strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
