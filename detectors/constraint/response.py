"""Which text may follow in a response so that it can still become what the request demands.

Must not: constrain thinking, or text where only calls are demanded to be valid.
Invariant: a response whose `feed` never gave False and that `may_end` holds the calls or the JSON demanded, and every
call that it holds is, as far as demanded, valid.

Reads tags as `detectors.channels` does: wherever they stand, also inside of values.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Literal

from detectors.channels import CALL_CLOSE, CALL_OPEN, THINK_CLOSE, THINK_OPEN
from detectors.constraint.call import MOST_BLANK, CallConstraint
from detectors.constraint.plain_number import can_end_plainly
from detectors.json_stream.automaton import JsonStream
from detectors.json_stream.compiled import CompiledSchema
from detectors.json_stream.trip import Rules
from detectors.tool_schema import ToolSchemas

JSON_RULES = Rules(size=None, root_object=False, empty_is_object=False)
_JSON_SPACE = " \t\r\n"
_TAGS = {"thinking": (THINK_CLOSE, CALL_OPEN), "text": (THINK_OPEN, CALL_OPEN), "call": (CALL_CLOSE,)}


@dataclass(frozen=True, slots=True)
class Demand:
    """names: the functions that may be called; strict: those whose arguments must be valid.

    must_call: at least one call, before any text. most_calls: None = no limit. text: the text, if there is any and no
    call, is JSON of this schema.
    """

    schemas: ToolSchemas
    names: tuple[str, ...] = ()
    strict: frozenset[str] = frozenset()
    must_call: bool = False
    most_calls: int | None = None
    text: CompiledSchema | None = None


class ResponseConstraint:
    """One response. starts_thinking: the prompt has opened `<think>`."""

    def __init__(self, demand: Demand, starts_thinking: bool = False) -> None:
        self._demand = demand
        self._state: Literal["thinking", "text", "call"] = "thinking" if starts_thinking else "text"
        self._undecided = ""
        self._thoughts = int(starts_thinking)
        self._calls = 0
        self._call: CallConstraint | None = None
        self._json = None if demand.text is None else JsonStream(demand.text, JSON_RULES)
        self._blank = 0
        self._alive = True

    @property
    def is_loose(self) -> bool:
        """Text that is no tag is allowed, whatever it is."""
        if self._state == "call":
            return self._call is not None and self._call.free
        return self._state == "thinking" or self._text_must_be == "anything"

    @property
    def is_free(self) -> bool:
        """Text without `<` is allowed, whatever it is, and changes nothing."""
        return self.is_loose and not self._undecided

    @property
    def may_end(self) -> bool:
        """Whether the response may be over now."""
        if self._state == "call":
            return self._alive and self.is_loose
        if not self._alive or self._text_must_be in ("anything", "blank"):
            return self._alive
        if self._text_must_be == "blank before a call" or self._state == "thinking" or self._undecided:
            return False
        return self._json is not None and self._json.finish().trip is None

    @property
    def _text_must_be(self) -> Literal["anything", "blank before a call", "JSON", "blank"]:
        if self._demand.must_call and not self._calls:
            return "blank before a call"
        if self._json is None:
            return "anything"
        return "blank" if self._calls else "JSON"

    def clone(self) -> ResponseConstraint:
        other = copy(self)
        if self._call is not None:
            other._call = self._call.clone()
        if self._json is not None:
            other._json = self._json.clone()
        return other

    def feed(self, text: str, tail: bytes = b"") -> bool:
        """Takes the next text; False = what is demanded can no longer come. tail: the beginning of a character."""
        self._undecided += text
        while self._alive:
            found = min(
                ((at, tag) for tag in _TAGS[self._state] if (at := self._undecided.find(tag)) >= 0), default=None
            )
            if found is None:
                kept = max(_overlap(self._undecided, tag) for tag in _TAGS[self._state])
                decided, self._undecided = _split(self._undecided, len(self._undecided) - kept)
                self._alive = self._say(decided)
                break
            at, tag = found
            decided, rest = self._undecided[:at], self._undecided[at + len(tag) :]
            self._undecided = rest
            self._alive = self._say(decided) and self._turn(tag)
        return self._alive and self._can_go_on(tail)

    def _say(self, text: str) -> bool:
        """Takes text that is no tag."""
        if not text or self._state == "thinking":
            return True
        if self._state == "call":
            return self._call is not None and self._call.feed(text)
        must_be = self._text_must_be
        if must_be == "anything":
            return True
        is_around = must_be != "JSON" or self._json is None or not self._json.fed or self._json.complete
        is_blank = is_around and not text.strip(_JSON_SPACE)
        self._blank = self._blank + len(text) if is_blank else 0
        if is_blank:
            return self._blank <= MOST_BLANK
        if must_be != "JSON" or self._json is None:
            return False
        return self._json.feed(text.encode("utf-8", "surrogatepass")) is None and can_end_plainly(self._json)

    def _turn(self, tag: str) -> bool:
        """A tag is complete; False = it may not stand here."""
        self._blank = 0
        if tag == THINK_CLOSE:
            self._state = "text"
            return True
        if tag == CALL_CLOSE:
            whole = self._call is not None and (self._call.free or self._call.complete)
            self._state, self._call, self._calls = "text", None, self._calls + 1
            return whole
        may = tag in self._openings()
        if tag == THINK_OPEN:
            self._state, self._thoughts = "thinking", self._thoughts + 1
        else:
            demand = self._demand
            self._state, self._call = "call", CallConstraint(demand.schemas, demand.names, demand.strict)
        return may

    def _openings(self) -> tuple[str, ...]:
        """Tags that may be opened in text or thinking. A second thought could be followed by a third, for ever."""
        demand = self._demand
        spoke = self._json is not None and self._json.fed > 0
        more = demand.most_calls is None or self._calls < demand.most_calls
        may_call = bool(demand.names) and more and not spoke
        may_think = self._text_must_be == "anything" or not (self._thoughts or self._calls or spoke)
        return (CALL_OPEN,) * may_call + (THINK_OPEN,) * may_think

    def _can_go_on(self, tail: bytes) -> bool:
        """Whether what is undecided, and the beginning of a character behind it, leads anywhere."""
        text = self._undecided
        if self.is_free or self._state == "thinking" or not (text or tail):
            return True
        if self._state == "call":
            if self._call is None or self._call.free:
                return True
            closes = self._call.complete and not tail and CALL_CLOSE.startswith(text)
            return closes or self._call.clone().feed(text, tail)
        if self._text_must_be == "anything":
            return True
        opens = not tail and any(tag.startswith(text) for tag in self._openings())
        if opens or self._text_must_be != "JSON" or self._json is None:
            return opens
        return self._json.clone().feed(text.encode("utf-8", "surrogatepass") + tail) is None


def _overlap(text: str, tag: str) -> int:
    """Length of the longest end of `text` that is a beginning of `tag`."""
    return next((n for n in range(min(len(text), len(tag) - 1), 0, -1) if tag.startswith(text[-n:])), 0)


def _split(text: str, at: int) -> tuple[str, str]:
    return text[:at], text[at:]
