"""Between what the model said and what the client has got: keeps things back, and never sends one twice.

Must not: judge; whether to hold is told by the session.
Invariant: what was released is a beginning of what would be released without any rewind, because after a
rewind the kept tokens are pushed again and exactly what the client already has is skipped.
"""

from __future__ import annotations

from collections.abc import Sequence

from detectors.channels import Piece
from detectors.watch import ReadCall, Said
from proxy.events import Event, Logprob, TextDelta, ThinkingDelta, ToolCall
from proxy.guard.logprobs import LogprobLedger
from proxy.guard.second_thoughts import SecondThoughts


class HoldBack:
    """`calls`: number sent; `undelivered`: first token of which nothing was; `ends_in_text`: text last; `untold`:
    tokens before it of which the client got nothing, as it has another version of them.

    stops: the client's stop strings, whose beginnings must not leak. text_chars: most to hold at all.
    logprobs: what is to be reported with the text, None = nothing.
    """

    def __init__(self, stops: Sequence[str], text_chars: int, logprobs: LogprobLedger | None = None) -> None:
        self._logprobs = logprobs
        self._stops = tuple(stops)
        self._text_chars = text_chars
        self._held: list[Said] = []
        self._held_chars = 0
        self._sent_chars = 0
        self._skip_chars = 0
        self._skip_calls = 0
        self.calls = 0
        self.undelivered = 0
        self.ends_in_text = False
        self._thoughts: list[str] = []  # of the client's last block of thinking
        self._second: SecondThoughts | None = None
        self._untold = self._untold_now = 0  # of earlier attempts, and of this one
        self._untold_at = -1

    def push(self, said: Said) -> None:
        """Takes the next thing the model said; calls must be fit to be sent."""
        if isinstance(said, ReadCall):
            if self._skip_calls:
                self._skip_calls -= 1
            else:
                self._held.append(said)
            return
        if not self._skip_chars:  # nearly always
            if said.text:
                self._held.append(said)
                self._held_chars += len(said.text)
            return
        known = min(self._skip_chars, len(said.text))
        self._skip_chars -= known
        if known < len(said.text):
            self._held.append(Piece(said.channel, said.text[known:], said.position))
            self._held_chars += len(said.text) - known

    @property
    def untold(self) -> int:
        return self._untold + self._untold_now

    def restart(self) -> None:
        """After a rewind: the kept tokens will be pushed again from the first one."""
        self._held, self._held_chars = [], 0
        self._skip_chars, self._skip_calls = self._sent_chars, self.calls

    def begins_anew(self, position: int, is_broken_off: bool) -> None:
        """Another attempt, from a token on, which may think again. is_broken_off: what the last one said when it was
        left were thoughts."""
        self._untold, self._untold_now = self.untold, 0
        if self.undelivered:
            goes_on = is_broken_off and self._thoughts and not self.ends_in_text
            self._second = SecondThoughts(position, "".join(self._thoughts) if goes_on else None)

    def drop_from(self, position: int) -> None:
        """Gives up what was said at and after a token."""
        self._held = [s for s in self._held if (s.first if isinstance(s, ReadCall) else s.position) < position]

    def release(self, suspicious: bool = False) -> list[Event]:
        """What the client may have now."""
        if suspicious and self._held_chars <= self._text_chars:
            return []
        stop_chars = self._possible_stop()
        kept = self._cut_end(stop_chars)
        events = self._send()
        self._held, self._held_chars = kept, stop_chars
        return events

    def finish(self, stop_sequence: str | None) -> list[Event]:
        """The rest, without the stop string that ended the response (if the backend did not cut it off)."""
        if stop_sequence and self._end_text().endswith(stop_sequence):
            self._cut_end(len(stop_sequence))
        return self._send()

    def _send(self) -> list[Event]:
        events: list[Event] = []
        run: list[str] = []  # of what is one event: all of a response may be held
        reported: list[Logprob] = []
        channel = ""
        for said in self._held:
            if isinstance(said, ReadCall):
                if run:
                    events.append(_joined(channel, run, reported))
                    run, reported = [], []
                events.append(ToolCall(self.calls, said.name, said.arguments))
                self.calls += 1
                self.undelivered = said.last + 1
                self.ends_in_text = False
                continue
            self._sent_chars += len(said.text)
            self.undelivered = said.position + 1
            text = said.text if said.channel == "text" else self._thought(said)
            if not text:
                continue
            if run and said.channel != channel:
                events.append(_joined(channel, run, reported))
                run, reported = [], []
            channel = said.channel
            run.append(text)
            if channel == "text":
                self.ends_in_text = True
                if self._second is not None and said.position >= self._second.first:
                    self._second = None
                if self._logprobs is not None:
                    reported += self._logprobs.due(said.position)
        if run:
            events.append(_joined(channel, run, reported))
        self._held, self._held_chars = [], 0
        return events

    def _thought(self, said: Piece) -> str:
        """What the client gets of it."""
        second, text = self._second, said.text
        if second is not None and said.position < second.first:
            second.deliver(text)
        elif second is not None:
            text = second.take(text)
            if second.passes:
                self._untold_now = 0
            elif not text:
                self._untold_now += said.position != self._untold_at
                self._untold_at = said.position
            if not text:
                return ""
        if self.ends_in_text:
            self._thoughts, self.ends_in_text = [], False
        self._thoughts.append(text)
        return text

    def _end_text(self) -> str:
        """Held text since the last call."""
        texts: list[str] = []
        for said in reversed(self._held):
            if isinstance(said, ReadCall):
                break
            texts.append(said.text)
        return "".join(reversed(texts))

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text that is a beginning of a stop string."""
        if not self._stops:
            return 0
        text = self._end_text()
        for length in range(min(len(text), max(map(len, self._stops))), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0

    def _cut_end(self, count: int) -> list[Said]:
        """Takes the last `count` characters out of the held text and returns them, token by token."""
        cut: list[Said] = []
        while count > 0:
            piece = self._held.pop()
            assert isinstance(piece, Piece)
            if len(piece.text) > count:
                self._held.append(Piece(piece.channel, piece.text[:-count], piece.position))
                piece = Piece(piece.channel, piece.text[-count:], piece.position)
            count -= len(piece.text)
            cut.insert(0, piece)
        return cut


def _joined(channel: str, run: Sequence[str], logprobs: Sequence[Logprob]) -> Event:
    text = run[0] if len(run) == 1 else "".join(run)
    return ThinkingDelta(text) if channel == "thinking" else TextDelta(text, tuple(logprobs))
