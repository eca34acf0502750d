"""The official JSON-Schema-Test-Suite, streamed: never too early, the reference's verdict, the same for every cut."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema_rs
import pytest

from detectors.json_stream.automaton import JsonStream
from detectors.json_stream.compiled import CompiledSchema
from detectors.json_stream.trip import SPECIFICATION, Trip
from tests.detectors.json_stream.official_suite import cases, remotes, serialisations

CAUGHT_FLOOR = 0.45
VOCABULARY = "vocabulary: schema that uses custom metaschema with with no validation vocabulary"


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def bytewise(data: bytes) -> Iterator[bytes]:
    for i in range(len(data)):
        yield data[i : i + 1]


def randomly(data: bytes) -> Iterator[bytes]:
    chance, at = random.Random(data), 0
    while at < len(data):
        size = chance.randint(1, 9)
        yield data[at : at + size]
        at += size


CUTS: tuple[Callable[[bytes], Iterator[bytes]], ...] = (whole, bytewise, randomly)


def compiled(schema: Any, draft: str) -> CompiledSchema:
    return CompiledSchema(schema, json.dumps(schema), remotes(draft))


def stream(schema: CompiledSchema, pieces: Iterator[bytes]) -> tuple[Trip | None, Trip | None]:
    """What tripped on the way, and what the whole is found to be."""
    read = JsonStream(schema, SPECIFICATION)
    for piece in pieces:
        if read.feed(piece) is not None:
            break
    return read.trip, read.finish().trip


@pytest.mark.parametrize("draft", ["draft7", "draft2020-12"])
def test_the_official_suite(draft: str) -> None:
    problems, invalid, caught, count = [], 0, 0, 0
    for case in cases(draft):
        schema = compiled(case.schema, draft)
        for instance, valid in case.instances:
            reference = schema.validator.is_valid(instance)
            for name, data in serialisations(instance):
                where = f"{case.name}, {name} {data[:80]!r}"
                verdicts = {stream(schema, cut(data)) for cut in CUTS}
                if len(verdicts) > 1:
                    problems.append(f"depends on the cut: {where}: {verdicts}")
                early, final = verdicts.pop()
                if early is not None and (valid or reference):
                    problems.append(f"too early: {where}: {early}")
                if (final is None) is not reference:
                    problems.append(f"not the reference's verdict: {where}: {final}")
                if reference is not valid:
                    problems.append(f"not the suite's verdict: {where}")
                count += 1
                invalid += not valid
                caught += early is not None and early.offset < len(data) - 1
    assert problems == []
    assert count > 3_000
    print(f"{draft}: {count} runs, {invalid} invalid, {caught / invalid:.1%} caught before the last byte")
    assert caught / invalid >= CAUGHT_FLOOR


def test_the_reference_is_the_pinned_one() -> None:
    """The suite's verdicts above are those of this release."""
    assert jsonschema_rs.Draft202012Validator({"multipleOf": 0.01}).is_valid(0.07)
