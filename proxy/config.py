"""Configuration: a TOML file, the environment (`SPECGUARD_SECTION__KEY`), flags; in rising precedence.

`examples/config.example.toml` holds every key with its default and its reason.

Must not: accept a key that nobody reads. Invariant: a Config is complete and consistent, or a ConfigProblem says
which key is wrong and what to write instead.
"""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, field_validator, model_validator

from detectors.settings import DetectorSettings
from policies.modes import DecodeMode
from proxy.detector_section import laid_over, plain

ENV_PREFIX = "SPECGUARD_"
RENAMED = {"incidents.keep_prompts": "incidents.capture"}


class ConfigProblem(Exception):
    """The configuration cannot be used; the message names the key and the remedy."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Server(_Section):
    """Where to listen and how much to accept."""

    host: str = "127.0.0.1"
    port: int = Field(default=8787, ge=0, le=65535)
    keys: tuple[str, ...] = ()
    max_body_bytes: int = Field(default=64 << 20, ge=1024)
    body_s: float = Field(default=60.0, gt=0)
    idle_s: float = Field(default=75.0, gt=0)
    unread_s: float = Field(default=60.0, gt=0)
    keepalive_s: float = Field(default=10.0, gt=0, le=240)
    drain_s: float = Field(default=20.0, ge=0)

    @field_validator("keys")
    @classmethod
    def _no_empty_key(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(key.strip() == key != "" for key in value):
            raise ValueError("a key is empty or has blanks around it, so that no client could send it; take it out")
        return value


class Model(_Section):
    """Which model to serve. path "" = the embedded one; any_name: answer to every model name."""

    path: str = ""
    name: str = ""
    aliases: tuple[str, ...] = ()
    any_name: bool = False
    device: str = "cpu"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: int = Field(default=1, ge=1)
    max_turns: int = Field(default=8, ge=1)
    max_waiting: int = Field(default=16, ge=0)
    kept_prefixes: int = Field(default=8, ge=0)
    kept_prefix_mib: int = Field(default=4096, ge=0)

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not re.fullmatch(r"cpu|cuda(:\d+)?|mps", value):
            raise ValueError(f"{value!r} is unknown; use cpu, cuda, cuda:N or mps")
        return value


class Decode(_Section):
    """Decode mode and defaults. audit_every: the first verify step of a response and then one in so many.
    audit_share: most of the decoding time for that; an audit that is due waits until there is room for it, except in a
    new engine's first responses and after something was found. 1 = whatever it takes.
    shadow_every: tokens of a response after which a position is computed again from a clean cache; 0 = never. It costs
    a second prefill of each checked response, a second cache while it lasts, and an eighth of a step per token. Off,
    also for compressed caches: their own audit (engine.cache_audit) sees the known faults for a tenth of that.
    seed: for requests that name none (the Anthropic API has no such field); -1 = another one for each response.
    per_request: whether a request may choose its drafter and codec (`speculative`, `kv`).
    force_low_bits: allow codecs that break tool calls. shadow_mib: host memory for full-precision copies of prompts
    whose cache is compressed; 0 = none.
    """

    mode: str = "mtp+ngram"
    temperature: float = Field(default=0.0, ge=0, le=2)
    seed: int = Field(default=-1, ge=-1, lt=2**63)
    audit_every: int = Field(default=16, ge=0)
    audit_share: float = Field(default=0.01, gt=0, le=1)
    per_request: bool = True
    force_low_bits: bool = False
    shadow_mib: int = Field(default=0, ge=0)
    shadow_every: int = Field(default=0, ge=0)

    @field_validator("mode")
    @classmethod
    def _known_mode(cls, value: str) -> str:
        DecodeMode.parse(value)
        return value


class Guard(_Section):
    """policy: a file of rules, "" = the shipped one. The others win over what it says, None = as it says; see
    `policies.policy.Policy`.
    """

    policy: str = ""
    action: Literal["enforce", "observe"] | None = None
    max_rewinds: int | None = Field(default=None, ge=0, le=16)
    session_rewinds: int | None = Field(default=None, ge=0)
    session_hours: float | None = Field(default=None, gt=0, le=24 * 365)
    hold_call_chars: int | None = Field(default=None, ge=1024)
    hold_call_s: float | None = Field(default=None, ge=0)
    hold_text_chars: int | None = Field(default=None, ge=1024)
    repair: bool | None = None
    max_call_cycles: int | None = Field(default=None, ge=0, le=64)
    scrub_history: bool | None = None

    def quick(self) -> dict[str, Any]:
        """What was set here."""
        return self.model_dump(exclude={"policy"}, exclude_none=True)


class Breaker(_Section):
    """When a decode mode is taken out of service, and how it comes back; see `policies.breaker`, `proxy.canaries`.

    canary_tokens: that one canary may compute; 0 = none runs, and only `specguard trust reset` closes a breaker.
    """

    trips: int = Field(default=3, ge=1, le=32)
    window_s: float = Field(default=1800.0, gt=0)
    cool_down_s: float = Field(default=60.0, gt=0)
    most_cool_down_s: float = Field(default=3600.0, gt=0)
    canary_tokens: int = Field(default=262144, ge=0)
    canary_quiet_s: float = Field(default=2.0, ge=0)

    @model_validator(mode="after")
    def _rising(self) -> Breaker:
        if self.cool_down_s > self.most_cool_down_s:
            raise ValueError(
                f"cool_down_s is {self.cool_down_s:g}, more than most_cool_down_s, {self.most_cool_down_s:g}, to which "
                "it doubles; raise that one too"
            )
        return self


class Trust(_Section):
    """Up to which context decode modes are trusted. qualification: file written by `specguard qualify`, "" = none;
    ceiling_tokens: where there is none, 0 = the whole window. path: of the breakers' state, "" = beside the incidents.
    """

    qualification: str = ""
    ceiling_tokens: int = Field(default=0, ge=0)
    path: str = ""


class Incidents(_Section):
    """Where incidents are kept. capture stores with each incident what it takes to replay it; see `proxy.capture`.

    max_mib, max_days: captures go first, the oldest first; 0 = no limit. See `proxy.incidents.retention`.
    """

    path: str = "specguard-incidents.sqlite"
    capture: bool = False
    max_mib: int = Field(default=256, ge=0)
    max_days: int = Field(default=30, ge=0, le=36500)

    @field_validator("path")
    @classmethod
    def _names_a_file(cls, value: str) -> str:
        if not Path(value).name:
            raise ValueError(f"{value!r} names no file; write one such as specguard-incidents.sqlite")
        return value


class Replay(_Section):
    """Responses that were rewound are run again to find the layer at fault, while nobody is served for `quiet_s`.

    max_tokens, max_seconds: for all runs of one incident together.
    """

    automatic: bool = True
    max_tokens: int = Field(default=1024, ge=64)
    max_seconds: float = Field(default=30.0, gt=0)
    quiet_s: float = Field(default=2.0, ge=0)


class Log(_Section):
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(_Section):
    """The whole configuration. detectors: the numbers that they go by; what is not set is as shipped and measured.
    plant: name of an engine fault to plant on purpose (demo, tests, qualification).
    """

    server: Server = Server()
    model: Model = Model()
    decode: Decode = Decode()
    guard: Guard = Guard()
    detectors: DetectorSettings = Field(default_factory=DetectorSettings)
    breaker: Breaker = Breaker()
    trust: Trust = Trust()
    incidents: Incidents = Incidents()
    replay: Replay = Replay()
    log: Log = Log()
    plant: str = ""

    @field_validator("detectors", mode="before")
    @classmethod
    def _as_shipped(cls, value: Any) -> Any:
        return laid_over(DetectorSettings(), value)

    @field_serializer("detectors")
    def _as_data(self, value: DetectorSettings) -> Any:
        return plain(value)

    @model_validator(mode="after")
    def _no_open_door(self) -> Config:
        if not is_loopback(self.server.host) and not self.server.keys:
            raise ValueError(
                f"server.host: listening on {self.server.host} needs server.keys, or anybody who reaches this "
                "machine can use the model; set keys or use 127.0.0.1"
            )
        return self


def config_sha256(config: Config) -> str:
    """Of everything that is configured, keys of clients apart: equal for two servers that do the same."""
    plain = config.model_dump(mode="json")
    plain["server"]["keys"] = len(config.server.keys)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


def is_loopback(host: str) -> bool:
    """Is it a loopback address or a name for one?"""
    if host.rstrip(".").lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def load(file: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]) -> Config:
    """flags: dotted keys (`server.port`) with values other than None. Raises ConfigProblem."""
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigProblem(f"{file}: there is no such file; name one that is there, or none at all") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigProblem(f"{file}: cannot be read as TOML: {error}") from None
    for name, text in environment.items():
        if name.startswith(ENV_PREFIX) and (keys := _env_keys(name)):
            _put(values, keys, _typed(text, _annotation(keys)))
    for name, value in flags.items():
        if value is not None:
            _put(values, name.split("."), value)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigProblem("\n".join(_explain(problem) for problem in error.errors(include_url=False))) from None


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
    except tomllib.TOMLDecodeError:
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
