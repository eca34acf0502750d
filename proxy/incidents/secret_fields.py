"""Secrets in places that have a form of their own: headers, parameters of an address, arguments as the model writes
them, and pairs of which one half is the name and the other one the value.

Must not: take a sentence about a header, or code that reads one, for the header.
Invariant: takes time linear in the text: what is tried at a place is bounded, but for what is found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from proxy.incidents.secret_names import is_bare_secret, is_placeholder, is_secret, kind_of, looks_encoded, looks_random
from proxy.incidents.secret_shapes import Span, all_of

_QUOTE = r"\\{0,15}[\"'`]"
_GAP = r"(?:[\s,]|\\{1,7}n)"
_NAME = (
    rf"(?:name|key|id|header|variable|field)(?:{_QUOTE})?\s{{0,8}}[:=]\s{{0,8}}(?:{_QUOTE})?"
    r"(?P<name>[A-Za-z0-9_.-]{2,64})"
)
_NAME_BEFORE = re.compile(rf"(?<![a-z]){_NAME}(?:{_QUOTE})?{_GAP}{{0,40}}(?:{_QUOTE})?\Z", re.IGNORECASE)
_NAME_AFTER = re.compile(rf"{_QUOTE}{_GAP}{{1,40}}(?:{_QUOTE})?{_NAME}", re.IGNORECASE)
_VALUE = re.compile(
    rf"value(?:{_QUOTE})?\s{{0,8}}[:=]\s{{0,8}}"
    rf"(?:{_QUOTE}(?P<quoted>[^\"'`\\\n]{{4,512}}+)|(?P<bare>[^\s\"'`,{{}}\\]{{4,512}}+))",
    re.IGNORECASE,
)
_HEADER = re.compile(r"(?P<key>authorization|cookie)\\{0,15}[\"']?\s{0,8}[:=]\s{0,8}\\{0,15}[\"']?", re.IGNORECASE)
_COOKIE = re.compile(r"[\w.-]{1,64}=[^\s=]")
_CREDENTIAL = re.compile(
    r"(?:(?P<scheme>bearer|basic|token|apikey|negotiate|ntlm) {1,8})?(?P<given>[^\s\"'\\]{4,128})", re.IGNORECASE
)
_CREDENTIALS = re.compile(
    r"(?:digest|aws4-[a-z0-9-]{1,20}|oauth|hawk|signature) {1,8}"
    r"(?:[\w-]{1,40}=(?:\\{0,15}\"[^\"\\\n]{0,512}\\{0,15}\"|[^\s,\"'\\]{1,512})[ ,]{0,4}){1,20}",
    re.IGNORECASE,
)
_LINE = re.compile(r"[^\n\"'\\]*")
_SCHEME = re.compile(r"(?P<key>bearer|basic)\s{1,8}(?P<value>[A-Za-z0-9._~+/-]{16,}=*)", re.IGNORECASE)
_PARAMETER = re.compile(r"([^>\n]{1,128})>\s{0,8}")
_QUERY = re.compile(r"(?P<key>signature|sig|key)=(?P<value>[^\s\"'`&<>\\]{12,512})", re.IGNORECASE)
_QUERY_BEFORE = re.compile(r"(?:[?&;]|u0026)[A-Za-z0-9-]{0,40}\Z")


def parameters_in(text: str) -> Iterator[Span]:
    """Arguments as the model writes them: `<parameter=name>`, a line with the value, `</parameter>`."""
    opening, done = "<parameter=", 0
    for at in all_of(opening, text):
        head = _PARAMETER.match(text, at + len(opening)) if at >= done else None
        if head and is_secret(head[1]):
            end = text.find("</parameter>", head.end())
            done = len(text) if end < 0 else end
            value = text[head.end() : done].rstrip()
            if value:
                yield head.end(), head.end() + len(value), kind_of(head[1])


def field_at(text: str, at: int) -> Span | None:
    """What is a secret by the form of the place that begins there."""
    return _header(text, at) or _scheme(text, at) or _query(text, at) or _value_beside_name(text, at)


def _header(text: str, at: int) -> Span | None:
    found = _HEADER.match(text, at)
    if found is None:
        return None
    start, kind = found.end(), kind_of(found["key"])
    if kind == "cookie":
        is_one = _COOKIE.match(text, start) is not None
    elif many := _CREDENTIALS.match(text, start):
        return start, many.end() - len(many[0]) + len(many[0].rstrip(" ,")), kind
    else:
        is_one = (given := _CREDENTIAL.match(text, start)) is not None and _is_credential(text, given)
    return (start, _line_end(text, start), kind) if is_one else None


def _is_credential(text: str, found: re.Match[str]) -> bool:
    """With the name of a scheme before it anything is one, but for what stands in for it; else it may be code."""
    given = found["given"]
    if found["scheme"]:
        return not is_placeholder(given)
    return not any(char in given for char in "([{") and is_bare_secret(given, "authorization", False)


def _line_end(text: str, start: int) -> int:
    line = _LINE.match(text, start)
    return start + len(line[0].rstrip()) if line else start


def _scheme(text: str, at: int) -> Span | None:
    found = _SCHEME.match(text, at)
    return (*found.span("value"), kind_of(found["key"])) if found and looks_encoded(found["value"]) else None


def _query(text: str, at: int) -> Span | None:
    """`https://host/?sig=…`: the names are short, so only a random value is one."""
    found = _QUERY.match(text, at) if _QUERY_BEFORE.search(text[max(0, at - 48) : at]) else None
    if found and looks_random(found["value"]):
        return *found.span("value"), kind_of("key" if found["key"].lower() == "key" else "signature")
    return None


def _value_beside_name(text: str, at: int) -> Span | None:
    """`{"name": "API_KEY", "value": "…"}`, also in YAML and markup, the name before or behind."""
    found = _VALUE.match(text, at)
    if found is None or text[at - 1 : at].isalnum():
        return None
    other = _NAME_BEFORE.search(text[max(0, at - 160) : at])
    if other is None and found["quoted"] is not None:
        other = _NAME_AFTER.match(text, found.end(), found.end() + 160)
    if other is None or not is_secret(other["name"]):
        return None
    value = found[found.lastgroup or "bare"]
    if is_placeholder(value) or (found["bare"] and not is_bare_secret(value, other["name"], True)):
        return None
    return *found.span(found.lastgroup or "bare"), kind_of(other["name"])
