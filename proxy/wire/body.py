"""What both APIs share in reading a body: JSON, pydantic errors in words, sampling, content that is text or parts.

Must not: know the fields of one API. Invariant: whatever a client sends, the only error raised is RequestError.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from proxy.conversation import Sampling
from proxy.errors import RequestError

M = TypeVar("M", bound=BaseModel)
MAX_STOPS = 16
MAX_DEPTH = 200
HALVES = re.compile("[\ud800-\udfff]")
TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,8}")
INSTANCE = re.compile(r" or instance of \w+")
PLAIN_KEY = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Loose(BaseModel):
    """Base of wire models: unknown keys are kept, so that they can be listed as ignored."""

    model_config = ConfigDict(extra="allow", strict=False)

    @property
    def unknown(self) -> list[str]:
        return sorted(self.model_extra or {})


class SamplingFields(Loose):
    """How tokens are chosen, in the names and ranges of OpenAI's API and, for what it lacks, of vLLM's."""

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    logit_bias: dict[str, Any] | None = None

    def sampling(self, default_temperature: float) -> Sampling:
        """What the fields ask for; those that are absent or null ask for nothing."""
        return Sampling(
            temperature=default_temperature if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(self.top_k or 0, 0),
            min_p=self.min_p or 0.0,
            seed=self.seed,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=_biases(self.logit_bias or {}),
        )


def read_json(raw: bytes) -> dict[str, Any]:
    """The body as an object."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        value = _half_characters(raw)
        if value is None:
            raise RequestError("invalid_request", f"the body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise RequestError("invalid_request", "the body must be a JSON object")
    # each level begins with a byte of its own, so that most bodies need not be walked through
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _is_deep(value):
        raise RequestError("invalid_request", f"the body is nested deeper than {MAX_DEPTH} levels")
    return value


def read_model(model: type[M], value: Mapping[str, Any], where: str = "") -> M:
    """Validates; the first error becomes a message such as `messages[2].content: ...`. where: path to `value`."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = path(first["loc"])
        refuse(f"{where}.{field}" if where else field, _in_words(first["msg"]))


def refuse(field: str, problem: str) -> NoReturn:
    raise RequestError("invalid_request", f"{field}: {problem}", field)


def brief(value: Any) -> str:
    """A client's value for a message: short, whatever it is."""
    text = repr(value)
    return text if len(text) <= 62 else f"{text[:59]}..."


def as_json(value: Any) -> str:
    """A value of ours for a message, as a client would write it: `null`, not `None`."""
    return orjson.dumps(value).decode()


def path(parts: Iterable[int | str]) -> str:
    """(`messages`, 2, `content`) -> `messages[2].content`; names of union branches are left out."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        elif "[" not in part and "-" not in part and part not in ("str", "list", "dict", "int", "float", "bool"):
            text += f".{part}" if text else part
    return text or "body"


def text_of(content: Any, where: str) -> str:
    """Text of a string or of a list of text parts; anything else is refused by name."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        refuse(where, "must be a string or a list of parts")
    return "\n".join(part_text(part, f"{where}[{index}]") for index, part in enumerate(content))


def part_text(part: Any, where: str) -> str:
    """Text of one part of a content list."""
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("image", "image_url", "input_image", "document", "file", "input_audio"):
        refuse(where, f"this model reads text only; remove the part of type {kind!r}")
    if kind != "text" or not isinstance(part.get("text"), str):
        refuse(where, "parts must be of type 'text' with a string `text`")
    text: str = part["text"]
    return text


def arguments_of(raw: Any) -> dict[str, Any]:
    """Arguments of a past call. Broken JSON stays visible to the model instead of failing the request for ever."""
    if raw in (None, ""):
        return {}
    if isinstance(raw, dict):
        return raw
    try:
        value = orjson.loads(raw) if isinstance(raw, str) else raw
    except orjson.JSONDecodeError:
        return {"__raw": str(raw)}
    return value if isinstance(value, dict) else {"__raw": str(raw)}


def stops_of(stop: str | list[str] | None, field: str) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > MAX_STOPS:
        refuse(field, f"at most {MAX_STOPS} stop strings are possible, got {len(stops)}")
    if any(not s for s in stops):
        refuse(field, "a stop string must not be empty")
    return stops


def _biases(raw: Mapping[str, Any]) -> tuple[tuple[int, float], ...]:
    """By id. JSON names object members with strings, so the ids are digits."""
    for name, bias in raw.items():
        if not TOKEN_ID.fullmatch(name):
            refuse("logit_bias", f"{brief(name)} is not a token id; use the tokenizer's numbers as keys")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            refuse("logit_bias", f"the bias of token {name} must be a number between -100 and 100, not {brief(bias)}")
    return tuple(sorted((int(name), float(bias)) for name, bias in raw.items()))


def check_prefill(last_role: str, where: str) -> None:
    """A chat template closes every past turn, so the last assistant message cannot be continued, only answered."""
    if last_role == "assistant":
        refuse(
            where,
            "the last message is the assistant's, and continuing it (prefill) is not supported; "
            "remove it or add a user message after it",
        )


def session_of(key: Any) -> str:
    """A client's own key for its conversation, as an id that is safe in logs and headers; "" if there is none."""
    if not isinstance(key, str) or not key:
        return ""
    if PLAIN_KEY.fullmatch(key):
        return key
    return f"key-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def reminder(text: str) -> str:
    """A system message in mid-conversation, folded in place: hoisting it would change the cached prefix each time."""
    return f"<system-reminder>\n{text}\n</system-reminder>"


def _half_characters(raw: bytes) -> Any:
    """JSON that is valid but for lone surrogates (half an emoji cut off by a client), which become U+FFFD; else None.

    Such a text stays in a client's history: refusing it would end the session for ever.
    """
    try:
        value = json.loads(raw, parse_constant=lambda name: _no_number(name))
        return orjson.loads(HALVES.sub("\ufffd", json.dumps(value, ensure_ascii=False)))
    except (ValueError, RecursionError):
        return None


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)


def _in_words(message: str) -> str:
    """A message of pydantic, in terms of JSON."""
    message = INSTANCE.sub("", message.replace("valid dictionary", "valid object"))
    return f"{message[:1].lower()}{message[1:]}"


def _is_deep(value: Any) -> bool:
    """Level by level, which is fast for the wide and flat histories of agents."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for item in level
            for child in (item.values() if item.__class__ is dict else item)
            if child.__class__ is dict or child.__class__ is list
        ]
        if not level:
            return False
    return True
