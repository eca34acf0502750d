"""Splits what a model generates into channels: thinking, text, and tool calls in the `qwen_xml` markup.

Must not: read inside a call (that is `detectors.qwen_xml`), or emit markup, half a tag, or the blank lines
that belong to the markup instead of the text.
Invariant: the joined pieces of a channel and the bodies of the calls do not depend on how the text was cut.

A tag may arrive in pieces, so text that could still become one is held. White space is held until something
else follows: directly before a tag it belongs to the markup, and so do newlines at the start of a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"

State = Literal["thinking", "text", "call"]

_TAGS: dict[State, tuple[str, ...]] = {
    "thinking": (THINK_CLOSE, CALL_OPEN),
    "text": (THINK_OPEN, CALL_OPEN),
    "call": (CALL_CLOSE,),
}


class Piece(NamedTuple):
    """Text of one token (or of a part of it) for the client. position: the token's index in the response. A tuple, as
    it is made often."""

    channel: Literal["thinking", "text"]
    text: str
    position: int


@dataclass(frozen=True, slots=True)
class CallOpened:
    """A call began. index: 0 = first of the response; position: token with the tag's first character."""

    index: int
    position: int


@dataclass(frozen=True, slots=True)
class CallText:
    """Text of the open call, from one token (or a part of it). index, position: as in CallOpened, Piece."""

    index: int
    text: str
    position: int


@dataclass(frozen=True, slots=True)
class CallClosed:
    """A call is complete. body: all between the tags; first, last: tokens that the tags begin and end in."""

    index: int
    body: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class CallCut:
    """The response ended inside a call. body: what there is of it."""

    index: int
    body: str
    first: int
    last: int


ChannelEvent = Piece | CallOpened | CallText | CallClosed | CallCut


class Channels:
    """Feeds on (position, text) of every token. `starts_thinking`: the prompt already opened `<think>`."""

    def __init__(self, starts_thinking: bool = False) -> None:
        self._state: State = "thinking" if starts_thinking else "text"
        self._undecided: list[Piece] = []  # may become a tag
        self._space: list[Piece] = []  # may belong to the markup
        self._fresh = True
        self._body: list[str] = []
        self._calls = 0
        self._opened = 0
        self._last = 0
        self.body_chars = 0

    @property
    def channel(self) -> str:
        """`thinking`, `text` or `tool:N`: where the next character goes if no tag intervenes."""
        return f"tool:{self._calls}" if self._state == "call" else self._state

    @property
    def call_began(self) -> int | None:
        """Token at which the open call began, None outside calls."""
        return self._opened if self._state == "call" else None

    def feed(self, position: int, text: str) -> list[ChannelEvent]:
        """Takes a token's text, which may be empty."""
        self._last = position
        events: list[ChannelEvent] = []
        if "<" not in text and not self._undecided:  # no tag can begin here
            self._pass_on([Piece("text", text, position)] if text else [], events)
        elif text:
            self._undecided.append(Piece("text", text, position))
            self._settle(events, at_end=False)
        return events

    @property
    def is_settled(self) -> bool:
        """No text waits to be known as a tag."""
        return not self._undecided

    def lengthen_call(self, text: str, said: int, last: int) -> CallText:
        """The same for several tokens at once, in an open call while all is settled. text: of all of them, not empty
        and without `<`; said: the last one that has text; last: the last one."""
        self._last = last
        self._body.append(text)
        self.body_chars += len(text)
        return CallText(self._calls, text, said)

    def finish(self, tail: str = "") -> list[ChannelEvent]:
        """The response is over: releases what was held, tells of an open call. tail: text after the last token's."""
        events = self.feed(self._last, tail)
        self._settle(events, at_end=True)
        if self._state == "call":
            events.append(CallCut(self._calls, "".join(self._body), self._opened, self._last))
        elif not self._fresh:
            events += self._space
        self._space = []
        return events

    def _settle(self, events: list[ChannelEvent], at_end: bool) -> None:
        """Passes on all that can be decided now."""
        while self._undecided:
            text = "".join(piece.text for piece in self._undecided)
            found = min(
                ((at, tag) for tag in _TAGS[self._state] if (at := text.find(tag)) >= 0),
                default=None,
            )
            if found is None:
                keep = 0 if at_end else max(_overlap(text, tag) for tag in _TAGS[self._state])
                self._pass_on(self._take(len(text) - keep), events)
                return
            at, tag = found
            self._pass_on(self._take(at), events)
            self._turn(tag, self._take(len(tag)), events)

    def _take(self, count: int) -> list[Piece]:
        """The first `count` undecided characters, cut out token by token."""
        taken: list[Piece] = []
        while count > 0:
            piece = self._undecided.pop(0)
            if len(piece.text) > count:
                self._undecided.insert(0, Piece("text", piece.text[count:], piece.position))
                piece = Piece("text", piece.text[:count], piece.position)
            count -= len(piece.text)
            taken.append(piece)
        return taken

    def _pass_on(self, pieces: list[Piece], events: list[ChannelEvent]) -> None:
        if self._state == "call":
            for piece in pieces:
                self._body.append(piece.text)
                self.body_chars += len(piece.text)
                events.append(CallText(self._calls, piece.text, piece.position))
            return
        for piece in pieces:
            self._pass_on_text(Piece(self._state, piece.text, piece.position), events)

    def _pass_on_text(self, piece: Piece, events: list[ChannelEvent]) -> None:
        text = piece.text
        if self._fresh and not self._space:
            text = text.lstrip("\r\n")
        shown = text.rstrip()
        if shown:
            events += self._space
            events.append(Piece(piece.channel, shown, piece.position))
            self._space, self._fresh = [], False
        if len(shown) < len(text):
            self._space.append(Piece(piece.channel, text[len(shown) :], piece.position))

    def _turn(self, tag: str, pieces: list[Piece], events: list[ChannelEvent]) -> None:
        """A tag is complete: the white space before it was markup, and another channel begins."""
        self._space, self._fresh = [], True
        if tag == CALL_OPEN:
            self._state, self._opened = "call", pieces[0].position
            self._body, self.body_chars = [], 0
            events.append(CallOpened(self._calls, self._opened))
        elif tag == CALL_CLOSE:
            body = "".join(self._body)
            events.append(CallClosed(self._calls, body, self._opened, pieces[-1].position))
            self._state, self._body = "text", []
            self._calls += 1
        else:
            self._state = "thinking" if tag == THINK_OPEN else "text"


def _overlap(text: str, tag: str) -> int:
    """Length of the longest end of `text` that is a beginning of `tag`, in which `<` is the first character only."""
    begin = text.rfind("<")
    return len(text) - begin if begin >= 0 and tag.startswith(text[begin:]) else 0
