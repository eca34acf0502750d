"""The questions that a decode mode must answer before it is let back: behind a text of a chosen length, find a number,
call a tool with it, write it as JSON, and go on telling.

Must not: hold anything of a client. Invariant: the same length and seed give the same bytes, and all questions share
their beginning up to the last line, so that the second one is answered from a kept prefix.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from detectors.parts import Part
from detectors.placed_watch import PlacedWatch
from detectors.tool_schema import ToolSchemas
from detectors.watch import ReadCall, Said, Watch
from proxy.backends.base import EndReason
from proxy.conversation import ChatRequest, Message, Sampling, Tool

ANSWER_TOKENS = 48
CALL_CHARS = 4096
SYSTEM = "You answer questions about a report. You read it to the end before you answer."
TOOL = Tool(
    "open_depot",
    "Opens the depot.",
    {
        "type": "object",
        "properties": {"code": {"type": "string", "description": "Its access code, four digits."}},
        "required": ["code"],
        "additionalProperties": False,
    },
)
_PLACES = "harbour mill quarry library station orchard foundry bakery lighthouse school market bridge".split()
_STATES = "grey quiet busy narrow old sunny draughty crowded empty distant newly painted".split()
_DEEDS = "opened closed moved waited sold counted repaired measured painted delivered borrowed weighed".split()
_THINGS = "crates lamps ropes ledgers stones apples letters wheels barrels blankets maps bells".split()
_TIMES = "before noon|after the rain|at dusk|in the first week|on the third day|by order|without a word".split("|")


@dataclass(frozen=True, slots=True)
class Spoken:
    """A token of an answer; parts as `proxy.backends.base.Token` has them."""

    id: int
    text: str
    parts: tuple[Part, ...] | None = None


Answered = tuple[Sequence[Spoken], EndReason]
"""The tokens of an answer, and how it ended."""


@dataclass(frozen=True, slots=True)
class Canary:
    """One question. check: whether an answer is right; None = only the identity of its tokens counts."""

    name: str
    request: ChatRequest
    check: Callable[[Answered], bool] | None


def canaries(
    sentences: int, seed: int, model: str, starts_thinking: bool = False, tokens: int | None = None
) -> tuple[Canary, ...]:
    """Behind a report of so many sentences. The last one draws at temperature 0.8: some faults show only there.

    tokens: of each answer, None = ANSWER_TOKENS.
    """
    rng = random.Random(seed)
    code = f"{rng.randrange(10_000):04}"
    report = [_sentence(rng, number) for number in range(1, sentences + 1)]
    report.insert(len(report) * rng.randrange(20, 60) // 100, f"The access code of the depot is {code}.")
    text = " ".join(report)

    def read(answer: Answered) -> tuple[str, list[ReadCall]]:
        return read_answer(answer, starts_thinking)

    def finds(answer: Answered) -> bool:
        return code in re.findall(r"\d+", read(answer)[0])

    def calls(answer: Answered) -> bool:
        return any(call.violation is None and json.loads(call.arguments)["code"] == code for call in read(answer)[1])

    def writes_json(answer: Answered) -> bool:
        found = re.search(r"\{.*\}", read(answer)[0], re.DOTALL)
        try:
            return found is not None and json.loads(found[0]).get("code") == code
        except (ValueError, RecursionError):
            return False

    questions: list[tuple[str, str, float, Callable[[Answered], bool] | None]] = [
        ("needle", "What is the access code of the depot? Answer with the code alone.", 0.0, finds),
        ("call", "Open the depot with the tool and the access code that the report names.", 0.0, calls),
        ("json", 'Write the access code as JSON, {"code": "...."}, and nothing else.', 0.0, writes_json),
        ("story", "Go on with the report in the same manner.", 0.8, None),
    ]
    return tuple(
        Canary(
            name,
            ChatRequest(
                api="specguard.canary",
                model=model,
                messages=(Message("system", SYSTEM), Message("user", f"{text}\n\n{question}")),
                tools=(TOOL,),
                sampling=Sampling(temperature=temperature, seed=seed),
                max_tokens=ANSWER_TOKENS if tokens is None else tokens,
                session=f"canary-{seed}",
                request_id=f"canary-{name}",
            ),
            check,
        )
        for name, question, temperature, check in questions
    )


def read_answer(answer: Answered, starts_thinking: bool) -> tuple[str, list[ReadCall]]:
    """Text outside thinking, and the tool calls, of an answer."""
    tokens, end = answer
    schemas = ToolSchemas.compile([(TOOL.name, TOOL.parameters)])
    said: list[Said] = []
    if any(token.parts is not None for token in tokens):
        placed = PlacedWatch(schemas, CALL_CHARS)
        for position, token in enumerate(tokens):
            said += placed.feed_parts(position, token.id, token.parts or ())[0]
        said += placed.finish(end)[0]
    else:
        watch = Watch(schemas, CALL_CHARS, starts_thinking)
        for position, token in enumerate(tokens):
            said += watch.feed(position, token.id, token.text)[0]
        said += watch.finish("length")[0]
    text, calls = "", []
    for each in said:
        if isinstance(each, ReadCall):
            calls.append(each)
        elif each.channel == "text":
            text += each.text
    return text, calls


def _sentence(rng: random.Random, number: int) -> str:
    """Numbered, so that no two are alike and no model takes the report for a loop."""
    place, state, deed = rng.choice(_PLACES), rng.choice(_STATES), rng.choice(_DEEDS)
    return f"({number}) The {state} {place} {deed} {rng.randrange(2, 99)} {rng.choice(_THINGS)} {rng.choice(_TIMES)}."
