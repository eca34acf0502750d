"""Repeated calls across requests: a fold over the message history, so it needs no store and survives restarts.

Must not: look at what the model said between the calls (it is fresh each time), or take changed results for a loop.
Invariant: the answer is a function of the messages alone; it takes time linear in them, and results are only compared
where the calls already repeat.

A step is one assistant turn: its calls in any order, each with its result. A loop is a cycle of at most `cycle` steps
at the end of the history that occurs often enough with equal calls and equal results, after the last thing that a user
said. Results are compared without times, durations, and random names. A result that the client has cleared (or never
sent) is unknown: it agrees with any other, but a cycle needs two known results at each of its places.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from detectors.finding import Finding, Grade
from detectors.repeated_calls import call_digest, canonical, step_digest


class PastCall(Protocol):
    """A call of an earlier turn. arguments: the parsed object."""

    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def arguments(self) -> Mapping[str, Any]: ...


class Turn(Protocol):
    """A message. role: `assistant` with `calls`, `tool` with the `call_id` that it answers, `user`, or another."""

    @property
    def role(self) -> str: ...

    @property
    def text(self) -> str: ...

    @property
    def calls(self) -> Sequence[PastCall]: ...

    @property
    def call_id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class HistorySettings:
    """An agent that goes round in circles over several requests."""

    copies: int = 3
    """Copies of the cycle at which plain decoding is tried: it costs time only."""

    many: int = 5
    """Copies at which the policy has to decide. Agents themselves stop at 3 (opencode), 5 (qwen-code, Cline) or never.
    """

    cycle: int = 6
    """Steps of the longest cycle."""

    counted: int = 64
    """Copies that are looked at, so that an endless loop costs no more than a long one."""

    longest: int = 1 << 18
    """Characters up to which a result is freed of what differs each time (25 to 170 ns per character); a longer one is
    compared as it is."""

    cleared: tuple[str, ...] = ("[Old tool result content cleared", "[cleared to save context")
    """Beginnings of results that a client has put in place of old ones."""

    blocks: tuple[str, ...] = ("system-reminder", "environment_context", "user_instructions", "system_warning")
    """Tags around text that a client adds to a user's turn."""

    remarks: tuple[str, ...] = (
        "Your response above was cut off mid-stream. Resume directly",
        "Output token limit hit. Resume directly",
        "[Your previous response had no visible output",
    )
    """Beginnings of turns that a client writes."""

    def __post_init__(self) -> None:
        if not 2 <= self.copies <= self.many <= self.counted:
            raise ValueError("copies, many, counted: must be 2 copies or more and not fall")
        if self.cycle < 1 or self.longest < 0:
            raise ValueError("cycle: must be 1 step or more, and longest 0 characters or more")
        if "" in (*self.cleared, *self.blocks, *self.remarks):
            raise ValueError("cleared, blocks, remarks: every text begins with an empty one; take it out")


@dataclass(frozen=True, slots=True)
class CallLoop:
    """period: steps of the cycle; copies: whole cycles at the end of the history.

    identical: how many of them have results that are equal to the byte; less than `copies` means that something
    passes between them, if only time. tools: names of the cycle. following: `step_digest` of the step that would come
    next.
    """

    period: int
    copies: int
    identical: int
    tools: tuple[str, ...]
    following: str

    def finding(self, settings: HistorySettings = HistorySettings()) -> Finding:
        """Channel `session`, at the first token: nothing was generated yet."""
        grade = Grade.ABORT if self.copies >= settings.many else Grade.FALLBACK
        evidence = {
            "period": self.period,
            "copies": self.copies,
            "identical": self.identical,
            "tools": [name[:128] for name in self.tools],
            "following": self.following,
        }
        reason = f"{grade.name.lower()}: the same calls with the same results"
        return Finding("loop.history", grade, "session", 0, 0, reason, evidence)


class _Step:
    """One assistant turn with its calls. Digests are made when they are first asked for."""

    __slots__ = ("_calls", "_known", "_settings", "calls", "names", "results")

    def __init__(self, calls: Sequence[PastCall], settings: HistorySettings) -> None:
        self.calls = calls
        self.results: list[str | None] = [None] * len(calls)
        self.names = sorted(call.name for call in calls)
        self._settings = settings
        self._calls: str | None = None
        self._known: tuple[str | None, str | None] | None = None

    def answer(self, call_id: str, text: str) -> None:
        """The result of the first call of that id which has none."""
        for index, call in enumerate(self.calls):
            if call.id == call_id and self.results[index] is None:
                self.results[index] = text
                return

    @property
    def digest(self) -> str:
        if self._calls is None:
            self._calls = step_digest(self._keys())
        return self._calls

    def known(self, shared: dict[str, str]) -> tuple[str | None, str | None]:
        """Digests of the calls with their results, normalised and as they are; None where one is unknown.

        shared: results with their normalised text; equal ones are normalised once.
        """
        if self._known is None:
            if any(text is None or text.lstrip().startswith(self._settings.cleared) for text in self.results):
                self._known = None, None
            else:
                keys = self._keys()
                texts = [text or "" for text in self.results]
                for text in texts:
                    if text not in shared:
                        shared[text] = text if len(text) > self._settings.longest else normalised(text)
                self._known = (
                    step_digest(map(call_digest, keys, (shared[text] for text in texts))),
                    step_digest(map(call_digest, keys, texts)),
                )
        return self._known

    def _keys(self) -> list[str]:
        return [call_digest(call.name, canonical(call.arguments)) for call in self.calls]


def find_loop(messages: Sequence[Turn], settings: HistorySettings = HistorySettings()) -> CallLoop | None:
    """The loop with the shortest cycle that the history ends in."""
    since = _since_users(messages, settings)
    turns = [message.calls for message in since if message.role == "assistant" and message.calls]
    if not _may_repeat(turns, settings.cycle):
        return None
    steps = _steps(since, settings)
    shared: dict[str, str] = {}
    for period in range(1, min(settings.cycle, len(steps) // settings.copies) + 1):
        same = _same_calls(steps[-settings.counted * period :], period)
        if len(same) < settings.copies * period:
            continue
        copies = _same_results([step.known(shared)[0] for step in same], period)
        if copies >= settings.copies:
            identical = _same_results([step.known(shared)[1] for step in same], period)
            tools = tuple(dict.fromkeys(name for step in steps[-period:] for name in step.names))
            return CallLoop(period, copies, max(1, identical), tools, steps[-period].digest)
    return None


def _same_calls(steps: Sequence[_Step], period: int) -> list[_Step]:
    """Steps from the end backwards, as long as each has the calls of the one a cycle later."""
    same: list[_Step] = []
    for step in reversed(steps):
        later = same[-period] if len(same) >= period else step
        if step.names != later.names or step.digest != later.digest:
            break
        same.append(step)
    return same


def _same_results(results: Sequence[str | None], period: int) -> int:
    """Whole cycles with equal results, from the end backwards; 0 if too little is known of some place."""
    known: list[str | None] = [None] * period
    seen = [0] * period
    covered = 0
    for back, result in enumerate(results):
        place = back % period
        if result is not None:
            if known[place] not in (None, result):
                break
            known[place] = result
            seen[place] += 1
        covered += 1
    return covered // period if min(seen) > 1 else 0


def _may_repeat(turns: Sequence[Sequence[PastCall]], cycle: int) -> bool:
    """Whether the last turn can be the end of a cycle; nearly always it is not. Calls that are equal as JSON are equal
    here as well, and not the other way round. Of turns with several calls nothing is said."""
    if len(turns) < 2:
        return False
    last = turns[-1][0]
    if len(turns[-1]) > 1:
        return True
    return any(
        len(turn) > 1 or (turn[0].name == last.name and turn[0].arguments == last.arguments)
        for turn in turns[-1 - cycle : -1]
    )


def _since_users(messages: Sequence[Turn], settings: HistorySettings) -> Sequence[Turn]:
    """What came after the last thing that a user said."""
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].role == "user" and is_users(messages[index].text, settings):
            return messages[index + 1 :]
    return messages


def _steps(messages: Sequence[Turn], settings: HistorySettings) -> list[_Step]:
    steps: list[_Step] = []
    for message in messages:
        if message.role == "assistant" and message.calls:
            steps.append(_Step(message.calls, settings))
        elif message.role == "tool" and steps:
            steps[-1].answer(message.call_id, message.text)
    return steps


def is_users(text: str, settings: HistorySettings = HistorySettings()) -> bool:
    """Whether a user's turn holds anything that a user said; blank text and what clients add are not."""
    text = text.strip()
    while text.startswith("<"):
        name = text[1 : text.find(">")] if ">" in text[:64] else ""
        end = text.find(f"</{name}>") if name in settings.blocks else -1
        if end < 0:
            break
        text = text[end + len(name) + 3 :].strip()
    return bool(text) and not text.startswith(settings.remarks)


_VOLATILE = re.compile(
    r"""
    \b(?=\d|[0-9a-fA-F]{8})(?:
        [0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b                                    # uuid
      | \d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[ ]?[+-]\d\d:?\d\d)?)?        # ISO 8601
      | \d{1,2}:\d\d:\d\d(?:[.,]\d+)?\b                                                         # clock
      | 0x[0-9a-fA-F]+\b                                                                         # address
      | (?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{8,}\b                                                  # hash
      | \d+(?:[.,]\d+)?[ ]?(?:[nuµm]?s|secs?|seconds?|mins?|minutes?|h|hours?)\b                # duration
    )
    """,
    re.VERBOSE,
)


def normalised(result: str) -> str:
    """A result without what differs each time: uuids, times of day, durations, addresses, hashes."""
    return _VOLATILE.sub("\x00", result).strip()
