"""Secrets in command lines: flags, and what some commands take in letters of their own (`mysql -pSECRET`).

Must not: take a flag for another command's: `-p` is a password to some, a port or a path to most.
Invariant: takes time linear in the text: a command is read once, up to where it ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from proxy.incidents.secret_names import is_bare_secret, is_placeholder, is_secret, kind_of
from proxy.incidents.secret_shapes import Span, all_of

_VALUE = (
    r"(?:\\{0,7}\"(?P<double>[^\"\\\n]{4,})|\\{0,7}'(?P<single>[^'\\\n]{4,})"
    r"|(?P<bare>[^\s\"'`\\|;&<>()$-][^\s\"'`\\|;&<>()]{3,}))"
)
_FLAG = re.compile(
    r"(?P<key>[A-Za-z0-9_-]{1,40}) {1,8}"
    r"(?:\\{0,7}\"(?P<double>[^\"\\\n]{4,})\\{0,7}\"|\\{0,7}'(?P<single>[^'\\\n]{4,})\\{0,7}'"
    r"|(?P<bare>[^\s\"'`,;(){}\[\]<>|&\\-][^\s\"'`,;(){}\[\]<>|&\\]{3,}))"
)
_FLAG_IN_LIST = re.compile(
    r"(?P<key>[A-Za-z0-9_-]{1,40})(?P<mark>\\{0,7}[\"']),\s{0,40}(?P=mark)(?P<value>[^\s\"'\\-][^\"'\\\n]{3,})(?P=mark)"
)
_COMMANDS: Mapping[str, re.Pattern[str]] = {
    "curl": re.compile(
        r"\s(?:-u|-U|--user|--proxy-user)[ =]?(?:\\{0,7}(?P<mark>[\"']))?[^\s:\"'$\\]{0,64}:"
        r"(?P<value>(?(mark)[^\"'$\\\n][^\"'\\\n]{2,128}|[^\s\"'`\\$|;&<>()][^\s\"'`\\|;&<>()]{2,128}))"
    ),
    "mysql": re.compile(rf"\s-p{_VALUE}"),
    "mariadb": re.compile(rf"\s-p{_VALUE}"),
    "sshpass": re.compile(rf"\s-p ?{_VALUE}"),
    "login": re.compile(rf"\s-p {{1,4}}{_VALUE}"),
    "mongo": re.compile(rf"\s-p {{1,4}}{_VALUE}"),
    "redis-cli": re.compile(rf"\s-a {{1,4}}{_VALUE}"),
    "openssl": re.compile(rf"\s-(?:passin|passout|pass|k) {{1,4}}pass:{_VALUE}"),
    "unzip": re.compile(rf"\s-P ?{_VALUE}"),
}
"""Word of the command -> what a secret stands behind."""
_MAY_BE_NAMES = ("login", "mongo")
"""Of a container, behind which `-p` is a port."""
_PORT = re.compile(r"[\d.:]+(?:/\w+)?")
_COMMAND = re.compile(r"(?:\\\r?\n|[^\n|;]){0,2000}")
_NETRC = re.compile(
    rf"machine\s{{1,8}}\S{{1,128}}\s{{1,20}}login\s{{1,8}}[^\s,]{{1,128}}\s{{1,20}}password\s{{1,8}}{_VALUE}"
)
_SETTERS = ("ENV ", "ARG ", "setenv ", "setx ", "set -x ", "set -gx ", "set -Ux ", "config set ", "configure set ")
_SETTING = re.compile(rf"(?P<key>[A-Za-z0-9_./:-]{{1,128}})[ \t]{{1,8}}{_VALUE}")


def commands_in(text: str) -> Iterator[Span]:
    """Everything that is a secret where it stands in a command line, in no order."""
    yield from _flags(text)
    yield from _settings(text)
    for at in all_of("machine", text):
        entry = _NETRC.match(text, at)
        if entry and not is_placeholder(entry[entry.lastgroup or "bare"]):
            yield *entry.span(entry.lastgroup or "bare"), "password"
    for word, pattern in _COMMANDS.items():
        done = 0
        for at in all_of(word, text):
            if at < done or text[at - 1 : at].isalnum():
                continue
            part = _COMMAND.match(text, at + len(word))
            done = part.end() if part else at
            for found in pattern.finditer(text, at + len(word), done):
                group = "value" if word == "curl" else found.lastgroup or "bare"
                is_port = word in _MAY_BE_NAMES and _PORT.fullmatch(found[group])
                if not is_placeholder(found[group]) and not is_port:
                    yield *found.span(group), "password"


def _flags(text: str) -> Iterator[Span]:
    """`--password value`, `-token value`, and the two in a list."""
    done = 0
    for at in all_of("-", text):
        if (
            at < done
            or not text[at + 1 : at + 2].isalpha()
            or not (text[at - 1 : at] in ("", "(", "=") or text[at - 1] in " \t\n\"'`-")
        ):
            continue
        found = _FLAG.match(text, at + 1)
        if found and is_secret(found["key"]):
            group = found.lastgroup or "bare"
            value = found[group]
            if not is_placeholder(value) and (group != "bare" or is_bare_secret(value, found["key"], False)):
                done = found.end()
                yield *found.span(group), kind_of(found["key"])
        listed = _FLAG_IN_LIST.match(text, at + 1)
        if listed and is_secret(listed["key"]) and not is_placeholder(listed["value"]):
            done = listed.end()
            yield *listed.span("value"), kind_of(listed["key"])


def _settings(text: str) -> Iterator[Span]:
    """`ENV NAME value` of a Dockerfile, and commands that set a name to a value."""
    for word in _SETTERS:
        is_dockerfile = word.isupper()
        for at in all_of(word, text):
            if text[at - 1 : at].isalnum() or (
                is_dockerfile and text[at - 1 : at] not in ("", "\n", " ", "`", "n", '"')
            ):
                continue
            found = _SETTING.match(text, at + len(word))
            if found is None or not is_secret(found["key"]):
                continue
            group = found.lastgroup or "bare"
            start, end = found.span(group)
            if group == "bare" and not is_bare_secret(found[group], found["key"], is_dockerfile):
                continue
            if is_dockerfile and group == "bare":
                line = text.find("\n", end)
                end = start + len(text[start : len(text) if line < 0 else line].rstrip())
            yield start, end, kind_of(found["key"])
