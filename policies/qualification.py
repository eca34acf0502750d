"""What `specguard qualify` found out about a model's decode modes, by context length: the file, frozen as version 1.

    {"format": "specguard.qualification", "version": 1, "created": "2026-11-27T12:00:00Z",
     "model": "Qwen3.6-27B", "fingerprint": "1f0c5a0e9b3d7c21", "tool_format": "qwen_xml",
     "versions": {"specguard": "0.1.0", "torch": "2.13.0"},
     "modes": [{"drafter": "mtp+ngram", "codec": "k4v4", "buckets": [
         {"up_to_tokens": 4096, "trusted": true},
         {"up_to_tokens": 16384, "trusted": false, "why": "needle: 7 of 10, plain 10 of 10"}]}]}

Buckets rise from 0 without a gap. A later version may add keys; whoever reads version 1 refuses what it does not know,
because a key that means "except when" must not be passed over.

Must not: read the file (that is the proxy's). Invariant: a Qualification is consistent, or QualificationProblem names
the key and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from policies.modes import PLAIN, DecodeMode

Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
AGAIN = "write it again with `specguard qualify`"


class QualificationProblem(Exception):
    """The file cannot be used; the message names the key and the remedy."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Bucket(_Part):
    """From the bucket before it (or 0) up to so many tokens of context. why: what failed, empty where trusted."""

    up_to_tokens: int = Field(ge=1)
    trusted: bool
    why: str = Field(default="", max_length=1000)

    @model_validator(mode="after")
    def _reasoned(self) -> Bucket:
        if self.trusted == bool(self.why):
            raise ValueError("why: say what failed where `trusted` is false, and nothing where it is true")
        return self


class QualifiedMode(_Part):
    """One decode mode, as drafter and codec."""

    drafter: Name
    codec: Name
    buckets: list[Bucket] = Field(min_length=1, max_length=256)

    @property
    def mode(self) -> DecodeMode:
        return DecodeMode(self.drafter, self.codec)

    @model_validator(mode="after")
    def _known_and_rising(self) -> QualifiedMode:
        if self.mode == PLAIN:
            raise ValueError("plain decoding is what the others are measured against; leave it out")
        edges = [bucket.up_to_tokens for bucket in self.buckets]
        if edges != sorted(set(edges)):
            raise ValueError(f"buckets: up_to_tokens must rise from one to the next, not {edges}")
        return self


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Up to how many tokens of context a mode is trusted, and why no further ("" = it is trusted everywhere)."""

    tokens: int
    why: str = ""


class Qualification(_Part):
    """The whole file."""

    format: Literal["specguard.qualification"]
    version: Literal[1]
    created: Name
    model: Name
    fingerprint: Name
    tool_format: Name
    versions: dict[Name, Name] = Field(default_factory=dict)
    modes: list[QualifiedMode] = Field(max_length=64)

    @field_validator("modes")
    @classmethod
    def _each_once(cls, value: list[QualifiedMode]) -> list[QualifiedMode]:
        names = [str(row.mode) for row in value]
        if len(names) != len(set(names)):
            raise ValueError(f"a mode stands there twice: {', '.join(sorted(names))}")
        return value

    def voided(self, fingerprint: str, tool_format: str) -> str:
        """Why the file says nothing about what is served now; empty if it does."""
        if self.fingerprint != fingerprint:
            return f"it is for fingerprint {self.fingerprint} ({self.model}), not {fingerprint}; {AGAIN}"
        if self.tool_format != tool_format:
            return f"it is for tool format {self.tool_format}, not {tool_format}; {AGAIN}"
        return ""

    def ceiling(self, mode: DecodeMode) -> Ceiling:
        """Trusted from 0 up to the first bucket that is not: a longer context holds the shorter one in it."""
        row = next((row for row in self.modes if row.mode == mode), None)
        if row is None:
            return Ceiling(0, f"{mode} was not qualified")
        trusted = 0
        for bucket in row.buckets:
            if not bucket.trusted:
                return Ceiling(trusted, f"not qualified at {trusted + 1}-{bucket.up_to_tokens} tokens: {bucket.why}")
            trusted = bucket.up_to_tokens
        return Ceiling(trusted, f"qualified up to {trusted} tokens")


def parse(text: str | bytes) -> Qualification:
    """Raises QualificationProblem; every line of its message names a key."""
    try:
        return Qualification.model_validate_json(text)
    except ValidationError as error:
        lines = [_explain(problem["loc"], problem["type"], problem["msg"]) for problem in error.errors()[:8]]
        raise QualificationProblem("\n".join(lines)) from None


def _explain(place: tuple[int | str, ...], kind: str, message: str) -> str:
    where = ".".join(str(part) for part in place) or "the file"
    match kind:
        case "extra_forbidden":
            return f"{where}: version 1 has no such key; take it out, or use a newer specguard"
        case "missing":
            return f"{where}: is missing; {AGAIN}"
        case "json_invalid":
            return f"{where}: is no JSON ({message}); {AGAIN}"
        case "literal_error" if place == ("version",):
            return f"version: this specguard reads version 1 only; {AGAIN}"
    return f"{where}: {message.removeprefix('Value error, ')}; {AGAIN}"
