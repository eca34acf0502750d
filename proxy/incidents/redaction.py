"""Takes secrets out of what is captured: values of keys that look secret, and shapes that are secrets anywhere.

Must not: be turned off, or leave a secret in another form. Token ids are text to whoever has the tokenizer, so a
capture in which something was redacted keeps none, and can then not be replayed to the token.
Invariant: redacting twice changes nothing more. Takes time linear in the text.

It is a net with holes, not a proof: a password in the middle of a sentence looks like any other word. Who must not keep
secrets at all leaves `incidents.capture` off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from proxy.incidents.secret_commands import commands_in
from proxy.incidents.secret_fields import parameters_in
from proxy.incidents.secret_names import is_random_under, is_secret, kind_of, may_be_secret
from proxy.incidents.secret_shapes import Span, shapes_in
from proxy.incidents.secret_values import values_in
from proxy.replays.capture import Capture

MARK = "[redacted:"

_MOST_PASSES = 5
_KNOWN_CHARS = 6
"""A value that is shorter than this is not looked for elsewhere: it would be found inside of words."""


class Redactor:
    """Of one capture. kinds: of what was found so far."""

    def __init__(self) -> None:
        self.kinds: set[str] = set()
        self._values: dict[str, str] = {}

    def text(self, text: str) -> str:
        """The text without what looks secret."""
        for _ in range(_MOST_PASSES):  # a mark in the place of one secret may show the next one: `…-----sk-…`
            before, text = text, self._once(text)
            if text == before:
                break
        return text

    def _once(self, text: str) -> str:
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
            beside = _named_beside(value) if keys else None
            return {name: self._member(str(name), inner, beside, keys) for name, inner in value.items()}
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

    def _member(self, name: str, value: Any, beside: str | None, keys: bool) -> Any:
        if beside and name.lower() == "value":
            return self._under(beside, value)
        return self._under(name, value) if keys and _is_under(name, value) else self.tree(value, keys)

    def _under(self, key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: self._under(key, inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._under(key, inner) for inner in value]
        if value is None or isinstance(value, bool) or value == "":
            return value
        return self._found(kind_of(key), str(value))

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
    for _ in range(_MOST_PASSES):
        found = redactor.text(text)
        if found == text:
            break
        text = redactor.elsewhere(found)
    return text, frozenset(redactor.kinds)


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
    for found_in in (shapes_in, parameters_in, commands_in, values_in):
        yield from found_in(text)


def _is_under(name: str, value: Any) -> bool:
    """Is whatever stands under that name a secret, or this value of it?"""
    if is_secret(name):
        return True
    return isinstance(value, str) and may_be_secret(name) and is_random_under(name, value)


def _named_beside(value: Mapping[Any, Any]) -> str | None:
    """`{"name": "API_KEY", "value": "…"}`: the name that says that the value is a secret."""
    names = (inner for name, inner in value.items() if str(name).lower() in ("name", "key", "header", "variable"))
    return next((name for name in names if isinstance(name, str) and len(name) <= 64 and is_secret(name)), None)


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


def _map_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: inner if name == "role" else _map_text(inner, change) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_map_text(inner, change) for inner in value]
    return value
