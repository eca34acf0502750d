"""Says whether a schema is checked to the byte, from its keywords alone.

Must not: claim more than holds: what is not known to be exact is `late`.
Invariant: `exact` means that every check is decided at its earliest byte and no two checks can exclude each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectors.json_stream.trip import Exactness

_ANNOTATIONS = frozenset(
    "$schema $id $comment $defs definitions title description default examples deprecated readOnly writeOnly format "
    "contentEncoding contentMediaType contentSchema $anchor $vocabulary $dynamicAnchor".split()
)
_CHECKS = frozenset(
    "type enum const properties required additionalProperties items maxLength minLength maxItems minItems minimum "
    "maximum exclusiveMinimum exclusiveMaximum minProperties".split()
)
_CHOICES = ("anyOf", "allOf")
_MAX_PARTS = 20_000


def classify(schema: Any, draft: str) -> Exactness:
    """`opaque` for a draft that is not understood. Everything in the document is looked at, also what is unused."""
    if not draft:
        return "opaque"
    waiting, parts = [schema], 0
    while waiting:
        part = waiting.pop()
        parts += 1
        if isinstance(part, bool):
            continue
        if not isinstance(part, Mapping) or parts > _MAX_PARTS or not _is_exact(part):
            return "late"
        for keyword in ("properties", "$defs", "definitions"):
            if isinstance(part.get(keyword), Mapping):
                waiting += part[keyword].values()
        waiting += [part[keyword] for keyword in ("items", "additionalProperties") if keyword in part]
        for keyword in _CHOICES:
            waiting += part.get(keyword, [])
    return "exact"


def _is_exact(part: Mapping[str, Any]) -> bool:
    keywords = part.keys() - _ANNOTATIONS
    if not (keywords & {"$ref", *_CHOICES}):
        return keywords <= _CHECKS and not isinstance(part.get("items"), list) and _is_possible(part)
    # A choice or a reference beside other checks: one may exclude what the other still hopes for.
    if len(keywords) > 1 and not (keywords == {"type", "anyOf"} and _all_of_type(part)):
        return False
    return len(part.get("allOf", ())) <= 1


def _all_of_type(part: Mapping[str, Any]) -> bool:
    """`type` beside `anyOf` says nothing new where every branch that is left names that one type."""
    return all(isinstance(branch, Mapping) and branch.get("type") == part["type"] for branch in part["anyOf"])


def _is_possible(part: Mapping[str, Any]) -> bool:
    """Whether the checks of one schema cannot exclude each other (as far as they are of the kinds in _CHECKS)."""
    for least, most in (("minLength", "maxLength"), ("minItems", "maxItems"), ("minimum", "maximum")):
        if part.get(least, 0) > part.get(most, float("inf")):
            return False
    if "exclusiveMinimum" in part or "exclusiveMaximum" in part:
        low = part.get("exclusiveMinimum", part.get("minimum", float("-inf")))
        high = part.get("exclusiveMaximum", part.get("maximum", float("inf")))
        if high - low <= 1:
            return False
    if (part.get("minItems") and part.get("items") is False) or ("enum" in part and "const" in part):
        return False
    members = part.get("enum", [part["const"]] if "const" in part else [])
    if members and any(isinstance(member, dict | list) for member in members) and len(part.keys() - _ANNOTATIONS) > 1:
        return False
    properties = part.get("properties", {})
    if any(value is False for value in properties.values()):
        return False
    if part.get("additionalProperties") is False:
        return set(part.get("required", ())) <= set(properties) and not part.get("minProperties")
    return True
