"""What a finding leads to: go on, rewind into a safer mode, mend a call, or end the response honestly.

Must not: retry a mode that was left (decoding is deterministic: the same tokens would come again).
Invariant: a rewind never goes before the first token that the client has seen nothing of, and always into a strictly
safer decode mode; but for one in a response, which computes the caches anew because they are what is accused.

Which remedies are wanted is written in rules (`policies.rules`, shipped in `default.toml`); which of them are possible
in a situation, and what they mean there, is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from detectors.finding import Finding, Grade
from policies.ladder import safer
from policies.modes import DecodeMode
from policies.rule_file import shipped
from policies.rules import Remedy, Rule, first_match


def _shipped_rules() -> tuple[Rule, ...]:
    return shipped().rules


@dataclass(frozen=True, slots=True)
class Policy:
    """action: `enforce` acts, `observe` records and delivers everything as the model wrote it.

    max_rewinds: per response. hold_call_chars: a longer call is given up. hold_text_chars: suspicious text beyond this
    is delivered all the same. repair: a refused call that no safer mode is left for is read to its end and mended if
    its end or its wrapping is all that is wrong (`detectors.mended_call`). Off unless asked for: the client then acts
    on arguments that the model did not write.

    max_call_cycles: times that an agent may go through the same calls with the same results, equal to the byte, before
    it is stopped; 0 = no limit, 64 at most (more are not counted). From the third time on a loop is served in plain
    mode, which costs time only. Ending it costs work if somebody waits for something on purpose, and those who wait
    mostly see a time or a count change: hence so many, and only equal to the byte. An agent that nobody watches is
    better off with 5.

    hold_call_s: seconds that the engine may work on a call that is held back, 0 = no limit. A call cannot be sent
    before it is valid, and clients give up at 600 s although wire modules keep the connection alive meanwhile: a notice
    in time is worth more to them than a call that nobody takes.

    scrub_history: of a loop that was cut and comes back with the client's history one copy stays
    (`detectors.history_scrub`).

    session_rewinds: within session_hours, after which a session begins its responses in plain decoding; 0 = no limit.
    rules: in order of precedence. override: name of the one that was applied, "" = none.
    """

    action: Literal["enforce", "observe"] = "enforce"
    max_rewinds: int = 2
    hold_call_chars: int = 1 << 20
    hold_text_chars: int = 1 << 18
    repair: bool = False
    max_call_cycles: int = 20
    scrub_history: bool = True
    hold_call_s: float = 540.0
    session_rewinds: int = 20
    session_hours: float = 6.0
    rules: tuple[Rule, ...] = field(default_factory=_shipped_rules, repr=False)
    override: str = ""


@dataclass(frozen=True, slots=True)
class Situation:
    """Where the response stands when a finding comes.

    mode: decode mode now. rewinds: how many there were. undelivered: first token of which nothing was
    delivered. call_began: first token of the open call, None outside calls. can_rewind: False also while a step hangs.
    mendable: the refused call is complete and can be mended. tool: name of the call that the finding is about, "" where
    there is none or it is not written yet. recomputed: the caches were computed anew without leaving the mode.
    """

    mode: DecodeMode
    rewinds: int
    undelivered: int
    call_began: int | None = None
    can_rewind: bool = True
    mendable: bool = False
    tool: str = ""
    recomputed: bool = False


def _named() -> str:
    """Name of the rule that a decision follows; two decisions that do the same are equal."""
    return field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Continue:
    """Nothing happens; `hold`: keep text back until the suspicion has passed. Without it the finding is recorded."""

    hold: bool = False
    rule: str = _named()


@dataclass(frozen=True, slots=True)
class Rewind:
    """Discard the tokens from index `to` on and continue in `mode` inside the same response."""

    to: int
    mode: DecodeMode
    rebuild: Literal["none", "trusted", "clean"]
    rule: str = _named()


@dataclass(frozen=True, slots=True)
class Start:
    """The response is begun in `mode`, a safer one than the server's."""

    mode: DecodeMode
    rule: str = _named()


@dataclass(frozen=True, slots=True)
class Wait:
    """The open call, held anyway, is judged when it is complete."""

    rule: str = _named()


@dataclass(frozen=True, slots=True)
class Repair:
    """The call is mended and sent."""

    rule: str = _named()


Cause = Literal[
    "model_loop",
    "invalid_call",
    "truncated_call",
    "late_call",
    "engine_fault",
    "engine_stalled",
    "upstream_failed",
    "by_rule",
]


@dataclass(frozen=True, slots=True)
class End:
    """The response ends here. keep: what was said before this token is still delivered.

    model_loop, invalid_call: the model itself does this; the client gets a notice and finish reason `stop`,
    since coding agents answer `length` and errors with the same request again, against the same state.
    truncated_call: the token limit fell into a call; finish reason `length`, which is the truth.
    late_call: a call was held for as long as a client waits. by_rule: a rule ends what others would let pass.
    engine_fault: the numbers cannot be trusted and cannot be repaired; the response fails.
    engine_stalled: no more tokens come; the response fails. upstream_failed: the lane that it came from has failed,
    and there is no other to go on with; the response fails.
    """

    cause: Cause
    keep: int
    rule: str = _named()


Decision = Continue | Start | Rewind | Wait | Repair | End

ACCUSE_THE_CACHE = ("drift.kv", "drift.shadow")
"""What these say may be true of every row that is stored, the prompt's included."""

_MENDABLE = ("tool.json", "tool.markup", "tool.schema")


def decide_start(finding: Finding | None, mode: DecodeMode, policy: Policy) -> Continue | Start | End:
    """The decision on what is known before anything is generated: what the history shows, or a budget that is spent."""
    if finding is None or policy.action == "observe":
        return Continue()
    rule = first_match(policy.rules, _graded(finding, policy), mode, "")
    if rule is None:
        return Continue()
    for remedy in rule.do:
        if remedy == "rewind" and (below := safer(mode, rule.accuse)) is not None:
            return Start(below, rule.name)
        if remedy == "end":
            return End("model_loop" if finding.detector.startswith("loop.") else "by_rule", 0, rule.name)
        if remedy in ("hold", "none"):
            break
    return Continue(rule=rule.name)


def decide(finding: Finding, situation: Situation, policy: Policy) -> Decision:
    """The decision on one finding: the first remedy of the first rule for it that is possible here."""
    if policy.action == "observe":
        return Continue()
    rule = first_match(policy.rules, finding, situation.mode, situation.tool)
    if rule is None:
        return Continue()
    for remedy in rule.do:
        decision = _applied(remedy, rule, finding, situation, policy)
        if decision is not None:
            return decision
    return Continue(rule=rule.name)


def _applied(remedy: Remedy, rule: Rule, finding: Finding, situation: Situation, policy: Policy) -> Decision | None:
    """What a remedy means here; None if it is not possible."""
    match remedy:
        case "rewind":
            below = safer(situation.mode, rule.accuse)
            if below is None or not situation.can_rewind or situation.rewinds >= policy.max_rewinds:
                return None
            return Rewind(rewind_target(finding, situation), below, rebuild(finding), rule.name)
        case "recompute":
            if situation.recomputed or not situation.can_rewind or situation.rewinds >= policy.max_rewinds:
                return None
            return Rewind(rewind_target(finding, situation), situation.mode, "clean", rule.name)
        case "repair":
            if not policy.repair or finding.detector not in _MENDABLE:
                return None
            if situation.call_began is not None:
                return Wait(rule.name)
            return Repair(rule.name) if situation.mendable else None
        case "end":
            late = finding.detector.startswith("stall.") and finding.grade is not Grade.ABORT
            return None if late else _end(rule, finding, situation)  # a step that is late may still come
        case _:
            return Continue(remedy == "hold" and _holds(finding), rule.name)


def _holds(finding: Finding) -> bool:
    """Is there text to keep back because of it? A call that is refused does not get better by waiting: it is told."""
    return finding.grade is Grade.SUSPECT or finding.detector.startswith(("loop.", "struct."))


def _end(rule: Rule, finding: Finding, situation: Situation) -> End:
    """The end that the kind of finding asks for."""
    keep = max(finding.began, situation.undelivered)
    match finding.detector.partition(".")[0]:
        case "stall":
            return End("engine_stalled", situation.undelivered, rule.name)
        case "loop" | "struct":
            return End("model_loop", max(_unit_start(finding, situation), situation.undelivered), rule.name)
        case "tool" if finding.detector == "tool.held":
            return End("late_call", keep, rule.name)
        case "tool":
            # The reason of a truncation names the end: only the token limit is a `length`.
            at_limit = finding.detector == "tool.truncated" and finding.reason.endswith("length")
            return End("truncated_call" if at_limit else "invalid_call", keep, rule.name)
        case "drift":
            return End("engine_fault", keep, rule.name)
        case "lane":
            return End("upstream_failed", keep, rule.name)
    return End("by_rule", max(_unit_start(finding, situation), situation.undelivered), rule.name)


def _graded(finding: Finding, policy: Policy) -> Finding:
    """A loop over several requests is as grave as the policy says."""
    if finding.detector != "loop.history":
        return finding
    grave = 0 < policy.max_call_cycles <= finding.evidence.get("identical", 0)
    return replace(finding, grade=Grade.ABORT if grave else Grade.FALLBACK)


def rebuild(finding: Finding) -> Literal["trusted", "clean"]:
    """How much of the present caches may stay: nothing of an accused one."""
    return "clean" if finding.detector in ACCUSE_THE_CACHE else "trusted"


def rewind_target(finding: Finding, situation: Situation) -> int:
    """The first token that is decoded again.

    A mismatch proves that any step since the last delivery may be wrong: an audit that found nothing vouches for its
    own step alone. A call is one unit: nothing of it was delivered, and what broke it began before it broke. Otherwise
    what the finding accuses.
    """
    if finding.detector in ("drift.audit", "drift.prefix"):
        return situation.undelivered
    return max(_unit_start(finding, situation), situation.undelivered)


def _unit_start(finding: Finding, situation: Situation) -> int:
    if situation.call_began is None:
        return finding.began
    return min(finding.began, situation.call_began)
