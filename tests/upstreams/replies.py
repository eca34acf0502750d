"""What a scripted model says, cut into tokens, and what a server's parsers make of each token.

Must not: know a server or HTTP; a dialect turns pieces into chunks.
Invariant: the texts of the pieces together are what the model generated, markup of calls included; what a piece shows
is what the parsers of a sound server would send for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.proxy.scripted import cut, token_id

ArgumentStyle = Literal["values", "parameters", "whole"]
"""How a server streams the arguments of a call: characters of values as they come, a parameter at a time, or all."""
END_OF_TURN, END_OF_TURN_TEXT = 2, "<|im_end|>"
WORDS: dict[int, str] = {END_OF_TURN: END_OF_TURN_TEXT}
"""Every token that was ever cut in this process: ids of another server of the same model can be read back."""


def ids_of(text: str) -> tuple[int, ...]:
    return tuple(_known(word) for word in cut(text))


def text_of(ids: Sequence[int]) -> str:
    return "".join(WORDS.get(number, "\ufffd") for number in ids)


def _known(word: str) -> int:
    number = token_id(word)
    WORDS[number] = word
    return number


@dataclass(frozen=True, slots=True)
class Thinking:
    text: str


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """written: the arguments as they are streamed, where that is not their JSON. markup: the same in the model's own
    format, where that is not sound."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    written: str | None = None
    markup: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One response. end: as the engine calls it; a server makes `tool_calls` of `stop` where there were calls."""

    parts: tuple[Thinking | Text | Call, ...]
    end: str | None = "stop"

    def after(self, prefix: str) -> Reply:
        """What is still to be said after `prefix` of the text, without the thinking; of another text, the calls."""
        if not prefix:
            return self
        left = prefix
        parts: list[Thinking | Text | Call] = []
        for part in self.parts:
            match part:
                case Call():
                    parts.append(part)
                case Text(text) if left.startswith(text):
                    left = left.removeprefix(text)
                case Text(text) if text.startswith(left):
                    parts.append(Text(text.removeprefix(left)))
                    left = ""
                case _:
                    pass
        return Reply(tuple(parts), self.end)


@dataclass(frozen=True, slots=True)
class CallPart:
    """opens: the first of its call, which carries id and name."""

    index: int
    name: str
    arguments: str
    opens: bool = False


Shown = tuple[Literal["thinking", "text"], str] | tuple[Literal["call"], CallPart] | None


@dataclass(frozen=True, slots=True)
class Piece:
    """One token. shown: what the parsers send for it; None = they swallow it."""

    id: int
    text: str
    shown: Shown


def pieces(reply: Reply, style: ArgumentStyle, *, thinks: bool = True) -> Iterator[Piece]:
    """The whole response, without its end of turn. thinks: the prompt has opened `<think>` already."""
    calls = 0
    for part in reply.parts:
        match part:
            case Thinking(text):
                yield from _swallowed("" if thinks else "<think>\n")
                for word in cut(text):
                    yield Piece(_known(word), word, ("thinking", word))
                yield from _swallowed("</think>\n\n")
            case Text(text):
                for word in cut(text):
                    yield Piece(_known(word), word, ("text", word))
            case Call():
                yield from _call(part, calls, style)
                calls += 1


def markup(call: Call) -> str:
    """The call in the model's own format."""
    if call.markup is not None:
        return call.markup
    body = "".join(f"<parameter={key}>\n{_value(value)}\n</parameter>\n" for key, value in call.arguments.items())
    return f"<tool_call>\n<function={call.name}>\n{body}</function>\n</tool_call>"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _call(call: Call, index: int, style: ArgumentStyle) -> Iterator[Piece]:
    if call.written is not None or call.markup is not None or style == "whole":
        written = json.dumps(call.arguments, ensure_ascii=False) if call.written is None else call.written
        words = cut(markup(call))
        yield _piece(words[0], CallPart(index, call.name, "", opens=True))
        yield from _swallowed("".join(words[1:-1]))
        yield _piece(words[-1], CallPart(index, call.name, written))
        return
    yield from _ended(f"<tool_call>\n<function={call.name}>\n", CallPart(index, call.name, "", opens=True))
    for number, (key, value) in enumerate(call.arguments.items()):
        before = ("{" if number == 0 else ", ") + json.dumps(key, ensure_ascii=False) + ": "
        if style == "values" and isinstance(value, str):
            yield from _ended(f"<parameter={key}>\n", CallPart(index, call.name, before + '"'))
            for word in cut(value):
                shown = json.dumps(word, ensure_ascii=False)[1:-1]
                yield _piece(word, CallPart(index, call.name, shown))
            yield from _ended("\n</parameter>\n", CallPart(index, call.name, '"'))
        else:
            yield from _swallowed(f"<parameter={key}>\n{_value(value)}")
            shown = before + json.dumps(value, ensure_ascii=False)
            yield from _ended("\n</parameter>\n", CallPart(index, call.name, shown))
    closing = "}" if call.arguments else "{}"
    yield from _ended("</function>\n</tool_call>", CallPart(index, call.name, closing))


def _piece(word: str, part: CallPart) -> Piece:
    return Piece(_known(word), word, ("call", part))


def _swallowed(text: str) -> Iterator[Piece]:
    for word in cut(text):
        yield Piece(_known(word), word, None)


def _ended(text: str, part: CallPart) -> Iterator[Piece]:
    """Nothing is shown until the last token of `text`."""
    words = cut(text)
    yield from _swallowed("".join(words[:-1]))
    yield _piece(words[-1], part)
