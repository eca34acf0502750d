"""Calls made invalid at a known byte are tripped at exactly that byte."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

from detectors.json_stream.automaton import JsonStream
from detectors.json_stream.compiled import compile_schema
from tests.detectors.json_stream.mutations import Mutation, mutations
from tests.detectors.json_stream.tool_declarations import DECLARATIONS

EXACT_FLOOR = 0.99


def texts(call: Any) -> list[str]:
    chance = random.Random(1)

    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shuffled(value[key]) for key in chance.sample(list(value), len(value))}
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    return [
        json.dumps(call, ensure_ascii=False),
        json.dumps(shuffled(call), indent=1, ensure_ascii=False),
        json.dumps(shuffled(call), separators=(",", ":")),
    ]


def all_mutations() -> list[tuple[Any, Mutation]]:
    return [
        (schema, mutation)
        for _, schema, calls in DECLARATIONS
        for call in calls
        for text in texts(call)
        for mutation in mutations(text, schema)
    ]


def test_mutations_are_tripped_at_their_byte() -> None:
    total: Counter[str] = Counter()
    exact: Counter[str] = Counter()
    others = []
    for schema, mutation in all_mutations():
        offsets = set()
        for size in (1, 6, len(mutation.data)):
            stream = JsonStream(compile_schema(schema))
            for i in range(0, len(mutation.data), size):
                stream.feed(mutation.data[i : i + size])
            offsets.add(stream.trip.offset if stream.trip is not None else -1)
        assert len(offsets) == 1, (mutation, offsets)
        offset = offsets.pop()
        total[mutation.kind] += 1
        exact[mutation.kind] += offset == mutation.offset
        if offset != mutation.offset:
            others.append((mutation.kind, mutation.data[: mutation.offset + 1], offset - mutation.offset))
        assert offset >= mutation.offset, (mutation, offset)
    assert set(total) == {"type", "key", "enum", "comma", "closer", "escape", "utf-8"}
    share = sum(exact.values()) / sum(total.values())
    print(f"{sum(exact.values())} of {sum(total.values())} mutations at exactly their byte ({share:.2%})", dict(total))
    assert share >= EXACT_FLOOR, others[:10]
