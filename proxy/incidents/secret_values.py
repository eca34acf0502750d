"""Values of names that say they are secret: assignments, JSON at any depth of escapes, YAML, markup.

Must not: take code for a value: what no quotes stand around is one only if no name or type would look like it.
Invariant: takes time linear in the text. A name is judged before its value is read, a value is read to its end only
when it is one, and nobody looks again into what was found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from proxy.incidents.secret_fields import field_at
from proxy.incidents.secret_names import (
    is_attribute,
    is_bare_secret,
    is_call,
    is_path,
    is_placeholder,
    is_random_under,
    is_secret,
    kind_of,
    looks_random,
    may_be_secret,
)
from proxy.incidents.secret_shapes import Span, all_of

_BEGINNINGS = "pass pwd secret token key credential auth cookie bearer jwt connection basic sig value".split()
_QUOTE = r"\\{0,15}[\"'`]"
_KEY = re.compile(
    r"(?P<key>password|passwd|passphrase|pass|pwd|secret|token|key(?:[_-]?(?:id|base))?|credentials?|authorization|auth"
    r"|cookie|bearer|jwt|connection[_-]?string)"
    rf"(?P<between>(?:{_QUOTE}\]?)?\s{{0,8}}(?:=>|:=|[:=]|\\{{1,7}}u003d)\s{{0,8}}(?:!\w{{1,20}} )?"
    rf"|(?P<said>\s{{1,4}}(?:is|was)\s{{1,4}})|(?P<argument>{_QUOTE}, {{0,2}}(?={_QUOTE}))"
    rf"|(?P<element>>)|(?P<attribute></key>\s{{0,40}}<string>|{_QUOTE}>))",
    re.IGNORECASE,
)
_BEFORE = re.compile(r"[A-Za-z0-9_.-]{0,40}\Z")
_CALL = re.compile(r"(?:env|default|item|config|secret)\(\s{0,8}\\{0,7}[\"']?[A-Za-z0-9_.-]{0,40}\Z", re.IGNORECASE)
"""Of a function that sets a name to a value: `setenv("API_KEY", "…")`."""
_TRIPLE = re.compile(r"(?P<quotes>\"\"\"|''')\s{0,8}")
_QUOTED = re.compile(
    r"\"(?P<double>(?:[^\"\\\n]|\\.){4,}+)|'(?P<single>(?:[^'\\\n]|\\.|''(?=\w)){4,}+)|`(?P<tick>[^`\\\n]{4,512}+)`"
    r"|(?P<slashes>\\{1,15})(?P<mark>[\"'])"
    r"(?P<escaped>(?:[^\"'\\\n]|(?P=slashes)\\+[\"']|\\++(?![\"'])|(?!(?P=mark))[\"']){4,}+)"
)
_BARE = re.compile(r"[^\s\"'`,;(){}\[\]<>\\]{4,128}")
_REST = re.compile(r"[^\s\"'`,;(){}\[\]<>\\]*")
_TO_LINE_END = re.compile(r"[^\s\"'`\\<>]++(?=[ \t\r]{0,80}(?:\n|\Z))")
_LINE_BEGIN = re.compile(
    r"(?:\A|\n)[ \t]{0,40}(?:\d{1,6}\t)?(?:(?:export|set|local|readonly|declare|ENV|ARG|[-+>$%#]) {1,4})?\Z"
)
_ELEMENT = re.compile(r"[^<>\n]{4,256}+(?=</)")
_BLOCK = re.compile(r"[|>][-+0-9]{0,2}[ \t]{0,8}\n")
_LINE = re.compile(r"(?P<indent>[ \t]*)(?P<text>[^\n]*)\n?")
_JUDGED_CHARS, _TRIPLE_CHARS = 512, 8192

_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


@dataclass(frozen=True, slots=True)
class _Name:
    """begin: where it begins. start: where its value begins. surely: is whatever it has a secret, or only a random one?
    between: what stands between the two, without quotes. is_inside: does no quote stand behind it?"""

    text: str
    begin: int
    start: int
    surely: bool
    between: str
    is_inside: bool

    @property
    def is_environment(self) -> bool:
        return self.between == "=" and self.text.isupper()


def values_in(text: str) -> Iterator[Span]:
    """Everything that is the value of a name that says so, in no order."""
    lowered = text.lower()
    if len(lowered) != len(text):  # a few letters become two
        lowered = text.translate(_LOWER)
    for word in _BEGINNINGS:
        done = 0
        for at in all_of(word, lowered):
            if at >= done:
                for span in filter(None, (field_at(text, at), _pair(text, at))):
                    done = max(done, span[1])
                    yield span


def _pair(text: str, at: int) -> Span | None:
    found = _KEY.match(text, at)
    if found is None:
        return None
    before = _BEFORE.search(text[max(0, at - 40) : at])
    whole = (before[0] if before else "") + found["key"]
    surely = is_secret(whole)
    if not surely and not may_be_secret(whole):
        return None
    name = _Name(
        whole,
        found.end("key") - len(whole),
        found.end(),
        surely,
        found["between"].lstrip("\\\"'`]"),
        found["between"][:1] not in "\\\"'`",
    )
    if found["element"] or found["attribute"]:
        span = _element(text, name, may_be_label=found["element"] is None)
    elif found["said"]:
        span = _said(text, name)
    elif found["argument"]:
        span = _quoted(text, name) if _CALL.search(text[max(0, at - 60) : at]) else None
    else:
        span = _block(text, name) or _quoted(text, name) or _bare(text, name)
    return span and (*span, kind_of(whole))


def _element(text: str, name: _Name, may_be_label: bool) -> tuple[int, int] | None:
    """`<password>value</password>`; in `<label for="password">` stands a label."""
    found = _ELEMENT.match(text, name.start)
    if found is None or not name.surely or is_placeholder(found[0]):
        return None
    if may_be_label and (" " in found[0] or not is_bare_secret(found[0], name.text, False)):
        return None
    return found.span()


def _said(text: str, name: _Name) -> tuple[int, int] | None:
    """`the password is …`: most such sentences go on with a word."""
    found = _BARE.match(text, name.start)
    return found.span() if found and looks_random(found[0]) else None


def _block(text: str, name: _Name) -> tuple[int, int] | None:
    """A block scalar of YAML: the lines that are indented more than the line of its name."""
    head = _BLOCK.match(text, name.start) if name.surely else None
    if head is None:
        return None
    line = text[max(0, name.begin - 400) : name.begin].rpartition("\n")[2]
    outer = len(line) - len(line.lstrip(" \t-"))
    at, span = head.end(), None
    while at < len(text) and (found := _LINE.match(text, at)):
        if content := found["text"].rstrip():
            if len(found["indent"]) <= outer:
                break
            begin = found.start("text")
            span = (span[0] if span else begin, begin + len(content))
        at = found.end()
    return span


def _quoted(text: str, name: _Name) -> tuple[int, int] | None:
    if triple := _TRIPLE.match(text, name.start):
        if "\n" in name.between:
            return None  # what a class of that name is for
        start, limit = triple.end(), min(len(text), triple.end() + _TRIPLE_CHARS)
        end = text.find(triple["quotes"], start, limit)
        end = start + len(text[start : limit if end < 0 else end].rstrip())
        return (start, end) if start < end and _may_be(name, text[start : start + _JUDGED_CHARS]) else None
    found = _QUOTED.match(text, name.start)
    if found is None:
        return None
    start, end = found.span(found.lastgroup or "double")
    value = text[start : min(end, start + _JUDGED_CHARS)]
    if found["tick"] and not is_bare_secret(value, name.text, False):
        return None  # Markdown marks names so
    if value[0] in " ,)]}+;" and name.is_inside:
        return None  # `"Token: " + …`: the quote is that of the name
    if name.text.lower().endswith("cookie") and "=" not in value and not looks_random(value):
        return None  # a cookie has a name
    return (start, end) if _may_be(name, value) else None


def _may_be(name: _Name, value: str) -> bool:
    return not is_placeholder(value) and (name.surely or is_random_under(name.text, value))


def _bare(text: str, name: _Name) -> tuple[int, int] | None:
    if line := _environment_line(text, name):
        return line
    found = _BARE.match(text, name.start)
    if found is None or not _may_be(name, found[0]):
        return None
    value, (start, end) = found[0], found.span()
    is_read = name.between[-1:] == " " and (is_attribute(value) or (not name.surely and "." in value))
    is_code = is_read or text[end : end + 1] in ("(", "[")
    if (not name.surely and not is_code) or (name.is_environment and not is_path(value)):
        return start, _end_of_rest(text, end)
    if is_path(value) or (name.between == "=" and _is_alone(text, name, end)):
        return None if is_path(value) or value[0] == "$" else (start, end)
    if is_code or not is_bare_secret(value, name.text, False):
        return None
    if text[name.begin - 1 : name.begin] in ("?", "&"):  # of an address: the next parameter is no part of it
        return start, start + len(text[start : _end_of_rest(text, end)].partition("&")[0])
    return start, _end_of_rest(text, end)


def _environment_line(text: str, name: _Name) -> tuple[int, int] | None:
    """Of a file of environment variables: the value goes to the end of the line, whatever it is made of."""
    if not (name.surely and name.is_environment and _LINE_BEGIN.search(text[max(0, name.begin - 60) : name.begin])):
        return None
    found = _TO_LINE_END.match(text, name.start)
    if found is None or len(found[0]) < 4:
        return None
    value = found[0][:_JUDGED_CHARS]
    return None if is_placeholder(value) or is_path(value) or is_call(value) else found.span()


def _is_alone(text: str, name: _Name, end: int) -> bool:
    """As in a file of properties (`db.password=value`; code is indented or has spaces), or between semicolons."""
    before, behind = text[name.begin - 1 : name.begin], text[end : end + 1]
    return (before in ("", "\n") and behind in ("", "\n")) or (before == ";" and behind in ("", ";", '"', "'", "\n"))


def _end_of_rest(text: str, end: int) -> int:
    rest = _REST.match(text, end)
    return rest.end() if rest else end
