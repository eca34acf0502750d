"""Everything that is observed in one response, token by token: what it says, and what is wrong with it.

Must not: decide what happens next, or know how far a client has read.
Invariant: its state is a function of the tokens fed, so feeding a kept prefix to a new watch restores it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from detectors.channel_loops import ChannelLoops
from detectors.channels import CallClosed, CallCut, CallOpened, CallText, ChannelEvent, Channels, Piece
from detectors.charset import CharsetDetector, scripts_of
from detectors.elements import ElementRun
from detectors.finding import Finding
from detectors.leaked_markup import LeakedMarkup
from detectors.mended_call import MendedCall
from detectors.qwen_stream import QwenStream
from detectors.qwen_xml import MarkupError, read_call
from detectors.repeated_calls import RepeatedCalls
from detectors.settings import DEFAULT, DetectorSettings
from detectors.structure import StructureDetector
from detectors.tool_schema import ToolSchemas, Violation


@dataclass(frozen=True, slots=True)
class ReadCall:
    """A complete or cut-off tool call. violation: why it must not be sent, None = it is valid.

    name, arguments (compact JSON text) are empty where the markup could not be read; body: the raw markup.
    """

    index: int
    name: str
    arguments: str
    body: str
    first: int
    last: int
    violation: Violation | None

    @property
    def cut_off(self) -> Finding | None:
        """That it was not written to its end, if so."""
        if self.violation is None or self.violation.detector != "tool.truncated":
            return None
        return self.violation.finding(f"tool:{self.index}", self.last, self.first)

    def mended(self, mended: MendedCall) -> ReadCall:
        """The call as it may be sent."""
        return replace(self, name=mended.name, arguments=mended.arguments, violation=None)


class OpenCall(Protocol):
    """What follows a call while it streams; see `QwenStream`."""

    began: int
    repeated: ElementRun | None

    @property
    def name(self) -> str: ...

    @property
    def is_in_free_text(self) -> bool: ...

    def feed(self, text: str, position: int) -> Violation | None: ...


Said = Piece | ReadCall
_HALF = re.compile("[\ud800-\udfff]")
"""Of a surrogate pair: no text, and a violation at its own token."""


class SaidToken(Protocol):
    """text: what it completes, "" inside a character."""

    @property
    def id(self) -> int: ...
    @property
    def text(self) -> str: ...


def first_refused(said: Sequence[Said]) -> ReadCall | None:
    return next((each for each in said if isinstance(each, ReadCall) and each.violation is not None), None)


class Watch:
    """schemas: the request's tools; call_chars: size at which an open call is given up.

    scripts: `charset.scripts_of` the prompt; settings: the numbers to go by.
    """

    def __init__(
        self,
        schemas: ToolSchemas,
        call_chars: int,
        starts_thinking: bool = False,
        scripts: frozenset[str] = scripts_of(()),
        settings: DetectorSettings = DEFAULT,
    ) -> None:
        self._schemas = schemas
        self._call_chars = call_chars
        self._channels = Channels(starts_thinking)
        self._channel = self._channels.channel
        self._loops = ChannelLoops(settings.loops, self._channel)
        self._call: OpenCall | None = None
        self._leaked = LeakedMarkup(schemas)
        self._structure = StructureDetector(starts_thinking, settings.structure)
        self._charset = CharsetDetector(scripts, settings.charset)
        self.calls = RepeatedCalls(settings.calls)
        self._elements = settings.elements
        self._accused = False
        self.thinking_tokens = 0

    @property
    def channel(self) -> str:
        return self._channel

    @property
    def suspicious(self) -> bool:
        """Something in the text or the thinking may be going wrong right now."""
        return self._loops.grade is not None and self._channels.call_began is None

    @property
    def call_began(self) -> int | None:
        """First token of the open call."""
        return self._channels.call_began

    @property
    def is_in_tag(self) -> bool:
        """A tag may have begun: the next token may end it, whatever is in it."""
        return not self._channels.is_settled

    @property
    def call_name(self) -> str:
        """Name of the open call, "" outside calls and until it is written."""
        return self._call.name if self._call is not None and self.call_began is not None else ""

    @property
    def call_chars(self) -> int:
        """Characters of the open call."""
        return self._channels.body_chars

    def feed(self, position: int, token: int, text: str) -> tuple[list[Said], Finding | None]:
        """Takes one token; a finding is about this token or what it completes."""
        events = self._channels.feed(position, text)
        self._switch(self._channels.channel)
        if self._channel == "thinking":
            self.thinking_tokens += 1
        in_call = self._channels.call_began is not None
        loop = self._loops.feed(position, token, text)
        said, finding = self._read(events)
        finding = _graver(finding, self._structure.feed(position, text))
        if finding is None and in_call and self._channels.body_chars > self._call_chars:
            evidence = {"limit": self._call_chars}
            finding = Violation("tool.limit", "call too long", evidence).finding(
                self._channel, position, self._channels.call_began or 0
            )
        return said, _graver(finding, loop)

    def feed_run(self, position: int, tokens: Sequence[SaidToken]) -> tuple[int, Finding | None]:
        """Takes at once as many of these tokens as only lengthen a text argument of the open call, where nothing but a
        loop can be found; what `feed` answers for the last of them (and nothing was said).

        0 = the first is none, or there is nothing in them. All state is as after feeding them one by one, at a third of
        the cost: most of what agents let a model write is such text.
        """
        if not self.is_in_free_text:
            return 0, None
        texts: list[str] = []
        count, said, loop = 0, position, None
        room = self._call_chars - self._channels.body_chars
        for token in tokens:
            text = token.text
            room -= len(text)
            if room < 0 or "<" in text or not (text.isascii() or _HALF.search(text) is None):
                break
            loop = self._loops.feed(position + count, token.id, text)
            if text:
                texts.append(text)
                said = position + count
            count += 1
            if loop is not None:
                break
        if not texts:
            return 0, None
        return count, _graver(self._lengthen_call("".join(texts), said, position + count - 1), loop)

    @property
    def is_in_free_text(self) -> bool:
        """The next token may be one that only lengthens a text argument."""
        call = self._call
        if call is None or self._accused or self._channels.call_began is None or not call.is_in_free_text:
            return False
        return self._channels.is_settled and self._structure.is_settled

    def _lengthen_call(self, text: str, said: int, last: int) -> Finding | None:
        """said: the token that ends the text; last: one that may be empty."""
        finding = self._follow(self._channels.lengthen_call(text, said, last))
        self._structure.feed(last, text)
        return finding

    def finish(
        self, end: Literal["stop", "stop_sequence", "length"], tail: str = ""
    ) -> tuple[list[Said], Finding | None]:
        """The response is over. A call cut off by the client's own stop string is dropped, no finding.

        tail: text that no token completed; it counts as the last token's.
        """
        said, finding = self._read(self._channels.finish(tail), end)
        if end == "stop_sequence":
            return [each for each in said if isinstance(each, Piece)], None
        return said, finding

    def _switch(self, channel: str) -> None:
        """A loop does not reach from one channel into another."""
        if channel != self._channel:
            self._channel = channel
            self._loops.reset(channel)

    def _read(self, events: list[ChannelEvent], end: str = "") -> tuple[list[Said], Finding | None]:
        said: list[Said] = []
        finding: Finding | None = None
        for event in events:
            match event:
                case Piece():
                    said.append(event)
                    if event.channel == "text":
                        finding = _graver(finding, self._leaked.feed(event))
                    else:
                        self._leaked.reset()
                    finding = _graver(finding, self._charset.feed(event.position, event.text, event.channel))
                    continue
                case CallOpened():
                    self._call, self._accused = self._begin_call(event), False
                    self._leaked.reset()
                    continue
                case CallText():
                    finding = _graver(finding, self._follow(event))
                    continue
                case CallClosed():
                    call = self._judge(event)
                case CallCut():
                    cut = Violation("tool.truncated", f"cut off: {end}", {"chars": len(event.body)})
                    call = ReadCall(event.index, "", "", event.body, event.first, event.last, cut)
            said.append(call)
            if call.violation is not None and not self._accused:
                self._accused = True
                finding = _graver(finding, call.violation.finding(f"tool:{call.index}", call.last, call.first))
            arguments = call.arguments if call.name else call.body
            finding = _graver(finding, self.calls.feed(call.name, arguments, call.index, call.first, call.last))
        return said, finding

    def _begin_call(self, opened: CallOpened) -> OpenCall:
        """What follows the call that was opened."""
        return QwenStream(self._schemas, self._elements)

    def _follow(self, text: CallText) -> Finding | None:
        """The open call while it streams: it is found bad at the first token after which no valid call can follow."""
        if self._call is None or self._accused:
            return None
        violation = self._call.feed(text.text, text.position)
        if violation is None:
            run = self._call.repeated
            return None if run is None else run.finding(f"tool:{text.index}")
        self._accused = True
        return violation.finding(f"tool:{text.index}", text.position, self._call.began)

    def _judge(self, closed: CallClosed) -> ReadCall:
        name = arguments = ""
        violation: Violation | None
        try:
            call = read_call(closed.body, self._schemas.parameters)
        except MarkupError as error:
            violation = Violation("tool.markup", error.reason, {"at": error.offset, "parameter": error.key})
        else:
            name = call.name
            arguments = json.dumps(call.arguments, ensure_ascii=False, separators=(",", ":"))
            violation = self._schemas.check(call.name, call.arguments)
        return ReadCall(closed.index, name, arguments, closed.body, closed.first, closed.last, violation)


def _graver(first: Finding | None, second: Finding | None) -> Finding | None:
    """The one that has to be decided on; the first, if they are equally grave."""
    if first is None or (second is not None and second.grade > first.grade):
        return second
    return first
