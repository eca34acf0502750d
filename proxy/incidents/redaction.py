"""Takes secrets out of what is captured: values of keys that look secret, and shapes that are secrets anywhere.

Must not: be turned off, or leave a secret in another form. Token ids are text to whoever has the tokenizer, so a
capture in which something was redacted keeps none, and can then not be replayed to the token.
Invariant: redacting twice changes nothing more. Takes time linear in the text.

It is a net with holes, not a proof: a password in the middle of a sentence looks like any other word. Who must not keep
secrets at all leaves `incidents.capture` off.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from proxy.replays.capture import Capture

MARK = "[redacted:"

SHAPES: Mapping[str, tuple[tuple[str, ...], re.Pattern[str]]] = {
    "private_key": (
        ("-----BEGIN ",),
        re.compile(r"[A-Z0-9 ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]{0,40}-----|\Z)", re.DOTALL),
    ),
    "jwt": (("eyJ",), re.compile(r"[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]*")),
    "api_key": (("sk-", "sk_", "pk-", "pk_", "rk-", "rk_", "whsec_"), re.compile(r"[A-Za-z0-9_-]{16,}")),
    "github_token": (("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"), re.compile(r"[A-Za-z0-9_]{20,}")),
    "gitlab_token": (("glpat-",), re.compile(r"[A-Za-z0-9_-]{16,}")),
    "aws_key": (("AKIA", "ASIA"), re.compile(r"[A-Z0-9]{16}(?![A-Za-z0-9])")),
    "google_key": (("AIza",), re.compile(r"[A-Za-z0-9_-]{30,}")),
    "slack_token": (("xoxa-", "xoxb-", "xoxe-", "xoxo-", "xoxp-", "xoxr-", "xoxs-"), re.compile(r"[A-Za-z0-9-]{10,}")),
    "hub_token": (("hf_", "npm_", "pypi-"), re.compile(r"[A-Za-z0-9_-]{24,}")),
    "url_password": (("://",), re.compile(r"[^\s/:@]{0,128}:[^\s/@]{1,256}(?:@[^\s/@\"'<>,]{1,128}){0,4}(?=@)")),
}
"""Kind -> (how it begins, in one of several ways, how it goes on). Beginnings are found without regular expressions,
which is 20 times as fast, and no thread waits for a search through a whole prompt."""

_WORDS = (
    r"password|passwd|passphrase|pass|pwd|secret|token|api[_-]?key|access[_-]?key(?:[_-]?id)?|account[_-]?key|private[_-]?key"
    r"|secret[_-]?key(?:[_-]?base)?"
    r"|signing[_-]?key|encryption[_-]?key|credentials?|authorization|cookie|bearer|jwt|connection[_-]?string"
)
_JOINED = r"password|passwd|passphrase|(?:auth|access|refresh|session|bearer|api)token|clientsecret"
"""As they stand at the end of a name without anything between: PGPASSWORD."""
_KEY = re.compile(rf"(?:.*[_.-])?(?:{_WORDS})|.*(?:{_JOINED})", re.IGNORECASE | re.DOTALL)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NO_SECRET = re.compile(
    r"(?:.*[_.-])?(?:page|next|prev|previous|continuation|cancellation|eos|bos|pad|unk|sep|cls|mask|special|stop)[_.-]?token",
    re.IGNORECASE | re.DOTALL,
)
_BEGINNINGS = "pass pwd secret token key credential authorization cookie bearer jwt connection basic".split()
_HEADER = re.compile(
    r"(authorization|cookie)\\?[\"']?\s{0,8}[:=]\s{0,8}\\?[\"']?(?P<value>[^\n\"'\\]{4,})", re.IGNORECASE
)
_SCHEME = re.compile(r"(bearer|basic) +(?P<value>[A-Za-z0-9._~+/-]{16,}=*)", re.IGNORECASE)
_PAIR = re.compile(
    r"(?P<key>password|passwd|passphrase|pass|pwd|secret|token|key(?:[_-]?(?:id|base))?|credentials?|authorization|cookie|bearer|jwt"
    r"|connection[_-]?string)(?:>(?P<element>[^<>\n]{4,256}+)(?=</)"
    r"|(?P<between>\\?[\"']?\s{0,8}(?:=>|:=|[:=])\s{0,8})"
    r"(?:\"(?P<double>(?:[^\"\\\n]|\\.){4,}+)|'(?P<single>(?:[^'\\\n]|\\.){4,}+)|\\\"(?P<escaped>[^\"\\\n]{4,}+)"
    r"|(?P<bare>[^\s\"'`,;(){}\[\]<>\\]{4,}+)))",
    re.IGNORECASE,
)
_FLAG = re.compile(
    r"(?P<key>[A-Za-z0-9_-]{1,40}) {1,8}(?:\"(?P<double>[^\"\n]{4,})\"|'(?P<single>[^'\n]{4,})'"
    r"|(?P<bare>[^\s\"'`,;(){}\[\]<>|&\\-][^\s\"'`,;(){}\[\]<>|&\\]{3,}))"
)
_PARAMETER = re.compile(r"([^>\n]{1,128})>\s{0,8}")
_BEFORE = re.compile(r"[A-Za-z0-9_.-]{0,40}\Z")
_PLAIN_WORDS = frozenset(
    "string number null none true false object boolean integer bytes password passwd token secret required optional "
    "undefined any unknown self".split()
)
_KNOWN_CHARS = 6
"""A value that is shorter than this is not looked for elsewhere: it would be found inside of words."""

_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}

Span = tuple[int, int, str]
"""Start, end and kind of something that looks secret."""


class Redactor:
    """Of one capture. kinds: of what was found so far."""

    def __init__(self) -> None:
        self.kinds: set[str] = set()
        self._values: dict[str, str] = {}

    def text(self, text: str) -> str:
        """The text without what looks secret."""
        pieces, done = [], 0
        for start, end, kind in _merged(_spans(text)):
            pieces += [text[done:start], self._found(kind, text[start:end])]
            done = end
        return "".join(pieces) + text[done:]

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
        lengths: dict[str, set[int]] = {}
        for secret in self._values:
            lengths.setdefault(secret[:_KNOWN_CHARS], set()).add(len(secret))
        longest_first = {beginning: sorted(found, reverse=True) for beginning, found in lengths.items()}
        longest_first.setdefault(MARK[:_KNOWN_CHARS], [])

        def change(text: str) -> str:
            pieces, done, beyond = [], 0, 0
            for at in range(len(text) - _KNOWN_CHARS + 1):  # once through the text, however many secrets there are
                known = longest_first.get(text[at : at + _KNOWN_CHARS])
                if known is None or at < beyond:
                    continue
                if text.startswith(MARK, at):  # somebody's password may be a word of it
                    beyond = text.find("]", at)
                    continue
                for length in known:
                    if (marked := self._values.get(text[at : at + length])) is not None:
                        pieces += [text[done:at], marked]
                        done = beyond = at + length
                        break
            return "".join(pieces) + text[done:]

        return _map_text(value, change) if self._values else value

    def _under(self, key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: self._under(key, inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._under(key, inner) for inner in value]
        if value is None or isinstance(value, bool) or value == "":
            return value
        return self._found(_kind(key), str(value))

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


def redact_capture(capture: Capture, beside: Any = None) -> Capture:
    """The capture as it may be kept. If anything was redacted, `redacted` says what, and there are no token ids.

    beside: JSON data that tells of the same response, whose secrets must not stand in the capture either.
    """
    redactor = Redactor()
    redactor.tree(beside, keys=False)  # its keys are our own: a token there is a number
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


def _spans(text: str) -> Iterator[Span]:
    for kind, (beginnings, rest) in SHAPES.items():
        for beginning in beginnings:
            done = 0
            for at in _all(beginning, text):
                if at < done or (beginning[0].isalpha() and text[at - 1 : at].isalnum()):
                    continue
                if found := rest.match(text, at + len(beginning)):
                    done = found.end()
                    yield (at if kind != "url_password" else found.start()), done, kind
    yield from _parameters(text)
    yield from _flags(text)
    lowered = text.lower()
    if len(lowered) != len(text):  # a few letters become two
        lowered = text.translate(_LOWER)
    for word in _BEGINNINGS:
        done = 0
        for at in _all(word, lowered):
            if at >= done:
                for span in filter(None, (_value(text, at), _pair(text, at))):
                    done = max(done, span[1])
                    yield span


def _all(beginning: str, text: str) -> Iterator[int]:
    at = text.find(beginning)
    while at >= 0:
        yield at
        at = text.find(beginning, at + len(beginning))


def _parameters(text: str) -> Iterator[Span]:
    """Arguments as the model writes them: `<parameter=name>`, a line with the value, `</parameter>`."""
    opening, done = "<parameter=", 0
    for at in _all(opening, text):
        head = _PARAMETER.match(text, at + len(opening)) if at >= done else None
        if head and _is_secret(head[1]):
            end = text.find("</parameter>", head.end())
            done = len(text) if end < 0 else end
            value = text[head.end() : done].rstrip()
            if value:
                yield head.end(), head.end() + len(value), _kind(head[1])


def _flags(text: str) -> Iterator[Span]:
    """Of a command line: `--password value`."""
    done = 0
    for at in _all(" --", text):
        found = _FLAG.match(text, at + 3) if at >= done else None
        if found and (span := _valued(found, found["key"], " ")):
            done = span[1]
            yield span


def _value(text: str, at: int) -> Span | None:
    """Of a header, or of a scheme of authorization."""
    found = _HEADER.match(text, at) or _SCHEME.match(text, at)
    return found and (*found.span("value"), _kind(found[1]))


def _pair(text: str, at: int) -> Span | None:
    """The value of a key in whatever notation."""
    found = _PAIR.match(text, at)
    if found is None:
        return None
    before = _BEFORE.search(text[max(0, at - 40) : at])
    return _valued(found, (before[0] if before else "") + found["key"], found["between"])


def _valued(found: re.Match[str], name: str, between: str) -> Span | None:
    """The value, if the name says that it is a secret, and it does not look like something else."""
    group = found.lastgroup or "bare"
    value = found[group]
    if not _is_secret(name) or value.lower() in _PLAIN_WORDS or value.startswith(("<|", "${", "{{", "$(")):
        return None
    if group == "bare" and not (
        _is_bare_secret(value, name, between) or (between == "=" and _is_property(found, name))
    ):
        return None
    return (*found.span(group), _kind(name))


def _merged(spans: Iterable[Span]) -> list[Span]:
    """In order; those that overlap become one, of the kind of the first."""
    merged: list[Span] = []
    for start, end, kind in sorted(spans):
        if merged and start < merged[-1][1]:
            first, last, name = merged[-1]
            merged[-1] = (first, max(last, end), name)
        else:
            merged.append((start, end, kind))
    return merged


def _is_secret(key: str) -> bool:
    name = _CAMEL.sub("_", key)
    return _KEY.fullmatch(name) is not None and _NO_SECRET.fullmatch(name) is None


def _is_property(found: re.Match[str], name: str) -> bool:
    """A line of its own as in a file of properties, `db.password=value`; code would be indented or have spaces."""
    text, start, end = found.string, found.start("key") + len(found["key"]) - len(name), found.end()
    return text[start - 1 : start] in ("", "\n") and text[end : end + 1] in ("", "\n") and found["bare"][0] != "$"


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
        return {name: inner if name == "role" else _map_text(inner, change) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_map_text(inner, change) for inner in value]
    return value
