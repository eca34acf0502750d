"""All that watches one response: what it says, token by token, and the numbers of the engine.

Must not: decide, or look at the clock.
Invariant: nothing of a step is observed before what concerns the whole step, and a token counts as said only once all
before it was found harmless; whoever stops in the middle leaves the rest of the step unobserved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from detectors.audit import audit_finding, nonfinite_finding
from detectors.channels import Piece
from detectors.charset import scripts_of
from detectors.drift.memory import DriftMemory
from detectors.drift.monitor import DriftMonitor
from detectors.finding import Finding
from detectors.placed_watch import PlacedWatch
from detectors.settings import DetectorSettings
from detectors.tool_schema import ToolSchemas
from detectors.watch import ReadCall, Said, Watch
from policies.blame import END_OF_TURN
from policies.modes import DecodeMode
from proxy.backends.base import Delta, Token
from proxy.conversation import ChatRequest
from proxy.guard.transcript import Transcript
from proxy.guard.trips import Trips

REFUSALS = frozenset({"tool.json", "tool.schema", "tool.markup", "tool.unknown"})
"""Findings that an open call, which is not read to its end, cannot become valid any more."""

Observation = tuple[Sequence[Said], Finding | None]
"""What was said, fit to be handed on if nothing was found, and what was found."""


class Observers:
    """Of one response. call_chars: size at which an open call is given up; exact: the backend is exact to the bit.
    placed: tokens come with their parts; own_ids: their ids are the model's, and not made from their text.

    `watch`: what has been said until now.
    """

    def __init__(
        self,
        request: ChatRequest,
        schemas: ToolSchemas,
        call_chars: int,
        mode: DecodeMode,
        settings: DetectorSettings,
        *,
        starts_thinking: bool,
        shadow: DriftMemory | None,
        exact: bool,
        placed: bool = False,
        own_ids: bool = True,
    ) -> None:
        self._placed, self._own_ids = placed, own_ids
        self._schemas, self._call_chars, self._settings = schemas, call_chars, settings
        self._starts_thinking = starts_thinking
        self._scripts = scripts_of(message.text for message in request.messages)
        self._drift = DriftMonitor(mode.codec, shadow, exact=exact, settings=settings.drift)
        self.watch = self._new_watch()
        self._judged_calls: set[int] = set()

    def observe(self, delta: Delta, transcript: Transcript, trips: Trips) -> Iterator[Observation]:
        """One step, whose tokens are added to the transcript as they turn out to be numbers at all."""
        if (audit := delta.step.audit) is not None:
            yield [], audit_finding(delta.position, audit.rows, audit.mismatch, audit.max_abs_diff, audit.compared)
        yield [], self._drift.feed(delta.position, delta.tokens, delta.step)
        trips.died(self._drift.take_dead())
        if delta.found is not None:
            yield [], delta.found
        done = 0
        while done < len(delta.tokens):
            if run := self._observe_run(delta, done, transcript, trips):
                count, finding = run
                done += count
                if finding is not None:
                    yield from self._judged([], finding, delta)
                continue
            position, token = delta.position + done, delta.tokens[done]
            done += 1
            if (bad := nonfinite_finding(position, token.finite)) is not None:
                yield [], bad
            transcript.append(token)
            trips.redecoded(position, token.id, token)
            if token.parts is None:
                said, finding = self.watch.feed(position, token.id, token.text)
            else:
                said, finding = self._feed_parts(position, token)
            if finding is None and all(type(each) is Piece for each in said):  # nearly every token of text
                yield said, None
            else:
                yield from self._judged(said, finding, delta)
        if delta.end is None:
            return
        if delta.end == "stop":
            trips.redecoded(len(transcript), END_OF_TURN)
        yield from self._judged(*self.watch.finish(delta.end, delta.tail), delta)

    def _observe_run(
        self, delta: Delta, done: int, transcript: Transcript, trips: Trips
    ) -> tuple[int, Finding | None] | None:
        """As many tokens at once as the watch can take so, and what was found at the last; None = not even one."""
        if not self.watch.is_in_free_text:
            return None
        tokens = delta.tokens[done:] if done else delta.tokens
        if any(token.finite is False for token in tokens):
            return None
        position = delta.position + done
        count, finding = self.watch.feed_run(position, tokens)
        if not count:
            return None
        taken = tokens[:count]
        transcript.extend(taken)
        if trips.is_comparing:
            for at, token in enumerate(taken, position):
                trips.redecoded(at, token.id)
        return count, finding

    def _judged(self, said: Sequence[Said], finding: Finding | None, delta: Delta) -> Iterator[Observation]:
        """With what is known beside it: how often calls are valid, before whoever refuses one stops listening."""
        verdicts = [
            (each.index, each.last, each.violation is None)
            for each in said
            if isinstance(each, ReadCall) and not each.cut_off
        ]
        if finding is not None and finding.detector in REFUSALS and self.watch.call_began is not None:
            verdicts.append((int(finding.channel.partition(":")[2]), finding.position, False))
        for index, last, valid in verdicts:
            if index not in self._judged_calls:
                self._judged_calls.add(index)
                yield [], self._drift.called(last, str(delta.step.mode), delta.step.context, valid)
        yield said, None if finding is None else self._drift.corroborated(finding)

    def rewound(self, mode: DecodeMode, kept: Sequence[Token]) -> Iterator[Sequence[Said]]:
        """Watches the kept tokens anew: all state is what it was at the last of them."""
        self.watch, self._judged_calls = self._new_watch(), set()
        self._drift.rewound(mode.codec)
        for position, token in enumerate(kept):
            if token.parts is None:
                said, _ = self.watch.feed(position, token.id, token.text)
            else:
                said, _ = self._feed_parts(position, token)
            yield said

    def _feed_parts(self, position: int, token: Token) -> tuple[list[Said], Finding | None]:
        assert isinstance(self.watch, PlacedWatch)
        return self.watch.feed_parts(position, token.id, token.parts or ())

    def _new_watch(self) -> Watch:
        if self._placed:
            by_bytes = not self._own_ids
            return PlacedWatch(self._schemas, self._call_chars, self._scripts, self._settings, by_bytes=by_bytes)
        return Watch(self._schemas, self._call_chars, self._starts_thinking, self._scripts, self._settings)


def text_of(said: Sequence[Said]) -> list[Said]:
    """Without the calls."""
    return [each for each in said if isinstance(each, Piece)]
