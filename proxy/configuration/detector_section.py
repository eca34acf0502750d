"""The `[detectors]` section of the configuration: what a user sets, laid over the shipped numbers; how it is written.

Must not: know any of the numbers, or check them: the settings themselves refuse what cannot work.
Invariant: what is not set stays as shipped, however deep; what nobody reads is kept, so that it is refused as unknown.

The reasons stand in the settings' classes, as text after a field or a group of fields; `written` reads them there.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

NEVER = "never"
"""TOML has no word for none: a grade that is never given."""
WIDTH = 118


def laid_over(shipped: Any, given: Any) -> Any:
    """`given`, completed from a settings object or mapping; values that are neither replace what was shipped."""
    if given == NEVER:
        return None
    if not isinstance(given, Mapping):
        return given
    known = _parts(shipped)
    return known | {key: laid_over(known.get(key), value) for key, value in map(_typed, given.items())}


def plain(settings: Any) -> Any:
    """As JSON data."""
    if is_dataclass(settings) or isinstance(settings, Mapping):
        return {str(key): plain(value) for key, value in _parts(settings).items()}
    return list(settings) if isinstance(settings, tuple) else settings


def written(settings: Any, name: str) -> str:
    """As TOML with its reasons: a section of this name, and one for each part that has reasons of its own."""
    lines = [*comment(_purpose(type(settings))), f"[{name}]"]
    parts, reasons = _parts(settings), reasons_of(type(settings))
    group: list[str] = []
    for key, value in parts.items():
        if is_section(value):
            continue
        group.append(f"{key} = {as_toml(value)}")
        if key in reasons:
            lines += [*comment(reasons[key]), *group]
            group = []
    lines += group
    inner = [
        "\n".join([*comment(reasons.get(key, "")), written(value, f"{name}.{key}")])
        for key, value in parts.items()
        if is_section(value)
    ]
    return "\n\n".join(["\n".join(lines), *inner])


def is_section(value: Any) -> bool:
    """Does it say reasons of its own? What does not is written in one line."""
    return is_dataclass(value) and not isinstance(value, type) and bool(reasons_of(type(value)))


def _parts(settings: Any) -> dict[Any, Any]:
    if is_dataclass(settings) and not isinstance(settings, type):
        return {field.name: getattr(settings, field.name) for field in fields(settings)}
    return dict(settings) if isinstance(settings, Mapping) else {}


def _typed(item: tuple[Any, Any]) -> tuple[Any, Any]:
    """TOML's keys are text; some of ours are numbers (of bits, of a bucket)."""
    key, value = item
    return (int(key) if isinstance(key, str) and key.isdigit() else key), value


def _purpose(settings: type) -> str:
    """The first paragraph; what follows is for whoever reads the code."""
    return (inspect.getdoc(settings) or "").partition("\n\n")[0]


def reasons_of(settings: type) -> dict[str, str]:
    """Field -> the text that stands after it, for it and those before it that have none."""
    found: dict[str, str] = {}
    (made,) = ast.parse(textwrap.dedent(inspect.getsource(settings))).body
    before = ""
    for node in made.body if isinstance(made, ast.ClassDef) else ():
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            before = node.target.id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and before:
            found[before] = inspect.cleandoc(str(node.value.value))
    return found


def comment(text: str) -> Iterator[str]:
    return (f"# {line}" for line in textwrap.wrap(text, WIDTH - 2, break_on_hyphens=False))


def as_toml(value: Any) -> str:
    if value is None:
        return f'"{NEVER}"'
    if is_dataclass(value) or isinstance(value, Mapping):
        inner = ", ".join(f"{key} = {as_toml(part)}" for key, part in _parts(value).items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, tuple):
        inner = ", ".join(map(as_toml, value))
        return f"[{inner}]" if len(inner) < WIDTH - 20 else "[\n" + "".join(f"  {as_toml(v)},\n" for v in value) + "]"
    return json.dumps(value, ensure_ascii=False)
