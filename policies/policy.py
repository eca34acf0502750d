"""What a finding leads to: go on, rewind and decode plainly, mend a call, or end the response honestly.

Must not: retry plain decoding (it is deterministic: the same tokens would come again).
Invariant: a rewind never goes before the first token that the client has seen nothing of, and never happens
twice in the same decode mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from detectors.finding import Finding, Grade
from policies.modes import PLAIN, DecodeMode


@dataclass(frozen=True, slots=True)
class Policy:
    """action: `enforce` acts, `observe` records and delivers everything as the model wrote it.

    max_rewinds: per response. hold_call_chars: a longer call is given up. hold_text_chars: suspicious text
    beyond this is delivered all the same. There is no limit in seconds: a call cannot be sent before it is
    valid, so time could only end responses that are merely slow; wire modules keep the connection alive
    meanwhile. repair: a refused call that no safer mode is left for is read to its end and mended if its end
    or its wrapping is all that is wrong (`detectors.mended_call`). Off unless asked for: the client then acts
    on arguments that the model did not write.

    max_call_cycles: times that an agent may go through the same calls with the same results, equal to the byte, before
    it is stopped; 0 = no limit, 64 at most (more are not counted). From the third time on a loop is served in plain
    mode, which costs time only. Ending it costs work if somebody waits for something on purpose, and those who wait
    mostly see a time or a count change: hence so many, and only equal to the byte. An agent that nobody watches is
    better off with 5.
    """

    action: Literal["enforce", "observe"] = "enforce"
    max_rewinds: int = 2
    hold_call_chars: int = 1 << 20
    hold_text_chars: int = 1 << 18
    repair: bool = False
    max_call_cycles: int = 20


@dataclass(frozen=True, slots=True)
class Situation:
    """Where the response stands when a finding comes.

    mode: decode mode now. rewinds: how many there were. undelivered: first token of which nothing was
    delivered. call_began: first token of the open call, None outside calls. mendable: the refused call is
    complete and can be mended.
    """

    mode: DecodeMode
    rewinds: int
    undelivered: int
    call_began: int | None = None
    can_rewind: bool = True
    mendable: bool = False


@dataclass(frozen=True, slots=True)
class Continue:
    """Nothing happens; `hold`: keep text back until the suspicion has passed."""

    hold: bool = False


@dataclass(frozen=True, slots=True)
class Rewind:
    """Discard the tokens from index `to` on and continue in `mode` inside the same response."""

    to: int
    mode: DecodeMode
    rebuild: Literal["none", "trusted", "clean"]


@dataclass(frozen=True, slots=True)
class Start:
    """The response is begun in `mode`, a safer one than the server's."""

    mode: DecodeMode


@dataclass(frozen=True, slots=True)
class Wait:
    """The open call, held anyway, is judged when it is complete."""


@dataclass(frozen=True, slots=True)
class Repair:
    """The call is mended and sent."""


@dataclass(frozen=True, slots=True)
class End:
    """The response ends here. keep: what was said before this token is still delivered.

    model_loop, invalid_call: the model itself does this; the client gets a notice and finish reason `stop`,
    since coding agents answer `length` and errors with the same request again, against the same state.
    truncated_call: the token limit fell into a call; finish reason `length`, which is the truth.
    engine_fault: the numbers cannot be trusted and cannot be repaired; the response fails.
    engine_stalled: no more tokens come; the response fails.
    """

    cause: Literal["model_loop", "invalid_call", "truncated_call", "engine_fault", "engine_stalled"]
    keep: int


Decision = Continue | Start | Rewind | Wait | Repair | End

ACCUSE_THE_CACHE = ("drift.kv", "drift.shadow")
"""What these say may be true of every row that is stored, the prompt's included."""

_MENDABLE = ("tool.json", "tool.markup", "tool.schema")


def decide_start(finding: Finding | None, mode: DecodeMode, policy: Policy) -> Continue | Start | End:
    """The decision on what the history shows, before anything is generated."""
    if finding is None or policy.action == "observe":
        return Continue()
    if 0 < policy.max_call_cycles <= finding.evidence["identical"]:
        return End("model_loop", 0)
    return Continue() if mode == PLAIN else Start(PLAIN)


def decide(finding: Finding, situation: Situation, policy: Policy) -> Decision:
    """The decision on one finding. Suspicion only holds; anything graver falls back once, then ends."""
    if policy.action == "observe":
        return Continue()
    if finding.grade is Grade.SUSPECT:
        return Continue(hold=True)
    if finding.detector.startswith("stall."):  # a step that hangs cannot be interrupted, so nothing can be rewound
        return Continue() if finding.grade is not Grade.ABORT else End("engine_stalled", situation.undelivered)
    if situation.mode != PLAIN and situation.can_rewind and situation.rewinds < policy.max_rewinds:
        return Rewind(rewind_target(finding, situation), PLAIN, rebuild(finding))
    if finding.detector.startswith(("loop.", "struct.")):
        return _decide_loop(finding, situation)
    keep = max(finding.began, situation.undelivered)
    if finding.detector in _MENDABLE and policy.repair:
        if situation.call_began is not None:
            return Wait()
        if situation.mendable:
            return Repair()
    if finding.detector.startswith("tool."):
        # The reason of a truncation names the end: only the token limit is a `length`.
        at_limit = finding.detector == "tool.truncated" and finding.reason.endswith("length")
        return End("truncated_call" if at_limit else "invalid_call", keep)
    return End("engine_fault", keep)


def _decide_loop(finding: Finding, situation: Situation) -> Decision:
    """Without a safer mode left a false alarm would cost output, not time: only the gravest grade ends."""
    if finding.grade is not Grade.ABORT:
        return Continue(hold=True)
    return End("model_loop", max(_unit_start(finding, situation), situation.undelivered))


def rebuild(finding: Finding) -> Literal["trusted", "clean"]:
    """How much of the present caches may stay: nothing of an accused one."""
    return "clean" if finding.detector in ACCUSE_THE_CACHE else "trusted"


def rewind_target(finding: Finding, situation: Situation) -> int:
    """The first token that is decoded again.

    A mismatch proves that any step since the last delivery may be wrong. A call is one unit: nothing of it
    was delivered, and what broke it began before it broke. Otherwise what the finding accuses.
    """
    if finding.detector == "drift.audit":
        return situation.undelivered
    return max(_unit_start(finding, situation), situation.undelivered)


def _unit_start(finding: Finding, situation: Situation) -> int:
    if situation.call_began is None:
        return finding.began
    return min(finding.began, situation.call_began)
