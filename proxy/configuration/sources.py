"""Where values come from: a TOML file, the environment (`SPECGUARD_SECTION__KEY`), flags; in rising precedence.

Must not: know a key, or accept one that nobody reads. Invariant: a ConfigProblem says which key is wrong and what to
write instead.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ValidationError

from proxy.configuration.config import Config, ConfigProblem
from proxy.configuration.files import text_of

ENV_PREFIX = "SPECGUARD_"
RENAMED = {"incidents.keep_prompts": "incidents.capture"}


@dataclass(frozen=True, slots=True)
class Loaded:
    """sources: of every value that was given, by its dotted key: the file, a variable, or "flag"."""

    config: Config
    sources: Mapping[str, str]


def load(file: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]) -> Config:
    """flags: dotted keys (`server.port`) with values other than None. Raises ConfigProblem."""
    return load_with_sources(file, environment, flags).config


def load_with_sources(file: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]) -> Loaded:
    """As `load`."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    if file is not None:
        try:
            values = tomllib.loads(text_of(file, ", or none at all"))
        except ValueError as error:  # of TOML, or a number of thousands of digits
            raise ConfigProblem(f"{file}: cannot be read as TOML: {error}") from None
        except RecursionError:
            raise ConfigProblem(f"{file}: is nested too deeply; no key is") from None
        sources |= dict.fromkeys(dotted(values), str(file))
    for name, text in environment.items():
        if name.startswith(ENV_PREFIX) and (keys := _env_keys(name)):
            _put(values, keys, _typed(text, _annotation(keys)))
            sources |= _of(values, keys, name)
    for name, value in flags.items():
        if value is not None:
            _put(values, name.split("."), value)
            sources |= _of(values, name.split("."), "flag")
    try:
        return Loaded(Config.model_validate(values), sources)
    except ValidationError as error:
        raise ConfigProblem("\n".join(_explain(problem) for problem in error.errors(include_url=False))) from None


def dotted(values: Any, before: str = "") -> dict[str, Any]:
    """Every value that is no section, by its dotted key."""
    if not isinstance(values, dict):
        return {before: values}
    return {key: v for name, value in values.items() for key, v in dotted(value, f"{before}.{name}".strip(".")).items()}


def _of(values: dict[str, Any], keys: Sequence[str], source: str) -> dict[str, str]:
    """What was put at `keys` came from there."""
    found: Any = values
    for key in keys:
        found = found[key]
    return dict.fromkeys(dotted(found, ".".join(keys)), source)


def _env_keys(name: str) -> list[str]:
    """Where a variable belongs; nowhere if it is none of ours. Raises ConfigProblem if only its section is missing."""
    keys = name[len(ENV_PREFIX) :].lower().split("__")
    if len(keys) > 1:
        return keys
    if keys[0] in Config.model_fields and not _is_section(_annotation(keys)):
        return keys
    for section in filter(lambda field: _is_section(_annotation([field])), Config.model_fields):
        if _annotation([section, keys[0]]) is not None:
            known = f"{ENV_PREFIX}{section}__{keys[0]}".upper()
            raise ConfigProblem(f"{name}: there is no such variable; did you mean {known}?")
    return []


def _annotation(keys: Sequence[str]) -> Any:
    """The type of a key or section; None if there is no such key."""
    found: Any = Config
    for key in keys:
        found = _fields(found).get(key)
    return found


def _fields(section: Any) -> dict[str, Any]:
    """The types of a section's keys; nothing for a value."""
    if isinstance(section, type) and issubclass(section, BaseModel):
        return {name: field.annotation for name, field in section.model_fields.items()}
    for part in (section, *get_args(section)):
        if isinstance(part, type) and is_dataclass(part):
            return get_type_hints(part)
    return {}


def _is_section(annotation: Any) -> bool:
    return bool(_fields(annotation))


def _put(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for depth, key in enumerate(keys[:-1], 1):
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            path = ".".join(keys[:depth])
            raise ConfigProblem(
                f"{path}: {_write_section(path)}"
                if _is_section(_annotation(keys[:depth]))
                else f"{'.'.join(keys)}: there is no such key; {path} is a value"
            )
        values = inner
    values[keys[-1]] = value


def _typed(text: str, wanted: Any) -> Any:
    """A value from the environment: TOML syntax if it is one, else plain text; a text may look like a number."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text
    return text if wanted is str and not isinstance(value, str) else value


def _write_section(name: str) -> str:
    return f"is a section; write its keys below a line [{name}]"


def _explain(problem: Any) -> str:
    keys = [str(part) for part in problem["loc"]]
    where = ".".join(keys)
    match problem["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            if where in RENAMED:
                return f"{where}: was renamed; write {RENAMED[where]}"
            fields = list(_fields(_annotation(keys[:-1])))
            near = difflib.get_close_matches(keys[-1], fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(fields)}"
            return f"{where}: there is no such key; {hint}"
        case "model_type" | "dataclass_type":
            return f"{where}: {_write_section(where)}"
        case "tuple_type":
            return f'{where}: is a list; write ["one", "two"]'
    text = str(problem["msg"]).removeprefix("Value error, ")
    return f"{where}: {text}" if where else text
