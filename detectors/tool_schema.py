"""Compiled tool declarations, and the verdict on a call: a declared tool, arguments valid under its schema.

Must not: fetch a `$ref`, wait on a hostile regular expression, or repeat a value of the model in a reason.
Invariant: the verdict is that of jsonschema-rs (2020-12 unless `$schema` says otherwise, `format` only
annotates); what it cannot decide within its limits is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jsonschema_rs

from detectors.finding import Finding, Grade
from detectors.json_stream.compiled import CompiledSchema, compile_schema
from detectors.json_stream.trip import Trip


class BadSchema(ValueError):
    """A declaration is no usable JSON Schema. tool: whose; path: JSON pointer into its parameters."""

    def __init__(self, tool: str, path: str, problem: str) -> None:
        super().__init__(f"the parameters of tool {tool!r} are no valid JSON Schema at {path or '/'}: {problem}")
        self.tool, self.path = tool, path


@dataclass(frozen=True, slots=True)
class Violation:
    """Why a call must not be sent. detector: `tool.` and unknown, schema, json, markup, truncated, leak or limit."""

    detector: str
    reason: str
    evidence: Mapping[str, Any]

    def finding(self, channel: str, position: int, began: int) -> Finding:
        return Finding(self.detector, Grade.FALLBACK, channel, position, began, self.reason, self.evidence)


class ToolSchemas:
    """The tools of one request, ready to judge. Immutable; compiled once per distinct declaration."""

    def __init__(self, tools: Mapping[str, tuple[Mapping[str, Any], CompiledSchema]]) -> None:
        self._tools = tools

    @classmethod
    def compile(cls, tools: Sequence[tuple[str, Mapping[str, Any]]]) -> ToolSchemas:
        """(name, parameters) of every tool. Raises BadSchema; of two tools of one name the last counts."""
        return cls({name: (parameters, _compiled(name, parameters)) for name, parameters in tools})

    @property
    def any_tool(self) -> bool:
        """Is there a tool that may be called?"""
        return bool(self._tools)

    def parameters(self, name: str) -> Mapping[str, Any] | None:
        """What the tool declares, None for an unknown one."""
        tool = self._tools.get(name)
        return None if tool is None else tool[0]

    def compiled(self, name: str) -> CompiledSchema:
        """What arguments of a declared tool are streamed against. Raises KeyError."""
        return self._tools[name][1]

    def unknown(self, name: str) -> Violation:
        """The violation of calling a tool that is not declared."""
        return Violation("tool.unknown", "unknown tool", {"tool": name[:128], "declared": len(self._tools)})

    def tripped(self, name: str, trip: Trip, unexpected: str = "") -> Violation:
        """The violation that a trip of a stream is. unexpected: the undeclared parameter, if it was one."""
        evidence: dict[str, Any] = {
            "tool": name,
            "keyword": trip.keyword,
            "instance_path": trip.instance_path,
            "schema_path": trip.schema_path,
            "byte": trip.offset,
            "exactness": trip.exactness,
        }
        if unexpected:
            evidence["unexpected"] = [unexpected[:128]]
        if trip.kind == "schema":
            return Violation("tool.schema", trip.keyword, evidence)
        is_limit = trip.kind.startswith("limit_") or trip.kind == "whitespace_run"
        return Violation("tool.limit" if is_limit else "tool.json", trip.kind, evidence)

    def check(self, name: str, arguments: Any) -> Violation | None:
        """None = the call may be sent. Arguments that are absent (None) or empty text mean {}."""
        if arguments is None or arguments == "":
            arguments = {}
        tool = self._tools.get(name)
        if tool is None:
            return self.unknown(name)
        if not isinstance(arguments, dict):
            evidence = {"tool": name, "keyword": "type", "instance_path": "", "schema_path": ""}
            return Violation("tool.schema", "type", evidence)
        try:
            error = next(iter(tool[1].validator.iter_errors(arguments)), None)
        except (ValueError, RecursionError) as trouble:  # too deep, or no JSON value at all
            evidence = {"tool": name, "keyword": "", "instance_path": "", "schema_path": ""}
            return Violation("tool.schema", f"cannot be checked: {type(trouble).__name__}", evidence)
        return None if error is None else _violation(name, error)


def _violation(name: str, error: jsonschema_rs.ValidationError) -> Violation:
    keyword = error.kind.name
    evidence: dict[str, Any] = {
        "tool": name,
        "keyword": keyword,
        "instance_path": _pointer(error.instance_path),
        "schema_path": _pointer(error.schema_path),
    }
    match error.kind:
        case jsonschema_rs.ValidationErrorKind.Required(name_of_property):
            evidence["missing"] = str(name_of_property)
        case jsonschema_rs.ValidationErrorKind.AdditionalProperties(unexpected):
            evidence["unexpected"] = [str(key)[:128] for key in unexpected[:8]]
        case _:
            pass
    return Violation("tool.schema", keyword, evidence)


def _compiled(tool: str, parameters: Mapping[str, Any]) -> CompiledSchema:
    """From the cache if an equal declaration was seen lately."""
    try:
        return compile_schema(parameters)
    except jsonschema_rs.ValidationError as error:
        raise BadSchema(tool, _pointer(error.instance_path), error.message.partition("\n")[0][:300]) from error
    except TypeError as error:
        raise BadSchema(tool, "", "it is not JSON") from error
    except (jsonschema_rs.ReferencingError, ValueError, RecursionError) as error:
        raise BadSchema(tool, "", str(error).partition("\n")[0][:300]) from error


def _pointer(path: Sequence[str | int]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
