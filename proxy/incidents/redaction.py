"""Takes secrets out of what is captured: values of keys that look secret, and shapes that are secrets anywhere.

Must not: be turned off, or leave a secret in another form. Token ids are text to whoever has the tokenizer, so a
capture in which something was redacted keeps none, and can then not be replayed to the token.
Invariant: redacting twice changes nothing more. Takes time linear in the text.

It is a net with holes, not a proof: a password in the middle of a sentence looks like any other word. Who must not keep
secrets at all leaves `incidents.capture` off.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from proxy.capture import Capture

MARK = "[redacted:"

SHAPES: Mapping[str, tuple[re.Pattern[str], tuple[str, ...]]] = {
    "private_key": (
        re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]{0,40}-----|\Z)", re.DOTALL),
        ("-----BEGIN ",),
    ),
    "jwt": (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"), ("eyJ",)),
    "api_key": (re.compile(r"\b(?:sk|pk|rk)[-_][A-Za-z0-9_-]{16,}"), ("k-", "k_")),
    "github_token": (
        re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})"),
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    ),
    "gitlab_token": (re.compile(r"\bglpat-[A-Za-z0-9_-]{16,}"), ("glpat-",)),
    "aws_key": (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), ("AKIA", "ASIA")),
    "google_key": (re.compile(r"\bAIza[A-Za-z0-9_-]{30,}"), ("AIza",)),
    "slack_token": (re.compile(r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"), ("xox",)),
    "hub_token": (
        re.compile(r"\b(?:hf_[A-Za-z0-9]{24,}|npm_[A-Za-z0-9]{24,}|pypi-[A-Za-z0-9_-]{24,})"),
        ("hf_", "npm_", "pypi-"),
    ),
    "url_password": (re.compile(r"(?<=://)[^\s/:@]{1,128}:[^\s/@]{1,256}(?=@)"), ("://",)),
}
"""Kind -> (what it looks like, texts of which one must be there, which is much faster to look for)."""

_WORDS = (
    r"password|passwd|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key(?:[_-]?id)?|private[_-]?key|secret[_-]?key"
    r"|signing[_-]?key|encryption[_-]?key|credentials?|authorization|cookie|bearer|jwt|connection[_-]?string"
)
_KEY = re.compile(rf"(?:.*[_.-])?(?:{_WORDS})", re.IGNORECASE | re.DOTALL)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NO_SECRET = re.compile(
    r"(?:.*[_.-])?(?:page|next|prev|previous|continuation|cancellation|eos|bos|pad|unk|sep|cls|mask|special|stop)[_.-]?token",
    re.IGNORECASE | re.DOTALL,
)
_TRIGGERS = tuple("passw passphrase pwd secret token key credential authorization cookie bearer jwt connection".split())
_HEADER = re.compile(
    r"\b((?:proxy-)?authorization|(?:set-)?cookie)(\\?[\"']?\s*[:=]\s*\\?[\"']?)([^\n\"'\\]{4,})", re.IGNORECASE
)
_SCHEME = re.compile(r"\b(bearer|basic)( +)([A-Za-z0-9._~+/-]{16,}=*)", re.IGNORECASE)
_PARAMETER = re.compile(r"<parameter=([^>\n]{1,128})>(\s*)(.*?)(?=\s*</parameter>|\Z)", re.DOTALL)
_PAIR = re.compile(
    rf"(?P<key>{_WORDS})(?P<between>\\?[\"']?\s{{0,8}}(?:=>|[:=])\s{{0,8}})"
    r"(?:\"(?P<double>(?:[^\"\\\n]|\\.){4,1024}+)|'(?P<single>(?:[^'\\\n]|\\.){4,1024}+)|\\\"(?P<escaped>[^\"\\\n]{4,1024}+)"
    r"|(?P<bare>[^\s\"'`,;(){}\[\]<>\\]{4,1024}+))",
    re.IGNORECASE,
)
_BEFORE = re.compile(r"[A-Za-z0-9_.-]{0,40}\Z")
_PLAIN_WORDS = frozenset(
    "string number null none true false object boolean integer bytes password passwd token secret required optional "
    "undefined any unknown self".split()
)
_KNOWN_CHARS = 6
"""A value that is shorter than this is not looked for elsewhere: it would be found inside of words."""


class Redactor:
    """Of one capture. kinds: of what was found so far."""

    def __init__(self) -> None:
        self.kinds: set[str] = set()
        self._values: dict[str, str] = {}

    def text(self, text: str) -> str:
        """The text without what looks secret."""
        for kind, (shape, triggers) in SHAPES.items():
            if any(trigger in text for trigger in triggers):
                text = shape.sub(partial(self._shape, kind), text)
        lowered = text.lower()
        if any(trigger in lowered for trigger in _TRIGGERS):
            for pattern in (_HEADER, _SCHEME):
                text = pattern.sub(lambda found: found[1] + found[2] + self._found(_kind(found[1]), found[3]), text)
            text = _PARAMETER.sub(self._parameter, text)
            text = _PAIR.sub(self._pair, text)
        return text

    def tree(self, value: Any, keys: bool = True) -> Any:
        """JSON data without what looks secret. keys: also whatever stands under a key that looks secret."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {
                name: self._under(str(name), inner) if keys and _is_secret(str(name)) else self.tree(inner, keys)
                for name, inner in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.tree(inner, keys) for inner in value]
        return value

    def elsewhere(self, value: Any) -> Any:
        """JSON data without any value that was found secret at some other place."""
        if not self._values:
            return value
        pattern = re.compile("|".join(re.escape(secret) for secret in sorted(self._values, key=len, reverse=True)))
        return _map_text(value, lambda text: pattern.sub(lambda found: self._values[found[0]], text))

    def _under(self, key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: self._under(key, inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._under(key, inner) for inner in value]
        if value is None or isinstance(value, bool) or value == "":
            return value
        return self._found(_kind(key), str(value))

    def _shape(self, kind: str, found: re.Match[str]) -> str:
        return self._found(kind, found[0])

    def _parameter(self, found: re.Match[str]) -> str:
        if not found[3] or not _is_secret(found[1]):
            return found[0]
        return f"<parameter={found[1]}>{found[2]}{self._found(_kind(found[1]), found[3])}"

    def _pair(self, found: re.Match[str]) -> str:
        group = found.lastgroup or "bare"
        value, key = found[group], found["key"]
        before = _BEFORE.search(found.string[max(0, found.start() - 40) : found.start()])
        name = (before[0] if before else "") + key
        if not _is_secret(name) or value.lower() in _PLAIN_WORDS or value.startswith(("<|", "${", "{{", "$(")):
            return found[0]
        if group == "bare" and not _is_bare_secret(value, name, found["between"]):
            return found[0]
        return found[0][: -len(value)] + self._found(_kind(key), value)

    def _found(self, kind: str, value: str) -> str:
        if value.startswith(MARK):
            return value
        self.kinds.add(kind)
        marked = f"{MARK}{kind}]"
        if len(value) >= _KNOWN_CHARS:
            self._values.setdefault(value, marked)
        return marked


def redact_text(text: str) -> tuple[str, frozenset[str]]:
    """(the text without what looks secret, kinds of what was found)."""
    redactor = Redactor()
    redacted = redactor.elsewhere(redactor.text(text))
    return redacted, frozenset(redactor.kinds)


def redact_capture(capture: Capture) -> Capture:
    """The capture as it may be kept. If anything was redacted, `redacted` says what, and there are no token ids."""
    redactor = Redactor()
    plain = capture.plain()
    request = plain["request"]
    clean = {
        name: redactor.tree(value, keys=name == "messages") for name, value in request.items()
    }  # under a key of a schema stands a schema, and its name is no secret's
    response = redactor.text(capture.response)
    if not redactor.kinds:
        return capture
    plain |= {"request": redactor.elsewhere(clean), "response": redactor.elsewhere(response)}
    parsed = Capture.parse(plain)
    kinds = tuple(sorted({*redactor.kinds, *capture.redacted}))
    return replace(parsed, redacted=kinds, prompt_ids=(), kept_ids=(), lost_ids=())


def _is_secret(key: str) -> bool:
    name = _CAMEL.sub("_", key)
    return _KEY.fullmatch(name) is not None and _NO_SECRET.fullmatch(name) is None


def _is_bare_secret(value: str, name: str, between: str) -> bool:
    """A value without quotes may be code: only one that no name or type would look like is a secret."""
    if name.isupper() and between == "=":  # as in a file of environment variables
        return True
    digits = sum(char.isdigit() for char in value)
    if digits == len(value):
        return "token" not in name.lower() and len(value) >= 6
    return digits > 0 and len(value) >= 6 and not value.startswith(("self.", "os.", "http://", "https://"))


def _kind(key: str) -> str:
    name = _CAMEL.sub("_", key).lower().replace("-", "_")
    return next((word for word in ("password", "authorization", "cookie", "token", "secret") if word in name), "key")


def _map_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _map_text(inner, change) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_map_text(inner, change) for inner in value]
    return value
