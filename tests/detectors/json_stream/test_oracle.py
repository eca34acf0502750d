"""An independent oracle (satisfiability of the completions) never contradicts a trip, and rarely finds it late."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

from detectors.json_stream.automaton import JsonStream
from detectors.json_stream.compiled import compile_schema
from detectors.json_stream.trip import Rules, Trip
from tests.detectors.json_stream.satisfiability import is_dead
from tests.detectors.json_stream.tool_declarations import DECLARATIONS

EXACT_FLOOR, LATE_FLOOR = 0.99, 0.9
RULES = Rules(root_object=False)
VALUES: list[Any] = [
    "",
    "x",
    "read",
    "pending",
    0,
    1.5,
    -3,
    True,
    None,
    [],
    {},
    ["a"],
    {"name": 1},
    [{}],
    "auto",
    "text",
]
NOT_EXACT: list[tuple[str, Any, list[Any]]] = [
    ("one", {"properties": {"a": {"oneOf": [{"type": "string"}, {"enum": [1, "x", None]}]}}}, [{"a": "y"}, {}]),
    ("not", {"properties": {"a": {"not": {"enum": ["x", 1]}}}, "not": {"required": ["b"]}}, [{"a": "y"}, {"c": 1}]),
    ("both", {"allOf": [{"properties": {"a": {"type": "string"}}}, {"required": ["a"]}]}, [{"a": "x"}]),
    ("if", {"if": {"properties": {"k": {"const": 1}}}, "then": {"required": ["b"]}}, [{"k": 1, "b": 2}]),
    ("names", {"propertyNames": {"enum": ["ab", "cd"]}, "minProperties": 1}, [{"ab": 1, "cd": 2}]),
    ("array", {"properties": {"a": {"prefixItems": [{"type": "string"}], "items": {"type": "null"}, "maxItems": 3,
                                    "contains": {"type": "null"}}}}, [{"a": ["x", None, None]}]),
    ("constants", {"properties": {"a": {"enum": [{"x": 1}, {"y": [1, "z"]}, "s"]}}}, [{"a": {"y": [1, "z"]}}]),
]  # fmt: skip


def altered(value: Any, chance: random.Random) -> Any:
    """The value with one part replaced, renamed, dropped or added."""
    if chance.random() < 0.25 or not isinstance(value, dict | list) or not value:
        return chance.choice(VALUES)
    if isinstance(value, list):
        at = chance.randrange(len(value))
        return [altered(item, chance) if i == at else item for i, item in enumerate(value)]
    items = list(value.items())
    chance.shuffle(items)
    at = chance.randrange(len(items))
    key, member = items[at]
    match chance.randrange(4):
        case 0:
            items.pop(at)
        case 1:
            items[at] = (key[:-1] + chance.choice("ax_"), member)
        case _:
            items[at] = (key, altered(member, chance))
    return dict(items)


def trip_of(schema: Any, text: str) -> Trip | None:
    stream = JsonStream(compile_schema(schema), RULES)
    return stream.feed(text.encode())


def survey(declared: list[tuple[str, Any, list[Any]]], rounds: int) -> Counter[str]:
    """How many trips were confirmed, exact, late or undecided. Fails on the first that the oracle contradicts."""
    told: Counter[str] = Counter()
    chance = random.Random(7)
    for name, schema, calls in declared:
        for _ in range(rounds):
            call = altered(chance.choice(calls), chance)
            text = json.dumps(call, separators=(",", ":"))  # ASCII: bytes are characters
            trip = trip_of(schema, text)
            if trip is None or trip.kind != "schema":
                continue
            after, before = is_dead(schema, text[: trip.offset + 1]), is_dead(schema, text[: trip.offset])
            assert after is not False, (name, text[: trip.offset + 1], trip)
            told["trips"] += 1
            told["confirmed"] += after is True
            told["late" if before else "exact" if before is False else "undecided"] += 1
    return told


def share(told: Counter[str]) -> float:
    return told["exact"] / (told["exact"] + told["late"])


def test_tools() -> None:
    told = survey(DECLARATIONS, 60)
    print(dict(told), f"{share(told):.2%} exact")
    assert told["trips"] > 500
    assert told["confirmed"] > told["trips"] / 2
    assert share(told) >= EXACT_FLOOR


def test_schemas_that_are_not_exact() -> None:
    told = survey(NOT_EXACT, 100)
    print(dict(told), f"{share(told):.2%} exact")
    assert told["confirmed"] > 50
    assert share(told) >= LATE_FLOOR


def test_the_oracle_itself() -> None:
    schema = DECLARATIONS[2][1]
    assert is_dead(schema, '{"file_path":"a","old_') is False
    assert is_dead(schema, '{"file_path":"a","odl') is True
    assert is_dead(schema, '{"file_path":1') is True
