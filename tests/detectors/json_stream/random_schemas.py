"""Random schemas and values, many per second: all keywords, few names and values, so that they meet.

Must not: use anything of the code under test.
Invariant: the same seed gives the same schemas; patterns and numbers are such that both references agree on them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

KEYS = ["a", "b", "ab", "é"]
SCALARS = [None, True, False, -3, -1, 0, 1, 2, 3, "", "a", "b", "ab", "aé", 1.5, 2.0, -0.0]
TYPES = ["string", "integer", "number", "boolean", "null", "array", "object"]


class RandomSchemas:
    """draft: `2020-12` or `draft-07`."""

    def __init__(self, seed: int, draft: str) -> None:
        self._chance, self._modern = random.Random(seed), draft == "2020-12"

    def document(self) -> dict[str, Any]:
        """A schema with two definitions, one of them recursive."""
        schema = {key: make() for key, make in self._sample(3)}
        shared = self._schema(2)
        if '"$ref"' in json.dumps(shared):  # a circle of references would say nothing
            shared = {"type": "object"}
        recursive = {"properties": {"a": {"$ref": "#/$defs/e"}}, "type": ["object", "null"]}
        schema["$defs"] = {"d": shared, "e": recursive}
        return schema if self._modern else {"$schema": "http://json-schema.org/draft-07/schema#", **schema}

    def value(self, depth: int = 4) -> Any:
        chance = self._chance
        if depth == 0 or chance.random() < 0.4:
            return chance.choice(SCALARS)
        if chance.random() < 0.5:
            return [self.value(depth - 1) for _ in range(chance.randint(0, 3))]
        return {key: self.value(depth - 1) for key in chance.sample(KEYS, chance.randint(0, 3))}

    def _schema(self, depth: int) -> Any:
        chance = self._chance
        if depth == 0:
            leaf = {"type": chance.choice(TYPES)}
            reference = {"$ref": f"#/$defs/{chance.choice('de')}"}
            return chance.choice([True, True, False, {}, leaf, leaf, {"const": self.value(1)}, reference])
        return {key: make() for key, make in self._sample(depth)}

    def _sample(self, depth: int) -> list[tuple[str, Callable[[], Any]]]:
        chance = self._chance

        def inner() -> Any:
            return self._schema(depth - 1)

        def few() -> list[Any]:
            return [inner() for _ in range(chance.randint(1, 3))]

        def count() -> int:
            return chance.randint(0, 2)

        def names() -> list[str]:
            return chance.sample(KEYS, chance.randint(0, 2))

        def by_key() -> dict[str, Any]:
            return {chance.choice(KEYS): inner()}

        made: dict[str, Callable[[], Any]] = {
            "type": lambda: chance.choice([chance.choice(TYPES), chance.sample(TYPES, 2)]),
            "properties": lambda: {key: inner() for key in chance.sample(KEYS, chance.randint(0, 3))},
            "required": names,
            "patternProperties": lambda: {chance.choice(["^a", "b$", "."]): inner()},
            "uniqueItems": lambda: True,
            "enum": lambda: [self.value(2) for _ in range(chance.randint(1, 4))],
            "const": lambda: self.value(2),
            "minimum": lambda: chance.randint(-2, 2),
            "exclusiveMaximum": lambda: chance.randint(-2, 2),
            "multipleOf": lambda: chance.choice([1, 2, 0.5]),
            "pattern": lambda: chance.choice(["^a", "b$", "^$"]),
            "$ref": lambda: f"#/$defs/{chance.choice('de')}",
        }
        made |= dict.fromkeys(("additionalProperties", "propertyNames", "items", "contains"), inner)
        made |= dict.fromkeys(("not", "if", "then", "else"), inner)
        made |= dict.fromkeys(("allOf", "anyOf", "oneOf"), few)
        made |= dict.fromkeys(
            ("minProperties", "maxProperties", "minItems", "maxItems", "minLength", "maxLength"), count
        )
        if self._modern:
            made |= {"prefixItems": few, "dependentRequired": lambda: {chance.choice(KEYS): names()}}
            made |= {"dependentSchemas": by_key, "minContains": count, "maxContains": count}
            made |= {"unevaluatedProperties": inner, "unevaluatedItems": inner}
        else:
            made |= {"items": lambda: _not_bool(chance.choice([inner, few])()), "additionalItems": inner}
            made |= {"dependencies": lambda: chance.choice([by_key(), {chance.choice(KEYS): names()}])}
        chosen = chance.sample(sorted(made), chance.randint(1, 4))
        return [(key, made[key]) for key in chosen]


def _not_bool(schema: Any) -> Any:
    """`jsonschema` fails with an exception on draft-07's `items: true` beside `additionalItems`."""
    return {} if schema is True else {"not": {}} if schema is False else schema
