"""Everything that is observed in a response whose channels an upstream has told apart: the second reader of `Watch`.

Must not: judge otherwise than `Watch` does; all that differs is where a channel or a call begins and ends, and what
only such upstreams can do wrong.
Invariant: as `Watch`'s; its state is a function of the tokens and parts fed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from detectors.byte_loops import ByteLoops
from detectors.channels import CALL_CLOSE, CALL_OPEN, THINK_CLOSE, THINK_OPEN, CallClosed, CallOpened, Piece
from detectors.charset import scripts_of
from detectors.finding import Finding
from detectors.json_call import JsonCall
from detectors.leaked_tags import LeakedTags
from detectors.parts import Part
from detectors.placed_channels import NamedCall, PlacedChannels
from detectors.settings import DEFAULT, DetectorSettings
from detectors.swallowed import Swallowed
from detectors.tool_schema import ToolSchemas, Violation
from detectors.watch import ReadCall, Said, Watch
from detectors.watch import _graver as graver


class PlacedToken(Protocol):
    """A token that says in parts."""

    @property
    def id(self) -> int: ...
    @property
    def parts(self) -> Sequence[Part] | None: ...


_TAGS = {"thinking": (THINK_OPEN, THINK_CLOSE), "tool": (CALL_OPEN, CALL_CLOSE), "text": ("", "")}


class PlacedWatch(Watch):
    """by_bytes: ids are made from the text, so that loops are looked for in bytes too. See `Watch`."""

    def __init__(
        self,
        schemas: ToolSchemas,
        call_chars: int,
        scripts: frozenset[str] = scripts_of(()),
        settings: DetectorSettings = DEFAULT,
        *,
        by_bytes: bool = False,
    ) -> None:
        super().__init__(schemas, call_chars, False, scripts, settings)
        self._placed = PlacedChannels()
        self._channels = self._placed  # type: ignore[assignment]
        self._leaked = self._tags = LeakedTags(schemas)
        self._swallowed = Swallowed(settings.swallowed)
        self._position = 0
        self._bytes = ByteLoops(settings.loops, self._channel) if by_bytes else None

    @property
    def suspicious(self) -> bool:
        bytes_too = self._bytes is not None and self._bytes.grade is not None
        return self._channels.call_began is None and (self._loops.grade is not None or bytes_too)

    def feed_parts(self, position: int, token: int, parts: Sequence[Part]) -> tuple[list[Said], Finding | None]:
        """Takes one token, which may say nothing; a finding is about this token or what it completes."""
        before, self._position = self._channel, position
        events = self._placed.feed(position, parts)
        self._switch(self._placed.channel)
        if self._channel == "thinking":
            self.thinking_tokens += 1
        text = parts[0].text if len(parts) == 1 else self._end_of(parts)
        found = self._loops.feed(position, token, text)
        if self._bytes is not None:
            for byte_finding in self._bytes.feed(position, text.encode("utf-8", "surrogatepass")):
                found = graver(found, byte_finding)
        if any(part.text or part.name for part in parts):
            self._swallowed.said()
        else:
            found = graver(found, self._swallowed.feed(position, token, self._channel))
        said, finding = self._read(events)
        finding = graver(finding, self._structures(position, before, text))
        began = self._channels.call_began
        if finding is None and began is not None and self._channels.body_chars > self._call_chars:
            evidence = {"limit": self._call_chars}
            finding = Violation("tool.limit", "call too long", evidence).finding(self._channel, position, began)
        return said, graver(finding, found)

    def feed_texts(self, position: int, tokens: Sequence[PlacedToken]) -> tuple[list[Said], Finding | None]:
        """Takes at once as many of these tokens as only go on with the text or the thinking, where nothing but a loop
        can be found: a piece for each of them, and what `feed_parts` finds at the last. Empty: the first is none.

        All state is as after feeding them one by one, at two thirds of the cost: most of what is said is such text.
        """
        said: list[Said] = []
        found: Finding | None = None
        channel = self._channel
        if not (self._placed.is_plain and self._structure.is_settled and self._tags.is_settled):
            return said, found
        in_text, texts = channel == "text", list[str]()
        for at, token in enumerate(tokens, position):
            parts = token.parts
            if parts is None or len(parts) != 1:
                break
            text = parts[0].text
            if parts[0].channel != channel or not text or "<" in text or not text.isascii():
                break
            found = self._loops.feed(at, token.id, text)
            if self._bytes is not None:
                for byte_finding in self._bytes.feed(at, text.encode()):
                    found = graver(found, byte_finding)
            said.append(Piece(channel, text, at))  # type: ignore[arg-type]
            texts.append(text)
            if found is not None or (in_text and not self._tags.lengthen(at, text)):
                break
        if said:
            self._position = position + len(said) - 1
            self._lengthen("".join(texts), len(said))
        return said, found

    def _lengthen(self, text: str, tokens: int) -> None:
        """What is left to do for so many tokens that say plain text."""
        self._placed.lengthen(text)
        self._swallowed.said()
        self._structure.feed(self._position, text)
        self._charset.feed(self._position, text, self._channel)
        if self._channel == "thinking":
            self.thinking_tokens += tokens

    def finish(
        self, end: Literal["stop", "stop_sequence", "length"], tail: str = ""
    ) -> tuple[list[Said], Finding | None]:
        """As `Watch.finish`. Only the token limit cuts a call off: any other end of the response is the call's too."""
        channel = self._channel
        said, finding = self._read(self._placed.finish(cut=end == "length"), end)
        if end == "stop_sequence":
            return [each for each in said if isinstance(each, Piece)], None
        if end == "stop" and not any(isinstance(each, ReadCall) for each in said):
            finding = graver(finding, self._swallowed.finish(self._position, channel))
        return said, finding

    def _end_of(self, parts: Sequence[Part]) -> str:
        """What the token says in the channel that it ends in."""
        kind = "call" if self._channel.startswith("tool:") else self._channel
        return "".join(part.text for part in parts if part.channel == kind)

    def _switch(self, channel: str) -> None:
        if channel != self._channel and getattr(self, "_bytes", None) is not None:
            self._bytes.reset(channel)  # type: ignore[union-attr]
        super()._switch(channel)

    def _structures(self, position: int, before: str, text: str) -> Finding | None:
        """Runs of tags, told by the tags that the upstream has taken out where a channel ends and begins."""
        found: Finding | None = None
        if before != self._channel:
            _, closing = _TAGS[before.partition(":")[0]]
            opening, _ = _TAGS[self._channel.partition(":")[0]]
            for tag in filter(None, (closing, opening)):
                found = graver(found, self._structure.feed(position, tag))
        return graver(found, self._structure.feed(position, text))

    def _begin_call(self, opened: CallOpened) -> JsonCall:
        assert isinstance(opened, NamedCall)
        return JsonCall(opened, self._schemas, self._elements)

    def _judge(self, closed: CallClosed) -> ReadCall:
        call = self._call
        assert isinstance(call, JsonCall)
        value, violation = call.end()
        name, arguments = call.name, ""
        if violation is not None:
            value = _object(closed.body)
        if value is None:  # nothing that could be handed on as a call, whoever only observes
            name = ""
        else:
            arguments = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return ReadCall(closed.index, name, arguments, closed.body, closed.first, closed.last, violation)


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
