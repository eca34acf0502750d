"""Which JSON types a schema can admit, without validating: how the text of a value is to be read.

Must not: fetch anything, follow a reference out of the schema, or visit a part of it twice.
Invariant: a type that some valid instance has is never left out (keywords that are not understood admit all).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

ALL_TYPES = frozenset({"string", "integer", "number", "boolean", "null", "array", "object"})


def property_schema(schema: Mapping[str, Any], key: str) -> Any:
    """The schema of a property, None where the tool does not declare it."""
    return _find_property(schema, key, schema, set())


def _find_property(schema: Any, key: str, root: Mapping[str, Any], visited: set[int]) -> Any:
    if not isinstance(schema, Mapping) or id(schema) in visited:
        return None
    visited.add(id(schema))
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and key in properties:
        return properties[key]
    reference = schema.get("$ref")
    parts = [_resolve(reference, root)] if isinstance(reference, str) else []
    for keyword in ("allOf", "anyOf", "oneOf"):
        parts += _branches(schema, keyword)
    found = [f for part in parts if (f := _find_property(part, key, root, visited)) is not None]
    if found:
        return found[0] if len(found) == 1 else {"anyOf": found}
    additional = schema.get("additionalProperties")
    return additional if isinstance(additional, Mapping) else None


def is_bound(schema: Mapping[str, Any], key: str) -> bool:
    """Does what is declared for `key` hold whatever else the arguments are? Not so for a branch that may not be taken,
    or where a pattern of names may apply instead."""
    return _is_bound(schema, key, schema, set())


def _is_bound(schema: Any, key: str, root: Mapping[str, Any], visited: set[int]) -> bool:
    if not isinstance(schema, Mapping) or id(schema) in visited:
        return False
    visited.add(id(schema))
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and key in properties:
        return True
    reference = schema.get("$ref")
    parts = [_resolve(reference, root)] if isinstance(reference, str) else []
    if any(_is_bound(part, key, root, visited) for part in (*parts, *_branches(schema, "allOf"))):
        return True
    return "additionalProperties" in schema and not _ALTERNATIVES & set(schema)


_ALTERNATIVES = {"anyOf", "oneOf", "allOf", "$ref", "patternProperties"}
"""What may declare a key beside `additionalProperties`."""


def admitted_types(schema: Any, root: Mapping[str, Any]) -> frozenset[str]:
    """Names of JSON types; `number` includes the integers."""
    return _admitted(schema, root, {})


def _admitted(schema: Any, root: Mapping[str, Any], known: dict[int, frozenset[str]]) -> frozenset[str]:
    """`known` makes shared and circular references cheap: inside itself a schema restricts nothing."""
    if not isinstance(schema, Mapping):
        return ALL_TYPES
    if id(schema) in known:
        return known[id(schema)]
    known[id(schema)] = ALL_TYPES
    types = ALL_TYPES
    declared = schema.get("type")
    if isinstance(declared, str):
        types &= _with_integers({declared})
    elif isinstance(declared, list):
        types &= _with_integers({name for name in declared if isinstance(name, str)})
    if isinstance(schema.get("enum"), list):
        types &= _with_integers({_type_of(member) for member in schema["enum"]})
    if "const" in schema:
        types &= _with_integers({_type_of(schema["const"])})
    if isinstance(schema.get("$ref"), str):
        types &= _admitted(_resolve(schema["$ref"], root), root, known)
    for keyword in ("anyOf", "oneOf"):
        if branches := _branches(schema, keyword):
            types &= frozenset[str]().union(*(_admitted(branch, root, known) for branch in branches))
    for branch in _branches(schema, "allOf"):
        types &= _admitted(branch, root, known)
    known[id(schema)] = types
    return types


def closed_properties(schema: Any) -> tuple[str, ...] | None:
    """The only keys that an object may have, None if there is no such list."""
    if isinstance(schema, Mapping) and isinstance(schema.get("$ref"), str) and "additionalProperties" not in schema:
        referred = _resolve(schema["$ref"], schema)
        return None if isinstance(referred, Mapping) and "$ref" in referred else closed_properties(referred)
    if not isinstance(schema, Mapping) or schema.get("additionalProperties") is not False:
        return None
    declared = schema.get("properties") or {}
    return tuple(declared) if isinstance(declared, Mapping) and not schema.get("patternProperties") else None


def _branches(schema: Mapping[str, Any], keyword: str) -> list[Any]:
    branches = schema.get(keyword)
    return branches if isinstance(branches, list) else []


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    """A JSON pointer inside the same schema; None for anything else."""
    if not reference.startswith("#"):
        return None
    node: Any = root
    for part in re.findall(r"/([^/]*)", reference[1:]):
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, Mapping) and name in node:
            node = node[name]
        elif isinstance(node, list) and name.isdigit() and int(name) < len(node):
            node = node[int(name)]
        else:
            return None
    return node


def _with_integers(types: set[str]) -> frozenset[str]:
    return frozenset(types | ({"integer"} if "number" in types else set()))


def _type_of(value: Any) -> str:
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case None:
            return "null"
        case list():
            return "array"
        case _:
            return "object"
