"""The channels of a response whose parts arrive already told apart: thinking, text, and numbered calls.

Must not: look for markup in order to split by it (what looks like a call in the text is text), or read a call.
Invariant: the joined pieces of a channel and the bodies of the calls do not depend on how the parts were cut.

A call ends where the next one begins, where text follows it, or with the response. White space between calls and
behind the last one is theirs. The end of a text that may become the tag of a call, or the beginning of a call without
its tag, is held until that is known, so that nothing of it leaves in part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from detectors.channels import CALL_OPEN, CallClosed, CallCut, CallOpened, CallText, ChannelEvent, Piece
from detectors.parts import Part

Misplaced = Literal["", "unseen index", "arguments before a name", "arguments after the end"]


def _beginnings(tag: str) -> str:
    """Matches every beginning of a tag but the empty one."""
    return "(?:".join(map(re.escape, tag)) + ")?" * (len(tag) - 1)


_PENDING = re.compile(
    rf"{_beginnings(CALL_OPEN[:-1])}\Z"
    rf"|(?<=\n)(?:{_beginnings('<function=')}\Z"
    r"|<function=[^<>\n]{0,64}(?:>[^\S\n]*(?:\n(?:<[a-z/]{0,10}(?:=[^<>\n]{0,64})?)?)?)?\Z)"
)
"""What may become a tag, anywhere; or at the start of a line that of a function, and of its first parameter below."""


@dataclass(frozen=True, slots=True)
class NamedCall(CallOpened):
    """misplaced: what is wrong with its place among the calls, "" = nothing."""

    name: str = ""
    misplaced: Misplaced = ""


class PlacedChannels:
    """Feeds on the parts of every token. `channel`, `call_began`, `body_chars`, `is_settled`: as
    `detectors.channels.Channels`."""

    def __init__(self) -> None:
        self._state: Literal["thinking", "text", "call"] = "text"
        self._held: list[Piece] = []  # the text may become a tag
        self._space: list[Piece] = []  # may stand between two calls
        self._before = "\n"  # the last character of the text that was let go
        self._body: list[str] = []
        self._index = self._number = -1  # the highest one, and that of the call that is open
        self._calls = -1
        self._opened = self._last = 0
        self.body_chars = 0

    @property
    def channel(self) -> str:
        return f"tool:{self._calls}" if self._state == "call" else self._state

    @property
    def call_began(self) -> int | None:
        return self._opened if self._state == "call" else None

    @property
    def is_settled(self) -> bool:
        return not self._held

    @property
    def is_plain(self) -> bool:
        """In text or thinking, and nothing is held: what goes on with it without a `<` is a piece as it stands."""
        return self._state != "call" and not self._held and not self._space

    def lengthen(self, text: str) -> None:
        """Takes such text of the channel, as `feed` would."""
        if self._state == "text":
            self._before = text[-1]

    def feed(self, position: int, parts: Sequence[Part]) -> list[ChannelEvent]:
        """Takes what one token says, which may be nothing."""
        events: list[ChannelEvent] = []
        for part in parts:
            if part.channel == "call":
                self._call(position, part, events)
            elif part.text:
                self._text(Piece(part.channel, part.text, position), events)
        return events

    def finish(self, cut: bool = False) -> list[ChannelEvent]:
        """The response is over. cut: an open call was not written to its end."""
        events: list[ChannelEvent] = [*self._held] if self._state != "call" else []
        self._held, self._space = [], []
        if self._state == "call" and cut:
            events.append(CallCut(self._calls, "".join(self._body), self._opened, self._last))
        elif self._state == "call":
            self._close(events)
        return events

    def _text(self, piece: Piece, events: list[ChannelEvent]) -> None:
        if self._state == "call" or self._space:
            if piece.text.isspace():
                self._space.append(piece)
                return
            if self._state == "call":
                self._close(events)
            events += self._space
            self._space = []
        if piece.channel == "thinking":
            self._release(events)
            self._state = "thinking"
            events.append(piece)
            return
        self._state = "text"
        if not self._held and "<" not in piece.text:  # nearly every token
            self._before = piece.text[-1]
            events.append(piece)
            return
        self._held.append(piece)
        text = self._before + "".join(held.text for held in self._held)
        pending = _PENDING.search(text, 1)
        self._release(events, 0 if pending is None else len(text) - pending.start())

    def _release(self, events: list[ChannelEvent], keep: int = 0) -> None:
        """Lets the held text go, but for its last `keep` characters."""
        count = sum(len(piece.text) for piece in self._held) - keep
        while self._held and count > 0:
            piece = self._held.pop(0)
            if len(piece.text) > count:
                self._held.insert(0, Piece(piece.channel, piece.text[count:], piece.position))
                piece = Piece(piece.channel, piece.text[:count], piece.position)
            count -= len(piece.text)
            self._before = piece.text[-1]
            events.append(piece)

    def _call(self, position: int, part: Part, events: list[ChannelEvent]) -> None:
        again = self._state == "call" and part.index == self._number
        if again and part.name and not self._body:  # told twice before anything else
            part = Part("call", part.text, part.index)
        if not again or part.name:
            self._open(position, part, events)
        if part.text:
            self._last = position
            self._body.append(part.text)
            self.body_chars += len(part.text)
            events.append(CallText(self._calls, part.text, position))

    def _open(self, position: int, part: Part, events: list[ChannelEvent]) -> None:
        """Whatever is open ends. A name under the number of the call before it is a call of its own: some servers give
        all of them the same number."""
        if self._state == "call":
            self._close(events)
        self._release(events)
        self._space = []
        misplaced: Misplaced = ""
        if part.index > self._index + 1:
            misplaced = "unseen index"
        elif not part.name:
            misplaced = "arguments before a name" if part.index > self._index else "arguments after the end"
        self._index, self._number = max(self._index, part.index), part.index
        self._calls += 1
        self._state, self._opened, self._last = "call", position, position
        self._body, self.body_chars = [], 0
        events.append(NamedCall(self._calls, position, part.name, misplaced))
        events.append(CallText(self._calls, "", position))

    def _close(self, events: list[ChannelEvent]) -> None:
        events.append(CallClosed(self._calls, "".join(self._body), self._opened, self._last))
        self._state, self._body = "text", []
