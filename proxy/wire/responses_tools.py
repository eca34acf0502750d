"""Tools of the Responses API: functions, free-form (`custom`) tools and namespaces, as functions and back.

Must not: refuse a hosted tool (agents declare them to every server); it is left out and listed as ignored.
Invariant: `ToolNames.of` finds for every declared function the kind, name and namespace that it was declared with.

A namespace's tool becomes `NAMESPACE__NAME`, since models know flat names only. A custom tool takes text in any form
and becomes a function of one string; a grammar it declares is shown to the model but not enforced: it is
listed as ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from proxy.conversation import Tool
from proxy.wire.body import Loose, read_model, refuse

CUSTOM_INPUT = "input"
CUSTOM_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {CUSTOM_INPUT: {"type": "string"}},
    "required": [CUSTOM_INPUT],
    "additionalProperties": False,
}


class FunctionModel(Loose):
    type: str
    name: str = Field(min_length=1, max_length=256)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FormatModel(Loose):
    type: str = "text"
    syntax: str = ""
    definition: str = ""


class CustomModel(Loose):
    type: str
    name: str = Field(min_length=1, max_length=256)
    description: str | None = None
    format: FormatModel | None = None


class NamespaceModel(Loose):
    type: str
    name: str = Field(min_length=1, max_length=128)
    description: str | None = None
    tools: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Origin:
    """How a function was declared. namespace: "" = none."""

    name: str
    namespace: str = ""
    custom: bool = False

    @property
    def flat(self) -> str:
        return flat_name(self.name, self.namespace)


@dataclass(frozen=True, slots=True)
class ToolNames:
    """Of one request."""

    origins: Mapping[str, Origin] = field(default_factory=dict)

    def of(self, flat: str) -> Origin:
        return self.origins.get(flat) or Origin(flat)


def flat_name(name: str, namespace: str) -> str:
    return f"{namespace}__{name}" if namespace else name


def read_tools(raw: Sequence[Mapping[str, Any]]) -> tuple[tuple[Tool, ...], ToolNames, list[str]]:
    """The tools as functions, where each comes from, and what is ignored. Raises RequestError."""
    tools: list[Tool] = []
    origins: dict[str, Origin] = {}
    ignored: list[str] = []

    def read(tool: Mapping[str, Any], where: str, namespace: str = "") -> None:
        kind = tool.get("type")
        if kind == "namespace" and not namespace:
            inner = read_model(NamespaceModel, tool, where)
            for index, each in enumerate(inner.tools):
                read(each, f"{where}.tools[{index}]", inner.name)
            return
        if kind == "function":
            function = read_model(FunctionModel, tool, where)
            origin = Origin(function.name, namespace)
            parameters: Mapping[str, Any] = function.parameters or {}
            made = Tool(origin.flat, function.description or "", parameters, bool(function.strict))
        elif kind == "custom":
            custom = read_model(CustomModel, tool, where)
            origin = Origin(custom.name, namespace, custom=True)
            made = Tool(origin.flat, _description(custom), CUSTOM_SCHEMA)
            if custom.format is not None and custom.format.type != "text":
                ignored.append(f"{where}.format")
        else:
            ignored.append(f"{where}.{kind}" if isinstance(kind, str) else where)
            return
        if origin.flat in origins:
            refuse(f"{where}.name", f"{origin.flat!r} is declared twice; names must be unique")
        origins[origin.flat] = origin
        tools.append(made)

    for index, tool in enumerate(raw):
        read(tool, f"tools[{index}]")
    return tuple(tools), ToolNames(origins), ignored


def _description(tool: CustomModel) -> str:
    """With the format of the text, which the model can only learn from here."""
    parts = [tool.description or ""]
    if tool.format is not None and tool.format.type == "grammar":
        parts.append(f"`{CUSTOM_INPUT}` follows this {tool.format.syntax} grammar:\n{tool.format.definition}")
    return "\n\n".join(part for part in parts if part)
