"""Policy files: TOML text becomes settings, rules and overrides, or a problem that says what to write instead.

Must not: open any file but the one that is packaged, or accept a key that nobody reads.
Invariant: whatever is returned was written in the file; what was not written is absent, so that it can be inherited.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from detectors.finding import Grade
from policies.rules import ALWAYS_POSSIBLE, Accused, ChannelKind, Remedy, Rule, When

GradeName = Literal["suspect", "fallback", "abort"]
MAX_RULES = 256


class PolicyProblem(Exception):
    """A policy cannot be used; the message names the key and the remedy."""


@dataclass(frozen=True, slots=True)
class Override:
    """What holds for some requests. settings, rules: as in PolicyFile; its rules are asked before all others.

    models, routes, tools: globs, empty = all. A tool glob must match one of the declared tools. headers: (name in small
    letters, glob of its value), all of which must match.
    """

    name: str
    models: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    settings: Mapping[str, Any] | None = None
    rules: tuple[Rule, ...] = ()

    @property
    def by_name_only(self) -> bool:
        """It matches nothing by itself: clients name it."""
        return not (self.models or self.routes or self.tools or self.headers)


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """settings: the fields of `policies.policy.Policy` that were written. shipped_rules: they come after these."""

    settings: Mapping[str, Any]
    rules: tuple[Rule, ...]
    overrides: tuple[Override, ...]
    shipped_rules: bool
    observe_by_header: bool


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Globs = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], BeforeValidator(_listed)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class _When(_Table):
    detector: Globs = ()
    at_least: GradeName = "fallback"  # whoever writes a rule against loops does not mean every suspicion
    exactly: GradeName | None = None
    channel: Annotated[tuple[ChannelKind, ...], BeforeValidator(_listed)] = ()
    tool: Globs = ()
    mode: Globs = ()

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> _When:
        if self.exactly is not None and "at_least" in self.model_fields_set:
            raise ValueError("has both at_least and exactly; leave one of them out")
        return self

    def compiled(self) -> When:
        least, exactly = Grade[self.at_least.upper()], None
        if self.exactly is not None:
            least = exactly = Grade[self.exactly.upper()]
        return When(self.detector, least, exactly, self.channel, self.tool, self.mode)


class _Rule(_Table):
    name: Name
    when: _When = _When()
    do: tuple[Remedy, ...] = Field(min_length=1)
    accuse: Accused = "unknown"

    @field_validator("do")
    @classmethod
    def _ends_somewhere(cls, do: tuple[Remedy, ...]) -> tuple[Remedy, ...]:
        always = next((index for index, remedy in enumerate(do) if remedy in ALWAYS_POSSIBLE), None)
        if always is None:
            raise ValueError(f"{do[-1]!r} is not always possible, so say what comes then: add one of {_names()}")
        if always < len(do) - 1:
            raise ValueError(f"{do[always]!r} is always possible, so nothing after it can happen; put it last")
        return do

    def compiled(self) -> Rule:
        return Rule(self.name, self.when.compiled(), self.do, self.accuse)


class _Settings(_Table):
    """None = not written. The limits are those of `proxy.configuration.config.Guard`."""

    action: Literal["enforce", "observe"] | None = None
    max_rewinds: int | None = Field(default=None, ge=0, le=16)
    session_rewinds: int | None = Field(default=None, ge=0)
    session_hours: Annotated[float, BeforeValidator(lambda v: float(v) if type(v) is int else v)] | None = Field(
        default=None, gt=0, le=24 * 365
    )
    hold_call_chars: int | None = Field(default=None, ge=1024)
    hold_call_s: Annotated[float, BeforeValidator(lambda v: float(v) if type(v) is int else v)] | None = Field(
        default=None, ge=0
    )
    hold_text_chars: int | None = Field(default=None, ge=1024)
    repair: bool | None = None
    max_call_cycles: int | None = Field(default=None, ge=0, le=64)
    scrub_history: bool | None = None
    rule: tuple[_Rule, ...] = Field(default=(), max_length=MAX_RULES)

    def written(self) -> dict[str, Any]:
        given = self.model_dump(include=set(_Settings.model_fields) - {"rule"}, exclude_none=True)
        return dict(given)

    def rules(self) -> tuple[Rule, ...]:
        return tuple(rule.compiled() for rule in self.rule)


class _Override(_Settings):
    name: Name
    model: Globs = ()
    route: Globs = ()
    tool: Globs = ()
    header: dict[str, str] = {}

    def compiled(self) -> Override:
        headers = tuple((name.lower(), glob) for name, glob in self.header.items())
        return Override(self.name, self.model, self.route, self.tool, headers, self.written(), self.rules())


class _File(_Settings):
    shipped_rules: bool = True
    observe_by_header: bool = False
    override: tuple[_Override, ...] = Field(default=(), max_length=MAX_RULES)

    @model_validator(mode="after")
    def _names_are_unique(self) -> _File:
        _refuse_twice("override", [override.name for override in self.override])
        _refuse_twice("rule", [rule.name for each in (self, *self.override) for rule in each.rule])
        return self

    @model_validator(mode="after")
    def _headers_do_not_disarm(self) -> _File:
        for override in self.override:
            if override.header and override.action == "observe" and not self.observe_by_header:
                raise ValueError(
                    f"override {override.name!r} lets a header switch the guard to observing; write "
                    "observe_by_header = true if clients may do that, or leave its action out"
                )
        return self


def parse(text: str) -> PolicyFile:
    """Raises PolicyProblem, one line for each thing that is wrong."""
    try:
        read = tomllib.loads(text)
        plain = _tuples(read)
    except ValueError as error:  # of TOML, or a number of thousands of digits
        raise PolicyProblem(f"cannot be read as TOML: {error}") from None
    except RecursionError:
        raise PolicyProblem("is nested too deeply; no key of a policy is") from None
    try:
        file = _File.model_validate(plain)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise PolicyProblem("\n".join(dict.fromkeys(_explain(problem, read) for problem in problems))) from None
    if file.shipped_rules:
        taken = {rule.name for rule in shipped().rules}
        for each in (file, *file.override):
            for rule in each.rule:
                if rule.name in taken:
                    raise PolicyProblem(
                        f"rule {rule.name!r}: a shipped rule has this name and comes after yours; choose another name, "
                        "or write shipped_rules = false to leave the shipped ones away"
                    )
    overrides = tuple(override.compiled() for override in file.override)
    return PolicyFile(file.written(), file.rules(), overrides, file.shipped_rules, file.observe_by_header)


@cache
def shipped() -> PolicyFile:
    """The policy file that is packaged; it writes every setting."""
    return parse(shipped_text())


def shipped_text() -> str:
    return (files("policies") / "default.toml").read_text(encoding="utf-8")


def _tuples(value: Any) -> Any:
    """TOML's arrays as tuples, which strict models take."""
    if isinstance(value, list):
        return tuple(_tuples(each) for each in value)
    return {key: _tuples(each) for key, each in value.items()} if isinstance(value, dict) else value


def _refuse_twice(what: str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"two {what}s are called {name!r}; incidents name them, so give one another name")
        seen.add(name)


def _names() -> str:
    return ", ".join(repr(remedy) for remedy in ALWAYS_POSSIBLE)


def _explain(problem: Any, read: Mapping[str, Any]) -> str:
    where, parts = _where(problem["loc"], read), problem["loc"]
    match problem["type"]:
        case "extra_forbidden":
            fields = _fields(parts[:-1])
            return f"{where}: there is no such key; {_nearest(str(parts[-1]), fields, 'known keys')}"
        case "missing":
            return f"{where}: is missing; write it"
        case "literal_error":
            known = [word.strip(" '") for word in problem["ctx"]["expected"].replace(" or ", ", ").split(", ")]
            return f"{where}: there is no {problem['input']!r}; {_nearest(str(problem['input']), known, 'use one of')}"
        case "string_pattern_mismatch":
            return (
                f"{where}: {problem['input']!r} is no name; use at most 64 letters, digits, dots, dashes and underlines"
            )
        case "tuple_type":
            return f'{where}: is a list; write ["one", "two"], and a section of several as [[{parts[-1]}]]'
        case "model_type" | "dict_type":
            return f"{where}: is a table; write {{ key = value }}"
        case "int_type" | "float_type" | "bool_type" | "string_type":
            wanted = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "a text"}
            return f"{where}: {problem['input']!r} is not {wanted[problem['type'].removesuffix('_type')]}; write one"
    text = str(problem["msg"]).removeprefix("Value error, ")
    return f"{where}: {text}" if where else text


def _where(parts: Sequence[str | int], read: Any) -> str:
    """`rule[2] (late).when.detector`: lists count from 0, and those who have a name are called by it."""
    text = ""
    for part in parts:
        try:
            read = read[part]
        except (KeyError, IndexError, TypeError):
            read = None
        if isinstance(part, int):
            name = read.get("name") if isinstance(read, dict) else None
            text += f"[{part}]" + (f" ({name})" if isinstance(name, str) else "")
        else:
            text += f".{part}" if text else part
    return text


def _fields(parts: Sequence[str | int]) -> list[str]:
    tables: dict[str, type[BaseModel]] = {"rule": _Rule, "when": _When, "override": _Override}
    named = [part for part in parts if isinstance(part, str)]
    return list((tables[named[-1]] if named else _File).model_fields)


def _nearest(word: str, known: Sequence[str], otherwise: str) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"{otherwise}: {', '.join(known)}"
