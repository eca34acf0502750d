"""Finds the schema that a `$ref` names, inside the document or the documents it was compiled with.

Must not: fetch anything, or guess: what is not found stays unknown.
Invariant: where `$id` or anchors play a part, jsonschema-rs resolves, so both of us mean the same schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urljoin

import jsonschema_rs

ROOT_BASE = "json-schema:///"


def own_base(schema: Any, base: str, draft: str) -> str:
    """The URI that references inside `schema` are relative to."""
    identifier = schema.get("$id") if isinstance(schema, Mapping) else None
    if not isinstance(identifier, str) or identifier.startswith("#"):
        return base
    if draft == "draft-07" and "$ref" in schema:
        return base  # everything beside a reference is ignored
    return urljoin(base, identifier)


class References:
    """`schema`: the document; `text`: its JSON; `resources`: (URI, schema) of other documents it may name."""

    def __init__(self, schema: Any, text: str, draft: str, resources: Sequence[tuple[str, Any]]) -> None:
        self._schema, self._draft, self._resources = schema, draft, resources
        self._pointers_suffice = '"$id"' not in text and not resources
        self._registry: jsonschema_rs.Registry | None = None

    def find(self, reference: str, base: str) -> tuple[Any, str, str] | None:
        """(schema, its base URI, its path), None = unknown. The same part of the document is the same object."""
        if self._pointers_suffice and (reference == "#" or reference.startswith("#/")):
            return self._by_pointer(reference)
        try:
            found = self._resolver(base).lookup(reference)
            if found.draft != self._expected_draft():
                return None
            return found.contents, found.resolver.base_uri, reference
        except (jsonschema_rs.ReferencingError, ValueError, RecursionError):
            return None

    def _by_pointer(self, reference: str) -> tuple[Any, str, str] | None:
        node = self._schema
        for step in unquote(reference[1:]).split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict) and name in node:
                node = node[name]
            elif isinstance(node, list) and name.isdecimal() and int(name) < len(node):
                node = node[int(name)]
            else:
                return None
        return node, ROOT_BASE, unquote(reference[1:])

    def _resolver(self, base: str) -> jsonschema_rs.Resolver:
        if self._registry is None:
            root = own_base(self._schema, ROOT_BASE, self._draft)
            documents = [(root, self._schema), *self._resources]
            self._registry = jsonschema_rs.Registry(documents, draft=self._expected_draft())
        return self._registry.resolver(base)

    def _expected_draft(self) -> int:
        return jsonschema_rs.Draft202012 if self._draft == "2020-12" else jsonschema_rs.Draft7
