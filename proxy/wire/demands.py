"""What all APIs share in reading demands on a response: calls that must come, and the form of its text.

Must not: know where an API keeps them. Invariant: a demand that cannot be met by any response is refused by its field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.conversation import Demands, Tool
from proxy.wire.body import brief, refuse

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


@dataclass(frozen=True, slots=True)
class Choice:
    """How tools are to be used. kind: `auto`, `none`, `required` or `named`; allowed: names, None = all of them."""

    kind: str = "auto"
    name: str = ""
    allowed: tuple[str, ...] | None = None


def demanded(
    tools: tuple[Tool, ...], choice: Choice, field: str, *, single: bool, text: tuple[Mapping[str, Any] | None, str]
) -> tuple[tuple[Tool, ...], Demands]:
    """The tools that the model gets to see, and what is enforced. field: where the choice stood, for refusals.

    single: at most one call. text: from `text_format`.
    """
    names = [tool.name for tool in tools]
    for name in (*(choice.allowed or ()), *([choice.name] if choice.kind == "named" else [])):
        if name not in names:
            refuse(field, f"{brief(name)} is not among `tools`; declare it there, or leave it out here")
    if choice.kind == "none":
        tools = ()
    elif choice.allowed is not None:
        tools = tuple(tool for tool in tools if tool.name in choice.allowed)
    must_call = choice.kind in ("required", "named")
    if must_call and not tools:
        refuse(field, "demands a call, but there is no tool to call; declare it in `tools`, or use 'auto'")
    schema, at = text
    return tools, Demands(must_call, choice.name, 1 if single and tools else None, schema, at)


def allowed_tools(choice: Mapping[str, Any], field: str, names: Sequence[str] | None) -> Choice:
    """`{"mode": "auto" | "required", "tools": [...]}`; names: of the tools listed, None where one has none."""
    mode = choice.get("mode", "auto")
    if mode not in ("auto", "required"):
        refuse(f"{field}.mode", f"{brief(mode)} is unknown; use 'auto' or 'required'")
    if names is None:
        refuse(f"{field}.tools", "must be a list of tools, such as {'type': 'function', 'name': ...}")
    return Choice(mode, allowed=tuple(names))


def text_format(value: Mapping[str, Any] | None, field: str, nested: str = "") -> tuple[Mapping[str, Any] | None, str]:
    """The schema that a text must follow (None = any text) and the field it came in. nested: where it is kept."""
    kind = (value or {"type": "text"}).get("type")
    if kind == "text" or value is None:
        return None, ""
    if kind == "json_object":
        return ANY_OBJECT, field
    if kind != "json_schema":
        refuse(field, f"type {brief(kind)} is unknown; use 'text', 'json_object' or 'json_schema'")
    at = f"{field}.{nested}.schema" if nested else f"{field}.schema"
    holder = value.get(nested) if nested else value
    schema = holder.get("schema") if isinstance(holder, Mapping) else None
    if not isinstance(schema, Mapping):
        refuse(at, "must be a JSON Schema, such as {'type': 'object', 'properties': {...}}")
    return schema, at
