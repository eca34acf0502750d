"""One schema object as a `Node`: its own checks, sorted by what they look at, and the nodes it refers to.

Must not: look at more than one schema object at a time (children are numbers, built when first needed), or
understand a keyword differently than jsonschema-rs does: numbers and whole strings are checked by it.
Invariant: a keyword that is not understood makes the node `opaque` (never settled as valid), not wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jsonschema_rs

STRING, NUMBER, OBJECT, ARRAY, TRUE, FALSE, NULL = range(7)
KINDS = 7
ALL_KINDS = (1 << KINDS) - 1
_KINDS_OF = {
    "string": 1 << STRING,
    "number": 1 << NUMBER,
    "integer": 1 << NUMBER,
    "object": 1 << OBJECT,
    "array": 1 << ARRAY,
    "boolean": 1 << TRUE | 1 << FALSE,
    "null": 1 << NULL,
}
BACKTRACKS = 100_000
PATTERNS = jsonschema_rs.FancyRegexOptions(backtrack_limit=BACKTRACKS, size_limit=1 << 20)
_NUMBER_KEYWORDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_STRING_KEYWORDS = ("pattern", "minLength", "maxLength")

Formula = tuple[str, str, Any]
"""(operator, keyword, operands): all, any, one: numbers of nodes; not: a number; if: three; dep: (key, number)."""


class Node:
    """Checks of one schema object. kinds: bits of the kinds of value it admits; kind_keyword: who says so.

    number, string: validators for whole scalars, None = no check. enums: for each enum or const, its strings in
    UTF-8, sorted. closed: the keys of an object that admits no others, in UTF-8, sorted. never: admits nothing.
    is_constant: made of a part of an enum or const, which `path` names.
    Numbers of nodes stand for schemas; None = no such keyword.
    """

    __slots__ = (
        "additional", "closed", "contains", "dep_required", "enums", "formulas", "is_constant", "items",
        "kind_keyword", "kinds",
        "max_contains", "max_items", "max_length", "max_properties", "min_contains", "min_items", "min_properties",
        "names", "number", "opaque", "path", "patterns", "prefix", "properties", "required", "string", "unique",
    )  # fmt: skip

    def __init__(self, path: str) -> None:
        self.path = path
        self.kinds = ALL_KINDS
        self.kind_keyword = "type"
        self.opaque = False
        self.is_constant = False
        self.number: jsonschema_rs.Validator | None = None
        self.string: jsonschema_rs.Validator | None = None
        self.enums: list[tuple[str, list[bytes]]] = []
        self.max_length: int | None = None
        self.properties: dict[str, int] = {}
        self.patterns: list[tuple[jsonschema_rs.Validator, int]] = []
        self.additional: int | None = None
        self.closed: list[bytes] | None = None
        self.names: int | None = None
        self.required: tuple[str, ...] = ()
        self.dep_required: list[tuple[str, str, tuple[str, ...]]] = []
        self.min_properties = 0
        self.max_properties: int | None = None
        self.prefix: list[int] = []
        self.items: int | None = None
        self.contains: int | None = None
        self.min_contains = 1
        self.max_contains: int | None = None
        self.unique = False
        self.min_items = 0
        self.max_items: int | None = None
        self.formulas: list[Formula] = []

    def is_loose(self, kind: int) -> bool:
        """Whether a value of this kind needs no look beyond its first byte (formulas apart)."""
        if self.opaque:
            return False
        match kind:
            case 0:
                return self.string is None and not self.enums and self.max_length is None
            case 1:
                return self.number is None
            case 2:
                return not (
                    self.properties or self.patterns or self.additional is not None or self.names is not None
                    or self.required or self.dep_required or self.min_properties or self.max_properties is not None
                )  # fmt: skip
            case 3:
                return not (
                    self.prefix or self.items is not None or self.contains is not None
                    or self.unique or self.min_items or self.max_items is not None
                )  # fmt: skip
        return True


class Builder:
    """Builds nodes. draft: of the whole schema. child: gives a schema its number; resolve: a `$ref` its number."""

    def __init__(
        self,
        draft: str,
        child: Callable[[Any, str, str], int],
        constant: Callable[[Any, str, str], int],
        resolve: Callable[[str, str], int | None],
    ) -> None:
        self._modern = draft == "2020-12"
        self._validator = jsonschema_rs.Draft202012Validator if self._modern else jsonschema_rs.Draft7Validator
        self._child, self._constant, self._resolve = child, constant, resolve

    def build(self, schema: Any, base: str, path: str) -> Node:
        """The node of a schema; `base`: the URI that its references are relative to."""
        node = Node(path)
        if schema is False:
            node.kinds, node.kind_keyword = 0, "false"
        if not isinstance(schema, Mapping):
            node.opaque = not isinstance(schema, bool)
            return node
        if isinstance(reference := schema.get("$ref"), str):
            target = self._resolve(reference, base)
            if target is None:
                node.opaque = True
            else:
                node.formulas.append(("all", "$ref", (target,)))
            if not self._modern:
                return node  # draft-07: everything beside a reference is ignored

        def child(keyword: str, part: Any = None) -> int:
            return self._child(schema[keyword] if part is None else part[1], base, f"{path}/{keyword}{_step(part)}")

        self._scalars(node, schema)
        self._constants(node, schema, base, path)
        self._object(node, schema, child)
        self._array(node, schema, child)
        self._logic(node, schema, child)
        return node

    def check(self, schema: Mapping[str, Any]) -> jsonschema_rs.Validator:
        return self._validator(dict(schema), validate_formats=False, pattern_options=PATTERNS, offline=True)

    def _scalars(self, node: Node, schema: Mapping[str, Any]) -> None:
        declared = schema.get("type")
        types = [declared] if isinstance(declared, str) else declared
        number = {key: schema[key] for key in _NUMBER_KEYWORDS if key in schema}
        if isinstance(types, list):
            node.kinds = 0
            for name in types:
                node.kinds |= _KINDS_OF[name]
            if "integer" in types and "number" not in types:
                number["type"] = "integer"
        if number:
            node.number = self.check(number)
        if string := {key: schema[key] for key in _STRING_KEYWORDS if key in schema}:
            node.string = self.check(string)
        node.max_length = _whole(schema.get("maxLength"))

    def _constants(self, node: Node, schema: Mapping[str, Any], base: str, path: str) -> None:
        for keyword in ("enum", "const"):
            if keyword not in schema:
                continue
            members = schema["enum"] if keyword == "enum" else [schema["const"]]
            if not any(isinstance(member, dict | list) for member in members):
                self._only(node, keyword, members)
            elif len(members) == 1:
                node.formulas.append(("all", keyword, (self._constant(members[0], base, f"{path}/{keyword}"),)))
            else:
                options = [self._constant(member, base, f"{path}/{keyword}") for member in members]
                node.formulas.append(("any", keyword, tuple(options)))

    def _only(self, node: Node, keyword: str, members: list[Any]) -> None:
        """Admits only these scalars."""
        strings = [member for member in members if isinstance(member, str)]
        if node.string is not None:
            strings = [text for text in strings if node.string.is_valid(text)]
        numbers = [m for m in members if isinstance(m, int | float) and not isinstance(m, bool)]
        kinds = 1 << STRING if strings else 0
        kinds |= 1 << NUMBER if numbers else 0
        for value, kind in ((True, TRUE), (False, FALSE), (None, NULL)):
            kinds |= 1 << kind if any(member is value for member in members) else 0
        if node.kinds & ~kinds:
            node.kind_keyword = keyword
        node.kinds &= kinds
        if strings:
            node.enums.append((keyword, sorted({text.encode("utf-8", "surrogatepass") for text in strings})))
        if numbers:
            before = [] if node.number is None else [node.number.is_valid(number) for number in numbers]
            kept = [n for n, good in zip(numbers, before, strict=True) if good] if before else numbers
            node.number = self.check({"enum": kept})
            if not kept:
                node.kinds &= ~(1 << NUMBER)

    def constant(self, value: Any, base: str, path: str) -> Node:
        """The node that admits exactly `value`."""
        node = Node(path)
        node.kind_keyword, node.is_constant = path.rpartition("/")[2], True
        if isinstance(value, dict):
            node.kinds = 1 << OBJECT
            node.properties = {key: self._constant(member, base, path) for key, member in value.items()}
            node.required = tuple(value)
            node.additional = self._child(False, base, path)
            node.closed = _sorted_keys(value)
        elif isinstance(value, list):
            node.kinds = 1 << ARRAY
            node.prefix = [self._constant(member, base, path) for member in value]
            node.items = self._child(False, base, path)
            node.min_items = node.max_items = len(value)
        else:
            self._only(node, node.kind_keyword, [value])
        return node

    def _object(self, node: Node, schema: Mapping[str, Any], child: Callable[..., int]) -> None:
        properties = schema.get("properties", {})
        node.properties = {key: child("properties", (key, value)) for key, value in properties.items()}
        for pattern, value in schema.get("patternProperties", {}).items():
            number = child("patternProperties", (pattern, value))
            node.patterns.append((self.check({"pattern": pattern}), number))
        if (additional := schema.get("additionalProperties", True)) is not True:
            node.additional = child("additionalProperties")
            if additional is False and not node.patterns:
                node.closed = _sorted_keys(key for key, value in properties.items() if value is not False)
        if schema.get("propertyNames", True) is not True:
            node.names = child("propertyNames")
        node.required = tuple(schema.get("required", ()))
        node.min_properties = _whole(schema.get("minProperties")) or 0
        node.max_properties = _whole(schema.get("maxProperties"))
        for keyword in ("dependentRequired", "dependentSchemas") if self._modern else ("dependencies",):
            for key, value in schema.get(keyword, {}).items():
                if isinstance(value, list):
                    node.dep_required.append((keyword, key, tuple(value)))
                else:
                    node.formulas.append(("dep", keyword, (key, child(keyword, (key, value)))))

    def _array(self, node: Node, schema: Mapping[str, Any], child: Callable[..., int]) -> None:
        many, rest = ("prefixItems", "items") if self._modern else ("items", "additionalItems")
        if isinstance(listed := schema.get(many), list):
            node.prefix = [child(many, (i, part)) for i, part in enumerate(listed)]
        elif not self._modern:
            rest = "items"
        if schema.get(rest, True) is not True:
            node.items = child(rest)
        node.min_items = _whole(schema.get("minItems")) or 0
        node.max_items = _whole(schema.get("maxItems"))
        if schema.get(rest) is False:
            node.max_items = min(len(node.prefix), len(node.prefix) if node.max_items is None else node.max_items)
        node.unique = schema.get("uniqueItems") is True
        if "contains" in schema:
            node.contains = child("contains")
            if self._modern:
                least = _whole(schema.get("minContains"))
                node.min_contains = 1 if least is None else least
                node.max_contains = _whole(schema.get("maxContains"))

    def _logic(self, node: Node, schema: Mapping[str, Any], child: Callable[..., int]) -> None:
        for keyword, operator in (("allOf", "all"), ("anyOf", "any"), ("oneOf", "one")):
            if keyword in schema:
                parts = tuple(child(keyword, (i, part)) for i, part in enumerate(schema[keyword]))
                node.formulas.append((operator, keyword, parts))
        if "not" in schema:
            node.formulas.append(("not", "not", child("not")))
        if "if" in schema and ("then" in schema or "else" in schema):
            parts = tuple(child(keyword) if keyword in schema else -1 for keyword in ("if", "then", "else"))
            node.formulas.append(("if", "if", parts))
        final = ("unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef", "dependencies")
        if self._modern and any(keyword in schema for keyword in final):
            node.opaque = True


def _whole(limit: Any) -> int | None:
    """A limit on a count; 2.0 is 2."""
    return None if limit is None else int(limit)


def _sorted_keys(keys: Any) -> list[bytes]:
    return sorted(key.encode("utf-8", "surrogatepass") for key in keys)


def _step(part: tuple[Any, Any] | None) -> str:
    return "" if part is None else "/" + str(part[0]).replace("~", "~0").replace("/", "~1")
