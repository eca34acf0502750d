"""What a policy would have done to recorded incidents, beside what was done.

Must not: decode anything, or claim to know what a response would have become: it repeats decisions, not responses.
Invariant: an incident of which a record does not hold all that was known is marked, with what had to be assumed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from detectors.finding import Finding, Grade
from policies.modes import PLAIN, DecodeMode
from policies.overrides import Overrides, Traits
from policies.policy import (
    Continue,
    Decision,
    End,
    Policy,
    Repair,
    Rewind,
    Situation,
    Start,
    Wait,
    decide,
    decide_start,
)
from proxy.incidents import Record

BEFORE_FIRST_TOKEN = ("loop.history", "budget.session")


@dataclass(frozen=True, slots=True)
class Replayed:
    """One incident. done, would: `rewind to plain`, `end`, `none` and the like; rule: that speaks now.

    assumed: what the record does not hold, in words; parted: an earlier incident of the same response would have gone
    another way, so that this one might not have come.
    """

    id: str
    time: str
    detector: str
    grade: str
    done: str
    would: str
    rule: str
    override: str
    assumed: tuple[str, ...] = ()
    parted: bool = False

    @property
    def same(self) -> bool:
        return self.done == self.would


@dataclass(slots=True)
class Summary:
    """Counts. changes: (done, would) of those that differ."""

    incidents: int = 0
    same: int = 0
    assumed: int = 0
    parted: int = 0
    unreadable: int = 0
    changes: Counter[tuple[str, str]] = field(default_factory=Counter)

    def take(self, replayed: Replayed | None) -> None:
        """None: a record that could not be understood."""
        if replayed is None:
            self.unreadable += 1
            return
        self.incidents += 1
        self.same += replayed.same
        self.assumed += bool(replayed.assumed)
        self.parted += replayed.parted
        if not replayed.same:
            self.changes[replayed.done, replayed.would] += 1


def replay(records: Iterable[Record], base: Policy, overrides: Overrides) -> Iterator[Replayed | None]:
    """Oldest first. None for a record that is not understood, of a later version or broken."""
    rewinds: Counter[str] = Counter()
    parted: set[str] = set()
    for record in records:
        opened = record.opened
        response = str(opened.get("request_id") or record.id)
        try:
            found = _replayed(record, base, overrides, rewinds[response], response in parted)
        except (KeyError, TypeError, ValueError, AttributeError):
            yield None
            continue
        rewinds[response] += opened.get("action") == "rewind"
        if not found.same:
            parted.add(response)
        yield found


def _replayed(record: Record, base: Policy, overrides: Overrides, rewinds: int, parted: bool) -> Replayed:
    opened = record.opened
    assumed: list[str] = []
    finding = _finding(opened)
    policy = _policy(opened, base, overrides, assumed)
    decision: Decision
    if finding.detector in BEFORE_FIRST_TOKEN:
        decision = decide_start(finding, DecodeMode.parse(opened["mode_before"]), policy)
    else:
        decision = decide(finding, _situation(opened, rewinds, assumed), policy)
    return Replayed(
        id=record.id,
        time=record.opened_at,
        detector=finding.detector,
        grade=finding.grade.name.lower(),
        done=_done(opened),
        would=_would(decision),
        rule=decision.rule,
        override=policy.override,
        assumed=tuple(assumed),
        parted=parted,
    )


def _finding(opened: dict[str, Any]) -> Finding:
    grade = Grade[str(opened["grade"]).upper()]
    evidence = opened.get("evidence") or {}
    where = (str(opened["channel"]), int(opened["position"]), int(opened["began"]))
    return Finding(str(opened["detector"]), grade, *where, str(opened["reason"]), evidence)


def _situation(opened: dict[str, Any], rewinds: int, assumed: list[str]) -> Situation:
    """As recorded; what records made before there were situations let one conclude is marked as assumed."""
    stood = opened.get("situation") or {}
    if stood:
        began = stood["call_began"]
        return Situation(
            DecodeMode.parse(stood["mode"]),
            int(stood["rewinds"]),
            int(stood["undelivered"]),
            None if began is None else int(began),
            bool(stood["can_rewind"]),
            bool(stood["mendable"]),
            str(stood["tool"]),
            bool(stood.get("recomputed", False)),
        )
    assumed.append("recorded before situations were: what had been delivered, the open call and its name")
    to, began = opened.get("rewound_to"), int(opened["began"])
    hangs = str(opened["detector"]).startswith("stall.")
    can_rewind = bool((opened.get("capabilities") or {}).get("rewinds", True)) and not hangs
    return Situation(
        DecodeMode.parse(opened["mode_before"]),
        rewinds,
        began if to is None else int(to),
        None,
        can_rewind,
        opened.get("action") == "repair",
        str(opened.get("tool") or ""),
    )


def _policy(opened: dict[str, Any], base: Policy, overrides: Overrides, assumed: list[str]) -> Policy:
    """The override of the name that was applied then, else the first that its model and route match."""
    name = str((opened.get("origin") or {}).get("override") or "")
    named = next((each for each in overrides.overrides if each.name == name), None) if name else None
    if named is not None:
        return overrides.apply(base, named)
    if any(each.tools or each.headers for each in overrides.overrides):
        assumed.append("records hold neither declared tools nor headers, so overrides by these were left out")
    matched = Overrides(
        tuple(each for each in overrides.overrides if not (each.tools or each.headers)),
        overrides.observe_by_header,
        overrides.quick,
    )
    return matched.choose(base, Traits((str(opened["model"]),), str(opened["api"])))


def _done(opened: dict[str, Any]) -> str:
    action = str(opened["action"])
    return f"{action} in {_mode(opened['mode_after'])}" if action in ("rewind", "start") else action


def _would(decision: Decision) -> str:
    match decision:
        case Rewind(mode=mode):
            return f"rewind in {mode}"
        case Start(mode=mode):
            return f"start in {mode}"
        case Repair() | Wait():
            return "repair"
        case End():
            return "end"
        case Continue(hold=hold):
            return "hold" if hold else "none"


def _mode(text: str) -> str:
    mode = DecodeMode.parse(text)
    return "plain" if mode == PLAIN else str(mode)
