"""Mends a complete `qwen_xml` call that is refused only for how it ends or is wrapped; see `json_stream.repair`.

Must not: touch text values, guess a name, a key or a value, or be asked about a call that was cut off.
Invariant: the arguments returned are valid for the tool's schema as a whole, and the body was mended somewhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from detectors.json_stream.compiled import compile_schema
from detectors.json_stream.repair import repair, without_fence
from detectors.json_stream.trip import Rules
from detectors.qwen_xml import MarkupError, read_markup, typed
from detectors.schema_types import admitted_types, property_schema
from detectors.tool_schema import ToolSchemas

_CLOSERS = ("", "\n</function>")
"""A parameter that is not closed is not mended: where its value ends, nobody knows."""
_ANYTHING = compile_schema({})
_VALUE_RULES = Rules(size=None, root_object=False, empty_is_object=False)


@dataclass(frozen=True, slots=True)
class MendedCall:
    """before: the body as the model wrote it; arguments: compact JSON text, valid; mended: what was done, in order."""

    name: str
    arguments: str
    before: str
    mended: tuple[str, ...]


def mend_call(body: str, schemas: ToolSchemas) -> MendedCall | None:
    """None: nothing to mend, or it is still no valid call afterwards. body: all between the tags of a closed call."""
    mended: list[str] = []
    whole = without_fence(body)
    if whole is not None:
        mended.append("code fence")
    markup = _closed(body if whole is None else whole, mended)
    if markup is None:
        return None
    name, values = markup
    schema = schemas.parameters(name)
    if schema is None:
        return None
    arguments = {}
    for key, text in values.items():
        declared = property_schema(schema, key)
        if declared is not None and "string" not in admitted_types(declared, schema):
            repaired = repair(text.strip(), _ANYTHING, _VALUE_RULES)
            if repaired is not None:
                text = repaired.after
                mended += repaired.mended
        arguments[key] = typed(text, declared, schema)
    if not mended or schemas.check(name, arguments) is not None:
        return None
    written = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
    return MendedCall(name, written, body, tuple(dict.fromkeys(mended)))


def _closed(body: str, mended: list[str]) -> tuple[str, dict[str, str]] | None:
    """The markup, with the closing tags that it lacks."""
    for closers in _CLOSERS:
        try:
            markup = read_markup(body.rstrip() + closers if closers else body)
        except MarkupError:
            continue
        if closers:
            mended.append("missing closers")
        return markup
    return None
