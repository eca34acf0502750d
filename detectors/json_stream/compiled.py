"""A schema ready for use: its final validator, and plans of its places, made when a stream first comes there.

Must not: fetch a `$ref`, or take longer to compile for what no value reaches.
Invariant: equal schemas are compiled once while they are in use; memory is bounded (SCHEMAS_KEPT, MAX_PLANS).
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jsonschema_rs
import orjson

from detectors.json_stream.exactness import classify
from detectors.json_stream.nodes import ALL_KINDS, PATTERNS, STRING, Builder, Node
from detectors.json_stream.plan import Link, Plan, cut_cycles
from detectors.json_stream.references import ROOT_BASE, References, own_base
from detectors.json_stream.trip import Exactness

SCHEMAS_KEPT = 256
MAX_PLANS = 4_096
MAX_NODES = 50_000
KNOWN_KEYS = 256
"""Links kept for keys that are not declared, per place."""
MAX_SCHEMA_BYTES = 1 << 20

_DRAFTS = {
    "https://json-schema.org/draft/2020-12/schema": "2020-12",
    "http://json-schema.org/draft-07/schema": "draft-07",
    "https://json-schema.org/draft-07/schema": "draft-07",
}
_NOTHING = Plan([], [], ())
UNCHECKED = Link(_NOTHING, (), 0, (), 0, True)


class CompiledSchema:
    """Immutable to its users; the plans inside grow. `schema` must not be changed afterwards."""

    def __init__(self, schema: Any, text: str, resources: Sequence[tuple[str, Any]] = ()) -> None:
        """Raises jsonschema_rs.ValidationError or ReferencingError, ValueError, RecursionError: no usable schema."""
        self.schema = schema
        declared = schema.get("$schema") if isinstance(schema, dict) else None
        self.draft = "2020-12" if declared is None else _DRAFTS.get(str(declared).removesuffix("#"), "")
        registry = None
        if resources:
            draft = jsonschema_rs.Draft7 if self.draft == "draft-07" else jsonschema_rs.Draft202012
            registry = jsonschema_rs.Registry(list(resources), draft=draft)
        self.validator = jsonschema_rs.validator_for(
            schema, offline=True, validate_formats=False, pattern_options=PATTERNS, registry=registry
        )
        self._declared = declared
        self._watched = bool(self.draft) and len(text) <= MAX_SCHEMA_BYTES
        self._references = References(schema, text, self.draft, resources)
        self._builder = Builder(self.draft, self._number, self._constant, self._resolve)
        self._sources: list[tuple[Any, str, str, bool]] = []
        self._nodes: dict[int, Node] = {}
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []  # schemas that references gave us: their ids are keys above
        self._targets: dict[tuple[str, str], int | None] = {}
        self._plans: dict[tuple[int, ...], Plan | None] = {}
        self.root = self._root()

    @cached_property
    def exactness(self) -> Exactness:
        """How early a trip comes."""
        return classify(self.schema, self.draft) if self._watched else "opaque"

    def member(self, plan: Plan, key: str) -> Link:
        """The link to an object's member."""
        link = plan.members.get(key)
        if link is not None:
            return link
        uses: list[tuple[int, int]] = []
        declared = False
        for i, node in enumerate(plan.nodes):
            bit = 1 << i
            matched = False
            if (number := node.properties.get(key)) is not None:
                uses.append((number, bit))
                matched = declared = True
            for pattern, number in node.patterns:
                if holds(pattern, key):
                    uses.append((number, bit))
                    matched = True
            if not matched and node.additional is not None:
                uses.append((node.additional, bit))
        link = self._link(plan, uses, [])
        if declared or len(plan.members) < KNOWN_KEYS:
            plan.members[key] = link
        return link

    def element(self, plan: Plan, index: int) -> Link:
        """The link to an array's element."""
        index = min(index, plan.counted)
        link = plan.elements.get(index)
        if link is None:
            uses = []
            for i, node in enumerate(plan.nodes):
                if index < len(node.prefix):
                    uses.append((node.prefix[index], 1 << i))
                elif node.items is not None:
                    uses.append((node.items, 1 << i))
            counts = [(node.contains, bit) for bit, node in plan.contains if node.contains is not None]
            link = plan.elements[index] = self._link(plan, uses, counts)
        return link

    def name(self, plan: Plan) -> Link:
        """The link to an object's keys."""
        if plan.names is None:
            uses = [(node.names, 1 << i) for i, node in enumerate(plan.nodes) if node.names is not None]
            plan.names = self._link(plan, uses, [])
        return plan.names

    def _root(self) -> Link:
        if not self._watched:
            return UNCHECKED
        plan = self._plan((self._number(self.schema, ROOT_BASE, ""),))
        if plan is None:
            return UNCHECKED
        return Link(plan, ((plan.roots, 1),), 0, (), 0, False)

    def _link(self, outer: Plan, uses: list[tuple[int, int]], counts: list[tuple[int, int]]) -> Link:
        if not uses and not counts:
            return UNCHECKED
        plan = self._plan(tuple(sorted({number for number, _ in (*uses, *counts)})))
        if plan is None:
            everybody = 0
            for _, bit in (*uses, *counts):
                everybody |= bit
            return Link(_NOTHING, (), 0, (), everybody, False)
        masks: dict[int, int] = {}
        for number, bit in uses:
            inner = 1 << plan.index[number]
            masks[inner] = masks.get(inner, 0) | bit
        hopeless = plan.all
        for dead, _, _ in plan.start:
            hopeless &= dead
        never = 0
        for inner, mask in masks.items():
            never |= mask if hopeless & inner else 0
        counted = tuple((1 << plan.index[number], bit) for number, bit in counts)
        return Link(plan, tuple(masks.items()), never, counted, 0, False)

    def _plan(self, roots: tuple[int, ...]) -> Plan | None:
        """None = too large, too many, or going in circles: nobody looks before the end."""
        if roots in self._plans:
            return self._plans[roots]
        plan: Plan | None = None
        order: list[int] = []
        for root in roots:
            more = cut_cycles(root, self._node) if len(order) <= MAX_NODES_AT_ONE_PLACE else None
            if more is None:
                break
            have = set(order)
            order += [number for number in more if number not in have]
        else:
            if len(self._plans) < MAX_PLANS and len(self._nodes) < MAX_NODES:
                plan = Plan([self._node(number) for number in order], order, roots)
        if len(self._plans) < MAX_PLANS:
            self._plans[roots] = plan
        return plan

    def _node(self, number: int) -> Node:
        node = self._nodes.get(number)
        if node is None:
            schema, base, path, constant = self._sources[number]
            if constant:
                node = self._builder.constant(schema, base, path)
            elif self._is_foreign(schema) or len(self._nodes) > MAX_NODES:
                node = Node(path)
                node.opaque = True
            else:
                node = self._builder.build(schema, own_base(schema, base, self.draft), path)
            self._nodes[number] = node
        return node

    def _is_foreign(self, schema: Any) -> bool:
        """Whether another draft begins here."""
        return isinstance(schema, dict) and "$schema" in schema and schema["$schema"] != self._declared

    def _number(self, schema: Any, base: str, path: str) -> int:
        if isinstance(schema, bool):
            return self._add(schema, base, path, False)
        number = self._numbers.get(id(schema))
        if number is None:
            number = self._numbers[id(schema)] = self._add(schema, base, path, False)
        return number

    def _constant(self, value: Any, base: str, path: str) -> int:
        return self._add(value, base, path, True)

    def _add(self, schema: Any, base: str, path: str, constant: bool) -> int:
        self._sources.append((schema, base, path, constant))
        return len(self._sources) - 1

    def _resolve(self, reference: str, base: str) -> int | None:
        if (base, reference) not in self._targets:
            found = self._references.find(reference, base)
            if found is None:
                self._targets[base, reference] = None
            else:
                self._kept.append(found[0])
                self._targets[base, reference] = self._number(*found)
        return self._targets[base, reference]


MAX_NODES_AT_ONE_PLACE = 4_096
_cache: OrderedDict[bytes, CompiledSchema] = OrderedDict()


def compile_schema(schema: Any) -> CompiledSchema:
    """From the cache if an equal schema was seen lately. Raises as CompiledSchema, and TypeError: not JSON."""
    key = _key(schema)
    compiled = _cache.pop(key, None) if key else None
    if compiled is None:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        key = key or hashlib.sha256(text.encode()).digest()
        compiled = _cache.pop(key, None) or CompiledSchema(json.loads(text), text)
    _cache[key] = compiled
    while len(_cache) > SCHEMAS_KEPT:
        _cache.popitem(last=False)
    return compiled


def _key(schema: Any) -> bytes:
    """What equal schemas have in common; every request asks for those of all its tools. Empty where this encoder, a
    fraction of the other's work, may not tell apart what that refuses: no number is a null to it."""
    try:
        text = orjson.dumps(schema)
    except (TypeError, RecursionError):
        return b""
    return b"" if b"null" in text else hashlib.sha256(text).digest()


def holds(validator: jsonschema_rs.Validator, value: Any) -> bool:
    """Whether a scalar passes; what cannot be checked passes, the final verdict will tell."""
    try:
        return validator.is_valid(value)
    except (ValueError, RecursionError):
        return True


__all__ = ["ALL_KINDS", "STRING", "CompiledSchema", "compile_schema", "holds"]
