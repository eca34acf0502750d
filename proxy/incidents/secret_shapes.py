"""What is a secret wherever it stands, by how it begins: keys of vendors, private keys, passwords in addresses.

Must not: take a name for a key because it begins like one (`sk-learn-contrib`), or swallow what follows a mere mention
of a private key.
Invariant: takes time linear in the text: beginnings are found without regular expressions, and what is tried at each of
them is bounded or begins behind what was found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from proxy.incidents.secret_names import is_placeholder, looks_random

Span = tuple[int, int, str]
"""Start, end and kind of something that looks secret."""

_ANY: Callable[[str], bool] = bool

SHAPES: Mapping[str, tuple[tuple[str, ...], re.Pattern[str], Callable[[str], bool]]] = {
    "jwt": (("eyJ",), re.compile(r"[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]*"), _ANY),
    "api_key": (
        ("sk-", "sk_", "pk-", "pk_", "rk-", "rk_", "whsec_"),
        re.compile(r"(?:live|test)_[A-Za-z0-9]{16,}|[A-Za-z0-9_-]{16,}"),
        lambda rest: looks_random(rest) or (rest.startswith(("live_", "test_")) and "_" not in rest[5:]),
    ),
    "github_token": (("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"), re.compile(r"[A-Za-z0-9_]{20,}"), _ANY),
    "gitlab_token": (("glpat-", "gldt-", "glrt-", "glptt-"), re.compile(r"[A-Za-z0-9_-]{16,}"), looks_random),
    "aws_key": (("AKIA", "ASIA"), re.compile(r"[A-Z0-9]{16}(?![A-Za-z0-9])"), _ANY),
    "google_key": (("AIza",), re.compile(r"[A-Za-z0-9_-]{30,}"), _ANY),
    "slack_token": (
        ("xoxa-", "xoxb-", "xoxe-", "xoxo-", "xoxp-", "xoxr-", "xoxs-", "xapp-"),
        re.compile(r"[A-Za-z0-9-]{10,}"),
        lambda rest: any(char.isdigit() for char in rest),
    ),
    "hub_token": (
        ("hf_", "npm_", "pypi-"),
        re.compile(r"[A-Za-z0-9]{30,}|[A-Za-z0-9_-]{30,}"),
        lambda rest: looks_random(rest) or rest.isalnum(),
    ),
    "webhook": (
        ("hooks.slack.com/services/", "discord.com/api/webhooks/", "discordapp.com/api/webhooks/"),
        re.compile(r"[A-Za-z0-9_/-]{16,}"),
        looks_random,
    ),
    "vendor_token": (
        (
            *("SG.", "dop_v1_", "doo_v1_", "dor_v1_", "shpat_", "shpss_", "shpca_", "shppa_", "AGE-SECRET-KEY-1"),
            *("gsk_", "xai-", "nvapi-", "pplx-", "r8_", "hvs.", "hvb.", "GOCSPX-", "ya29.", "dckr_pat_", "dckr_oat_"),
            *(
                "ATATT3",
                "ATCTT3",
                "figd_",
                "lin_api_",
                "ntn_",
                "pul-",
                "rubygems_",
                "sntrys_",
                "sntryu_",
                "PMAK-",
                "NRAK-",
            ),
            *("dapi", "sq0csp-", "sq0atp-", "LTAI"),
        ),
        re.compile(r"[A-Za-z0-9_.-]{16,}"),
        looks_random,
    ),
}
"""Kind -> (how it begins, in one of several ways; how it goes on; is that one?)."""

_ESCAPES = ("\\n", "\\r", "\\t")

_HEADER = re.compile(r"[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_LINE_ENDS = re.compile(r"[\"'`]?[ \t,+\\]{0,8}(?:\\{1,8}[nr]|\r?\n|\Z| (?=[A-Za-z0-9+/]{32}))")
_RUN = re.compile(r"[A-Za-z0-9+/]{20,}+={0,2}")
_END = re.compile(r"-----END [A-Z0-9 ]{0,40}-----")
_GAP = r"(?:\\{1,8}[nr]|[\s>|+#\"'])++"
_LAST_LINE = re.compile(
    rf"(?:{_GAP}[A-Za-z0-9+/=]{{1,63}})?(?:{_GAP}-{{1,5}}(?:E[A-Z0-9 ]{{0,60}}-{{0,4}})?)?(?:{_GAP})?\Z"
)
_OF_CODE = frozenset("\"'(){}")
_BETWEEN_RUNS, _BETWEEN_ENDS = 160, 400
"""Characters between two lines of a key, as of `grep`, and between header and end of one with no long line."""

_PASSWORD = re.compile(r"[^\s/:@]{0,128}:(?P<password>[^\s/@]{1,256}(?:@[^\s/@\"'<>,]{1,128}){0,4})(?=@)(?!@sha\d)")
_SLASHES = re.compile(r"[^\s/:@]{0,128}:(?!\d{1,5}/)(?P<password>[^\s@\"'<>]{1,256})(?=@)(?!@sha\d)")
_USER = re.compile(r"[A-Za-z0-9_-]{16,256}(?=@[A-Za-z0-9])")


def shapes_in(text: str) -> Iterator[Span]:
    """Everything that is a secret by its shape, in no order."""
    for kind, (beginnings, rest, is_one) in SHAPES.items():
        for beginning in beginnings:
            done = 0
            for at in all_of(beginning, text):
                if at < done or not _begins(text, at):
                    continue
                if found := rest.match(text, at + len(beginning)):
                    done = found.end()
                    if is_one(found[0]):
                        yield at, done, kind
    yield from _private_keys(text)
    yield from _addresses(text)


def all_of(beginning: str, text: str) -> Iterator[int]:
    """Where it stands."""
    at = text.find(beginning)
    while at >= 0:
        yield at
        at = text.find(beginning, at + len(beginning))


def _begins(text: str, at: int) -> bool:
    """Is what stands before no part of the same word? `\\n` in a string is none."""
    before = text[at - 1 : at]
    return not (before.isalnum() or before in ("_", "-")) or text[max(0, at - 2) : at] in _ESCAPES


def _private_keys(text: str) -> Iterator[Span]:
    done = 0
    for at in all_of("-----BEGIN ", text):
        header = _HEADER.match(text, at + 11) if at >= done else None
        if header and (end := _end_of_key(text, header.end())):
            yield at, (done := end), "private_key"


def _end_of_key(text: str, header: int) -> int | None:
    """Where a key ends whose header ends there; None for a header that is only talked about."""
    begun = _LINE_ENDS.match(text, header)
    if begun is None:
        return None
    at, lines = header, 0
    while run := _run(text, at):
        at, lines = run, lines + 1
    end = _END.search(text, at, at + (_BETWEEN_RUNS if lines else _BETWEEN_ENDS))
    if end and (lines or not any(char in _OF_CODE for char in text[at : end.start()])):
        return end.end()
    if lines or begun.end() == len(text):
        last = _LAST_LINE.match(text, at, at + 200)
        return last.end() if last and last.end() == len(text) else at
    last = _LAST_LINE.match(text, header, header + 200)
    return len(text) if last and last.end() == len(text) else None


def _run(text: str, at: int) -> int | None:
    """The end of a key's next line. A name of that length has no digit, or no letters of both kinds."""
    for run in _RUN.finditer(text, at, at + _BETWEEN_RUNS):
        if all(any(map(is_kind, run[0])) for is_kind in (str.isdigit, str.isupper, str.islower)):
            end = _RUN.match(text, run.start())
            return end.end() if end else run.end()
        if "\n-----" in text[at : run.end()]:
            break
    return None


def _addresses(text: str) -> Iterator[Span]:
    """`https://user:password@host` and `https://TOKEN@host`."""
    for at in all_of("://", text):
        start = at + 3
        found = _PASSWORD.match(text, start)
        if found is None and not text[max(0, at - 5) : at].endswith(("http", "https")):
            found = _SLASHES.match(text, start)  # a page may have colons and at signs, a database's address has none
        if found:
            if not is_placeholder(found["password"]):
                yield *found.span(), "url_password"
        elif (token := _USER.match(text, start)) and looks_random(token[0]):
            yield *token.span(), "url_password"
