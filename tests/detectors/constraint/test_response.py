"""Responses as demanded: calls that must come, how many and which, and text that is JSON."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from detectors.constraint.response import Demand, ResponseConstraint
from detectors.json_stream.compiled import compile_schema
from detectors.tool_schema import ToolSchemas
from detectors.watch import ReadCall, Watch

STEP: dict[str, Any] = {
    "properties": {"to": {"enum": ["up", "down"]}},
    "required": ["to"],
    "additionalProperties": False,
}
SCHEMAS = ToolSchemas.compile([("step", STEP), ("stop", {"additionalProperties": False})])
NAMES = ("step", "stop")
ALL = frozenset(NAMES)
UP = "<tool_call>\n<function=step>\n<parameter=to>\nup\n</parameter>\n</function>\n</tool_call>"
STOP = "<tool_call>\n<function=stop>\n</function>\n</tool_call>"
BAD = UP.replace("up\n", "left\n")
THOUGHT = "<think>\nhm <tool or so\n</think>\n\n"
ANSWER = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer", "minimum": 3, "maximum": 7}},
    "required": ["ok", "n"],
    "additionalProperties": False,
}
STRICT = Demand(SCHEMAS, NAMES, ALL)
MUST = Demand(SCHEMAS, NAMES, ALL, must_call=True)
ONLY = Demand(SCHEMAS, ("stop",), ALL, must_call=True)
ONE = Demand(SCHEMAS, NAMES, frozenset(), most_calls=1)
JSON = Demand(SCHEMAS, (), text=compile_schema(ANSWER))
NUMBER = Demand(SCHEMAS, (), text=compile_schema({"type": "integer"}))
EITHER = Demand(SCHEMAS, NAMES, ALL, text=compile_schema(ANSWER))


def end(demand: Demand, text: str, size: int = 1, thinking: bool = False) -> str:
    """`refused at N`, or whether the response may end behind the text."""
    response = ResponseConstraint(demand, thinking)
    for at in range(0, len(text), size):
        if not response.clone().feed(text[at : at + size]):
            return f"refused at {at}"
        response.feed(text[at : at + size])
    return "may end" if response.may_end else "must go on"


@pytest.mark.parametrize("size", [1, 3, 500])
@pytest.mark.parametrize(
    ("demand", "text"),
    [
        (STRICT, "anything"),
        (STRICT, f"{THOUGHT}I look.\n\n{UP}\n{STOP}\nand <b>more</b>"),
        (MUST, UP),
        (MUST, f"{THOUGHT}{UP}"),
        (MUST, f"{UP}\n{STOP}\ntext"),
        (ONLY, STOP),
        (ONE, f"I look.\n{BAD}"),
        (JSON, '{"ok": true, "n": 5}'),
        (JSON, f'{THOUGHT}{{"n":7,"ok":false}}\n'),
        (NUMBER, "5"),
        (EITHER, UP),
        (EITHER, f"{UP}\n{UP}"),
        (EITHER, '{"ok": true, "n": 5}'),
    ],
)
def test_what_is_demanded_is_allowed(demand: Demand, text: str, size: int) -> None:
    assert end(demand, text, size) == "may end"


@pytest.mark.parametrize(
    ("demand", "before", "bad"),
    [
        (STRICT, BAD[: BAD.index("left")], "l"),
        (MUST, "", "I"),
        (MUST, "\n\n", "{"),
        (MUST, "<t", "x"),
        (MUST, THOUGHT, "<th"),
        (MUST, THOUGHT, "I"),
        (ONLY, "<tool_call>\n<function=st", "e"),
        (ONE, f"{UP}\n<tool_call", ">"),
        (JSON, "", "x"),
        (JSON, "", "<tool"),
        (JSON, '{"ok": true, "n": ', "2"),
        (JSON, '{"ok": true', "}"),
        (JSON, '{"ok": true, "n": 5}', "x"),
        (JSON, '{"ok": true, "n": 5}', "     "),
        (EITHER, '{"ok": true, "n": 5}', "<"),
        (EITHER, UP, "{"),
        (EITHER, UP, "I"),
    ],
)
def test_what_is_not_is_refused_at_once(demand: Demand, before: str, bad: str) -> None:
    assert not end(demand, before).startswith("refused")
    assert end(demand, before + bad).startswith("refused")
    response = ResponseConstraint(demand)
    assert response.feed(before)
    assert not response.feed(bad)


@pytest.mark.parametrize(
    ("demand", "text"),
    [
        (STRICT, UP[:-3]),
        (MUST, ""),
        (MUST, THOUGHT),
        (MUST, "<think>hm"),
        (JSON, ""),
        (JSON, '{"ok": true'),
        (JSON, "<think>hm"),
        (JSON, THOUGHT),
    ],
)
def test_it_may_not_end_before_what_is_demanded_is_there(demand: Demand, text: str) -> None:
    assert end(demand, text) == "must go on"


def test_a_prompt_that_has_opened_the_thinking() -> None:
    assert end(MUST, f"hm\n</think>\n\n{UP}", thinking=True) == "may end"
    assert end(MUST, "hm\n</think>\n\n<think>", thinking=True).startswith("refused")


def test_free_text_is_known_to_be_free() -> None:
    response = ResponseConstraint(STRICT)
    assert response.is_free
    response.feed("a <to")
    assert not response.is_free
    response.feed("ol_call>")
    assert not response.is_free
    assert not ResponseConstraint(MUST).is_free


def test_the_beginning_of_a_character() -> None:
    answer = Demand(SCHEMAS, (), text=compile_schema({"enum": ["é", "a"]}))
    for before, tail, possible in [('"', b"\xc3", True), ('"', b"\xe2\x82", False), ("", b"\xc3", False)]:
        response = ResponseConstraint(answer)
        response.feed(before)
        assert response.clone().feed("", tail) is possible
    assert ResponseConstraint(STRICT).feed("", b"\xc3")
    assert not ResponseConstraint(MUST).feed("", b"\xc3")


PIECES = (*"abcdefghiklmnoprstuwy<>=/_\n \"{}[]:,.0123456789", "<tool_call>", "</tool_call>", "<think>", "</think>",
          "\n</parameter>\n", "</function>\n", '"ok"', '"n":', "true", "é")  # fmt: skip


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("demand", [MUST, ONLY, JSON, EITHER], ids=["must", "only", "json", "either"])
def test_a_walk_over_what_is_allowed_ends_as_demanded_and_the_guard_agrees(demand: Demand, seed: int) -> None:
    rng = random.Random(seed)
    response, said = ResponseConstraint(demand), ""
    for _ in range(3000):
        if response.may_end:
            break
        pieces = list(PIECES)
        rng.shuffle(pieces)
        pieces.sort(key=lambda piece: piece in " \n" or piece == "<think>")
        for piece in pieces:
            tried = response.clone()
            if tried.feed(piece):
                response, said = tried, said + piece
                break
        else:
            pytest.fail(f"nothing can follow {said!r}")
    assert response.may_end
    watch = Watch(SCHEMAS, 1 << 20)
    heard, finding = watch.feed(0, 1, said)
    rest, last = watch.finish("stop")
    assert (finding, last) == (None, None)
    calls = [each for each in (*heard, *rest) if isinstance(each, ReadCall)]
    text = "".join(each.text for each in (*heard, *rest) if not isinstance(each, ReadCall) and each.channel == "text")
    if demand is JSON or not calls:
        assert demand.text is not None
        assert demand.text.validator.is_valid(json.loads(text))
    assert all(call.violation is None and call.name in demand.names for call in calls)
